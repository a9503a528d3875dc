"""Which images of another program are used as they lie, and what is said of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from vitreous.io.mrc import write_mrc
from vitreous.stages.adopted_images import IMAGE_COLUMNS, choose_images

BOX, PIXEL, DIAMETER, N = 32, 3.0, 48.0, 40


def draw_images(n: int = N, strength: float = 0.6) -> np.ndarray:
    """Discs of bright protein a little above the noise of deviation 1."""
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    noise = np.random.default_rng(3).normal(size=(n, BOX, BOX))
    return np.asarray(noise + strength * (np.hypot(y, x) * PIXEL < DIAMETER / 2), np.float32)


def make_picks(root: Path, images: np.ndarray, **values: Any) -> pl.DataFrame:
    write_mrc(root / "theirs" / "s.mrcs", images, PIXEL)
    picks = pl.DataFrame({"x_px": np.arange(N + 1.0), "label": ["positive"] * N + ["negative"]}).with_columns(
        stack_path=pl.lit(str(root / "theirs" / "s.mrcs")),
        stack_index=pl.int_range(pl.len()),
        stack_pixel_size_angstrom=pl.lit(PIXEL),
        is_premultiplied=pl.lit(value=False),
    )
    first = pl.col("x_px") == 0
    return picks.with_columns(
        pl.when(first).then(pl.lit(value)).otherwise(name).alias(name) for name, value in values.items()
    )


def test_images_that_are_there_are_used(tmp_path: Path) -> None:
    found, said = choose_images(make_picks(tmp_path, draw_images()), tmp_path / "project", DIAMETER)
    assert said == ["40 extracted images are used as they came"]
    rows = found.select(IMAGE_COLUMNS).rows()
    assert rows == [("../theirs/s.mrcs", i, BOX, PIXEL) for i in range(N)] + [(None, None, None, None)]
    assert found["x_px"].to_list() == list(range(N + 1))


def test_the_header_says_the_pixel_size_where_the_picks_do_not(tmp_path: Path) -> None:
    picks = make_picks(tmp_path, draw_images()).with_columns(stack_pixel_size_angstrom=pl.lit(None, pl.Float64))
    found, _ = choose_images(picks, tmp_path, DIAMETER)
    assert found["stack_pixel_size_angstrom"].to_list() == [PIXEL] * N + [None]


def test_a_header_of_1_angstrom_says_nothing(tmp_path: Path) -> None:
    picks = make_picks(tmp_path, draw_images()).with_columns(stack_pixel_size_angstrom=pl.lit(None, pl.Float64))
    write_mrc(tmp_path / "theirs" / "s.mrcs", draw_images(), 1.0)
    found, (said,) = choose_images(picks, tmp_path, DIAMETER)
    assert found["stack_path"].null_count() == N + 1
    assert "their pixel size is not said (1 Å in the header" in said


@pytest.mark.parametrize(
    ("images", "values", "problem"),
    [
        (draw_images(), {"stack_path": None}, "1 of 40 are not where the picks say"),
        (draw_images(), {"is_premultiplied": True}, "they are multiplied by their CTF"),
        (draw_images(), {"stack_index": 5}, "particles share images"),
        (draw_images(), {"stack_pixel_size_angstrom": 6.0}, r"not squares of one even size \(32 px at 3 Å"),
        (draw_images()[:, :30], {}, "not squares of one even size"),
        (draw_images()[:, :31, :31], {}, "not squares of one even size"),
        (draw_images(N - 1), {}, "stacks have fewer images than the picks say"),
        (-draw_images(), {}, "protein is dark in them"),
        (draw_images() + 5, {}, "a mean of 5 and a deviation of"),
        (draw_images() * 40, {}, "a deviation of 40 where 0 and 1 are expected"),
    ],
)
def test_others_are_cut_out_again(tmp_path: Path, images: np.ndarray, values: dict[str, Any], problem: str) -> None:
    found, (said,) = choose_images(make_picks(tmp_path, images, **values), tmp_path, DIAMETER)
    assert found.select(pl.col(IMAGE_COLUMNS).is_null().all()).row(0) == (True,) * 4
    assert said.startswith("the images that came with the particles are not used, they are cut out again: ")
    assert pl.Series([said]).str.contains(problem).item(), said


def test_a_damaged_stack_and_none_at_all(tmp_path: Path) -> None:
    picks = make_picks(tmp_path, draw_images())
    path = tmp_path / "theirs" / "s.mrcs"
    path.write_bytes(path.read_bytes()[:3000])
    _, (said,) = choose_images(picks, tmp_path, DIAMETER)
    assert "cut out again" in said
    assert "3000 bytes" in said
    assert choose_images(picks, tmp_path, None)[1] == []
    without = picks.with_columns(stack_index=pl.lit(None, pl.Int64))
    assert choose_images(without, tmp_path, DIAMETER)[1] == []
