"""RELION's folder, read back by our readers, by starfile and mrcfile, and by RELION itself."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import polars as pl
import pytest
import starfile
import torch

from vitreous.errors import ProjectError
from vitreous.exporters.relion import export_relion
from vitreous.io.coordinates import read_coordinates
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.star import read_star
from vitreous.model.tables import complete_table
from vitreous.ops.ctf import compute_ctf_2d

POSITIVES = {
    "mic_a": [(40.0, 30.0), (100.4, 50.0), (70.0, 90.75), (138.0, 101.0)],
    "mic_b": [(30.0, 40.0), (120.25, 33.0), (60.0, 99.4)],
}


@pytest.fixture
def folder(toy_project: Any, tmp_path: Path) -> Path:
    summary = export_relion(toy_project.tables, toy_project.root, tmp_path / "to")
    assert summary.counts == {"micrographs": 3, "positives": 7, "excluded particles": 3, "classes": 0, "maps": 1}
    assert summary.warnings == ("1 candidates are labelled neither positive nor negative; run review",)
    return tmp_path / "to"


def run_relion(folder: Path, *words: str) -> str:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_folder(folder: Path, toy_project: Any, list_files: Callable[[Path], set[str]]) -> None:
    names = ("mic_a", "mic_b", "mic_empty")
    assert list_files(folder) == {
        *("README.md", "checksums.sha256", "croissant.json", "particles.csv"),
        "vitreous-export.json", "dataset.json", "micrographs.star", "autopick.star", "particles.star",
        "particles_excluded.star", "Gain/gain.mrc", "Particles/mic_a.mrcs", "Particles/mic_b.mrcs",
        *(f"Micrographs/{name}.mrc" for name in names),
        *(f"Micrographs/{name}_autopick.star" for name in names[:2]),
        *(f"motion/{name}.star" for name in names),
        *(f"maps/map{suffix}.mrc" for suffix in ("", "_half1", "_half2", "_mask")),
    }  # fmt: skip
    for path in folder.rglob("*"):
        if path.suffix in {".star", ".json"}:
            assert str(toy_project.root.parent) not in path.read_text()
    document = json.loads((folder / "dataset.json").read_text())
    assert (document["layout"], document["coordinates"]["y_origin"]) == ("relion", "top")


def test_positions_survive(folder: Path) -> None:
    theirs = starfile.read(folder / "particles.star")["particles"]
    ours = read_coordinates(folder / "particles.star")
    for name, centres in POSITIVES.items():
        rows = theirs[theirs["rlnMicrographName"] == f"Micrographs/{name}.mrc"]
        np.testing.assert_allclose(rows[["rlnCoordinateX", "rlnCoordinateY"]], centres, atol=0.01)
        again = ours.filter(pl.col("micrograph") == name).select("x_px", "y_px").to_numpy()
        np.testing.assert_allclose(again, centres, atol=0.01)
        picks = read_coordinates(folder / "Micrographs" / f"{name}_autopick.star")
        assert set(picks["micrograph"]) == {name}
        np.testing.assert_allclose(picks.select("x_px", "y_px").to_numpy(), centres, atol=0.01)
        loop = starfile.read(folder / "Micrographs" / f"{name}_autopick.star")
        np.testing.assert_allclose(loop[["rlnCoordinateX", "rlnCoordinateY"]], centres, atol=0.01)
    listed = starfile.read(folder / "autopick.star")
    for path in listed.to_numpy().ravel():
        assert (folder / path).is_file()


def test_micrographs_star(folder: Path) -> None:
    blocks = starfile.read(folder / "micrographs.star")
    assert blocks["optics"].to_dict("records") == [
        {"rlnOpticsGroupName": "opticsGroup1", "rlnOpticsGroup": 1, "rlnMicrographOriginalPixelSize": 1.5, "rlnVoltage": 300,
         "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1, "rlnMicrographPixelSize": 1.5}
    ]  # fmt: skip
    row = blocks["micrographs"].to_dict("records")[1]
    assert row == {
        "rlnMicrographName": "Micrographs/mic_b.mrc", "rlnMicrographMetadata": "motion/mic_b.star", "rlnOpticsGroup": 1,
        "rlnDefocusU": 12_500, "rlnDefocusV": 11_500, "rlnDefocusAngle": 35, "rlnPhaseShift": 0, "rlnCtfAstigmatism": 1_000,
        "rlnCtfFigureOfMerit": 0.8, "rlnCtfMaxResolution": 4.2, "rlnAccumMotionTotal": 8.5, "rlnAccumMotionEarly": 6,
        "rlnAccumMotionLate": 2.5,
    }  # fmt: skip


def test_particles_star(folder: Path) -> None:
    blocks = starfile.read(folder / "particles.star")
    optics = blocks["optics"].to_dict("records")[0]
    assert (optics["rlnImagePixelSize"], optics["rlnImageSize"], optics["rlnImageDimensionality"]) == (1.5, 24, 2)
    row = blocks["particles"].to_dict("records")[5]
    assert row == {
        "rlnCoordinateX": 120.25, "rlnCoordinateY": 33, "rlnAutopickFigureOfMerit": 0.51,
        "rlnImageName": "000002@Particles/mic_b.mrcs", "rlnMicrographName": "Micrographs/mic_b.mrc", "rlnOpticsGroup": 1,
        "rlnDefocusU": 12_500, "rlnDefocusV": 11_500, "rlnDefocusAngle": 35, "rlnPhaseShift": 0, "rlnClassNumber": 2,
        "rlnAnglePsi": 10, "rlnOriginXAngst": 1.5, "rlnOriginYAngst": -3, "rlnRandomSubset": 2,
    }  # fmt: skip
    with mrcfile.open(folder / "Particles" / "mic_b.mrcs", permissive=False) as stack:
        assert stack.data[1, 0, 0] == pytest.approx(0.01)


def test_excluded_star_has_reasons(folder: Path) -> None:
    rows = read_star(folder / "particles_excluded.star")["particles"]
    assert rows["vitreousReason"].to_list() == ["ice", "score", "candidate"]
    assert rows["rlnCoordinateX"].to_list() == [20, 21, 22]


def test_particles_of_rejected_micrographs_are_excluded(toy_project: Any, tmp_path: Path) -> None:
    tables = toy_project.change("micrographs", "mic_b", accepted=False, optics_group=7)
    summary = export_relion(tables, toy_project.root, tmp_path / "to")
    assert (summary.counts["positives"], summary.counts["excluded particles"]) == (4, 6)
    blocks = read_star(tmp_path / "to" / "particles_excluded.star")
    assert blocks["particles"]["vitreousReason"].to_list().count("micrograph") == 5
    assert set(blocks["particles"]["rlnOpticsGroup"]) <= set(blocks["optics"]["rlnOpticsGroup"])
    assert not (tmp_path / "to" / "Micrographs" / "mic_b.mrc").exists()


def test_known_orientations_replace_those_in_the_plane(toy_project: Any, tmp_path: Path) -> None:
    pose = {"rot_deg": 11.0, "tilt_deg": 22.0, "psi_deg": 33.0, "origin_x_angstrom": 0.5, "origin_y_angstrom": 0.25}
    summary = export_relion(toy_project.change("particles", "mic_a-1", **pose), toy_project.root, tmp_path / "to")
    rows = read_star(tmp_path / "to" / "particles.star")["particles"]
    labels = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst"]
    assert rows.select(labels).rows()[:2] == [(0, 0, 0, 1.5, -3), (11, 22, 33, 0.5, 0.25)]
    assert "particles.star: 6 of 7 rows have no rlnAngleRot; 0 is written there" in summary.warnings


def test_gaps(toy_project: Any, tmp_path: Path) -> None:
    tables = toy_project.change(
        "micrographs", "mic_b", defocus_u_angstrom=None, defocus_v_angstrom=None, ctf_score=None
    )
    tables["micrographs"] = tables["micrographs"].with_columns(
        ctf_score=pl.when(pl.col("micrograph_id") != "mic_a").then("ctf_score"),
        early_motion_angstrom=pl.lit(None, dtype=pl.Float64),
    )
    tables["particles"] = tables["particles"].with_columns(
        stack_path=pl.when(pl.col("particle_id") != "mic_a-0").then("stack_path")
    )
    summary = export_relion(tables, toy_project.root, tmp_path / "to")
    micrographs = read_star(tmp_path / "to" / "micrographs.star")["micrographs"]
    assert micrographs["rlnMicrographName"].to_list() == ["Micrographs/mic_a.mrc", "Micrographs/mic_empty.mrc"]
    assert not {"rlnAccumMotionEarly", "rlnCtfFigureOfMerit"} & set(micrographs.columns)
    particles = read_star(tmp_path / "to" / "particles.star")["particles"]
    assert particles["rlnImageName"].to_list() == [f"{i:06d}@Particles/mic_a.mrcs" for i in (1, 2, 3)]
    assert read_mrc(tmp_path / "to" / "Particles" / "mic_a.mrcs")[0].shape == (3, 24, 24)
    assert len(read_coordinates(tmp_path / "to" / "Micrographs" / "mic_b_autopick.star")) == 3
    said = "\n".join(summary.warnings)
    for words in (
        "1 positives have no extracted image",
        "3 positives have no defocus",
        "1 micrographs have no defocus and are not in micrographs.star",
        "1 of 2 rows have no rlnCtfFigureOfMerit; the column is left out",
    ):
        assert words in said


def test_finished_micrographs_without_anything_else(toy_project: Any, tmp_path: Path) -> None:
    """Only what the tables must hold: no motion, CTF, images, classes, entries or maps."""
    tables = {}
    for name in ("micrographs", "particles"):
        frame = toy_project.tables[name]
        needed = [column for column in frame.columns if not frame[column].null_count()]
        dropped = ("trajectory", "motion", "defocus", "ctf", "phase", "accepted")
        kept = [column for column in needed if not column.startswith(dropped) and "_motion_" not in column]
        tables[name] = complete_table(name, frame.select(kept))
    summary = export_relion(tables, toy_project.root, tmp_path / "to")
    assert summary.counts["maps"] == 0
    assert "the positives have no extracted image" in summary.warnings
    blocks = read_star(tmp_path / "to" / "particles.star")
    assert blocks["particles"].columns == [
        "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit", "rlnMicrographName", "rlnOpticsGroup"
    ]  # fmt: skip
    assert read_star(tmp_path / "to" / "micrographs.star")["micrographs"].columns == [
        "rlnMicrographName",
        "rlnOpticsGroup",
    ]
    assert not (tmp_path / "to" / "motion").exists()


def test_movies_of_one_name(toy_project: Any, tmp_path: Path) -> None:
    tables = toy_project.change("exposures", "mic_b", movie_path="day2/mic_a.tif")
    with pytest.raises(ProjectError, match=r"several movies named mic_a.tif"):
        export_relion(tables, toy_project.root, tmp_path / "to")


def test_gain_of_eer_movies_divides(toy_project: Any, tmp_path: Path) -> None:
    gain = np.random.default_rng(0).uniform(0.8, 1.2, (120, 160)).astype(np.float32)
    gain[5, 7] = 0
    write_mrc(toy_project.root / "gain" / "k.mrc", gain, 1.5)
    exposures = toy_project.tables["exposures"].with_columns(
        gain_path=pl.lit("gain/k.mrc"),
        movie_path=pl.col("movie_path").str.replace("mic_b.tif", "mic_b.eer", literal=True),
    )
    export_relion({**toy_project.tables, "exposures": exposures}, toy_project.root, tmp_path / "to")
    np.testing.assert_array_equal(read_mrc(tmp_path / "to" / "Gain" / "k.mrc")[0], gain)
    divisor = read_mrc(tmp_path / "to" / "Gain" / "k_eer.mrc")[0]
    assert divisor[5, 7] == 0
    np.testing.assert_allclose(divisor[gain > 0] * gain[gain > 0], 1, rtol=1e-6)
    named = {
        name: read_star(tmp_path / "to" / "motion" / f"{name}.star")["general"]["rlnMicrographGainName"][0]
        for name in ("mic_a", "mic_b")
    }
    assert named == {"mic_a": "Gain/k.mrc", "mic_b": "Gain/k_eer.mrc"}


def test_again_keeps_what_relion_wrote(toy_project: Any, folder: Path) -> None:
    (folder / "Class2D").mkdir()
    (folder / "Class2D" / "run_it025_data.star").write_text("hours of work")
    export_relion(toy_project.change("micrographs", "mic_b", accepted=False), toy_project.root, folder)
    assert (folder / "Class2D" / "run_it025_data.star").read_text() == "hours of work"
    assert not list(folder.rglob("mic_b*"))


def test_half_precision_becomes_float32(toy_project: Any, tmp_path: Path) -> None:
    source = toy_project.root / "runs" / "002-motion" / "mic_a.mrc"
    image = read_mrc(source)[0]
    write_mrc(source, image.astype(np.float16), 1.5)
    summary = export_relion(toy_project.tables, toy_project.root, tmp_path / "to")
    assert any("1 micrographs are in half precision" in warning for warning in summary.warnings)
    for name, tolerance in (("mic_a", 2e-3), ("mic_b", 0)):
        with mrcfile.open(tmp_path / "to" / "Micrographs" / f"{name}.mrc", permissive=False) as written:
            assert written.header.mode == 2
            assert float(written.voxel_size.x) == pytest.approx(1.5)
            expected = image if name == "mic_a" else read_mrc(source.with_name("mic_b.mrc"))[0]
            np.testing.assert_allclose(written.data, expected, atol=tolerance)
    assert read_mrc(source)[0].dtype == np.float16


@pytest.mark.relion
def test_relion_extracts_what_we_extracted(folder: Path) -> None:
    """The pattern has no symmetry: turned over, moved or of the wrong sign it would not match."""
    run_relion(
        folder, "relion_preprocess", "--i", "micrographs.star", "--coord_dir", "./", "--coord_suffix", "_autopick.star",
        "--part_star", "out.star", "--part_dir", "out/", "--extract", "--extract_size", "24", "--norm", "--bg_radius", "10",
        "--white_dust", "-1", "--black_dust", "-1", "--invert_contrast",
    )  # fmt: skip
    extracted = read_star(folder / "out.star")["particles"]
    assert extracted.height == 7
    for name in POSITIVES:
        theirs = read_mrc(folder / "out" / "Micrographs" / f"{name}.mrcs")[0]
        ours = read_mrc(folder / "Particles" / f"{name}.mrcs")[0]
        for i, (image, reference) in enumerate(zip(theirs, ours, strict=True)):
            assert correlate(image, reference) > 0.99, (name, i)
            assert correlate(image, reference[::-1]) < 0.5
            assert correlate(image, reference[:, ::-1]) < 0.5
            assert np.unravel_index(image.argmax(), image.shape) == (12, 12)
    star = run_relion(folder, "relion_star_handler", "--i", "particles_excluded.star", "--o", "kept.star", "--select",
                      "rlnCoordinateX", "--minval", "0")  # fmt: skip
    assert "3 item(s)" in star
    assert read_star(folder / "kept.star")["particles"]["vitreousReason"].to_list() == ["ice", "score", "candidate"]


@pytest.mark.relion
def test_relion_classifies_our_particles(folder: Path) -> None:
    (folder / "C2D").mkdir()
    run_relion(
        folder, "relion_refine", "--o", "C2D/run", "--i", "particles.star", "--iter", "1", "--K", "1",
        "--particle_diameter", "30", "--ctf",
         "--dont_combine_weights_via_disc", "--pad", "1", "--psi_step", "60", "--offset_range", "1", "--offset_step",
        "1", "--norm", "--scale", "--random_seed", "1", "--dont_check_norm",
    )  # fmt: skip
    data = read_star(folder / "C2D" / "run_it001_data.star")["particles"]
    assert data["rlnImageName"].to_list() == read_star(folder / "particles.star")["particles"]["rlnImageName"].to_list()


def make_posed_project(root: Path) -> tuple[dict[str, pl.DataFrame], np.ndarray]:
    """Return tables of projections of five blobs at known orientations, off centre, with a CTF; and the true map."""
    rng = np.random.default_rng(11)
    n, box, pixel, sigma = 120, 32, 2.0, 1.6
    blobs = rng.uniform(-7, 7, (5, 3))
    weights = np.array([1.0, 1.4, 0.7, 1.2, 0.9])
    grid = np.arange(box) - box // 2
    z, y, x = np.meshgrid(grid, grid, grid, indexing="ij")
    truth = sum(
        w * np.exp(-((x - b[0]) ** 2 + (y - b[1]) ** 2 + (z - b[2]) ** 2) / (2 * sigma**2))
        for w, b in zip(weights, blobs, strict=True)
    )
    rot, psi = rng.uniform(-180, 180, (2, n))
    tilt = np.degrees(np.arccos(rng.uniform(-1, 1, n)))
    moved = rng.uniform(-2, 2, (n, 2))
    images = np.empty((n, box, box), dtype=np.float32)
    ctf = -compute_ctf_2d(
        (box, box), pixel, 9_000.0, 8_000.0, 30.0, voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.1
    ).numpy()
    for i in range(n):
        a, b, c = np.radians([rot[i], tilt[i], psi[i]])

        def turn(t: float) -> np.ndarray:
            return np.array([[np.cos(t), np.sin(t), 0], [-np.sin(t), np.cos(t), 0], [0, 0, 1]])

        middle = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
        seen = blobs @ (turn(c) @ middle @ turn(a)).T + np.append(moved[i], 0)
        image = sum(
            w * np.exp(-((grid[None] - p[0]) ** 2 + (grid[:, None] - p[1]) ** 2) / (2 * sigma**2))
            for w, p in zip(weights, seen, strict=True)
        )
        images[i] = np.fft.irfft2(np.fft.rfft2(image) * ctf, s=(box, box))
    write_mrc(root / "p.mrcs", images, pixel)
    write_mrc(root / "m.mrc", np.zeros((64, 64), np.float32), pixel)
    optics = {
        "pixel_size_angstrom": pixel,
        "voltage_kv": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.1,
        "optics_group": 1,
    }
    defocus = {"defocus_u_angstrom": 9_000.0, "defocus_v_angstrom": 8_000.0, "defocus_angle_deg": 30.0}
    micrograph = {"micrograph_id": "m", "exposure_id": "m", "micrograph_path": "m.mrc", "nx_px": 64, "ny_px": 64}
    # RELION's origin moves the image back to the centre.
    poses = {"rot_deg": rot, "tilt_deg": tilt, "psi_deg": psi}
    poses |= {"origin_x_angstrom": -moved[:, 0] * pixel, "origin_y_angstrom": -moved[:, 1] * pixel}
    fixed = {
        "micrograph_id": "m",
        "diameter_angstrom": 40.0,
        "picker": "manual",
        "label": "positive",
        "stack_path": "p.mrcs",
    }
    fixed |= {"box_px": box, "stack_pixel_size_angstrom": pixel, "y_px": 20.0}
    particles = pl.DataFrame(poses).with_columns(
        *(pl.lit(value).alias(name) for name, value in fixed.items()),
        particle_id=pl.int_range(n).cast(pl.String),
        stack_index=pl.int_range(n),
        half=pl.int_range(n) % 2 + 1,
        x_px=pl.int_range(n) * 0.5,
    )
    tables = {
        "micrographs": complete_table("micrographs", pl.DataFrame([micrograph | optics | defocus])),
        "particles": complete_table("particles", particles),
    }
    return tables, truth


@pytest.mark.relion
def test_relion_reconstructs_the_true_map_from_our_orientations(tmp_path: Path) -> None:
    """Angles, origins, defocus and contrast are right together, or the blobs would not come out where they are."""
    tables, truth = make_posed_project(tmp_path / "project")
    export_relion(tables, tmp_path / "project", tmp_path / "to")
    run_relion(
        tmp_path / "to", "relion_reconstruct", "--i", "particles.star", "--o", "map.mrc", "--ctf", "--angpix", "2.0"
    )
    found = read_mrc(tmp_path / "to" / "map.mrc")[0]
    low = torch.fft.rfftn(torch.from_numpy(truth))
    low[0, 0, 0] = 0
    expected = torch.fft.irfftn(low, s=truth.shape).numpy()
    assert correlate(found, expected) > 0.9
    for axis in range(3):
        assert correlate(found, np.roll(np.flip(expected, axis), 1, axis)) < 0.7
    run_relion(tmp_path / "to", "relion_reconstruct", "--i", "particles.star", "--o", "half1.mrc", "--ctf", "--angpix", "2.0",
               "--subset", "1")  # fmt: skip
    assert correlate(read_mrc(tmp_path / "to" / "half1.mrc")[0], found) > 0.9
