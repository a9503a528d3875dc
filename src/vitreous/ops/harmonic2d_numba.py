"""What of the expectation step of 2D classification torch is slow at on processors, in numba.

`vitreous.ops.harmonic2d_torch` has the same functions for other devices.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from vitreous.ops.polar2d import PolarGrid

__all__ = ["move_samples", "weigh_hypotheses"]


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


def move_samples(values: Tensor, offset_px: Tensor, phase: Tensor, precision: Tensor, grid: PolarGrid) -> Tensor:
    """Move images by minus their offsets and shifts.

    Parameters
    ----------
    values
        `(b, R, H, 2)` float32: samples, of which those of the grid are every so many.
    offset_px
        `(b, 2)` as (y, x).
    phase
        `(n_half, R, 2, T)`: cosine and sine of what the shifts turn samples by.
    precision
        `(R,)`: what samples are multiplied by.
    grid
        Of the result.

    Returns
    -------
    Tensor
        `(2, n_half, R, b, T)`: real and imaginary parts.
    """
    n, n_rings = values.shape[:2]
    moved = np.empty((2, grid.n_half, n_rings, n, phase.shape[3]), np.float32)
    arguments: tuple[Any, ...] = (
        *(values.numpy(), grid.theta.sin().numpy(), grid.theta.cos().numpy(), offset_px.double().numpy()),
        *(2 * np.pi / grid.n_px, phase.numpy(), precision.numpy(), moved),
    )
    _shift(*arguments)
    return torch.from_numpy(moved)


def weigh_hypotheses(
    scores: Tensor,
    bias: Tensor,
    prior: Tensor,
    tables: tuple[Tensor, Tensor],
    reach: float,
    uncertainty: float,
    harmonics: Tensor,
    signal: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn scores into probabilities, and add the images to the sums by them.

    Parameters
    ----------
    scores
        `(2, A, K * b * T)`: matches at the angles of half a turn, of the even and of the odd harmonics; their sum is the match
        at an angle, their difference that at the opposite one.
    bias
        `(K, b)`, added to the matches of an image with a class.
    prior
        `(b, T)`, added to those at a shift.
    tables
        Cosines and sines of angle times harmonic, `(A, 2, E)`.
    reach
        What is less likely than the best by a factor of e to this is left out.
    uncertainty
        What logarithms of the classes' probabilities are divided by.
    harmonics
        `(2, E, 2, R, b * T)`: (real, imaginary) of the moved images.
    signal
        `(2, E, K, 2, R)`: what they are added to, turned back; None to add nothing.

    Returns
    -------
    tuple
        Float64: the classes' probabilities `(b, K)`; class, shift and angle, in steps and between them by a parabola, of the
        best hypothesis `(b, 3)`; log of the sum of all likelihoods `(b,)`.
    """
    n_classes, (n, n_shifts) = len(bias), prior.shape
    peaks = np.empty(scores.shape[2], np.float32)
    _find_peaks(scores.numpy(), peaks)
    columns = np.empty((n * n_classes * n_shifts, 2), np.int32)
    factors = np.empty((len(columns), 2, harmonics.shape[1], 2), np.float32)
    share, best, evidence = np.empty((n, n_classes)), np.empty((n, 3)), np.empty(n)
    arguments: tuple[Any, ...] = (
        *(scores.numpy(), peaks, bias.double().numpy(), prior.double().numpy(), *(table.numpy() for table in tables)),
        *(reach, uncertainty, columns, factors, share, best, evidence),
    )
    n_columns = _weigh(*arguments)
    if signal is not None:
        _gather(columns[:n_columns], factors[:n_columns], harmonics.numpy(), signal.numpy())
    return torch.from_numpy(share), torch.from_numpy(best), torch.from_numpy(evidence)
