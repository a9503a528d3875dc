"""CTF fits to spectra built by hand, without and with noise, and to spectra without rings."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vitreous.ops.ctf_fit import CtfSearch, FitBand, search_ctf

ANGLES = (torch.arange(90, dtype=torch.float64) / 90 - 0.5) * math.pi
BAND = FitBand(k_min=1 / 30, k_max=1 / 4, voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.1)


def make_rings(
    u: float, v: float, angle_deg: float, band: FitBand = BAND, n_k: int = 320, floor: float = 3.0
) -> tuple[Tensor, Tensor]:
    """Return frequencies and the power on `ANGLES`: an envelope on sin² chi over a background, written out in numpy."""
    k = np.linspace(band.k_min, band.k_max, n_k)
    azimuth = ANGLES.numpy()[:, None]
    volts = band.voltage_kv * 1e3
    wavelength = 12.2639 / np.sqrt(volts + 0.97845e-6 * volts**2)
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (azimuth - np.radians(angle_deg)))
    chi = np.pi * wavelength * k**2 * defocus - np.pi / 2 * band.cs_mm * 1e7 * wavelength**3 * k**4
    power = np.exp(-20 * k**2) * np.sin(chi + np.arcsin(band.amplitude_contrast)) ** 2 + floor * (
        1 + 2 * np.exp(-10 * k)
    )
    return torch.from_numpy(k), torch.from_numpy(power)


def fit(k: Tensor, power: Tensor, band: FitBand = BAND) -> CtfSearch:
    return search_ctf(power, k, ANGLES, band, min_defocus_angstrom=3000, max_defocus_angstrom=50000)


def angle_between(first: float, second: float) -> float:
    return abs((first - second + 90) % 180 - 90)


@pytest.mark.parametrize(
    ("u", "v", "angle"),
    [(15000, 15000, 0), (12300, 11900, 20), (31000, 30400, 150), (6200, 6000, 95), (18050, 17950, 60)],
)
def test_rings_without_noise(u: float, v: float, angle: float) -> None:
    found = fit(*make_rings(u, v, angle))
    assert found.values.defocus_u_angstrom == pytest.approx(u, abs=5)
    assert found.values.defocus_v_angstrom == pytest.approx(v, abs=5)
    assert found.values.defocus_u_angstrom - found.values.defocus_v_angstrom == pytest.approx(u - v, abs=5)
    if u - v >= 100:
        assert angle_between(found.values.defocus_angle_deg, angle) < 1
    assert found.score.max() > 0.8
    assert found.resolution_angstrom == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize(("voltage", "cs", "amplitude"), [(300, 0.01, 0.07), (200, 2.0, 0.1), (120, 2.7, 0.2)])
def test_other_optics(voltage: float, cs: float, amplitude: float) -> None:
    band = FitBand(1 / 30, 1 / 4.5, voltage, cs, amplitude)
    found = fit(*make_rings(14200, 13900, 40, band), band)
    assert found.values.defocus_u_angstrom == pytest.approx(14200, abs=5)
    assert found.values.defocus_v_angstrom == pytest.approx(13900, abs=5)
    assert angle_between(found.values.defocus_angle_deg, 40) < 1


def test_the_long_axis_of_defocus_is_the_short_axis_of_the_rings() -> None:
    """U along y: the rings stand closer along y, whatever formula is believed."""
    k, power = make_rings(16000, 15000, 90)
    found = fit(k, power)
    assert angle_between(found.values.defocus_angle_deg, 90) < 1
    search = (k > 0.035) & (k < 0.058)
    along_x, along_y = power[45][search].argmin(), power[0][search].argmin()
    assert k[search][along_y] < k[search][along_x]
    assert found.values.defocus_u_angstrom > found.values.defocus_v_angstrom


def test_turning_the_spectrum_turns_the_angle() -> None:
    k, power = make_rings(15000, 14500, 35)
    before, after = fit(k, power), fit(k, power.roll(45, 0))
    assert angle_between(after.values.defocus_angle_deg, before.values.defocus_angle_deg + 90) < 0.2
    assert after.values.defocus_u_angstrom == pytest.approx(before.values.defocus_u_angstrom, abs=2)


@pytest.mark.parametrize("seed", range(3))
def test_noisy_rings(seed: int) -> None:
    """Background ten times the rings, each value the mean of 40 exponential deviates."""
    rng = np.random.default_rng(seed)
    u, angle = rng.uniform(8000, 25000), rng.uniform(0, 180)
    k, power = make_rings(u, u - 300, angle, floor=5.0)
    found = fit(k, power * torch.from_numpy(rng.gamma(40, 1 / 40, power.shape)))
    assert found.values.defocus_u_angstrom == pytest.approx(u, abs=90)
    assert found.values.defocus_v_angstrom == pytest.approx(u - 300, abs=90)
    assert angle_between(found.values.defocus_angle_deg, angle) < 8


@pytest.mark.parametrize("seed", range(4))
def test_without_rings_the_astigmatism_stays_within_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k, power = make_rings(15000, 15000, 0)
    flat = 3 * (1 + 2 * torch.exp(-10 * k)) * torch.from_numpy(rng.gamma(40, 1 / 40, power.shape))
    values = fit(k, flat).values
    assert 0.1 * 3000 < values.defocus_v_angstrom <= values.defocus_u_angstrom < 2 * 50000


def test_resolution_is_where_the_rings_end() -> None:
    k, power = make_rings(15000, 15000, 0)
    smooth = 3 * (1 + 2 * torch.exp(-10 * k)).expand_as(power)
    noise = torch.from_numpy(np.random.default_rng(0).gamma(400, 1 / 400, power.shape))
    found = fit(k, torch.where(k < 1 / 7, power, smooth) * noise)
    assert found.resolution_angstrom == pytest.approx(7, abs=0.6)
    assert found.values.defocus_u_angstrom == pytest.approx(15000, abs=60)


def test_the_search_is_over_the_range_that_was_asked_for() -> None:
    k, power = make_rings(15000, 14800, 10)
    found = fit(k, power)
    assert len(found.defocus_angstrom) == len(found.score)
    assert (found.defocus_angstrom.min(), found.defocus_angstrom.max()) == (3000, pytest.approx(50000, abs=26))
    assert found.defocus_angstrom[found.score.argmax()].item() == pytest.approx(14900, abs=50)


def test_too_few_frequencies_are_refused() -> None:
    k, power = make_rings(15000, 15000, 0, n_k=39)
    with pytest.raises(ValueError, match="only 39 frequencies"):
        fit(k, power)
