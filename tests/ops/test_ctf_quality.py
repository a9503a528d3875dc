"""Correlation windows against a plain loop, both rules for the resolution by hand, and the ring of ice."""

import math

import numpy as np
import pytest
import torch

from vitreous.ops.ctf_quality import (
    compute_ice_ring_score,
    correlate_locally,
    find_resolution,
    find_strict_resolution,
)


def test_local_correlation_is_that_of_each_window() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=60), rng.normal(size=60)
    chi = np.linspace(0, 20, 60) ** 1.2
    found = correlate_locally(*(torch.from_numpy(curve) for curve in (first, second, chi)))
    for i in range(60):
        inside = np.abs(chi - chi[i]) <= 0.75 * math.pi
        inside[max(0, i - 5) : i + 6] = True
        assert found[i] == pytest.approx(np.corrcoef(first[inside], second[inside])[0, 1])


def test_a_constant_does_not_correlate() -> None:
    chi = torch.linspace(0, 20, 50, dtype=torch.float64)
    assert correlate_locally(torch.ones(50, dtype=torch.float64), torch.sin(chi), chi).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("curve", "loose", "strict"),
    [
        ([0.9] * 100, 99, 99),
        ([0.9] * 50 + [0.4] * 30 + [0.0] * 20, 80, 50),
        ([0.9] * 50 + [0.2] * 3 + [0.9] * 47, 99, 50),
        ([0.3] * 40 + [0.05] * 60, 40, 40),
        ([0.0] * 100, 10, 10),
    ],
)
def test_both_rules(curve: list[float], loose: int, strict: int) -> None:
    correlation = torch.tensor(curve, dtype=torch.float64)
    assert find_resolution(correlation, torch.linspace(0, 30, 100)) == loose
    assert find_strict_resolution(correlation) == strict


@pytest.mark.parametrize(("hidden", "expected"), [(20, 70), (40, 10)])
def test_particles_that_hide_the_first_rings_do_not_end_the_fit(hidden: int, expected: int) -> None:
    """A ring and a half after the first tenth, which is 16 points here, may be without correlation."""
    correlation = torch.cat([torch.zeros(hidden), torch.ones(70 - hidden), torch.zeros(30)]).double()
    assert find_resolution(correlation, torch.linspace(0, 30, 100)) == expected


def test_ring_of_ice() -> None:
    tile, pixel = 512, 1.4
    ky = torch.fft.fftfreq(tile, pixel)[:, None]
    k = torch.hypot(ky, torch.fft.rfftfreq(tile, pixel)[None])
    plain = torch.exp(-3 * k)
    ring = plain * (1 + 2 * ((k > 1 / 3.9) & (k < 1 / 3.5)))
    assert compute_ice_ring_score(plain, (pixel, pixel)) == pytest.approx(1, abs=0.02)
    assert compute_ice_ring_score(ring, (pixel, pixel)) == pytest.approx(3, rel=0.05)
    assert compute_ice_ring_score(plain, (1.8, 1.8)) is None
