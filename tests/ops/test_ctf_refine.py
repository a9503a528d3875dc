"""Refinement on all elements of a spectrum: exact rings come back, derivatives and standard errors are what they claim to be."""

import math

import numpy as np
import pytest
import torch

from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.ctf_fit import CtfValues, FitBand
from vitreous.ops.ctf_refine import RefinedCtf, list_pixels, refine_ctf
from vitreous.ops.spectra import compute_tile_spectra

BAND = FitBand(1 / 30, 1 / 4, 300, 2.7, 0.1)
OPTICS = {"voltage_kv": 300, "cs_mm": 2.7, "amplitude_contrast": 0.1}
LAGS = (torch.ones(129), torch.ones(129))


def make_values(u: float, v: float, angle_deg: float, phase: float = 0.0) -> CtfValues:
    half, double = (u - v) / 2, math.radians(2 * angle_deg)
    return CtfValues((u + v) / 2, half * math.cos(double), half * math.sin(double), phase)


def make_power(values: CtfValues, pixel_sizes: tuple[float, float], tile: int = 256) -> torch.Tensor:
    """Return rings on a smooth background, written out in numpy."""
    ky = np.fft.fftfreq(tile, pixel_sizes[0])[:, None]
    kx = np.fft.rfftfreq(tile, pixel_sizes[1])[None, :]
    k, azimuth = np.hypot(ky, kx), np.arctan2(ky, kx)
    wavelength = 12.2639 / np.sqrt(3e5 + 0.97845e-6 * 9e10)
    half, angle = values.astigmatism_angstrom / 2, np.radians(values.defocus_angle_deg)
    defocus = values.mean_angstrom + half * np.cos(2 * (azimuth - angle))
    chi = np.pi * wavelength * k**2 * defocus - np.pi / 2 * 2.7e7 * wavelength**3 * k**4
    chi = chi + np.arcsin(0.1) + np.radians(values.phase_shift_deg)
    return torch.from_numpy(np.exp(-20 * k**2) * np.sin(chi) ** 2 + 2 + 2 * np.exp(-10 * k))


def refine(values: CtfValues, start: CtfValues, pixel_sizes: tuple[float, float], **options: bool) -> RefinedCtf:
    pixels = list_pixels(256, pixel_sizes, BAND.k_min, BAND.k_max)
    return refine_ctf(make_power(values, pixel_sizes), pixels, start, BAND, 10.0, LAGS, **options)


@pytest.mark.parametrize(
    ("u", "v", "angle", "pixel_sizes"),
    [(15000, 15000, 0, (1.5, 1.5)), (12300, 11900, 20, (1.5, 1.5)), (6200, 6000, 150, (1.4, 1.43))],
)
def test_exact_rings_come_back(u: float, v: float, angle: float, pixel_sizes: tuple[float, float]) -> None:
    truth = make_values(u, v, angle)
    start = CtfValues(truth.mean_angstrom + 80, truth.cos_part_angstrom - 50, truth.sin_part_angstrom + 40, 0.0)
    found = refine(truth, start, pixel_sizes).values
    assert found.mean_angstrom == pytest.approx(truth.mean_angstrom, abs=1)
    assert found.cos_part_angstrom == pytest.approx(truth.cos_part_angstrom, abs=1)
    assert found.sin_part_angstrom == pytest.approx(truth.sin_part_angstrom, abs=1)


def test_exact_phase_shift_comes_back() -> None:
    truth = make_values(9100, 8900, 40, 70)
    start = CtfValues(8950, 90, 60, 76)
    found = refine(truth, start, (1.5, 1.5), with_phase=True)
    assert found.values.phase_shift_deg == pytest.approx(70, abs=0.5)
    assert found.values.mean_angstrom == pytest.approx(9000, abs=5)
    assert found.phase_shift_error_deg > 0
    assert refine(truth, truth, (1.5, 1.5)).phase_shift_error_deg == 0


def test_smooth_numbers_and_principal_defoci_agree() -> None:
    values = make_values(15200, 14700, 132)
    assert values.defocus_u_angstrom == pytest.approx(15200)
    assert values.defocus_v_angstrom == pytest.approx(14700)
    assert values.defocus_angle_deg == pytest.approx(132)
    azimuth = torch.deg2rad(torch.tensor([132.0, 222.0], dtype=torch.float64))
    assert values.compute_directional(azimuth).tolist() == pytest.approx([15200, 14700])


def test_errors_shrink_with_the_root_of_the_looks() -> None:
    truth, pixels = make_values(12000, 11800, 30), list_pixels(256, (1.5, 1.5), BAND.k_min, BAND.k_max)
    few, many = (refine_ctf(make_power(truth, (1.5, 1.5)), pixels, truth, BAND, n, LAGS) for n in (4.0, 16.0))
    assert few.mean_error_angstrom == pytest.approx(2 * many.mean_error_angstrom)
    assert few.astigmatism_error_angstrom == pytest.approx(2 * many.astigmatism_error_angstrom)


def test_an_angle_without_astigmatism_is_not_determined() -> None:
    truth = make_values(12000, 12000, 0)
    assert refine(truth, truth, (1.5, 1.5)).angle_error_deg == pytest.approx(180 / math.sqrt(12))


def test_standard_errors_cover_the_truth() -> None:
    """Of 3 x 30 errors, those within one standard error: 68 %, of which chance leaves 54 to 82 %."""
    pixels, inside = list_pixels(128, (1.5, 1.5), BAND.k_min, BAND.k_max), []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        u, spread, angle = rng.uniform(6000, 15000), rng.uniform(50, 300), rng.uniform(0, 180)
        truth = make_values(u, u - spread, angle)
        generator = torch.Generator().manual_seed(seed)
        ctf = compute_ctf_2d((384, 384), 1.5, u, u - spread, angle, **OPTICS)
        image = torch.fft.irfft2(torch.fft.rfft2(torch.randn(384, 384, generator=generator)) * ctf, s=(384, 384))
        tiles = compute_tile_spectra(image + torch.randn(384, 384, generator=generator), 128)
        found = refine_ctf(tiles.mean, pixels, truth, BAND, tiles.n_looks, tiles.lag_weights)
        error = torch.tensor(
            [
                found.values.mean_angstrom - truth.mean_angstrom,
                found.values.cos_part_angstrom - truth.cos_part_angstrom,
                found.values.sin_part_angstrom - truth.sin_part_angstrom,
            ],
            dtype=torch.float64,
        )
        inside += (error.abs() < found.covariance.diagonal()[:3].sqrt()).tolist()
    assert 0.54 < np.mean(inside) < 0.82


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_not_taken_for_rings(seed: int) -> None:
    """The best of many places that a search may have led to."""
    pixels = list_pixels(128, (1.5, 1.5), BAND.k_min, BAND.k_max)
    tiles = compute_tile_spectra(torch.randn(384, 384, generator=torch.Generator().manual_seed(seed)), 128)
    starts = [make_values(defocus, defocus - 200, 40) for defocus in range(4000, 30000, 1500)]
    found = [refine_ctf(tiles.mean, pixels, start, BAND, tiles.n_looks, tiles.lag_weights) for start in starts]
    assert max(one.significance for one in found) < 6.5


def test_rings_that_cancel_in_a_known_way_are_followed() -> None:
    """The mean of rings of a range of defocus, written out as a mean, against their closed form."""
    offsets = torch.linspace(-600, 600, 25, dtype=torch.float64)
    truth = make_values(14000, 13800, 60)
    powers = [
        make_power(
            CtfValues(truth.mean_angstrom + d, truth.cos_part_angstrom, truth.sin_part_angstrom, 0.0), (1.5, 1.5)
        )
        for d in offsets.tolist()
    ]
    pixels = list_pixels(256, (1.5, 1.5), BAND.k_min, BAND.k_max)
    start = CtfValues(truth.mean_angstrom + 60, truth.cos_part_angstrom, truth.sin_part_angstrom + 30, 0.0)
    mean = torch.stack(powers).mean(0)
    found = refine_ctf(mean, pixels, start, BAND, 10.0, LAGS, offsets_angstrom=offsets).values
    assert found.mean_angstrom == pytest.approx(truth.mean_angstrom, abs=2)
    assert found.sin_part_angstrom == pytest.approx(truth.sin_part_angstrom, abs=2)


def test_too_few_elements_are_refused() -> None:
    pixels = list_pixels(32, (1.5, 1.5), 0.1, 0.12)
    with pytest.raises(ValueError, match="elements of the spectrum"):
        refine_ctf(torch.ones(32, 17), pixels, make_values(1e4, 1e4, 0), BAND, 1.0, (torch.ones(17), torch.ones(17)))
