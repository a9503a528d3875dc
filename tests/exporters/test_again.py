"""What we export for other programs, imported as theirs: the same values in the tables, and stages that go on from them."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from vitreous.cli.importing import import_dataset
from vitreous.engine.machine import Machine
from vitreous.engine.project import Project, open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.engine.run import run_recipe
from vitreous.exporters.cryosparc import export_cryosparc
from vitreous.exporters.relion import export_relion
from vitreous.io.mrc import read_mrc
from vitreous.io.stacks import read_particle_images
from vitreous.io.star import read_star

CTF = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg")
IN_PLANE = ("class_id", "class_psi_deg", "class_origin_x_angstrom", "class_origin_y_angstrom")
IN_SPACE = ("rot_deg", "tilt_deg", "psi_deg", "origin_x_angstrom", "origin_y_angstrom", "half")


def set_poses(toy_project: Any) -> dict[str, pl.DataFrame]:
    """Return the tables with an orientation and a defocus of each positive's own, and a second optics group."""
    particles = toy_project.tables["particles"]
    rng = np.random.default_rng(1)
    drawn = {name: pl.Series(rng.uniform(-170, 170, particles.height)) for name in ("rot_deg", "psi_deg")}
    drawn |= {name: pl.Series(rng.normal(0, 3, particles.height)) for name in IN_SPACE[3:5]}
    drawn |= {"tilt_deg": pl.Series(rng.uniform(1, 179, particles.height))}
    drawn |= {name: pl.Series(rng.uniform(*limits, particles.height)) for name, limits in (
        ("defocus_u_angstrom", (12_000, 13_000)), ("defocus_v_angstrom", (11_000, 12_000)), ("defocus_angle_deg", (0, 180))
    )}  # fmt: skip
    positive = pl.col("label") == "positive"
    changed = particles.with_columns(
        *(pl.when(positive).then(values).alias(name) for name, values in drawn.items()), phase_shift_deg=pl.lit(0.0)
    )
    tables: dict[str, pl.DataFrame] = toy_project.change(
        "micrographs", "mic_b", optics_group=2, amplitude_contrast=0.07, optics_group_name="second_grid"
    )
    return {**tables, "particles": changed}


def import_again(source: Path, micrographs: str, project: Path, *words: object) -> Project:
    arguments = [project, source, "--micrographs", micrographs, "--diameter", 27, "--workers", 1, *words]
    result = CliRunner().invoke(import_dataset, [str(word) for word in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return open_project(project)


def read_tables(project: Project) -> dict[str, pl.DataFrame]:
    return read_current_tables(project, read_current_records(project))


def compare(found: pl.DataFrame, expected: pl.DataFrame, names: tuple[str, ...], *, rtol: float = 1e-9) -> None:
    """Compare the positives, found by where they are."""
    ours = expected.filter(pl.col("label") == "positive").sort("micrograph_id", "x_px")
    theirs = found.filter(pl.col("label") == "positive").sort("micrograph_id", "x_px")
    assert ours["micrograph_id"].to_list() == theirs["micrograph_id"].to_list()
    for name in ("x_px", "y_px", "score", *names):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=rtol, atol=1e-4, err_msg=name)


Make = Callable[[Any], dict[str, pl.DataFrame]]
MAKERS = [(lambda toy: toy.tables, IN_PLANE), (set_poses, (*CTF, *IN_SPACE))]


@pytest.mark.parametrize(("make", "names"), MAKERS)
def test_relion(make: Make, names: tuple[str, ...], toy_project: Any, tmp_path: Path) -> None:
    tables = make(toy_project)
    export_relion(tables, toy_project.root, tmp_path / "to")
    project = import_again(
        tmp_path / "to" / "particles.star", str(tmp_path / "to" / "Micrographs" / "*.mrc"), tmp_path / "p",
        "--negatives", tmp_path / "to" / "particles_excluded.star", "--ctf", tmp_path / "to" / "micrographs.star",
    )  # fmt: skip
    found = read_tables(project)
    compare(found["particles"], tables["particles"], names)
    labels = found["particles"].filter(pl.col("label") != "positive").sort("x_px").select("label", "reason").rows()
    assert labels == [("negative", "ice"), ("negative", "score"), ("candidate", None)]
    said = ["optics_group", "voltage_kv", "cs_mm", "amplitude_contrast", *CTF, "ctf_score", "ctf_resolution_angstrom"]
    ours = tables["micrographs"].filter(pl.col("accepted")).select("micrograph_id", *said)
    if "second_grid" in tables["micrographs"]["optics_group_name"]:
        assert found["micrographs"]["optics_group_name"].to_list() == ["opticsGroup1", "second_grid", "opticsGroup1"]
    assert found["micrographs"].select("micrograph_id", *said).rows() == ours.rows()
    # With the CTF that came along no other is fitted; and the same file comes out again.
    assert "ctf" not in {step.stage for step in project.recipe.steps}
    run_recipe(project, "extract", (), Machine(workers=1))
    export_relion(read_tables(project), project.root, tmp_path / "again")
    first, second = (read_star(tmp_path / name / "particles.star") for name in ("to", "again"))
    assert second["particles"].columns == first["particles"].columns
    for ours, theirs in zip(second["particles"], first["particles"], strict=True):
        assert ours.to_list() == (pytest.approx(theirs.to_list()) if theirs.dtype.is_numeric() else theirs.to_list())
    same = [
        "rlnOpticsGroupName",
        "rlnOpticsGroup",
        "rlnVoltage",
        "rlnSphericalAberration",
        "rlnAmplitudeContrast",
        "rlnImagePixelSize",
    ]
    assert second["optics"].select(same).rows() == first["optics"].select(same).rows()


@pytest.mark.parametrize(("make", "names"), MAKERS)
def test_cryosparc(make: Make, names: tuple[str, ...], toy_project: Any, tmp_path: Path) -> None:
    tables = make(toy_project)
    export_cryosparc(tables, toy_project.root, tmp_path / "to")
    project = import_again(
        tmp_path / "to" / "particles.cs", str(tmp_path / "to" / "micrographs" / "*.mrc"), tmp_path / "p",
        "--negatives", tmp_path / "to" / "particles_excluded.cs", "--ctf", tmp_path / "to" / "micrographs.cs",
    )  # fmt: skip
    found = read_tables(project)
    compare(found["particles"], tables["particles"], names, rtol=1e-5)
    ours = tables["micrographs"].filter(pl.col("accepted"))
    for name in (*CTF, "ctf_score", "ctf_resolution_angstrom", "amplitude_contrast", "optics_group"):
        np.testing.assert_allclose(found["micrographs"][name], ours[name], rtol=1e-6, err_msg=name)


def test_classes_are_made_of_what_was_imported(toy_project: Any, tmp_path: Path) -> None:
    export_relion(toy_project.tables, toy_project.root, tmp_path / "to")
    project = import_again(
        tmp_path / "to" / "particles.star", str(tmp_path / "to" / "Micrographs" / "*.mrc"), tmp_path / "p"
    )
    settings = [("classify2d", "n_classes", 2), ("classify2d", "n_iterations", 3)]
    run_recipe(project, "classify2d", settings, Machine(workers=1))
    found = read_tables(project)
    assert found["classes"]["n_particles"].sum() == 7
    assert found["particles"].filter(pl.col("label") == "positive")["class_id"].null_count() == 0


@pytest.mark.relion
def test_images_that_relion_extracted_are_used_as_they_are(toy_project: Any, tmp_path: Path) -> None:
    """Of the two stacks of RELION's job, by the names that its file has, relative to the folder that it ran in."""
    export_relion(toy_project.tables, toy_project.root, tmp_path / "to")
    words = "--i micrographs.star --coord_dir ./ --coord_suffix _autopick.star --part_star Extract/job1/particles.star "
    words += "--part_dir Extract/job1/ --extract --extract_size 32 --scale 28 --norm --bg_radius 9 --white_dust -1 "
    words += "--black_dust -1 --invert_contrast"
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    subprocess.run(
        ["relion_preprocess", *words.split()], cwd=tmp_path / "to", env=environment, capture_output=True, check=True
    )
    star = tmp_path / "to" / "Extract" / "job1" / "particles.star"
    micrographs = str(tmp_path / "to" / "Micrographs" / "*.mrc")
    project = import_again(star, micrographs, tmp_path / "p")
    run_recipe(project, "extract", (), Machine(workers=1))
    found = read_tables(project)["particles"]
    assert found.select("box_px", "stack_pixel_size_angstrom").unique().rows() == [(28, pytest.approx(1.5 * 32 / 28))]
    theirs = [read_mrc(star.parent / "Micrographs" / f"{name}.mrcs")[0] for name in ("mic_a", "mic_b")]
    np.testing.assert_array_equal(read_particle_images(found, project.root), np.concatenate(theirs))
    # They go out again as they are, and are cut out again where that is asked for.
    export_relion(read_tables(project), project.root, tmp_path / "again")
    again = [read_mrc(tmp_path / "again" / "Particles" / f"{name}.mrcs")[0] for name in ("mic_a", "mic_b")]
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate(theirs))
    project = import_again(star, micrographs, tmp_path / "q", "--no-images")
    run_recipe(project, "extract", (), Machine(workers=1))
    cut = read_tables(project)["particles"]
    assert cut["stack_path"].str.starts_with("runs/").all()
    assert set(cut["box_px"]) != {28}
