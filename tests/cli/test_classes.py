"""`vitreous compare --classes` on two classifications of planted views."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.ndimage
from click.testing import CliRunner, Result
from PIL import Image

from vitreous.cli.compare import compare
from vitreous.errors import SettingError
from vitreous.io.class_averages import ClassAverages, write_class_averages

N, PIXEL = 48, 3.0
SIZES = {"a": [50, 30, 15, 5], "b": [40, 40, 20]}
RESOLUTION = {"a": [8.0, 9.0, 12.0, 20.0], "b": [8.5, 10.0, 11.0]}


def draw_views() -> np.ndarray:
    """Return five views on a grid of 1 Å, 144 px wide; nothing is finer than 12 Å."""
    rng = np.random.default_rng(4)
    y, x = np.mgrid[:144, :144] - 72
    views = []
    for _ in range(5):
        view = np.zeros((144, 144))
        for _ in range(7):
            cx, cy = rng.uniform(-32, 32, 2)
            view += rng.uniform(0.5, 1.5) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 6.0**2))
        views.append(view)
    return np.array(views)


def turn(view: np.ndarray, angle_deg: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    matrix, centre = np.array([[c, -s], [s, c]]), np.full(2, 72)
    return scipy.ndimage.affine_transform(view, matrix, centre - matrix @ centre, order=3)


def write(folder: Path, name: str, images: np.ndarray, pixel: float) -> Path:
    sizes = SIZES[name]
    table = pl.DataFrame(
        {
            "class_id": range(1, len(sizes) + 1),
            "n_particles": sizes,
            "share": np.array(sizes) / 100,
            "resolution_angstrom": RESOLUTION[name],
        }
    )
    write_class_averages(folder, name, ClassAverages(images.astype(np.float32), pixel, table))
    rows = "".join(f"{number}\n" * size for number, size in enumerate(sizes, start=1))
    (folder / f"{name}_data.star").write_text(f"data_particles\n\nloop_\n_rlnClassNumber #1\n{rows}")
    return folder / f"{name}_model.star"


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """Views 0 to 3 at 3 Å; 2, 0 and 4 at 2 Å, of which 2 is turned and mirrored, and 0 turned."""
    views = draw_views()
    first = write(tmp_path, "a", views[:4, ::3, ::3], PIXEL)
    mirrored = np.roll(turn(views[2], 50.0)[:, ::-1], 1, axis=1)
    other = np.array([mirrored, turn(views[0], -70.0), views[4]])
    second = write(tmp_path, "b", other[:, ::2, ::2], 2.0)
    return [f"ours={first}", f"theirs={second}"]


def call(*words: object) -> Result:
    return CliRunner().invoke(compare, [str(word) for word in words], catch_exceptions=False)


def test_the_same_views_are_found(models: list[str], tmp_path: Path) -> None:
    result = call(*models, "--classes", "--to", tmp_path / "to", "--json")
    found = json.loads(result.stdout)
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert set(pairs) == {(3, 1), (1, 2)}
    assert all(pair["correlation"] > 0.9 for pair in pairs.values())
    assert pairs[3, 1]["is_mirrored"]
    assert not pairs[1, 2]["is_mirrored"]
    # The second was turned by -70; it has to go back.
    assert pairs[1, 2]["angle_deg"] == pytest.approx(70, abs=5)
    assert (pairs[3, 1]["n_first"], pairs[3, 1]["n_second"]) == (15, 40)
    assert (found["only_first"], found["only_second"]) == ([2, 4], [3])
    assert found["first"]["matched_share"] == pytest.approx(0.65)
    assert found["second"]["matched_share"] == pytest.approx(0.8)
    assert found["first"]["weighted_resolution"]["10"]["mean_angstrom"] == pytest.approx(4 + 2.7 + 1.8 + 1)
    # Views: (50, 30, 15, 5) and 0, of view 4, against (40, 0, 40, 0, 20).
    share, other = np.array([0.5, 0.3, 0.15, 0.05, 0]), np.array([0.4, 0, 0.4, 0, 0.2])
    middle = (share + other) / 2

    def diverge(one: np.ndarray) -> float:
        return sum(a * np.log2(a / b) for a, b in zip(one, middle, strict=True) if a > 0)

    assert found["view_divergence_bits"] == pytest.approx((diverge(share) + diverge(other)) / 2)
    assert json.loads((tmp_path / "to" / "classes_ours_theirs.json").read_text()) == found
    with Image.open(tmp_path / "to" / "classes_ours_theirs.png") as picture:
        assert min(picture.size) > 200


def test_in_words(models: list[str]) -> None:
    text = call(*models, "--classes").stdout
    assert "ours: 4 classes, 100 particles, 65% in matched ones; weighted average resolution 9.50 Å" in text
    assert "2 pairs of averages show the same view" in text


def test_what_is_refused(models: list[str]) -> None:
    with pytest.raises(SettingError, match="give two classifications"):
        call(models[0], "--classes")
    with pytest.raises(SettingError, match="give the labels, as --truth; or --classes"):
        call(*models, "--radius", 3)
