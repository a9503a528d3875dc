"""Particles that fade and ice that is stirred, planted in the tallies of pairs of frames."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vitreous.ops.dose import compute_dose_weights
from vitreous.ops.frame_pairs import Band, Pairs, _list_distances, make_band
from vitreous.ops.shared_signal import estimate_covariance

N, DOSE, PIXEL, PATCHES, LOOKS = 30, 1.2, 1.0, 12, 0.9
BAND = make_band((512, 512), torch.zeros((1, 1, 1, 2)), PIXEL, torch.device("cpu"))
K = BAND.angular / (2 * torch.pi * PIXEL)


def list_pairs() -> tuple[Tensor, Tensor, Tensor]:
    nearest, farthest = _list_distances(N, 5)
    later, slot = torch.nonzero(torch.arange(N)[:, None] >= nearest, as_tuple=True)
    return later, (later - farthest[slot]).clamp_min(0), later - nearest[slot]


def make_covariance(particles: Tensor, ice: Tensor, stirring: float = 0.33) -> Tensor:
    """Return the covariance of frames of power 1 in each ring, `(n_rings, n, n)`, written out pair by pair."""
    left = compute_dose_weights(K, N, DOSE, 0.0, 300.0).double()
    found = torch.empty(len(K), N, N, dtype=torch.float64)
    for f in range(N):
        for g in range(N):
            same = torch.exp(-2 * torch.pi**2 * stirring * abs(f - g) * DOSE * K**2)
            found[:, f, g] = 1 if f == g else particles * left[f] * left[g] + ice * same
    return found


def tally(covariance: Tensor, noise: float, seed: int = 0) -> Pairs:
    """Return what patches show of it, with as much noise as they have times `noise`."""
    later, earliest, latest = list_pairs()
    generator = torch.Generator().manual_seed(seed)
    pairs = Pairs(later, earliest, latest, torch.zeros(PATCHES, len(later), len(K), 3, dtype=torch.float64))
    for m, (f, a, b) in enumerate(zip(later.tolist(), earliest.tolist(), latest.tolist(), strict=True)):
        spread = ((b - a + 1) * BAND.count / (2 * LOOKS)).sqrt()
        drawn = torch.randn(PATCHES, len(K), generator=generator, dtype=torch.float64)
        pairs.tallies[:, m, :, 0] = covariance[:, f, a : b + 1].sum(dim=1) * BAND.count + noise * spread * drawn
    return pairs


def estimate(pairs: Pairs, band: Band = BAND) -> Tensor:
    return estimate_covariance(pairs, pairs.tallies, band, K, DOSE, 300.0, LOOKS)


def fade(height: float, scale: float) -> Tensor:
    return height * torch.exp(-K / scale)


@pytest.mark.parametrize("stirring", [0.16, 0.33, 0.66])
def test_both_kinds_come_back_without_noise(stirring: float) -> None:
    truth = make_covariance(fade(0.02, 0.08), fade(0.01, 2.0), stirring)
    found = estimate(tally(truth, 0.0))
    used = BAND.count > 0
    # Rings at the ends of the band are fitted with neighbours on one side.
    np.testing.assert_allclose(found[used][20:-20], truth[used][20:-20], rtol=0.1, atol=1e-4)


def test_rings_of_the_contrast_transfer_function_stand_out() -> None:
    ctf = torch.sin(torch.pi * 0.0197 * 9000 * K**2 + 0.07).square()
    truth = make_covariance(fade(0.02, 0.08) * ctf, fade(0.02, 2.0) * ctf)
    found = estimate(tally(truth, 1.0))
    middle = slice(60, 170)
    correlation = np.corrcoef(found[middle, 0, 1].numpy(), truth[middle, 0, 1].numpy())[0, 1]
    assert correlation > 0.95
    assert float(found[middle, 0, 1].mean()) == pytest.approx(float(truth[middle, 0, 1].mean()), rel=0.05)


def test_noise_alone_is_shared_by_no_frames() -> None:
    found = estimate(tally(make_covariance(torch.zeros_like(K), torch.zeros_like(K)), 1.0))
    between = found - torch.diag_embed(found.diagonal(dim1=1, dim2=2))
    weighted = (between.mean(dim=(1, 2)) * BAND.count).sum() / BAND.count.sum()
    assert 0 <= float(weighted) < 1e-3
    assert float(between.min()) >= 0


def test_whatever_is_found_is_a_covariance() -> None:
    # Frames that are all but the same, as over carbon at low frequency.
    truth = make_covariance(torch.full_like(K, 3.0), torch.zeros_like(K))
    found = estimate(tally(truth, 0.0))
    assert float(torch.linalg.eigvalsh(found).min()) > 0.005
    assert float(found.diagonal(dim1=1, dim2=2).min()) >= 1 - 1e-9
