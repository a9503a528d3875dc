"""Conventions of orientations, shifts, classes and halves, against scipy, sums over points, and RELION."""

import math
import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import polars as pl
import pytest
import starfile
import torch
from scipy.spatial.transform import Rotation

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import complete_table, empty_table
from vitreous.ops.pose_search import FourierImages, compute_shift_phases, make_shift_grid, search_poses
from vitreous.ops.project import compute_reference, extract_slices
from vitreous.ops.resolution import compute_fsc, compute_resolution_angstrom
from vitreous.ops.rotations import compute_euler_angles, compute_euler_matrix
from vitreous.ops.symmetry import compute_symmetry_operators
from vitreous.stages.classify2d import STAGE as CLASSIFY2D
from vitreous.stages.classify2d import Classify2dParams
from vitreous.stages.extract import STAGE as EXTRACT
from vitreous.stages.extract import ExtractParams

N = 48
# No symmetry, not even mirrored: (x, y, z) from the centre, and heights.
POINTS = np.array([[9.0, 0, 0], [0, 6, 0], [0, 0, 10], [-7, -4, 3], [4, -9, -5]])
HEIGHTS = np.array([1.0, 0.8, 0.6, 0.9, 0.7])
SIGMA = 2.0


def make_volume() -> np.ndarray:
    """Return the points as Gaussians in a cube, (z, y, x)."""
    axis = np.arange(N) - N // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    total = np.zeros((N, N, N))
    for (a, b, c), height in zip(POINTS, HEIGHTS, strict=True):
        total += height * np.exp(-((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) / (2 * SIGMA**2))
    return total.astype(np.float32)


def project_points(matrix: np.ndarray, moved: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Return the projection of the points at A r along z, moved by (x, y), on N x N pixels."""
    axis = np.arange(N) - N // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    total = np.zeros((N, N))
    for (a, b, _), height in zip(POINTS @ matrix.T, HEIGHTS, strict=True):
        spot = np.exp(-((x - a - moved[0]) ** 2 + (y - b - moved[1]) ** 2) / (2 * SIGMA**2))
        total += height * SIGMA * math.sqrt(2 * math.pi) * spot
    return total


def turn_axes(rot: float, tilt: float, psi: float) -> np.ndarray:
    """Return what turns the axes about z by rot, the new y by tilt and the new z by psi, by scipy."""
    return Rotation.from_euler("ZYZ", [rot, tilt, psi], degrees=True).inv().as_matrix()


def compute_ours(rot: float, tilt: float, psi: float) -> torch.Tensor:
    return compute_euler_matrix(*(torch.tensor(angle, dtype=torch.float64) for angle in (rot, tilt, psi)))


ANGLES = [(30.0, 50.0, -20.0), (-100.0, 160.0, 75.0), (0.0, 0.0, 40.0)]


@pytest.mark.parametrize("angles", ANGLES)
def test_euler_angles_turn_the_axes_about_z_y_and_z(angles: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(compute_ours(*angles), turn_axes(*angles), atol=1e-12)
    again = [float(angle) for angle in compute_euler_angles(compute_ours(*angles))]
    np.testing.assert_allclose(turn_axes(*again), turn_axes(*angles), atol=1e-9)


@pytest.mark.parametrize("angles", ANGLES)
def test_a_projection_shows_a_point_at_the_first_two_components_of_the_turned_point(
    angles: tuple[float, float, float],
) -> None:
    r_max = N // 2 - 1
    images = FourierImages.from_images(torch.from_numpy(project_points(turn_axes(*angles)))[None], None, r_max)
    reference = compute_reference(torch.from_numpy(make_volume()), r_max)
    slice_ = extract_slices(reference, compute_ours(*angles)[None], images.samples)
    difference = (slice_ - images.values).abs().square().sum() / images.values.abs().square().sum()
    assert float(difference) < 1e-3


@pytest.mark.relion
def test_euler_angles_and_origins_are_those_of_relion(tmp_path: Path) -> None:
    write_mrc(tmp_path / "map.mrc", make_volume(), 2.0, volume=True)
    rot, tilt, psi = ANGLES[0]
    table = {"rlnImageName": ["000001@p.mrcs"], "rlnOpticsGroup": [1], "rlnAngleRot": [rot], "rlnAngleTilt": [tilt]}
    table |= {"rlnAnglePsi": [psi], "rlnOriginXAngst": [6.0], "rlnOriginYAngst": [-4.0]}
    optics = {"rlnOpticsGroupName": "a", "rlnOpticsGroup": 1, "rlnImagePixelSize": 2.0, "rlnImageSize": N}
    optics |= {"rlnImageDimensionality": 2, "rlnVoltage": 300.0, "rlnSphericalAberration": 2.7}
    optics |= {"rlnAmplitudeContrast": 0.1}
    starfile.write({"optics": pd.DataFrame([optics]), "particles": pd.DataFrame(table)}, tmp_path / "p.star")
    command = "relion_project --i map.mrc --o out --ang p.star --angpix 2.0"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with mrcfile.open(tmp_path / "out.mrcs", permissive=True) as stack:
        theirs = np.array(stack.data).reshape(N, N)
    # The origin, in Å, is what is to be added to the image to centre it: the particle lies at its negative.
    ours = project_points(turn_axes(rot, tilt, psi), moved=(-3.0, 2.0))
    assert np.corrcoef(theirs.ravel(), ours.ravel())[0, 1] > 0.99


def test_an_origin_is_the_shift_to_add_to_the_image_to_centre_it() -> None:
    r_max = N // 2 - 1
    matrix = turn_axes(*ANGLES[0])
    displaced = torch.from_numpy(project_points(matrix, moved=(4.0, -2.0)))[None]
    images = FourierImages.from_images(displaced, None, r_max)
    reference = compute_reference(torch.from_numpy(make_volume()), r_max)
    slices = extract_slices(reference, compute_ours(*ANGLES[0])[None], images.samples)
    found = search_poses(images, slices, torch.ones(slices.shape[1]), torch.zeros(1, 2), make_shift_grid(6.0, 1.0), 1)
    assert found.origin_px[0, 0].tolist() == [-4.0, 2.0]
    centred = images.values * compute_shift_phases(images.samples, found.origin_px[:, 0], N)
    expected = FourierImages.from_images(torch.from_numpy(project_points(matrix))[None], None, r_max)
    np.testing.assert_allclose(centred, expected.values, atol=1e-2)


@pytest.mark.parametrize(
    ("group", "order", "axis", "fold"),
    [
        ("C7", 7, (0, 0, 1), 7),
        ("D2", 4, (1, 0, 0), 2),
        ("D3", 6, (1, 0, 0), 2),
        ("T", 12, (0, 0, 1), 3),
        ("O", 24, (1, 0, 0), 4),
        ("I", 60, (1, 0, (1 + math.sqrt(5)) / 2), 5),
        ("I", 60, (0, 0, 1), 2),
    ],
)
def test_axes_of_symmetry_stand_as_in_relion(group: str, order: int, axis: tuple[float, ...], fold: int) -> None:
    operators = compute_symmetry_operators(group).numpy()
    assert len(operators) == order
    direction = np.array(axis) / np.linalg.norm(axis)
    expected = Rotation.from_rotvec(2 * np.pi / fold * direction).as_matrix()
    assert np.abs(operators - expected).max(axis=(1, 2)).min() < 1e-9


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame, np.ndarray, np.ndarray]:
    """Images of one view, turned and displaced: the tables of particles and classes, the averages, and the truth."""
    folder = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(16)
    truth = np.column_stack([rng.uniform(-180, 180, 60), rng.uniform(-3, 3, (60, 2))])
    images = np.array([project_points(turn_axes(0, 0, psi), moved=(x, y)) for psi, x, y in truth])
    images = images + rng.normal(0, 1, images.shape)
    write_mrc(folder / "p.mrcs", images.astype(np.float32), 2.5)
    particles = pl.DataFrame(
        {
            "particle_id": [f"p{i:02d}" for i in range(60)],
            "micrograph_id": "m",
            "x_px": 0.0,
            "y_px": 0.0,
            "diameter_angstrom": 70.0,
            "picker": "manual",
            "label": "positive",
            "stack_path": "p.mrcs",
            "stack_index": list(range(60)),
            "box_px": N,
            "stack_pixel_size_angstrom": 2.5,
        }
    )
    inputs = Inputs({"particles": complete_table("particles", particles), "micrographs": empty_table("micrographs")})
    params = Classify2dParams(n_classes=1, n_iterations=12, max_resolution_angstrom=10.0, max_shift_factor=0.2)
    done = CLASSIFY2D.compute(CLASSIFY2D.load(inputs, params, Context(folder)), params, lambda fraction, words: None)
    saved = CLASSIFY2D.save(done, inputs, params, RunFolder(folder, folder / "run"))
    averages = read_mrc(folder / "run" / "images" / "classes.mrcs")[0].reshape(-1, N, N)
    return saved.tables["particles"], saved.tables["classes"], averages, truth


Classified = tuple[pl.DataFrame, pl.DataFrame, np.ndarray, np.ndarray]


def test_psi_of_a_class_is_the_euler_angle_of_the_average(classified: Classified) -> None:
    found, truth = classified[0]["class_psi_deg"].to_numpy(), classified[3][:, 0]
    # The average itself may stand at any angle, the same for all.
    turns = np.exp(1j * np.deg2rad(found - truth))
    common = turns.sum() / abs(turns.sum())
    assert np.percentile(np.abs(np.rad2deg(np.angle(turns / common))), 90) < 10


def test_origin_of_a_class_is_the_shift_in_angstrom_to_add_to_the_image(classified: Classified) -> None:
    particles, _, _, truth = classified
    columns = ["class_origin_x_angstrom", "class_origin_y_angstrom"]
    origins = particles.select(columns).to_numpy() / 2.5
    # The centre of the average is a point of the particle; it lies where that point is, turned with the image.
    psi = particles["class_psi_deg"].to_numpy()
    design = np.array([turn_axes(0, 0, angle)[:2, :2] for angle in psi]).reshape(-1, 2)
    rest = (-origins - truth[:, 1:]).reshape(-1)
    centre = np.linalg.lstsq(design, rest, rcond=None)[0]
    misfit = rest - design @ centre
    assert np.sqrt(np.mean(misfit**2)) < 0.7
    assert np.sqrt(np.mean((origins - truth[:, 1:]) ** 2)) > 2


def test_classes_count_from_1_and_their_images_from_0(classified: Classified) -> None:
    particles, classes, averages, _ = classified
    assert set(particles["class_id"]) <= set(classes["class_id"])
    assert classes["class_id"].to_list() == list(range(1, len(averages) + 1))
    assert classes["image_index"].to_list() == list(range(len(averages)))


def collect_halves(names: list[str], seed: int = 0) -> dict[str, int]:
    """Return the halves that the extraction stage gives to particles of these names."""
    particles = complete_table(
        "particles",
        pl.DataFrame({"particle_id": names}).with_columns(
            micrograph_id=pl.lit("m"), x_px=1000.0 * pl.int_range(pl.len()), y_px=0.0, diameter_angstrom=100.0,
            picker=pl.lit("blob"), label=pl.lit("positive"),
        ),
    )  # fmt: skip
    micrograph = {"micrograph_id": "m", "exposure_id": "m", "micrograph_path": "m.mrc", "nx_px": 1, "ny_px": 1,
                  "pixel_size_angstrom": 1.0, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1,
                  "optics_group": 1, "accepted": True}  # fmt: skip
    inputs = Inputs({"particles": particles, "micrographs": complete_table("micrographs", pl.DataFrame([micrograph]))})
    made = EXTRACT.collect(inputs, Saved({"particles": empty_table("particles")}), ExtractParams(seed=seed))
    return dict(made.tables["particles"].select("particle_id", "half").iter_rows())


def test_halves_are_1_and_2_and_equally_likely() -> None:
    halves = list(collect_halves([f"m_{i:05d}" for i in range(2000)]).values())
    assert set(halves) == {1, 2}
    assert 900 < halves.count(1) < 1100


def test_the_half_of_a_particle_does_not_depend_on_the_others() -> None:
    names = [f"m_{i:05d}" for i in range(200)]
    whole = collect_halves(names)
    assert collect_halves(names[::-3]) == {name: whole[name] for name in names[::-3]}
    assert collect_halves(names, seed=1) != whole


def test_the_resolution_is_where_the_correlation_falls_below_0143() -> None:
    curve = torch.tensor([1.0, 1.0, 0.9, 0.5, 0.243, 0.043, 0.0, 0.0, 0.0], dtype=torch.float64)
    # Half-way between shells 4 and 5 of a box of 16 voxels of 2 Å.
    assert compute_resolution_angstrom(curve, 2.0) == pytest.approx(16 * 2.0 / 4.5)


def test_shell_r_of_the_fsc_holds_frequencies_that_round_to_r() -> None:
    n, rng = 12, np.random.default_rng(17)
    first, second = rng.normal(size=(2, n, n, n))
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(n, 1 / n)
    shell = np.round(np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k[None, None, :] ** 2))
    expected = []
    for r in range(n // 2 + 1):
        here = shell == r
        power = np.sum(np.abs(a[here]) ** 2) * np.sum(np.abs(b[here]) ** 2)
        expected.append(np.sum(a[here] * b[here].conj()).real / math.sqrt(power))
    np.testing.assert_allclose(compute_fsc(torch.from_numpy(first), torch.from_numpy(second)), expected, atol=1e-12)
