"""Classes as RELION reads them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import starfile

from vitreous.exporters.relion import export_relion
from vitreous.exporters.relion_classes import write_classes
from vitreous.io.class_averages import read_class_averages
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.tables import check_table, empty_table

N, PIXEL = 24, 3.0


@pytest.fixture
def classes(toy_project: Any) -> pl.DataFrame:
    """Classes 1, 2 and 4 in another order than their numbers; 3 was left empty."""
    images = np.random.default_rng(2).normal(size=(3, N, N)).astype(np.float32)
    write_mrc(toy_project.root / "averages.mrcs", images, PIXEL)
    rows = [
        {
            "class_id": number,
            "image_index": i,
            "n_particles": n,
            "share": n / 100,
            "resolution_angstrom": d,
            "selected": chosen,
        }
        for i, (number, n, d, chosen) in enumerate([(4, 20, 9.5, True), (1, 30, None, False), (2, 50, 8.25, True)])
    ]
    common = {"image_path": "averages.mrcs", "box_px": N, "pixel_size_angstrom": PIXEL, "diameter_angstrom": 50.0}
    return check_table("classes", pl.DataFrame([row | common for row in rows]))


@pytest.fixture
def folder(toy_project: Any, classes: pl.DataFrame, tmp_path: Path) -> Path:
    export_relion({**toy_project.tables, "classes": classes}, toy_project.root, tmp_path / "relion")
    return tmp_path / "relion"


def test_numbers_are_places_in_the_stack(folder: Path, toy_project: Any) -> None:
    source = read_mrc(toy_project.root / "averages.mrcs")[0]
    model = starfile.read(folder / "Class2D" / "run_model.star")
    table = model["model_classes"]
    assert table["rlnReferenceImage"].to_list() == [f"00000{i}@Class2D/run_classes.mrcs" for i in range(1, 5)]
    assert table["rlnClassDistribution"].to_list() == pytest.approx([0.3, 0.5, 0.0, 0.2])
    assert table["rlnEstimatedResolution"].to_list() == pytest.approx([999.0, 8.25, 999.0, 9.5])
    assert model["model_general"]["rlnPixelSize"] == PIXEL
    stack, header = read_mrc(folder / "Class2D" / "run_classes.mrcs")
    assert header.pixel_size_angstrom == pytest.approx(PIXEL)
    for number, index in {1: 1, 2: 2, 4: 0}.items():
        assert np.array_equal(stack[number - 1], source[index])
    assert not stack[2].any()
    assert (folder / "Class2D" / "run_data.star").read_bytes() == (folder / "particles.star").read_bytes()


def test_we_read_it_back(folder: Path) -> None:
    found = read_class_averages(folder / "Class2D" / "run_model.star")
    assert found.pixel_size_angstrom == PIXEL
    assert found.table["resolution_angstrom"].to_list() == [None, 8.25, None, 9.5]
    particles = starfile.read(folder / "Class2D" / "run_data.star")["particles"]
    counts = [int((particles["rlnClassNumber"] == number).sum()) for number in range(1, 5)]
    assert found.table["n_particles"].to_list() == counts
    alone = read_class_averages(folder / "Class2D" / "selected_classes.mrcs")
    assert np.array_equal(alone.images, found.images[[1, 3]])


def test_no_classes_no_folder(toy_project: Any, tmp_path: Path) -> None:
    assert write_classes(tmp_path / "c", "c", empty_table("classes"), toy_project.root, tmp_path / "none.star") == 0
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(shutil.which("relion_image_handler") is None, reason="RELION is not installed")
def test_relion_reads_the_averages(folder: Path) -> None:
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}

    def call(*words: str) -> str:
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    table = call("relion_star_printtable", "Class2D/run_model.star", "data_model_classes", "_rlnReferenceImage")
    assert table.split() == [f"00000{i}@Class2D/run_classes.mrcs" for i in range(1, 5)]
    call("relion_image_handler", "--i", "000004@Class2D/run_classes.mrcs", "--o", "one.mrc", "--multiply_constant", "2")
    stack = read_mrc(folder / "Class2D" / "run_classes.mrcs")[0]
    assert np.allclose(read_mrc(folder / "one.mrc")[0].squeeze(), 2 * stack[3], atol=1e-5)
