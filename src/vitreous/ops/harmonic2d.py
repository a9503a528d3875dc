"""The expectation step of 2D classification in angular harmonics.

For every class and shift the scores of all in-plane angles are one product of harmonics per order and a short inverse transform;
both are matrix products. Only hypotheses near the best of an image are exponentiated and summed, harmonic by harmonic.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops import harmonic2d_numba, harmonic2d_torch
from vitreous.ops.polar2d import PolarGrid

__all__ = ["PolarImages", "Poses", "References", "Search", "Sums", "compare_images", "make_shifts"]

_BLOCK_ELEMENTS = 1_000_000
_NEGLIGIBLE = 12.0
_OUTSIDE = 1e6
_SLACK_PX = 0.01


@dataclass(frozen=True)
class PolarImages:
    """Images times their CTF, sampled on a polar grid."""

    values: Tensor
    """`(n, R, n_half, 2)` float16, (real, imaginary): transforms times CTF, in units of N."""
    ctf_power: Tensor
    """`(n, R)`: mean CTF² per ring."""
    image_power: Tensor
    """`(n, R)`: mean |transform|² per ring, without the CTF, in units of N²."""


@dataclass(frozen=True)
class Search:
    """What is tried."""

    grid: PolarGrid
    """Rings, samples and harmonics used: at most those of the images."""
    shifts: Tensor
    """`(T, 2)` as (y, x), px, from the offset of each image."""
    max_shift_px: float
    """Total shifts beyond are excluded; within they are normally distributed, this being two standard deviations."""
    uncertainty: float = 1.0
    """Logarithms of the probabilities of classes are divided by this."""

    @property
    def n_angles(self) -> int:
        """Angles on the half circle; each is tried with its opposite."""
        return 2 * self.grid.n_even


@dataclass(frozen=True)
class References:
    """What images are compared with."""

    values: Tensor
    """`(2, E, K, R)` complex: harmonics of the class averages, in units of N."""
    log_prior: Tensor
    """`(K,)`."""
    precision: Tensor
    """`(R,)`: 1 / E|noise|²."""


@dataclass
class Sums:
    """What the maximisation needs; each is summed over images and weighted by the posterior."""

    signal: Tensor
    """`(2, E, K, 2, R)`: images times CTF and precision, moved and turned back, as (real, imaginary)."""
    power: Tensor
    """`(K, R)`: CTF² times precision."""
    weight: Tensor
    """`(K,)`: images."""
    loss: Tensor
    """`(K,)`: by how much the logarithms of the evidence would fall without a class, were the priors of the others as before."""
    transfer: Tensor
    """`(K, K)`: how many images of a class would then go to each other one."""

    @staticmethod
    def make(grid: PolarGrid, n_classes: int) -> "Sums":
        """Return sums of nothing."""
        return Sums(
            torch.zeros(2, grid.n_even, n_classes, 2, grid.n_rings),
            torch.zeros(n_classes, grid.n_rings),
            torch.zeros(n_classes),
            torch.zeros(n_classes),
            torch.zeros(n_classes, n_classes),
        )


@dataclass(frozen=True)
class Poses:
    """The best hypothesis of each image."""

    class_index: Tensor
    """`(n,)`: the most probable class."""
    probability: Tensor
    """`(n,)`: of that class."""
    n_effective: Tensor
    """`(n,)`: one over the sum of the classes' squared probabilities."""
    angle_deg: Tensor
    """`(n,)`, between the angles tried by a parabola."""
    shift_index: Tensor
    """`(n,)`."""
    log_evidence: Tensor
    """`(n,)`: log of the sum of all likelihoods, up to a constant of the image."""


def make_shifts(max_shift_px: float, step_px: float) -> Tensor:
    """Return shifts `(T, 2)` of a square grid within a disc."""
    reach = int(max_shift_px / step_px + 1e-6)
    line = torch.arange(-reach, reach + 1) * step_px
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)
    return grid[grid.norm(dim=1) <= max_shift_px + 1e-6]


def _stack_references(references: References, grid: PolarGrid) -> tuple[Tensor, Tensor]:
    """Return matrices `(2 E, 2 K, 2 R)` for the products, and ring sums of |reference|² `(K, R)`, both for all Fourier space."""
    chosen = references.values[:, : grid.n_even, :, : grid.n_rings]
    real, imaginary = chosen.real, chosen.imag
    weight = grid.weight[:, :, None]
    power = (weight * (real.square() + imaginary.square())).sum(dim=(0, 1))
    to_real = torch.cat([real * weight, imaginary * weight], dim=-1)
    to_imaginary = torch.cat([imaginary * weight, -real * weight], dim=-1)
    return torch.cat([to_real, to_imaginary], dim=2).flatten(0, 1), power


def _make_tables(search: Search) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return the inverse transform over angles `(2, A, 2 E)`, and cosine and sine `(A, 2, E)` of its terms."""
    angle = torch.arange(search.n_angles, dtype=torch.float64) * (torch.pi / search.n_angles)
    phase = search.grid.order[:, None].double() * angle[None, :, None]
    cosine, sine = phase.cos().float(), phase.sin().float()
    inverse = torch.stack([cosine, sine], dim=-1).flatten(2)
    return inverse, (cosine.transpose(0, 1).contiguous(), sine.transpose(0, 1).contiguous())


def _compute_phase(search: Search) -> Tensor:
    """Return cosine and sine `(n_half, R, 2, T)` of what the shifts turn samples by."""
    grid = search.grid
    ring = torch.arange(1, grid.n_rings + 1, dtype=torch.float64)
    along = search.shifts.double() @ torch.stack([grid.theta.sin(), grid.theta.cos()])
    turn = 2 * torch.pi / grid.n_px * ring[:, None] * along.T[:, None]
    return torch.stack([turn.cos(), turn.sin()], dim=2).float()


def compare_images(
    images: PolarImages, index: Tensor, offset_px: Tensor, references: References, search: Search, sums: Sums | None
) -> Poses:
    """Compare images with references over class, angle and shift, and add them to the sums by their posterior.

    The work is done where the images' values are; everything else is and stays on the CPU.

    Parameters
    ----------
    images
        All images; the sums are in units of N.
    index
        `(b,)`: which of them.
    offset_px
        `(b, 2)` as (y, x): what the shifts of each are counted from.
    references, search
        With what, and over what.
    sums
        What is added to, in place; None to find poses alone.
    """
    device = images.values.device
    if device.type == "cpu":
        move_samples, weigh_hypotheses = harmonic2d_numba.move_samples, harmonic2d_numba.weigh_hypotheses
    else:
        move_samples, weigh_hypotheses = harmonic2d_torch.move_samples, harmonic2d_torch.weigh_hypotheses
    grid, n_classes = search.grid, references.values.shape[2]
    n_rings, n_shifts, n_angles = grid.n_rings, len(search.shifts), search.n_angles
    matrix, reference_power = _stack_references(references, grid)
    inverse, tables = _make_tables(search)
    matrix, inverse, analysis = matrix.to(device), inverse.to(device), grid.analysis.to(device)
    tables = tables[0].to(device), tables[1].to(device)
    precision, phase = references.precision[:n_rings], _compute_phase(search).to(device)
    signal = None if sums is None else torch.zeros(2, grid.n_even, n_classes, 2, n_rings, device=device)
    size = max(1, _BLOCK_ELEMENTS // (n_shifts * n_classes * 2 * n_angles))
    found: list[tuple[Tensor, ...]] = []
    for chosen, offset in zip(torch.split(index, size), torch.split(offset_px, size), strict=True):
        values = images.values[chosen.to(device), :n_rings].float()
        moved = move_samples(values, offset.to(device), phase, precision.to(device), grid)
        harmonics = torch.bmm(analysis, moved.flatten(2))
        products = torch.bmm(matrix, harmonics.reshape(2 * grid.n_even, 2 * n_rings, -1))
        scores = torch.bmm(inverse, products.reshape(2, 2 * grid.n_even, -1))
        total = offset[:, None] + search.shifts
        distance = total.norm(dim=2)
        prior = -2 * (distance / max(search.max_shift_px, 1.0)).square()
        prior = torch.where(distance <= search.max_shift_px + _SLACK_PX, prior, prior - _OUTSIDE)
        ctf_power = images.ctf_power[chosen, :n_rings] * precision
        bias = references.log_prior[:, None] - 0.5 * reference_power @ ctf_power.T
        split = harmonics.reshape(2, grid.n_even, 2, n_rings, -1)
        weighed = weigh_hypotheses(
            scores, bias.to(device), prior.to(device), tables, _NEGLIGIBLE, search.uncertainty, split, signal
        )
        shares, best, evidence = (part.cpu() for part in weighed)
        if sums is not None:
            sums.power[:, :n_rings] += shares.T.float() @ ctf_power
            sums.weight += shares.sum(dim=0).float()
            others = (1 - shares).clamp_min(math.exp(-_NEGLIGIBLE))
            sums.loss -= others.log().sum(dim=0).float()
            sums.transfer += ((shares / others).T @ shares).float()
        number = best[:, 0].long()
        probability = shares.gather(1, number[:, None])[:, 0]
        angle = best[:, 2] * (180.0 / n_angles)
        n_effective = 1 / shares.square().sum(dim=1)
        found.append((number, probability, n_effective, angle, best[:, 1].long(), evidence))
    if sums is not None and signal is not None:
        sums.signal[:, : grid.n_even, ..., :n_rings] += signal.cpu()
    number, probability, n_effective, angle, shift, log_evidence = (
        torch.cat(parts) for parts in zip(*found, strict=True)
    )
    return Poses(number, probability.float(), n_effective.float(), angle.float(), shift, log_evidence)
