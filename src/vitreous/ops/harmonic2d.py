"""The expectation step of 2D classification in angular harmonics.

For every class and shift the scores of all in-plane angles are one product of harmonics per order and a short inverse transform;
both are matrix products. Only hypotheses near the best of an image are exponentiated and summed, harmonic by harmonic.
"""

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

    @staticmethod
    def make(grid: PolarGrid, n_classes: int) -> "Sums":
        """Return sums of nothing."""
        return Sums(
            torch.zeros(2, grid.n_even, n_classes, 2, grid.n_rings),
            torch.zeros(n_classes, grid.n_rings),
            torch.zeros(n_classes),
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


@numba.njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _shift(values, sine, cosine, offset, step, phase, precision, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Move samples `(B, R, H, 2)` by minus offsets and shifts into `out` `(2, H, R, B, T)`, times the precision."""
    n_rings, n_shifts, stride = values.shape[1], phase.shape[3], values.shape[2] // cosine.shape[0]
    for b in range(values.shape[0]):
        for h in range(cosine.shape[0]):
            angle = step * (offset[b, 0] * sine[h] + offset[b, 1] * cosine[h])
            one_real, one_imaginary = np.cos(angle), np.sin(angle)
            real, imaginary = 1.0, 0.0
            for r in range(n_rings):
                real, imaginary = (
                    real * one_real - imaginary * one_imaginary,
                    real * one_imaginary + imaginary * one_real,
                )
                x, y = values[b, r, h * stride, 0] * precision[r], values[b, r, h * stride, 1] * precision[r]
                moved_real = np.float32(x * real - y * imaginary)
                moved_imaginary = np.float32(x * imaginary + y * real)
                first, second = out[0, h, r, b], out[1, h, r, b]
                turn_real, turn_imaginary = phase[h, r, 0], phase[h, r, 1]
                for t in range(n_shifts):
                    first[t] = moved_real * turn_real[t] - moved_imaginary * turn_imaginary[t]
                    second[t] = moved_real * turn_imaginary[t] + moved_imaginary * turn_real[t]


@numba.njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _find_peaks(scores, peaks):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Write the best over all angles of each column of `(2, A, columns)`: even harmonics' part plus or minus the odd ones'."""
    peaks[:] = -1e30
    for a in range(scores.shape[1]):
        even, odd = scores[0, a], scores[1, a]
        for j in range(peaks.shape[0]):
            peaks[j] = max(peaks[j], even[j] + abs(odd[j]))


@numba.njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _weigh(  # type: ignore[no-untyped-def] # noqa: ANN202
    scores,  # noqa: ANN001
    peaks,  # noqa: ANN001
    bias,  # noqa: ANN001
    prior,  # noqa: ANN001
    cosine,  # noqa: ANN001
    sine,  # noqa: ANN001
    reach,  # noqa: ANN001
    uncertainty,  # noqa: ANN001
    columns,  # noqa: ANN001
    factors,  # noqa: ANN001
    share,  # noqa: ANN001
    best,  # noqa: ANN001
    evidence,  # noqa: ANN001
):
    """Find the hypotheses that count and what they weigh.

    `scores` (2, A, K * B * T); `bias` (K, B); `prior` (B, T); `cosine` and `sine` (A, 2, E) of harmonics times angles. For each
    column that counts `columns` takes (class, image and shift) and `factors` (2, E, 2) the sum of its weights times
    exp(i m angle). `share` (B, K) are the classes' probabilities, `best` (B, 3) the class, shift and angle in steps.
    """
    n_angles, n_classes = scores.shape[1], bias.shape[0]
    n_images, n_shifts = prior.shape
    n_even = cosine.shape[2]
    n = 0
    top = np.empty((n_classes, 3))
    for b in range(n_images):
        most = -1e30
        for k in range(n_classes):
            for t in range(n_shifts):
                most = max(most, peaks[(k * n_images + b) * n_shifts + t] + bias[k, b] + prior[b, t])
        start, total = n, 0.0
        for k in range(n_classes):
            share[b, k] = 0
            top[k, 0] = -1e30
            for t in range(n_shifts):
                column = (k * n_images + b) * n_shifts + t
                base = bias[k, b] + prior[b, t] - most
                if peaks[column] + base < -reach:
                    continue
                columns[n, 0], columns[n, 1] = k, b * n_shifts + t
                factors[n] = 0
                for a in range(n_angles):
                    even, odd = scores[0, a, column] + base, scores[1, a, column]
                    if even + abs(odd) < -reach:
                        continue
                    here, opposite = np.exp(even + odd), np.exp(even - odd)
                    share[b, k] += here + opposite
                    both, difference = np.float32(here + opposite), np.float32(here - opposite)
                    for m in range(n_even):
                        factors[n, 0, m, 0] += both * cosine[a, 0, m]
                        factors[n, 0, m, 1] += both * sine[a, 0, m]
                        factors[n, 1, m, 0] += difference * cosine[a, 1, m]
                        factors[n, 1, m, 1] += difference * sine[a, 1, m]
                    if even + abs(odd) > top[k, 0]:
                        top[k, 0], top[k, 1] = even + abs(odd), t
                        top[k, 2] = a if odd > 0 else a + n_angles
                n += 1
            total += share[b, k]
        evidence[b] = most + np.log(total)
        tempered = 0.0
        for k in range(n_classes):
            tempered += (share[b, k] / total) ** (1 / uncertainty)
        for i in range(start, n):
            mass = share[b, columns[i, 0]]
            factors[i] *= np.float32((mass / total) ** (1 / uncertainty) / tempered / mass)
        chosen = 0
        for k in range(n_classes):
            share[b, k] = (share[b, k] / total) ** (1 / uncertainty) / tempered
            if share[b, k] > share[b, chosen]:
                chosen = k
        angle = int(top[chosen, 2])
        column = int((chosen * n_images + b) * n_shifts + top[chosen, 1])
        around = np.empty(3)
        for d in range(3):
            a = (angle + d - 1) % (2 * n_angles)
            sign = 1 if a < n_angles else -1
            around[d] = scores[0, a % n_angles, column] + sign * scores[1, a % n_angles, column]
        curvature = max(2 * around[1] - around[0] - around[2], 1e-12)
        beside = min(max(0.5 * (around[2] - around[0]) / curvature, -0.5), 0.5)
        best[b, 0], best[b, 1], best[b, 2] = chosen, top[chosen, 1], angle + beside
    return n


@numba.njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _gather(columns, factors, images, signal):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add columns of `images` (2, E, 2, R, B * T), turned back, to `signal` (2, E, K, 2, R)."""
    n_rings, n_columns = images.shape[3], images.shape[4]
    turned = np.empty((n_columns, 2, n_rings), np.float32)
    for p in range(2):
        for m in range(images.shape[1]):
            for part in range(2):
                for r in range(n_rings):
                    row = images[p, m, part, r]
                    for c in range(n_columns):
                        turned[c, part, r] = row[c]
            for i in range(columns.shape[0]):
                real, imaginary = factors[i, p, m, 0], factors[i, p, m, 1]
                x, y = turned[columns[i, 1], 0], turned[columns[i, 1], 1]
                to_real, to_imaginary = signal[p, m, columns[i, 0], 0], signal[p, m, columns[i, 0], 1]
                for r in range(n_rings):
                    to_real[r] += real * x[r] - imaginary * y[r]
                    to_imaginary[r] += real * y[r] + imaginary * x[r]


def _stack_references(references: References, grid: PolarGrid) -> tuple[Tensor, Tensor]:
    """Return matrices `(2 E, 2 K, 2 R)` for the products, and ring sums of |reference|² `(K, R)`, both for all Fourier space."""
    chosen = references.values[:, : grid.n_even, :, : grid.n_rings]
    real, imaginary = chosen.real, chosen.imag
    weight = grid.weight[:, :, None]
    power = (weight * (real.square() + imaginary.square())).sum(dim=(0, 1))
    to_real = torch.cat([real * weight, imaginary * weight], dim=-1)
    to_imaginary = torch.cat([imaginary * weight, -real * weight], dim=-1)
    return torch.cat([to_real, to_imaginary], dim=2).flatten(0, 1), power


def _make_tables(search: Search) -> tuple[Tensor, NDArray[np.float32], NDArray[np.float32]]:
    """Return the inverse transform over angles `(2, A, 2 E)`, and cosine and sine `(A, 2, E)` of its terms."""
    angle = torch.arange(search.n_angles, dtype=torch.float64) * (torch.pi / search.n_angles)
    phase = search.grid.order[:, None].double() * angle[None, :, None]
    cosine, sine = phase.cos().float(), phase.sin().float()
    inverse = torch.stack([cosine, sine], dim=-1).flatten(2)
    return inverse, cosine.transpose(0, 1).contiguous().numpy(), sine.transpose(0, 1).contiguous().numpy()


def compare_images(
    images: PolarImages, index: Tensor, offset_px: Tensor, references: References, search: Search, sums: Sums | None
) -> Poses:
    """Compare images with references over class, angle and shift, and add them to the sums by their posterior.

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
    grid, n_classes = search.grid, references.values.shape[2]
    n_rings, n_shifts, n_angles = grid.n_rings, len(search.shifts), search.n_angles
    matrix, reference_power = _stack_references(references, grid)
    inverse, cosine, sine = _make_tables(search)
    precision = references.precision[:n_rings]
    ring = torch.arange(1, n_rings + 1, dtype=torch.float64)
    theta_sine, theta_cosine = grid.theta.sin(), grid.theta.cos()
    step = 2 * torch.pi / grid.n_px
    along = search.shifts.double() @ torch.stack([theta_sine, theta_cosine])
    turn = step * ring[:, None] * along.T[:, None]
    phase = torch.stack([turn.cos(), turn.sin()], dim=2).float().numpy()
    size = max(1, _BLOCK_ELEMENTS // (n_shifts * n_classes * 2 * n_angles))
    found: list[tuple[Tensor, ...]] = []
    for chosen, offset in zip(torch.split(index, size), torch.split(offset_px, size), strict=True):
        n = len(chosen)
        values = images.values[chosen, :n_rings].float().numpy()
        moved = np.empty((2, grid.n_half, n_rings, n, n_shifts), np.float32)
        _shift(
            values,
            theta_sine.numpy(),
            theta_cosine.numpy(),
            offset.double().numpy(),
            step,
            phase,
            precision.numpy(),
            moved,
        )
        harmonics = torch.bmm(grid.analysis, torch.from_numpy(moved).flatten(2))
        products = torch.bmm(matrix, harmonics.reshape(2 * grid.n_even, 2 * n_rings, n * n_shifts))
        scores = torch.bmm(inverse, products.reshape(2, 2 * grid.n_even, -1)).numpy()
        total = offset[:, None] + search.shifts
        distance = total.norm(dim=2)
        prior = -2 * (distance / max(search.max_shift_px, 1.0)).square()
        prior = torch.where(distance <= search.max_shift_px + _SLACK_PX, prior, prior - _OUTSIDE)
        ctf_power = images.ctf_power[chosen, :n_rings] * precision
        bias = references.log_prior[:, None] - 0.5 * reference_power @ ctf_power.T
        peaks = np.empty(scores.shape[2], np.float32)
        _find_peaks(scores, peaks)
        columns = np.empty((n * n_classes * n_shifts, 2), np.int32)
        factors = np.empty((len(columns), 2, grid.n_even, 2), np.float32)
        share, best, evidence = np.empty((n, n_classes)), np.empty((n, 3)), np.empty(n)
        arguments: tuple[Any, ...] = (
            *(scores, peaks, bias.double().numpy(), prior.double().numpy(), cosine, sine, _NEGLIGIBLE),
            *(search.uncertainty, columns, factors, share, best, evidence),
        )
        n_columns = _weigh(*arguments)
        shares = torch.from_numpy(share)
        if sums is not None:
            split = harmonics.reshape(2, grid.n_even, 2, n_rings, n * n_shifts).numpy()
            signal = sums.signal[:, : grid.n_even, ..., :n_rings].numpy()
            _gather(columns[:n_columns], factors[:n_columns], split, signal)
            sums.power[:, :n_rings] += shares.T.float() @ ctf_power
            sums.weight += shares.sum(dim=0).float()
        poses = torch.from_numpy(best)
        number = poses[:, 0].long()
        probability = shares.gather(1, number[:, None])[:, 0]
        angle = poses[:, 2] * (180.0 / n_angles)
        n_effective = 1 / shares.square().sum(dim=1)
        found.append((number, probability, n_effective, angle, poses[:, 1].long(), torch.from_numpy(evidence)))
    number, probability, n_effective, angle, shift, log_evidence = (
        torch.cat(parts) for parts in zip(*found, strict=True)
    )
    return Poses(number, probability.float(), n_effective.float(), angle.float(), shift, log_evidence)
