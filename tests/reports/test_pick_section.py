"""The sections on picks say what is in the tables and in the review's record."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vitreous.io.images import write_picture
from vitreous.io.mrc import write_mrc
from vitreous.model.tables import complete_table
from vitreous.reports.pick_section import draw_picks, draw_scores

SIDE, PIXEL = 240, 4.0


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pl.DataFrame]]:
    """Return four micrographs with ten candidates each, the last in junk."""
    root = tmp_path_factory.mktemp("project")
    rng = np.random.default_rng(0)
    names = [f"m{i}" for i in range(4)]
    for name in names:
        write_mrc(root / f"{name}.mrc", rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), PIXEL)
    junk = np.zeros((60, 60), np.uint8)
    junk[:15] = 2
    write_picture(root / "runs" / "1-pick" / "junk.png", junk)
    (root / "runs" / "2-review").mkdir()
    cut = {"limit": None, "given": False, "alone": 4, "in_turn": 4}
    cuts = {"min_score": cut | {"limit": 0.25, "alone": 8, "in_turn": 8}, "junk": cut}
    (root / "runs" / "2-review" / "cuts.json").write_text(json.dumps(cuts), encoding="utf-8")
    micrographs = complete_table(
        "micrographs",
        pl.DataFrame(
            {
                "micrograph_id": names,
                "exposure_id": names,
                "micrograph_path": [f"{name}.mrc" for name in names],
                "nx_px": [SIDE] * 4,
                "ny_px": [SIDE] * 4,
                "pixel_size_angstrom": [PIXEL] * 4,
                "voltage_kv": [300.0] * 4,
                "cs_mm": [2.7] * 4,
                "amplitude_contrast": [0.1] * 4,
                "optics_group": [1] * 4,
                "defocus_u_angstrom": [1e4, 1.4e4, 1.9e4, 2.2e4],
                "defocus_v_angstrom": [1e4, 1.4e4, 1.9e4, 2.2e4],
            }
        ),
    )
    reason = ([None] * 7 + ["score"] * 2 + ["ice"]) * 4
    score = rng.uniform(0.3, 0.5, 40)
    particles = pl.DataFrame(
        {
            "particle_id": [f"p{i}" for i in range(40)],
            "micrograph_id": np.repeat(names, 10),
            "x_px": rng.uniform(20, SIDE - 20, 40),
            "y_px": [200.0] * 40,
            "diameter_angstrom": [80.0] * 40,
            "picker": ["blob"] * 40,
            "score": score,
            "power": rng.normal(0, 0.1, 40),
            "score_calibrated": score,
            "power_calibrated": rng.normal(0, 0.1, 40),
            "junk": [None if one != "ice" else "ice" for one in reason],
            "junk_path": ["runs/1-pick/junk.png"] * 10 + [None] * 30,
            "label": ["positive" if one is None else "negative" for one in reason],
            "reason": reason,
        },
        schema_overrides={"junk": pl.String, "junk_path": pl.String, "reason": pl.String},
    )
    return root, {"micrographs": micrographs, "particles": complete_table("particles", particles)}


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_junk_is_drawn_where_it_is(project: Any) -> None:
    root, tables = project
    pictures = draw_picks(root, tables)
    assert [caption.split(":")[0] for caption, _ in pictures] == ["m0", "m1", "m2", "m3"]
    assert "7 kept of 10" in pictures[0][0]
    assert "25.0 % of the area is junk" in pictures[0][0]
    assert "junk" not in pictures[1][0]
    with_junk, without = (read(png) for _, png in pictures[:2])
    quarter = len(with_junk) // 4

    def redness(image: np.ndarray) -> float:
        return float((image[..., 0] - image[..., 2]).mean())

    # Ice is red; the mask's first rows are the micrograph's.
    assert redness(with_junk[: quarter - 10]) > redness(without[: quarter - 10]) + 15
    assert redness(with_junk[quarter + 10 : 2 * quarter]) < redness(with_junk[: quarter - 10]) - 15


def test_cuts_are_told_with_what_they_removed(project: Any) -> None:
    root, tables = project
    records: Any = [SimpleNamespace(stage="pick", folder="1-pick"), SimpleNamespace(stage="review", folder="2-review")]
    (histogram, _), (trend, _) = draw_scores(root, tables, records)
    assert "40 candidates, 28 kept" in histogram
    assert "score too low (0.25, proposed) 8, alone 8" in histogram
    assert "in junk 4, alone 4" in histogram
    assert "4 micrographs" in trend


def test_false_peaks_of_noise_are_told_where_they_are_known(project: Any) -> None:
    root, tables = project
    assert not any("noise alone" in caption for caption, _ in draw_scores(root, tables, []))
    # The lowest kept candidate of the four micrographs: 0.6, 1.6, 2.6 and 3.6; a rejected one does not count.
    peaks = pl.Series([i // 10 + (90.0 if i % 10 > 6 else 0.1 * (i % 10)) for i in range(40)])
    known = dict(tables) | {"particles": tables["particles"].with_columns(noise_peaks=peaks)}
    assert "noise alone has about 2.1 peaks in a micrograph" in draw_scores(root, known, [])[0][0]


def test_without_scores_or_records(project: Any) -> None:
    root, tables = project
    assert draw_scores(root, {}, []) == []
    assert draw_picks(root, {"micrographs": tables["micrographs"]}) == []
    unknown = {
        "particles": tables["particles"],
        "micrographs": tables["micrographs"].with_columns(defocus_u_angstrom=None),
    }
    assert len(draw_scores(root, unknown, [])) == 1
