"""The same numbers from torch as from numba."""

import pytest
import torch

from vitreous.ops import harmonic2d_numba, harmonic2d_torch
from vitreous.ops.polar2d import PolarGrid

N, K, T = 5, 3, 4
GRID = PolarGrid(32, 7, 20, 6)
N_ANGLES = 2 * GRID.n_even


def test_samples_are_moved_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(N, GRID.n_rings, 2 * GRID.n_half, 2, generator=generator)
    offset, precision = torch.randn(N, 2, generator=generator), torch.rand(GRID.n_rings, generator=generator)
    turn = torch.randn(GRID.n_half, GRID.n_rings, T, generator=generator)
    phase = torch.stack([turn.cos(), turn.sin()], dim=2)
    expected = harmonic2d_numba.move_samples(values, offset, phase, precision, GRID)
    found = harmonic2d_torch.move_samples(values, offset, phase, precision, GRID)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("uncertainty", [1.0, 3.0])
def test_hypotheses_are_weighed_alike(uncertainty: float) -> None:
    generator = torch.Generator().manual_seed(1)
    scores = 3 * torch.randn(2, N_ANGLES, K * N * T, generator=generator)
    bias, prior = torch.randn(K, N, generator=generator), -torch.rand(N, T, generator=generator)
    # One image has but one class.
    bias[1:, 2] -= 1e6
    phase = torch.arange(N_ANGLES)[:, None, None] * (torch.pi / N_ANGLES) * GRID.order
    harmonics = torch.randn(2, GRID.n_even, 2, GRID.n_rings, N * T, generator=generator)
    found = []
    for module in (harmonic2d_numba, harmonic2d_torch):
        signal = torch.ones(2, GRID.n_even, K, 2, GRID.n_rings)
        tables = phase.cos(), phase.sin()
        weighed = module.weigh_hypotheses(scores, bias, prior, tables, 12.0, uncertainty, harmonics, signal)
        found.append((*weighed, signal))
    for expected, other in zip(*found, strict=True):
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-4)
    assert found[0][0][2, 0] == 1
    assert (found[0][3] - 1).abs().max() > 1
