"""Conventions of the CTF and of contrast, against formulas in SI units and images made by them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context, RunFolder
from vitreous.ops.ctf import compute_ctf_1d, compute_ctf_2d, compute_wavelength_angstrom
from vitreous.ops.ctf_fit import FitBand, search_ctf
from vitreous.ops.spectra import compute_polar_spectrum, compute_tile_spectrum
from vitreous.simulate.micrograph import make_micrograph
from vitreous.simulate.movie import make_clean_frames
from vitreous.simulate.particles import compute_rotations
from vitreous.simulate.settings import SimulationSettings
from vitreous.stages.extract import STAGE as EXTRACT
from vitreous.stages.extract import ExtractParams, MicrographItem

OPTICS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
IDEAL = {"voltage_kv": 300.0, "cs_mm": 0.0, "amplitude_contrast": 0.0}


def compute_si_phase(k_per_metre: np.ndarray, defocus_metres: np.ndarray | float) -> np.ndarray:
    """Return the phase of a 300 kV microscope with Cs 2.7 mm, everything in metres, from the constants of nature."""
    charge, mass, light, planck = 1.602176634e-19, 9.1093837015e-31, 299792458.0, 6.62607015e-34
    energy = 300e3 * charge
    wavelength = planck * light / math.sqrt(energy * (energy + 2 * mass * light**2))
    return (
        math.pi * wavelength * k_per_metre**2 * defocus_metres - math.pi / 2 * 2.7e-3 * wavelength**3 * k_per_metre**4
    )


def test_optics_are_in_angstrom_kilovolt_and_millimetre() -> None:
    k = np.linspace(0, 0.3, 200)
    expected = -np.sin(compute_si_phase(k * 1e10, 1.2e-6) + math.asin(0.1))
    np.testing.assert_allclose(compute_ctf_1d(torch.from_numpy(k), 12000.0, **OPTICS), expected, atol=4e-3)


def test_the_ctf_is_negative_at_low_frequency() -> None:
    k = torch.linspace(0, 0.015, 40)
    ctf = compute_ctf_1d(k, 15000.0, **OPTICS)
    assert float(ctf[0]) == pytest.approx(-0.1, abs=1e-6)
    assert (ctf < 0).all()


def test_underfocus_is_positive() -> None:
    # Underfocus counteracts the spherical aberration: at Scherzer's defocus the phase has its extremum at 2/3 of -pi.
    wavelength = compute_wavelength_angstrom(300.0)
    scherzer = math.sqrt(4 / 3 * 2.7e7 * wavelength)
    k = torch.linspace(0, 0.5, 4000, dtype=torch.float64)
    ctf = compute_ctf_1d(k, scherzer, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.0)
    first_zero = float(k[1:][ctf[1:] >= 0][0])
    assert first_zero == pytest.approx(1.5 * (2.7e7 * wavelength**3) ** -0.25, rel=0.03)
    overfocus = compute_ctf_1d(k, -scherzer, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.0)
    assert float(k[1:][overfocus[1:] <= 0][0]) < 0.75 * first_zero


def test_the_phase_shift_is_in_degrees_and_adds_to_the_phase() -> None:
    k = torch.zeros(1, dtype=torch.float64)
    for degrees in (0.0, 30.0, 90.0):
        ctf = compute_ctf_1d(k, 15000.0, **IDEAL, phase_shift_deg=degrees)
        assert float(ctf) == pytest.approx(-math.sin(math.radians(degrees)), abs=1e-9)


def test_u_lies_at_the_angle_from_x_towards_increasing_rows() -> None:
    n, pixel = 128, 1.5
    ctf = compute_ctf_2d((n, n), pixel, 20000.0, 12000.0, 45.0, **OPTICS)
    steps = torch.arange(1, n // 3)
    k = steps * (math.sqrt(2) / (n * pixel))
    down_right, up_right = ctf[steps, steps], ctf[-steps, steps]
    np.testing.assert_allclose(down_right, compute_ctf_1d(k, 20000.0, **OPTICS), atol=2e-3)
    np.testing.assert_allclose(up_right, compute_ctf_1d(k, 12000.0, **OPTICS), atol=2e-3)


def make_noise_image(defocus_u: float, defocus_v: float, angle_deg: float) -> torch.Tensor:
    """Return noise imaged with an astigmatic defocus, 1024 x 1024 at 1.5 Å, made without the code that is tested."""
    n, pixel = 1024, 1.5
    ky, kx = np.fft.fftfreq(n, pixel)[:, None] * 1e10, np.fft.rfftfreq(n, pixel)[None, :] * 1e10
    angle = math.radians(angle_deg)
    along, across = kx * math.cos(angle) + ky * math.sin(angle), -kx * math.sin(angle) + ky * math.cos(angle)
    k = np.hypot(kx, ky)
    defocus = (defocus_u * along**2 + defocus_v * across**2) / np.maximum(k, 1.0) ** 2 * 1e-10
    noise = np.fft.rfft2(np.random.default_rng(8).normal(size=(n, n)))
    image = np.fft.irfft2(noise * np.sin(compute_si_phase(k, defocus) + math.asin(0.1)), s=(n, n))
    return torch.from_numpy((image + np.random.default_rng(9).normal(0, 0.3, (n, n))).astype(np.float32))


@pytest.fixture(scope="module")
def fitted() -> tuple[float, float, float]:
    image = make_noise_image(16500.0, 15000.0, 120.0)
    k = torch.linspace(1 / 30, 1 / 4, 320)
    polar = compute_polar_spectrum(compute_tile_spectrum(image, 512), k * 1.5, 90)
    angles = (torch.arange(90) / 90 - 0.5) * torch.pi
    band = FitBand(k_min=1 / 30, k_max=1 / 4, **OPTICS)
    found = search_ctf(polar, k, angles, band, min_defocus_angstrom=8000.0, max_defocus_angstrom=25000.0).values
    return found.defocus_u_angstrom, found.defocus_v_angstrom, found.defocus_angle_deg


def test_defocus_u_is_the_larger_of_the_two(fitted: tuple[float, float, float]) -> None:
    assert fitted[0] == pytest.approx(16500, abs=60)
    assert fitted[1] == pytest.approx(15000, abs=60)


def test_the_fitted_angle_is_that_of_u_and_between_0_and_180(fitted: tuple[float, float, float]) -> None:
    assert fitted[2] == pytest.approx(120, abs=4)


class _Ball:
    """Projects to a round Gaussian of positive potential, whatever the rotation."""

    def project(self, rotation: np.ndarray) -> torch.Tensor:
        offset = np.arange(64) - 32
        image = 60 * np.exp(-(offset[:, None] ** 2 + offset[None, :] ** 2) / (2 * 6.0**2))
        return torch.from_numpy(np.fft.rfft2(image).astype(np.complex64))


@pytest.fixture(scope="module")
def exposed() -> tuple[np.ndarray, np.ndarray]:
    """An image of balls in ice, and their centres."""
    settings = SimulationSettings(
        nx_px=384, ny_px=320, particles_per_movie=8, n_contaminants=0, n_frames=1, drift_angstrom=0, damage=False
    )
    rng = np.random.default_rng(10)
    micrograph = make_micrograph(settings, _Ball(), 64, 60.0, 15000.0, False, rng)
    return make_clean_frames(micrograph, np.zeros((1, 2)), settings)[0], micrograph.centres_px


def measure_contrast(image: np.ndarray, x: float, y: float) -> float:
    """Return the mean within 4 px of a place less that of a ring of 24 to 30 px."""
    rows, columns = np.indices(image.shape)
    distance = np.hypot(columns - x, rows - y)
    return float(image[distance < 4].mean() - image[(distance > 24) & (distance < 30)].mean())


def test_protein_is_dark_in_the_micrograph(exposed: tuple[np.ndarray, np.ndarray]) -> None:
    image, centres = exposed
    inside = [(x, y) for x, y in centres if 32 < x < image.shape[1] - 32 and 32 < y < image.shape[0] - 32]
    assert len(inside) >= 3
    assert all(measure_contrast(image, x, y) < -0.01 for x, y in inside)


def extract(folder: Path, image: np.ndarray, centres: list[tuple[float, float]]) -> np.ndarray:
    """Run the stage on one micrograph of 1.75 Å per pixel and return its stack."""
    item = MicrographItem(
        item_id="m",
        micrograph_path="m.mrc",
        pixel_size_angstrom=1.75,
        diameter_angstrom=60.0,
        particle_ids=tuple(f"m_{i}" for i in range(len(centres))),
        xy_px=tuple(centres),
        box_px=64,
        out_px=64,
        float16=False,
        contrast="dark",
    )
    write_mrc(folder / "m.mrc", image.astype(np.float32), 1.75)
    context = Context(folder)
    boxes = EXTRACT.compute(EXTRACT.load(item, ExtractParams(), context), ExtractParams())
    EXTRACT.save(boxes, item, RunFolder(folder, folder / "run"))
    return read_mrc(folder / "run" / "images" / "m.mrcs")[0]


def test_extracted_particles_are_bright(tmp_path: Path, exposed: tuple[np.ndarray, np.ndarray]) -> None:
    image, centres = exposed
    inside = [(x, y) for x, y in centres if 32 < x < image.shape[1] - 32 and 32 < y < image.shape[0] - 32]
    for box in extract(tmp_path, image, inside):
        assert measure_contrast(box, 32, 32) > 1


def test_the_ctf_of_extracted_particles_has_the_other_sign(
    tmp_path: Path, exposed: tuple[np.ndarray, np.ndarray]
) -> None:
    image, centres = exposed
    inside = [(x, y) for x, y in centres if 32 < x < image.shape[1] - 32 and 32 < y < image.shape[0] - 32]
    mean = extract(tmp_path, image, inside).mean(axis=0)
    ky, kx = np.fft.fftfreq(64, 1.75)[:, None] * 1e10, np.fft.rfftfreq(64, 1.75)[None, :] * 1e10
    ctf = np.sin(compute_si_phase(np.hypot(kx, ky), 1.5e-6) + math.asin(0.07))
    truth = _Ball().project(compute_rotations(np.zeros((1, 3)))[0]).numpy()
    seen = np.fft.irfft2(truth * ctf, s=(64, 64))
    assert np.corrcoef(mean.ravel(), seen.ravel())[0, 1] > 0.9


def test_extracted_particles_have_a_background_of_mean_0_and_deviation_1(tmp_path: Path) -> None:
    image = 40 + np.random.default_rng(11).normal(0, 3, (200, 220))
    for box in extract(tmp_path, image, [(80.0, 90.0), (120.5, 101.25)]):
        y, x = np.indices(box.shape) - 32
        background = box[np.hypot(y, x) > 0.5 * 1.1 * 60 / 1.75]
        assert abs(background.mean()) < 1e-3
        assert background.std() == pytest.approx(1, abs=1e-2)
