"""A molecule of Gaussian blobs on disk: projected in real space, blurred by a CTF, put into stacks and tables."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.ndimage
import torch
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

from vitreous.cli.importing import import_dataset
from vitreous.engine.machine import Machine
from vitreous.engine.project import open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.engine.run import run_recipe, run_stage
from vitreous.errors import UserError
from vitreous.exporters.cryosparc import export_cryosparc
from vitreous.exporters.relion import export_relion
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table
from vitreous.ops.boxes import normalise_boxes
from vitreous.ops.fourier import irfft2, rfft2
from vitreous.stages.images import compute_particle_ctf
from vitreous.stages.reconstruct import STAGE, ReconstructParams

N, PIXEL, DIAMETER, COUNT = 32, 4.0, 84.0, 150
QUICK = ReconstructParams(n_starts=2, initial_iterations=8, iterations=3, global_iterations=2, max_shift_angstrom=8.0)
POSE = ["rot_deg", "tilt_deg", "psi_deg", "origin_x_angstrom", "origin_y_angstrom"]


def project(turns: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Images of octahedral blobs, each turned by a matrix and moved by (x, y) px; all sums along z are written out."""
    rng = np.random.default_rng(5)
    places = rng.normal(size=(5, 3))
    places *= (np.array([3.0, 7.0, 8.0, 9.0, 10.0]) / np.linalg.norm(places, axis=1))[:, None]
    places = (Rotation.create_group("O").as_matrix()[:, None] @ places[..., None]).reshape(-1, 3)
    seen = np.einsum("nij,kj->nki", turns[:, :2], places) + moves[:, None]
    axis = np.arange(N) - N // 2
    x, y = (np.exp(-((axis - seen[..., i : i + 1]) ** 2) / 2) for i in range(2))
    return np.einsum("nky,nkx->nyx", y, x).astype(np.float32)


def make_tables() -> tuple[dict[str, pl.DataFrame], np.ndarray]:
    """The tables, with class origins that are right to a pixel, and the particles' true displacements in px."""
    rng = np.random.default_rng(6)
    moves = rng.normal(size=(COUNT, 2)) * 1.5
    names = [f"p{i:03d}" for i in range(COUNT)]
    particles = pl.DataFrame(
        {
            "particle_id": [*names, "ice"],
            "micrograph_id": ["a"] * 100 + ["b"] * (COUNT - 100) + ["b"],
            "x_px": [50.0] * (COUNT + 1),
            "y_px": [50.0] * (COUNT + 1),
            "diameter_angstrom": [DIAMETER] * (COUNT + 1),
            "picker": ["blob"] * (COUNT + 1),
            "label": ["positive"] * COUNT + ["negative"],
            "reason": [None] * COUNT + ["ice"],
            "defocus_u_angstrom": [9_000.0] * 100 + [13_000.0] * (COUNT - 100) + [None],
            "defocus_v_angstrom": [8_700.0] * 100 + [12_900.0] * (COUNT - 100) + [None],
            "defocus_angle_deg": [40.0] * 100 + [150.0] * (COUNT - 100) + [None],
            "phase_shift_deg": [60.0] * 100 + [None] * (COUNT - 100 + 1),
            "stack_path": ["a.mrcs"] * 100 + ["b.mrcs"] * (COUNT - 100) + [None],
            "stack_index": [*range(100), *range(COUNT - 100), None],
            "box_px": [N] * COUNT + [None],
            "stack_pixel_size_angstrom": [PIXEL] * COUNT + [None],
            "half": [1 + i % 2 for i in range(COUNT + 1)],
            "class_origin_x_angstrom": [*(-np.round(moves[:, 0]) * PIXEL), None],
            "class_origin_y_angstrom": [*(-np.round(moves[:, 1]) * PIXEL), None],
        }
    )
    optics = {"pixel_size_angstrom": 2.0, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
    micrographs = pl.DataFrame(
        [
            {"micrograph_id": name, "exposure_id": name, "micrograph_path": "x.mrc", "nx_px": 100, "ny_px": 100}
            | optics
            | {"optics_group": 1}
            for name in "ab"
        ]
    )
    entries = pl.DataFrame({"entry_id": ["e"], "symmetry": ["O"]})
    tables = {"particles": particles, "micrographs": micrographs, "entries": entries}
    return {name: check_table(name, table) for name, table in tables.items()}, moves


def write_stacks(root: Path, tables: dict[str, pl.DataFrame], images: np.ndarray) -> None:
    positives = tables["particles"][:COUNT]
    ctf = compute_particle_ctf(positives, tables["micrographs"], N)
    assert ctf is not None
    blurred = irfft2(rfft2(torch.from_numpy(images)) * ctf, (N, N)).numpy()
    noise = np.random.default_rng(7).normal(size=blurred.shape) * blurred.std() * 0.7
    stack = ((blurred + noise) / blurred.std()).astype(np.float32)
    write_mrc(root / "a.mrcs", stack[:100], PIXEL)
    write_mrc(root / "b.mrcs", stack[100:], PIXEL)


def reconstruct(root: Path, tables: dict[str, pl.DataFrame], params: ReconstructParams) -> tuple[Saved, list[float]]:
    inputs, told = Inputs(tables), []
    result = STAGE.compute(STAGE.load(inputs, params, Context(root)), params, lambda done, _: told.append(done))
    return STAGE.save(result, inputs, params, RunFolder(root, root / "runs" / "009-reconstruct")), told


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pl.DataFrame], Saved, list[float]]:
    root = tmp_path_factory.mktemp("project")
    tables, moves = make_tables()
    write_stacks(root, tables, project(Rotation.random(COUNT, random_state=8).as_matrix(), moves))
    return root, tables, *reconstruct(root, tables, QUICK)


def test_tables_are_complete(done) -> None:
    root, tables, saved, told = done
    volumes = check_table("volumes", saved.tables["volumes"])
    row = volumes.row(0, named=True)
    assert (row["symmetry"], row["n_particles"], row["box_px"], row["seed"]) == ("O", COUNT, N, 0)
    assert row["pixel_size_angstrom"] == PIXEL
    for name in ("map", "half1", "half2", "mask"):
        volume, pixel = read_mrc(root / row[f"{name}_path"])
        assert volume.shape == (N, N, N)
    curves = pl.read_parquet(root / row["fsc_path"])
    assert curves.columns == ["frequency_per_angstrom", "fsc_unmasked", "fsc_spherical"]
    assert curves["frequency_per_angstrom"][-1] == pytest.approx(0.5 / PIXEL)
    assert 2 * PIXEL <= row["resolution_angstrom"] < 11.0
    particles = check_table("particles", saved.tables["particles"])
    assert particles["particle_id"].equals(tables["particles"]["particle_id"])
    assert particles.drop(POSE).equals(tables["particles"].drop(POSE))
    assert particles.filter(pl.col("label") == "positive").select(POSE).null_count().sum_horizontal().item() == 0
    assert particles.filter(pl.col("label") == "negative").select(POSE).null_count().sum_horizontal().item() == 5
    assert saved.warnings == ()
    assert told == sorted(told)


def test_poses_project_the_map_onto_the_images_by_relions_convention(done) -> None:
    """With scipy's rotations of the map in real space, none of ours."""
    root, tables, saved, _ = done
    volume = read_mrc(root / saved.tables["volumes"]["map_path"][0])[0]
    particles = saved.tables["particles"][:40]
    _, moves = make_tables()
    clean = project(Rotation.random(COUNT, random_state=8).as_matrix(), moves)[:40]
    axis = np.arange(N) - N // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    correlations = []
    for image, row in zip(clean, particles.iter_rows(named=True), strict=True):
        turn = Rotation.from_euler("ZYZ", [row["rot_deg"], row["tilt_deg"], row["psi_deg"]], degrees=True).inv()
        # The particle lies at minus its origin.
        there = np.stack((x + row["origin_x_angstrom"] / PIXEL, y + row["origin_y_angstrom"] / PIXEL, z), -1)
        places = np.moveaxis((there @ turn.as_matrix())[..., ::-1], -1, 0) + N // 2
        seen = scipy.ndimage.map_coordinates(volume, places, order=1).sum(0)
        correlations.append(np.corrcoef(seen.ravel(), image.ravel())[0, 1])
    assert np.median(correlations) > 0.9


def test_the_map_is_bright_where_the_molecule_is(done) -> None:
    root, _, saved, _ = done
    row = saved.tables["volumes"].row(0, named=True)
    volume, mask = (read_mrc(root / row[name])[0] for name in ("map_path", "mask_path"))
    assert mask.min() == 0
    assert mask.max() == pytest.approx(1)
    inside, outside = volume[mask > 0.99], volume[mask < 0.01]
    assert inside.mean() > outside.mean() + 3 * outside.std()


def test_images_of_noise_are_said_not_to_make_a_map(tmp_path: Path) -> None:
    tables, _ = make_tables()
    noise = np.random.default_rng(9).normal(size=(COUNT, N, N)).astype(np.float32)
    write_mrc(tmp_path / "a.mrcs", noise[:100], PIXEL)
    write_mrc(tmp_path / "b.mrcs", noise[100:], PIXEL)
    saved, _ = reconstruct(tmp_path, tables, QUICK)
    assert any("not to be trusted" in warning for warning in saved.warnings)


@pytest.fixture
def project_on_disk(tmp_path: Path) -> tuple[Path, dict[str, pl.DataFrame]]:
    tables, moves = make_tables()
    write_stacks(tmp_path, tables, project(Rotation.random(COUNT, random_state=8).as_matrix(), moves))
    return tmp_path, tables


def load(root: Path, tables: dict[str, pl.DataFrame], params: ReconstructParams = QUICK, **change: pl.Expr):
    particles = tables["particles"].with_columns(**change)
    return STAGE.load(Inputs({**tables, "particles": particles}), params, Context(root))


def test_halves_are_those_of_the_table_or_drawn(project_on_disk) -> None:
    loaded = load(*project_on_disk)
    assert loaded.half.tolist() == [1 + i % 2 for i in range(COUNT)]
    drawn = load(*project_on_disk, half=pl.lit(1)).half
    assert sorted((drawn == i).sum().item() for i in (1, 2)) == [75, 75]
    assert torch.equal(load(*project_on_disk, half=pl.lit(None)).half, drawn)


def test_a_random_subset_keeps_the_order_and_is_told(project_on_disk) -> None:
    loaded = load(*project_on_disk, ReconstructParams(max_particles=40))
    assert len(loaded.particle_ids) == 40
    assert loaded.particle_ids == sorted(loaded.particle_ids)
    assert loaded.warnings == ("40 of 150 positives were used (max_particles)",)
    whole = load(*project_on_disk)
    rows = [whole.particle_ids.index(name) for name in loaded.particle_ids]
    assert torch.equal(loaded.images, whole.images[rows])
    assert torch.equal(loaded.ctf, whole.ctf[rows])


def test_particles_without_a_defocus_are_left_out_or_nothing_is_corrected(project_on_disk) -> None:
    unknown = pl.when(pl.col("micrograph_id") == "a").then("defocus_u_angstrom")
    loaded = load(*project_on_disk, defocus_u_angstrom=unknown)
    assert len(loaded.particle_ids) == 100
    assert loaded.warnings == ("50 of 150 positives have no defocus and are left out",)
    nothing = load(*project_on_disk, defocus_u_angstrom=pl.lit(None, dtype=pl.Float64))
    assert nothing.ctf is None
    assert len(nothing.particle_ids) == COUNT
    assert "not corrected for the CTF" in nothing.warnings[0]


def test_what_cannot_be_used_is_refused(project_on_disk) -> None:
    few = pl.when(pl.int_range(pl.len()) < 7).then("label").otherwise(pl.lit("negative"))
    with pytest.raises(UserError, match="found 7 positives with an extracted image, expected at least 20"):
        load(*project_on_disk, label=few)
    sizes = pl.when(pl.col("micrograph_id") == "b").then(64).otherwise("box_px")
    with pytest.raises(UserError, match=r"several sizes.*\(32, 4\.0\), \(64, 4\.0\)"):
        load(*project_on_disk, box_px=sizes)


def spread(root: Path, tables: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Return the tables as a refinement elsewhere would leave them: places apart, orientations and shifts of 3D, own images."""
    for name in "ab":
        write_mrc(root / f"{name}.mrc", np.random.default_rng(1).integers(-9, 9, (900, 1000)).astype(np.int8), 2.0)
        images = normalise_boxes(
            torch.from_numpy(read_mrc(root / f"{name}.mrcs")[0].astype(np.float32)), 0.55 * DIAMETER / PIXEL
        )
        write_mrc(root / f"{name}.mrcs", images.numpy(), PIXEL)
    micrographs = tables["micrographs"].with_columns(
        micrograph_path=pl.col("micrograph_id") + ".mrc", nx_px=pl.lit(1000), ny_px=pl.lit(900)
    )
    angles = Rotation.random(COUNT + 1, random_state=8).as_euler("ZYZ", degrees=True).T
    row = pl.int_range(pl.len())
    particles = tables["particles"].with_columns(
        x_px=30.5 + 60 * (row % 15),
        y_px=30.25 + 60.0 * (row // 15),
        phase_shift_deg=pl.lit(0.0),
        origin_x_angstrom="class_origin_x_angstrom",
        origin_y_angstrom="class_origin_y_angstrom",
        **{name: pl.Series(values) for name, values in zip(("rot_deg", "tilt_deg", "psi_deg"), angles, strict=True)},
    )
    none = [pl.lit(None, pl.Float64).alias(f"class_origin_{axis}_angstrom") for axis in "xy"]
    return {**tables, "micrographs": micrographs, "particles": particles.with_columns(none)}


@pytest.mark.parametrize(
    ("export", "file", "images"),
    [(export_relion, "particles.star", "Micrographs"), (export_cryosparc, "particles.cs", "micrographs")],
)
def test_after_an_import_of_a_refinement_of_another_program(
    export, file: str, images: str, project_on_disk, tmp_path: Path
) -> None:
    """Images, CTF, halves and origins are those that went out, and the map is made of them."""
    root, tables = project_on_disk
    tables = spread(root, tables)
    export(tables, root, tmp_path / "to")
    words = [tmp_path / "p", tmp_path / "to" / file, "--micrographs", tmp_path / "to" / images / "*.mrc"]
    words += ["--diameter", DIAMETER, "--symmetry", "O", "--workers", 1]
    called = CliRunner().invoke(import_dataset, list(map(str, words)), catch_exceptions=False)
    assert "150 extracted images are used as they came" in called.stderr
    imported = open_project(tmp_path / "p")
    run_recipe(imported, "extract", (), Machine(workers=1))
    assert not list(imported.runs.glob("*extract/images/*"))
    found = read_current_tables(imported, read_current_records(imported))
    ours, theirs = load(root, tables), load(imported.root, found)
    assert torch.equal(theirs.images, ours.images)
    assert torch.equal(theirs.half, ours.half)
    assert theirs.pixel_size_angstrom == pytest.approx(ours.pixel_size_angstrom)
    assert ours.origins_px.abs().max() > 1
    torch.testing.assert_close(theirs.origins_px, ours.origins_px, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(theirs.ctf, ours.ctf, rtol=0, atol=1e-4)
    if export is export_relion:
        fast = {"n_starts": 1, "initial_iterations": 5, "iterations": 1, "global_iterations": 1, "max_particles": 40}
        run_stage(imported, "reconstruct", fast, Machine(workers=1))
        volume = read_current_tables(imported, read_current_records(imported))["volumes"].row(0, named=True)
        assert (volume["n_particles"], volume["symmetry"], volume["pixel_size_angstrom"]) == (40, "O", PIXEL)
        assert read_mrc(imported.root / volume["map_path"])[0].std() > 0
