"""Classes as RELION reads them."""

import os
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


def call_relion(folder: Path, *words: str) -> str:
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.relion
def test_relion_reads_the_averages(folder: Path) -> None:
    table = call_relion(
        folder, "relion_star_printtable", "Class2D/run_model.star", "data_model_classes", "_rlnReferenceImage"
    )
    assert table.split() == [f"00000{i}@Class2D/run_classes.mrcs" for i in range(1, 5)]
    call_relion(
        folder, "relion_image_handler", "--i", "000004@Class2D/run_classes.mrcs", "--o", "one.mrc", "--multiply_constant", "2"
    )  # fmt: skip
    stack = read_mrc(folder / "Class2D" / "run_classes.mrcs")[0]
    assert np.allclose(read_mrc(folder / "one.mrc")[0].squeeze(), 2 * stack[3], atol=1e-5)


PIXEL_OF_IMAGES = 1.5
LUMPS = {
    1: [(-5, -3, 1.0), (4, -4, 0.8), (2, 5, 1.2)],
    2: [(-6, 0, 1.2), (1, 1, 0.7), (6, 3, 0.9)],
    4: [(0, -5, 0.9), (3, 2, 1.3), (-5, 4, 0.6), (-1, 0, 0.5)],
}


def draw(number: int, angle_deg: float = 0.0, shift_px: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Draw lumps turned about the centre from +x towards +y, then shifted by (x, y)."""
    y, x = np.indices((N, N)) - N // 2
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    image = np.zeros((N, N))
    for cx, cy, height in LUMPS[number]:
        dx, dy = x - c * cx + s * cy - shift_px[0], y - s * cx - c * cy - shift_px[1]
        image += height * np.exp(-(dx**2 + dy**2) / (2 * 1.5**2))
    return image.astype(np.float32)


@pytest.mark.relion
def test_relion_goes_on_from_our_classes(toy_project: Any, classes: pl.DataFrame, tmp_path: Path) -> None:
    """RELION, given our averages as references, finds for our particles the classes, angles and origins that we wrote."""
    write_mrc(toy_project.root / "averages.mrcs", np.stack([draw(number) for number in (4, 1, 2)]), PIXEL_OF_IMAGES)
    rng, rows = np.random.default_rng(4), []
    particles = toy_project.tables["particles"]
    for path in particles["stack_path"].drop_nulls().unique(maintain_order=True):
        members = particles.filter(pl.col("stack_path") == path).sort("stack_index")
        images = []
        for particle_id in members["particle_id"]:
            number, angle = int(rng.choice(list(LUMPS))), float(rng.uniform(-170, 170))
            shift = rng.uniform(-2, 2, 2)
            images.append(draw(number, angle, (shift[0], shift[1])) + rng.normal(0, 0.3, (N, N)).astype(np.float32))
            origin = -shift * PIXEL_OF_IMAGES
            rows.append((particle_id, number, -angle, origin[0], origin[1]))
        write_mrc(toy_project.root / path, np.stack(images), PIXEL_OF_IMAGES)
    posed = ("class_id", "class_psi_deg", "class_origin_x_angstrom", "class_origin_y_angstrom")
    found = pl.DataFrame(rows, schema=["particle_id", *posed], orient="row")
    tables = {
        **toy_project.tables,
        "particles": particles.drop(posed).join(found, on="particle_id", how="left").select(particles.columns),
        "classes": classes.with_columns(pixel_size_angstrom=pl.lit(PIXEL_OF_IMAGES), diameter_angstrom=30.0),
    }
    export_relion(tables, toy_project.root, tmp_path / "to")
    (tmp_path / "to" / "More").mkdir()
    call_relion(
        tmp_path / "to", "relion_refine", "--o", "More/run", "--i", "Class2D/run_data.star", "--ref",
        "Class2D/run_model.star", "--iter", "1", "--particle_diameter", "34", "--zero_mask", "--dont_check_norm",
        "--dont_combine_weights_via_disc", "--psi_step", "10", "--offset_range", "3", "--offset_step", "1", "--oversampling",
        "1", "--norm", "--scale", "--firstiter_cc", "--random_seed", "1",
    )  # fmt: skip
    ours, theirs = (
        starfile.read(tmp_path / "to" / path)["particles"].set_index("rlnImageName").sort_index()
        for path in ("Class2D/run_data.star", "More/run_it001_data.star")
    )
    assert theirs.index.to_list() == ours.index.to_list()
    assert len(ours) == len(rows)
    assert theirs["rlnClassNumber"].to_list() == ours["rlnClassNumber"].to_list()
    turned = (theirs["rlnAnglePsi"] - ours["rlnAnglePsi"] + 180) % 360 - 180
    assert turned.abs().max() < 10
    for axis in ("X", "Y"):
        moved = theirs[f"rlnOrigin{axis}Angst"] - ours[f"rlnOrigin{axis}Angst"]
        assert moved.abs().max() < PIXEL_OF_IMAGES
