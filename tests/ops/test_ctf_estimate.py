"""The whole estimate of one micrograph: rings at every place, phase plates, no rings at all, and the picture of the spectrum."""

import math

import pytest
import torch
from torch import Tensor

from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.ctf_estimate import CtfEstimate, compute_half_and_half, estimate_ctf
from vitreous.ops.ctf_fit import CtfValues, FitBand
from vitreous.ops.ctf_refine import list_pixels, refine_ctf
from vitreous.ops.spectra import compute_tile_spectra

BAND = FitBand(1 / 30, 1 / 4, 300, 2.7, 0.1)
OPTICS = {"voltage_kv": 300, "cs_mm": 2.7, "amplitude_contrast": 0.1}
SIDE, PIXEL = 1024, 1.5


def draw_field(rise: float, phase: float = 0.0, strength: float = 1.0) -> Tensor:
    """Return imaged white noise of 1.42 and 1.40 µm at 30°, `rise` Å more at the right edge, in white noise."""
    generator = torch.Generator().manual_seed(3)
    spectrum = torch.fft.rfft2(torch.randn(SIDE, SIDE, generator=generator)) * strength
    image = torch.randn(SIDE, SIDE, generator=generator)
    surface = (rise * torch.linspace(-1, 1, SIDE)).expand(SIDE, SIDE)
    n = math.ceil(rise / 80)
    for offset in (80 * i for i in range(-n, n + 1)):
        weight = (1 - (surface - offset).abs() / 80).clamp_min(0)
        ctf = compute_ctf_2d((SIDE, SIDE), PIXEL, 14_200 + offset, 14_000 + offset, 30, phase_shift_deg=phase, **OPTICS)
        image += weight * torch.fft.irfft2(spectrum * ctf, s=(SIDE, SIDE))
    return image


def estimate(image: Tensor, phases: tuple[float, ...] = (0.0,), *, with_surface: bool = True) -> CtfEstimate:
    return estimate_ctf(
        compute_tile_spectra(image, 256),
        (PIXEL, PIXEL),
        (SIDE, SIDE),
        PIXEL,
        BAND,
        min_defocus_angstrom=3000,
        max_defocus_angstrom=50000,
        phase_shifts_deg=phases,
        with_surface=with_surface,
    )


def test_tilt_does_not_hide_rings() -> None:
    """Rings of a steep specimen cancel in the mean spectrum, and are seen again when tiles are brought to one defocus."""
    image = draw_field(600)
    plain, local = estimate(image, with_surface=False), estimate(image)
    assert plain.surface is None
    assert local.surface is not None
    assert local.surface.degree == 1
    assert local.surface.coefficients[0].item() == pytest.approx(600, abs=25)
    assert local.refined.values.mean_angstrom == pytest.approx(14_100, abs=30)
    assert local.refined.significance > 20
    assert local.curves.resolution_angstrom < 4.2
    assert plain.curves.resolution_angstrom > local.curves.resolution_angstrom + 0.5


def test_phase_plate() -> None:
    found = estimate(draw_field(0, phase=65), tuple(range(0, 181, 10)))
    assert found.refined.values.phase_shift_deg == pytest.approx(65, abs=4)
    assert found.refined.values.mean_angstrom == pytest.approx(14_100, abs=60)
    assert 0 < found.refined.phase_shift_error_deg < 4


def test_weak_rings_are_used_to_their_end() -> None:
    """As well known as from all elements of the band: lines along 90 angles alone lose these rings at 6 Å."""
    image = draw_field(0, strength=0.25)
    found, tiles = estimate(image, with_surface=False), compute_tile_spectra(image, 256)
    pixels = list_pixels(256, (PIXEL, PIXEL), BAND.k_min, BAND.k_max)
    whole = refine_ctf(tiles.mean, pixels, found.refined.values, BAND, tiles.n_looks, tiles.lag_weights)
    assert whole.significance > 5
    assert found.refined.mean_error_angstrom == pytest.approx(whole.mean_error_angstrom, rel=0.05)
    assert abs(found.refined.values.mean_angstrom - 14_100) < 4 * whole.mean_error_angstrom


def test_nothing_in_view() -> None:
    found = estimate(draw_field(0, strength=0.0))
    assert found.curves.score < 0.4 or found.curves.resolution_angstrom > 15
    assert found.refined.significance < 8


def test_the_picture_shows_the_spectrum_beside_ctf() -> None:
    values = CtfValues(14_100, 50, 86.6, 0.0)
    power = compute_ctf_2d(
        (512, 512),
        PIXEL,
        values.defocus_u_angstrom,
        values.defocus_v_angstrom,
        values.defocus_angle_deg,
        **OPTICS,
    ).square()
    picture, k_max = compute_half_and_half(power + 0.5, (PIXEL, PIXEL), values, BAND, 1 / 4, 128)
    assert picture.shape == (128, 128)
    # Rings of CTF² there are three elements wide.
    assert 1 / (2 * 0.0197 * 14_100 * k_max) == pytest.approx(3 * 2 * k_max / 128, rel=0.01)
    assert picture.min() >= 0
    assert picture.max() <= 1
    # The left half is the point reflection of what the right half would be.
    left, right = picture[:, :64].flatten(), picture.flip(0, 1)[:, :64].flatten()
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.8
