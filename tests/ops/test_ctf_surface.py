"""Defocus surfaces: polynomials in numpy, planes and bowls that come back, flat specimens that stay flat."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre
from torch import Tensor

from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.ctf_fit import CtfValues, FitBand
from vitreous.ops.ctf_refine import list_pixels, refine_ctf
from vitreous.ops.ctf_surface import DefocusSurface, average_equal_phase, compute_surface, fit_surface, list_terms
from vitreous.ops.spectra import compute_tile_spectra

BAND = FitBand(1 / 30, 1 / 4, 300, 2.7, 0.1)
OPTICS = {"voltage_kv": 300, "cs_mm": 2.7, "amplitude_contrast": 0.1}
SIDE, PIXEL, TILE, MEAN = 1280, 1.5, 256, 15_000.0
LINE = torch.linspace(-1, 1, SIDE)


def draw_field(surface: Tensor, seed: int) -> Tensor:
    """Return white noise imaged with a defocus that varies: images 60 Å apart, mixed at each place, on half as much noise."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft2(torch.randn(SIDE, SIDE, generator=generator))
    image = 0.5 * torch.randn(SIDE, SIDE, generator=generator)
    for number in range(math.floor(float(surface.min()) / 60), math.ceil(float(surface.max()) / 60) + 1):
        weight = (1 - (surface - number * 60).abs() / 60).clamp_min(0)
        u = MEAN + 60 * number + 100
        ctf = compute_ctf_2d((SIDE, SIDE), PIXEL, u, u - 200, 30, **OPTICS)
        image += weight * torch.fft.irfft2(spectrum * ctf, s=(SIDE, SIDE))
    return image


def fit(surface: Tensor, seed: int) -> DefocusSurface:
    tiles = compute_tile_spectra(draw_field(surface, seed), TILE)
    pixels = list_pixels(TILE, (PIXEL, PIXEL), BAND.k_min, BAND.k_max)
    start = CtfValues(MEAN + 30, 60.0, 80.0, 0.0)
    refined = refine_ctf(tiles.mean, pixels, start, BAND, tiles.n_looks, tiles.lag_weights)
    profiles = average_equal_phase(tiles.power, pixels, refined.values, BAND)
    return fit_surface(profiles, tiles.centres_px, TILE, (SIDE, SIDE), PIXEL, refined, BAND, tiles.n_looks, BAND.k_max)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_polynomials_are_those_of_legendre(degree: int) -> None:
    rng = np.random.default_rng(degree)
    terms = list_terms(degree)
    coefficients, xy = rng.normal(size=len(terms)), rng.uniform(0, 100, (50, 2))
    u, v = (2 * xy[:, 0] + 1) / 120 - 1, (2 * xy[:, 1] + 1) / 100 - 1
    square = np.zeros((degree + 1, degree + 1))
    for (i, j), value in zip(terms, coefficients, strict=True):
        square[i, j] = value
    found = compute_surface(degree, torch.from_numpy(coefficients), (100, 120), torch.from_numpy(xy))
    np.testing.assert_allclose(found, legendre.legval2d(v, u, square), atol=1e-12)


def test_the_mean_over_the_image_is_zero() -> None:
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(300.0), indexing="ij")
    xy = torch.stack([x.flatten(), y.flatten()], dim=1)
    coefficients = torch.linspace(100, 200, len(list_terms(4)), dtype=torch.float64)
    assert compute_surface(4, coefficients, (200, 300), xy).mean().item() == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_a_flat_specimen_stays_flat(seed: int) -> None:
    found = fit(torch.zeros(SIDE, SIDE), seed)
    assert found.degree == 0
    assert found.compute_tilt(PIXEL) == (0.0, 0.0, 0.0)
    assert found.compute_offsets(torch.tensor([[0.0, 0.0], [700.0, 30.0]])).tolist() == [0, 0]


@pytest.mark.parametrize(("tilt", "direction"), [(8, 30), (30, 200), (40, 100)])
def test_tilt_and_axis(tilt: float, direction: float) -> None:
    rise = math.tan(math.radians(tilt)) * SIDE * PIXEL / 2
    along = math.radians(direction)
    surface = rise * (math.cos(along) * LINE[None, :] + math.sin(along) * LINE[:, None])
    found = fit(surface, 0)
    angle, axis, error = found.compute_tilt(PIXEL)
    assert found.degree == 1
    assert angle == pytest.approx(tilt, abs=1.5)
    assert 0 < error < 1
    assert abs((axis - direction) % 180 - 90) < 5
    places = torch.tensor([[100.0, 200.0], [1200.0, 90.0], [640.0, 640.0]], dtype=torch.float64)
    truth = surface[places[:, 1].long(), places[:, 0].long()].double()
    assert (found.compute_offsets(places) - truth).abs().max() < 60
    assert found.constant_angstrom == pytest.approx(MEAN, abs=40)


def test_a_bowl() -> None:
    surface = 400 * (LINE[None, :] ** 2 + LINE[:, None] ** 2 - 2 / 3)
    found = fit(surface, 1)
    assert found.degree >= 2
    steps = torch.arange(40, SIDE, 100)
    places = torch.cartesian_prod(steps, steps).flip(1).double()
    error = found.compute_offsets(places) - surface[places[:, 1].long(), places[:, 0].long()]
    assert error.square().mean().sqrt() < 25
    assert (error.abs() < 3 * found.compute_errors(places)).float().mean() > 0.9


def test_lines_of_equal_phase() -> None:
    """Averaged with the right astigmatism, exact rings stay as deep as without any."""
    values = CtfValues(12_000.0, 300.0, -200.0, 0.0)
    ctf = compute_ctf_2d(
        (512, 512), PIXEL, values.defocus_u_angstrom, values.defocus_v_angstrom, values.defocus_angle_deg, **OPTICS
    )
    pixels = list_pixels(512, (PIXEL, PIXEL), BAND.k_min, 1 / 5)
    power = ctf.square()[None]
    right = average_equal_phase(power, pixels, values, BAND)
    wrong = average_equal_phase(power, pixels, CtfValues(12_000.0, 0.0, 0.0, 0.0), BAND)
    assert right.counts.sum() == pytest.approx(len(pixels.index), rel=0.05)
    fine = right.k > 0.12
    assert right.power[0][fine].std() > 0.3
    assert right.power[0][fine].std() > 1.3 * wrong.power[0][fine].std()
