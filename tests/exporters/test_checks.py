"""What is refused: pixel sizes and rows that contradict the images, on drawn and on real micrographs."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vitreous.errors import InputFileError, ProjectError
from vitreous.exporters.checks import check_pixel_sizes, check_rows
from vitreous.exporters.dataset import gather_dataset
from vitreous.io.coordinates import read_coordinates
from vitreous.io.mrc import write_mrc


def make_tables(root: Path, image: np.ndarray, xy: np.ndarray, diameter_px: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    write_mrc(root / "m.mrc", image.astype(np.float32), 2.0)
    micrographs = pl.DataFrame({"micrograph_id": ["m"], "micrograph_path": ["m.mrc"], "pixel_size_angstrom": [2.0]})
    positives = pl.DataFrame({"x_px": xy[:, 0], "y_px": xy[:, 1]}).with_columns(
        micrograph_id=pl.lit("m"), diameter_angstrom=pl.lit(2.0 * diameter_px), contrast=pl.lit(None, pl.String)
    )
    return micrographs, positives


def test_a_header_that_says_otherwise(toy_project: Any) -> None:
    tables = toy_project.change("micrographs", "mic_b", pixel_size_angstrom=1.6)
    with pytest.raises(InputFileError, match=r"mic_b\.mrc: found a pixel size of 1.5 Å .* expected 1.6 Å"):
        gather_dataset(tables, toy_project.root)
    check_pixel_sizes(toy_project.tables["micrographs"], toy_project.root)


def test_picks_upside_down(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    xy = rng.uniform(10, [290, 115], (40, 2))
    rows, columns = np.mgrid[:240, :300]
    image = rng.normal(0, 2, (240, 300))
    for x, y in xy:
        image -= 2 * (np.hypot(rows - y, columns - x) < 6)
    check_rows(*make_tables(tmp_path, image, xy, 12), tmp_path)
    with pytest.raises(ProjectError, match="only with rows counted from the other side"):
        check_rows(*make_tables(tmp_path, image[::-1], xy, 12), tmp_path)
    # Bright particles of inverted images are no different.
    for turned in (image, image[::-1]):
        micrographs, positives = make_tables(tmp_path, -turned, xy, 12)
        bright = positives.with_columns(contrast=pl.lit("bright"))
        if turned is image:
            check_rows(micrographs, bright, tmp_path)
        else:
            with pytest.raises(ProjectError, match="only with rows counted from the other side"):
                check_rows(micrographs, bright, tmp_path)
    # Noise says nothing, and neither do a few picks.
    check_rows(*make_tables(tmp_path, rng.normal(0, 1, (240, 300)), xy, 12), tmp_path)
    check_rows(*make_tables(tmp_path, image[::-1], xy[:5], 12), tmp_path)


@pytest.mark.shared_data
def test_real_labels_upside_down(shared_data: Path, tmp_path: Path) -> None:
    folder, name = shared_data / "betagal-10017", "Falcon_2012_06_12-14_33_35_0"
    image = np.asarray(Image.open(folder / "micrographs" / f"{name}.jpg").convert("L"), dtype=np.float32)
    xy = read_coordinates(folder / "labels" / f"{name}.csv").select("x_px", "y_px").to_numpy()
    check_rows(*make_tables(tmp_path, image, xy, 108), tmp_path)
    with pytest.raises(ProjectError, match="only with rows counted from the other side"):
        check_rows(*make_tables(tmp_path, image[::-1], xy, 108), tmp_path)
