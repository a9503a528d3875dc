"""Patches and distances that leave nothing out, and tallies of cross spectra against plain sums."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from vitreous.ops.fourier import compute_frequency_2d
from vitreous.ops.frame_pairs import _list_distances, _place, _tally, _tally_elements, make_band


@pytest.mark.parametrize(("n_frames", "n_near"), [(2, 1), (5, 4), (24, 4), (40, 6), (90, 2)])
def test_every_distance_is_in_one_slot(n_frames: int, n_near: int) -> None:
    nearest, farthest = (side.tolist() for side in _list_distances(n_frames, n_near))
    covered = [lag for low, high in zip(nearest, farthest, strict=True) for lag in range(low, high + 1)]
    assert covered[: n_frames - 1] == list(range(1, n_frames))
    assert nearest[:n_near] == farthest[:n_near]
    assert nearest[-1] < n_frames


@pytest.mark.parametrize("n", [20, 32, 129, 512, 1000, 4092])
@pytest.mark.parametrize("density", [1.0, 0.5])
def test_patches_are_alike_and_lie_in_the_frame(n: int, density: float) -> None:
    parts = _place(n, 32, 300, density)
    sizes = {part.stop - part.start for part in parts}
    assert len(sizes) == 1
    assert min(part.start for part in parts) >= 0
    assert max(part.stop for part in parts) <= n
    assert all(a.stop <= b.start for a, b in pairwise(parts))
    if density == 1:
        assert sizes.pop() * len(parts) > 0.93 * n


def test_tallies_of_rings_equal_sums_over_elements() -> None:
    shape, generator = (90, 75), torch.Generator().manual_seed(9)
    band = make_band(shape, torch.rand((3, 1, 1, 2), generator=generator), 1.0, torch.device("cpu"))
    spectra = torch.randn((9, 90, 38), generator=generator, dtype=torch.complex64)
    nearest, farthest = _list_distances(9, 2)
    found = _tally(spectra, nearest, farthest, band)
    by_elements = torch.zeros_like(found)
    _tally_elements(spectra, nearest, farthest, band, by_elements)
    np.testing.assert_allclose(found, by_elements, rtol=1e-4, atol=1e-3)
    ky, kx = (2 * torch.pi * axis for axis in compute_frequency_2d(shape))
    inside = torch.sqrt(ky.square() + kx.square()) / band.angular[0] / 2
    used = (
        (inside >= 2)
        & (inside < len(band.angular))
        & (ky.abs() > 2 * torch.pi * 1.5 / 90)
        & (kx > 2 * torch.pi * 1.5 / 75)
    )
    assert float(band.count.sum()) == pytest.approx(int(used.sum()), rel=0.03)
    for slot, (low, high) in enumerate(zip(nearest.tolist(), farthest.tolist(), strict=True)):
        earlier = spectra[max(0, 8 - high) : 8 - low + 1].sum(dim=0)
        cross = earlier.conj() * spectra[8] * band.sharpen
        expected = torch.stack([cross.real, cross.imag * ky, cross.imag * kx], dim=-1)[used].double().sum(0)
        noise = 0.02 * float(cross.abs().sum()) ** 0.5
        np.testing.assert_allclose(found[8, slot].sum(0), expected, rtol=0.1, atol=noise)
