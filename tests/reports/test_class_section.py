import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vitreous.io.mrc import write_mrc
from vitreous.io.stacks import read_averages
from vitreous.model.tables import check_table
from vitreous.reports.class_section import ClassPicture, draw_classes, plot_class_gallery

GREEN, RED, GREY = (44, 160, 44), (214, 39, 40), (127, 127, 127)


@pytest.fixture
def classes(tmp_path: Path) -> pl.DataFrame:
    images = np.random.default_rng(1).normal(size=(4, 24, 24)).astype(np.float32)
    write_mrc(tmp_path / "classes.mrcs", images, 3.0)
    rows = [
        {
            "class_id": i + 1,
            "image_index": 3 - i,
            "n_particles": n,
            "share": n / 100,
            "resolution_angstrom": d,
            "selected": s,
        }
        for i, (n, d, s) in enumerate([(10, 8.0, True), (50, 30.0, False), (30, 10.0, True), (10, None, False)])
    ]
    common = {"image_path": "classes.mrcs", "box_px": 24, "pixel_size_angstrom": 3.0, "diameter_angstrom": 50.0}
    return check_table("classes", pl.DataFrame([row | common for row in rows]))


def count_colour(png: bytes, colour: tuple[int, int, int]) -> int:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=2) < 12).sum())


def test_frames_say_what_was_decided() -> None:
    image = np.random.default_rng(2).normal(size=(24, 24)).astype(np.float32)
    for selected, colour in {True: GREEN, False: RED, None: GREY}.items():
        png = plot_class_gallery([ClassPicture(image, "1: 5", "", selected)])
        assert count_colour(png, colour) > 300
        assert all(count_colour(png, other) < 30 for other in {GREEN, RED} - {colour})


def test_averages_come_in_the_order_of_the_table(tmp_path: Path, classes: pl.DataFrame) -> None:
    found = read_averages(tmp_path, classes.sort("n_particles", "class_id"))
    stack = read_averages(tmp_path, classes)
    assert np.array_equal(found, stack[[0, 3, 2, 1]])


def test_what_the_set_is_worth(tmp_path: Path, classes: pl.DataFrame) -> None:
    ((caption, png),) = draw_classes(tmp_path, {"classes": classes})
    assert "2 of 4 classes selected (green), 40 of 100 particles" in caption
    # Of the selected: (10 x 8 + 30 x 10) / 40.
    assert "Weighted average resolution of the 2 largest: 9.50 Å" in caption
    assert count_colour(png, GREEN) > 300
    assert count_colour(png, RED) > 300
    undecided = classes.with_columns(selected=pl.lit(None, dtype=pl.Boolean))
    assert "none selected yet" in draw_classes(tmp_path, {"classes": undecided})[0][0]
    assert draw_classes(tmp_path, {}) == []
