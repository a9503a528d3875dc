"""Which class averages of two classifications show the same view: correlation over turn, mirror and small shifts.

A mirrored average is the same molecule seen from behind, so that mirrors count as alike.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.average2d import shift_spectra, sum_turned_back
from vitreous.ops.fourier import irfft2, rfft2

__all__ = ["AverageMatches", "assign_averages", "compare_averages", "compute_divergence", "lay_over"]

_LEAST_ANGLES = 72
_SHIFTS_EACH_WAY = 2
_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class AverageMatches:
    """How every average of one set is best laid over every average of another, `(K1, K2)` each."""

    correlation: Tensor
    """Normalised over the circle, -1 to 1."""
    angle_deg: Tensor
    is_mirrored: Tensor
    shift_px: Tensor
    """`(K1, K2, 2)` as (y, x)."""


def _sample_polar(images: Tensor, n_angles: int) -> Tensor:
    """Return images on circles round their centre, N // 2: `(n, radii, angles)`, of weighted mean 0 and weighted norm 1."""
    n_px = images.shape[-1]
    radius = torch.arange(1, n_px // 2, device=images.device).float()
    angle = torch.arange(n_angles, device=images.device) * (2 * math.pi / n_angles)
    x, y = radius[:, None] * angle.cos(), radius[:, None] * angle.sin()
    # Pixel centres at (2 i + 1) / N - 1.
    place = (2 * (torch.stack([x, y], dim=-1) + n_px // 2) + 1) / n_px - 1
    sampled: Tensor = torch.nn.functional.grid_sample(
        images[:, None], place.expand(len(images), -1, -1, -1), mode="bicubic", align_corners=False
    )[:, 0]
    weight = radius[:, None] / (radius.sum() * n_angles)
    centred: Tensor = (sampled - (sampled * weight).sum(dim=(1, 2), keepdim=True)) * weight.sqrt()
    norm = centred.flatten(1).norm(dim=1).clamp_min(1e-12)
    unit: Tensor = centred / norm[:, None, None]
    return unit


def _make_shifts(max_shift_px: float, device: torch.device) -> Tensor:
    step = max_shift_px / _SHIFTS_EACH_WAY
    line = torch.arange(-_SHIFTS_EACH_WAY, _SHIFTS_EACH_WAY + 1, device=device) * step
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)
    return grid[grid.norm(dim=1) <= max_shift_px + 1e-6] if max_shift_px > 0 else grid[:1] * 0


def _mirror(images: Tensor) -> Tensor:
    """Return images mirrored in x about column N // 2."""
    flipped = images.flip(-1)
    return flipped.roll(1, dims=-1) if images.shape[-1] % 2 == 0 else flipped


def compare_averages(first: Tensor, second: Tensor, max_shift_px: float) -> AverageMatches:
    """Compare every average with every other.

    Parameters
    ----------
    first, second
        `(K1, N, N)` and `(K2, N, N)`, of one pixel size, N even.
    max_shift_px
        How far centres may lie apart.

    Returns
    -------
    AverageMatches
        `first[i]` is most like `second[j]` mirrored in x where so, then shifted, then turned by the angle from +x towards +y.

    Raises
    ------
    ValueError
        If sizes differ or are odd.

    Notes
    -----
    On circles round the centre a turn is a shift along the angle, so that one transform over the angle gives the correlation at
    all turns; shifts of a grid, half of `max_shift_px` apart, are tried one by one.
    """
    n_px = first.shape[-1]
    if first.shape[-2:] != second.shape[-2:] or n_px % 2 or first.shape[-2] != n_px:
        raise ValueError(f"expected squares of one even size, found {tuple(first.shape)} and {tuple(second.shape)}")
    n_angles = max(_LEAST_ANGLES, 4 * round(math.pi * n_px / 8))
    one = torch.fft.rfft(_sample_polar(first, n_angles), dim=-1)
    shape = (len(first), len(second))
    best = torch.full(shape, -2.0, device=first.device)
    turn = torch.zeros(shape, dtype=torch.long, device=first.device)
    mirrored = torch.zeros(shape, dtype=torch.bool, device=first.device)
    shift = torch.zeros(*shape, 2, device=first.device)
    rows = max(1, _PAIRS_AT_ONCE // max(len(second), 1))
    for is_mirrored in (False, True):
        spectra = rfft2(_mirror(second) if is_mirrored else second)
        for move in _make_shifts(max_shift_px, first.device):
            moved = irfft2(shift_spectra(spectra, move.expand(len(second), 2)), (n_px, n_px))
            other = torch.fft.rfft(_sample_polar(moved, n_angles), dim=-1).conj()
            for start in range(0, len(first), rows):
                part = slice(start, start + rows)
                product = torch.einsum("irm,jrm->ijm", one[part], other)
                value, place = torch.fft.irfft(product, n=n_angles, dim=-1).max(dim=-1)
                better = value > best[part]
                best[part] = torch.where(better, value, best[part])
                turn[part] = torch.where(better, place, turn[part])
                mirrored[part] = torch.where(better, is_mirrored, mirrored[part])
                shift[part] = torch.where(better[..., None], move, shift[part])
    return AverageMatches(best, turn * (360.0 / n_angles), mirrored, shift)


def lay_over(images: Tensor, angle_deg: Tensor, is_mirrored: Tensor, shift_px: Tensor) -> Tensor:
    """Return images `(n, N, N)` mirrored where so, shifted and turned, as `AverageMatches` says, onto what they match."""
    turned = torch.where(is_mirrored[:, None, None], _mirror(images), images)
    return torch.stack(
        [
            sum_turned_back(turned, None, index, -angle_deg, -shift_px)[0]
            for index in torch.split(torch.arange(len(images)), 1)
        ]
    )


def assign_averages(correlation: NDArray[np.float64], least: float) -> list[tuple[int, int]]:
    """Return pairs (i, j), each average in one at most, of the greatest total correlation; none below `least`."""
    rows, columns = scipy.optimize.linear_sum_assignment(
        np.where(correlation >= least, correlation, 0.0), maximize=True
    )
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if correlation[i, j] >= least]


def compute_divergence(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the Jensen-Shannon divergence of two distributions over the same bins, in bits: 0 alike, 1 nothing in common.

    Raises
    ------
    ValueError
        If one of them is empty or has negative parts.
    """
    if (
        first.shape != second.shape
        or min(first.min(initial=0), second.min(initial=0)) < 0
        or not first.sum() * second.sum()
    ):
        raise ValueError(
            "expected two distributions over the same bins, each with something in it and nothing negative"
        )
    one, other = first / first.sum(), second / second.sum()
    mean = (one + other) / 2

    def compute_entropy(share: NDArray[np.float64]) -> float:
        there = share[share > 0]
        return float(-(there * np.log2(there)).sum())

    return compute_entropy(mean) - (compute_entropy(one) + compute_entropy(other)) / 2
