"""Micrographs and movies of a small field: contrast, defocus, drift, damage, counts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitreous.simulate.drift import make_trajectory
from vitreous.simulate.micrograph import Micrograph, make_micrograph
from vitreous.simulate.movie import (
    compute_attenuation,
    make_camera,
    make_clean_frames,
    make_movie,
)
from vitreous.simulate.particles import AtomProjector, Projector, compute_rotations
from vitreous.simulate.settings import SimulationSettings
from vitreous.simulate.volume import Specimen, load_specimen

SETTINGS = SimulationSettings(
    nx_px=320,
    ny_px=256,
    pixel_size_angstrom=2.5,
    n_frames=8,
    particles_per_movie=8,
    n_contaminants=0,
    n_hot_pixels=5,
    drift_angstrom=15,
    seed=5,
)


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return load_specimen("apoferritin", SETTINGS.pixel_size_angstrom)


@pytest.fixture(scope="module")
def projector(specimen: Specimen) -> Projector:
    return AtomProjector(specimen)


def expose(settings: SimulationSettings, specimen: Specimen, projector: Projector, **options: bool) -> Micrograph:
    rng = np.random.default_rng(settings.seed)
    carbon = options.get("with_carbon", False)
    return make_micrograph(settings, projector, specimen.box_px, specimen.diameter_angstrom, 15_000.0, carbon, rng)


@pytest.fixture(scope="module")
def micrograph(specimen: Specimen, projector: Projector) -> Micrograph:
    return expose(SETTINGS, specimen, projector)


def find_shift(first: NDArray[np.float32], second: NDArray[np.float32]) -> tuple[float, float]:
    """Return how far the content of `second` stands from that of `first`, (y, x), by phase correlation at low frequency."""
    window = np.hanning(first.shape[0])[:, None] * np.hanning(first.shape[1])
    ky, kx = np.fft.fftfreq(first.shape[0])[:, None], np.fft.rfftfreq(first.shape[1])[None, :]
    cross = np.fft.rfft2((second - second.mean()) * window) * np.conj(np.fft.rfft2((first - first.mean()) * window))
    # For a pure shift the phase is -2 pi k.t: a weighted least-squares fit of a plane.
    weights = (np.abs(cross) * (np.hypot(ky, kx) < 0.06)).ravel()
    plane = -2 * np.pi * np.stack(np.broadcast_arrays(ky, kx), -1).reshape(-1, 2)
    root = np.sqrt(weights)
    solution, *_ = np.linalg.lstsq(plane * root[:, None], np.angle(cross).ravel() * root, rcond=None)
    return float(solution[0]), float(solution[1])


def test_trajectories_start_at_the_first_frame_and_have_the_length_asked_for() -> None:
    path = make_trajectory(SETTINGS, np.random.default_rng(0))
    np.testing.assert_array_equal(path[0], 0)
    assert np.linalg.norm(path[-1]) == pytest.approx(SETTINGS.drift_angstrom / SETTINGS.pixel_size_angstrom, rel=0.01)
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert steps[0] > steps[-1]


def test_drift_is_seen_by_phase_correlation(micrograph: Micrograph) -> None:
    path = make_trajectory(SETTINGS, np.random.default_rng(0))
    frames = make_clean_frames(micrograph, path, SETTINGS.model_copy(update={"damage": False}))
    for before, after, step in zip(frames, frames[1:], np.diff(path, axis=0), strict=False):
        np.testing.assert_allclose(find_shift(before, after), step, atol=0.08)


def test_particles_are_dark_at_their_coordinates(micrograph: Micrograph, specimen: Specimen) -> None:
    still = np.zeros((1, 2))
    frame = make_clean_frames(micrograph, still, SETTINGS)[0]
    assert len(micrograph.centres_px) == SETTINGS.particles_per_movie
    y, x = np.ogrid[: SETTINGS.ny_px, : SETTINGS.nx_px]
    radius_px = specimen.diameter_angstrom / SETTINGS.pixel_size_angstrom / 2
    distances = np.min([np.hypot(y - cy, x - cx) for cx, cy in micrograph.centres_px], axis=0)
    shell = (distances > 0.7 * radius_px) & (distances < 0.95 * radius_px)
    assert frame[shell].mean() < 0.98 < frame[distances > 1.6 * radius_px].mean()


def test_the_image_is_the_ctf_of_its_defocus(specimen: Specimen, projector: Projector) -> None:
    # One particle in thin ice: its spectrum changes sign where the analytic CTF does.
    settings = SETTINGS.model_copy(update={"ice_thickness_angstrom": 100.0, "astigmatism_angstrom": 0.0})
    image = expose(settings, specimen, projector)
    ny, nx = image.canvas
    k = np.hypot(np.fft.fftfreq(ny, 2.5)[:, None], np.fft.rfftfreq(nx, 2.5)[None, :])
    wavelength = 0.0196875
    chi = np.pi * wavelength * k**2 * 15_000 - np.pi / 2 * 2.7e7 * wavelength**3 * k**4 + np.arcsin(0.07)
    flat = expose(settings.model_copy(update={"amplitude_contrast": 1.0, "cs_mm": 0.0}), specimen, projector)
    flat_chi = np.pi * wavelength * k**2 * 15_000 + np.pi / 2
    # The two differ in the CTF only; at the zeros of one its spectrum vanishes.
    a, b = image.particle_spectrum.numpy() * -np.sin(flat_chi), flat.particle_spectrum.numpy() * -np.sin(chi)
    band = (k > 0.01) & (k < 0.15)
    assert np.linalg.norm((a - b)[band]) < 0.02 * np.linalg.norm(b[band])
    np.testing.assert_allclose(image.defocus_angstrom, 15_000)


def test_no_two_particles_overlap(micrograph: Micrograph, specimen: Specimen) -> None:
    centres = micrograph.centres_px * SETTINGS.pixel_size_angstrom
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1) + 1e9 * np.eye(len(centres))
    assert distances.min() >= SETTINGS.minimum_separation_diameters * specimen.diameter_angstrom - 1e-6


def test_damage_takes_the_fine_detail_first() -> None:
    k = torch.tensor([0.01, 0.1, 0.25])
    left = compute_attenuation(k, 40.0, 300.0)
    assert left[0] > 0.95
    # Ne(0.1 / Å) = 0.24499 * 0.1^-1.6649 + 2.8141 = 14.14 e/Å².
    assert float(left[1]) == pytest.approx(np.exp(-40 / (2 * 14.14)), rel=2e-3)
    assert float(compute_attenuation(k, 40.0, 200.0)[1]) == pytest.approx(np.exp(-40 / (1.6 * 14.14)), rel=2e-3)
    assert left[2] < 0.03


def test_counts_match_the_dose_and_the_gain_evens_them_out(micrograph: Micrograph) -> None:
    camera = make_camera(SETTINGS, np.random.default_rng(1))
    path = make_trajectory(SETTINGS, np.random.default_rng(0))
    movie = make_movie(micrograph, path, camera, SETTINGS, np.random.default_rng(2))
    assert movie.shape == (8, 256, 320)
    assert movie.dtype == np.uint8
    expected = SETTINGS.dose_per_frame * SETTINGS.pixel_size_angstrom**2
    good = camera.hot == 0
    corrected = movie * camera.gain
    clean = make_clean_frames(micrograph, path, SETTINGS)
    np.testing.assert_allclose(movie[:, good].mean(1), expected, rtol=0.01)
    np.testing.assert_allclose(corrected[:, good].mean(1), expected * clean[:, good].mean(1), rtol=0.003)
    residual = (corrected / clean).mean(0)[good]
    raw = (movie / clean).mean(0)[good]
    pattern = (1 / camera.gain)[good] - 1
    assert np.corrcoef(raw, pattern)[0, 1] > 0.2
    assert abs(np.corrcoef(residual, pattern)[0, 1]) < 0.02
    assert (movie.mean(0)[~good] > 3 * expected).all()
    assert (~good).sum() == SETTINGS.n_hot_pixels


def test_noise_is_that_of_counting_and_little_more(micrograph: Micrograph) -> None:
    camera = make_camera(SETTINGS.model_copy(update={"gain": False, "n_hot_pixels": 0}), np.random.default_rng(1))
    np.testing.assert_array_equal(camera.gain, 1)
    path = np.zeros((8, 2))
    movie = make_movie(micrograph, path, camera, SETTINGS, np.random.default_rng(2)).astype(np.float64)
    # Consecutive frames share the specimen: half the variance of their difference is the noise alone.
    noise = 0.5 * (movie[1] - movie[0]).var() / movie.mean()
    assert 1.0 < noise < 1.1


def test_contamination_and_carbon_are_dark_and_bear_no_particles(specimen: Specimen, projector: Projector) -> None:
    settings = SETTINGS.model_copy(update={"n_contaminants": 1, "particles_per_movie": 3})
    image = expose(settings, specimen, projector, with_carbon=True)
    shown = image.transmission[image.window]
    assert shown.min() < 0.9
    radius_px = specimen.diameter_angstrom / settings.pixel_size_angstrom / 2
    for x, y in image.centres_px:
        rows, columns = np.ogrid[: settings.ny_px, : settings.nx_px]
        assert shown[np.hypot(rows - y, columns - x) < radius_px - 1].min() > 0.94


def test_orientations_are_those_of_the_images(micrograph: Micrograph, projector: Projector, specimen: Specimen) -> None:
    """A particle cut out of the clean image correlates best with the projection at its own angles."""
    ideal = replace(micrograph, transmission=np.ones_like(micrograph.transmission))
    frame = make_clean_frames(ideal, np.zeros((1, 2)), SETTINGS.model_copy(update={"damage": False}))[0]
    box = specimen.box_px
    inner = [
        i
        for i, (x, y) in enumerate(micrograph.centres_px)
        if box // 2 < x < SETTINGS.nx_px - box // 2 - 1 and box // 2 < y < SETTINGS.ny_px - box // 2 - 1
    ]
    assert inner
    ky, kx = np.fft.fftfreq(box, 2.5)[:, None], np.fft.rfftfreq(box, 2.5)[None, :]
    k_squared = ky**2 + kx**2
    rotations = compute_rotations(micrograph.angles_deg)
    decoys = compute_rotations(np.random.default_rng(9).uniform(-180, 180, (15, 3)))
    band = (np.sqrt(k_squared) > 0.03) & (np.sqrt(k_squared) < 0.12)
    for i in inner:
        x, y = micrograph.centres_px[i]
        column, row = round(x), round(y)
        patch = frame[row - box // 2 : row - box // 2 + box, column - box // 2 : column - box // 2 + box]
        spectrum = np.fft.rfft2(patch) * np.exp(2j * np.pi * 2.5 * (ky * (y - row) + kx * (x - column)))
        wavelength = 0.0196875
        chi = np.pi * wavelength * k_squared * micrograph.defocus_angstrom[i]
        ctf = -np.sin(chi - np.pi / 2 * 2.7e7 * wavelength**3 * k_squared**2 + np.arcsin(0.07))

        def correlate(
            rotation: NDArray[np.float64], observed: NDArray[np.complex128] = spectrum, ctf: NDArray[np.float64] = ctf
        ) -> float:
            model = (projector.project(rotation).numpy() * ctf)[band]
            return float(
                (observed[band] * np.conj(model)).sum().real / np.linalg.norm(model) / np.linalg.norm(observed[band])
            )

        assert correlate(rotations[i]) > max(correlate(decoy) for decoy in decoys) + 0.03
