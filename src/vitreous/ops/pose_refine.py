"""Local refinement of orientations and shifts, image by image.

Each of the three angles about the image's axes and the two shifts is moved in turn to the top of the parabola through three
scores; the steps are halved from level to level. The score is that of `vitreous.ops.pose_search`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.pose_search import FourierImages
from vitreous.ops.project import PAD, check_samples, compile_loop, run_in_chunks, sample_reference

__all__ = ["Poses", "refine_poses"]

_N_CHUNKS = 32


@dataclass(frozen=True)
class Poses:
    """One pose per image: orientations A `(n, 3, 3)` float64, shifts to add to centre it `(n, 2)` as (x, y), scores `(n,)`."""

    matrices: Tensor
    origins_px: Tensor
    scores: Tensor


@compile_loop
def _turn(matrix: NDArray[np.float64], axis: int, angle: float) -> NDArray[np.float64]:
    """Turn two rows of the matrix: a rotation about one of the image's axes."""
    turned = matrix.copy()
    i, j = (axis + 1) % 3, (axis + 2) % 3
    cos, sin = math.cos(angle), math.sin(angle)
    for k in range(3):
        turned[i, k] = cos * matrix[i, k] - sin * matrix[j, k]
        turned[j, k] = sin * matrix[i, k] + cos * matrix[j, k]
    return turned


@compile_loop
def _match(
    reference: NDArray[np.complex64],
    matrix: NDArray[np.float64],
    image: NDArray[np.complex64],
    weight: NDArray[np.float32],
    samples: NDArray[np.int64],
    product: NDArray[np.complex64],
) -> float:
    """Fill in 2 X* c P / sigma² and return the sum of c² |P|² / sigma²; `image` is c X / sigma² and `weight` c² / sigma²."""
    norm = 0.0
    single = matrix.astype(np.float32)
    for j in range(image.shape[0]):
        real, imaginary = sample_reference(reference, single, samples[j, 0], samples[j, 1])
        norm += weight[j] * (real * real + imaginary * imaginary)
        product[j] = 2.0 * image[j].conjugate() * (real + 1j * imaginary)
    return norm


@compile_loop
def _sum_at(product: NDArray[np.complex64], samples: NDArray[np.int64], x: float, y: float, box: int) -> float:
    """Return the real part of the sum of the product over samples for an image moved by (x, y)."""
    reach = int(math.sqrt(samples[-1, 0] ** 2 + samples[-1, 1] ** 2) + 1.0)
    along_x = np.empty(reach + 1, dtype=np.complex64)
    along_y = np.empty(2 * reach + 1, dtype=np.complex64)
    for k in range(reach + 1):
        along_x[k] = complex(math.cos(2 * math.pi * k * x / box), math.sin(2 * math.pi * k * x / box))
    for k in range(-reach, reach + 1):
        along_y[k + reach] = complex(math.cos(2 * math.pi * k * y / box), math.sin(2 * math.pi * k * y / box))
    total = 0.0
    for j in range(product.shape[0]):
        total += (product[j] * along_x[samples[j, 0]] * along_y[samples[j, 1] + reach]).real
    return total


@compile_loop
def _find_top(before: float, here: float, after: float) -> float:
    """Return where the parabola through scores at -1, 0 and 1 is highest, within ±1.5."""
    curvature = before - 2.0 * here + after
    if curvature >= 0.0:
        return 1.0 if after > before else -1.0
    return max(-1.5, min(1.5, 0.5 * (before - after) / curvature))


@compile_loop
def _refine_one(
    reference: NDArray[np.complex64],
    matrix: NDArray[np.float64],
    origin: NDArray[np.float64],
    image: NDArray[np.complex64],
    weight: NDArray[np.float32],
    samples: NDArray[np.int64],
    box: int,
    angle: float,
    step: float,
    n_sweeps: int,
    limits: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    product = np.empty(image.shape[0], dtype=np.complex64)
    trial = np.empty(image.shape[0], dtype=np.complex64)
    norm = _match(reference, matrix, image, weight, samples, product)
    score = _sum_at(product, samples, origin[0], origin[1], box) - norm
    three = np.empty(3)
    for _ in range(n_sweeps):
        for axis in range(2):
            moved = origin.copy()
            three[1] = score
            for side in range(0, 3, 2):
                moved[axis] = origin[axis] + (side - 1) * step
                three[side] = _sum_at(product, samples, moved[0], moved[1], box) - norm
            moved[axis] = origin[axis] + step * _find_top(three[0], three[1], three[2])
            moved[axis] = max(limits[0, axis], min(limits[1, axis], moved[axis]))
            new = _sum_at(product, samples, moved[0], moved[1], box) - norm
            if new > score:
                origin, score = moved, new
        for axis in range(3):
            three[1] = score
            for side in range(0, 3, 2):
                turned = _turn(matrix, axis, (side - 1) * angle)
                norm = _match(reference, turned, image, weight, samples, trial)
                three[side] = _sum_at(trial, samples, origin[0], origin[1], box) - norm
            turned = _turn(matrix, axis, angle * _find_top(three[0], three[1], three[2]))
            norm = _match(reference, turned, image, weight, samples, trial)
            new = _sum_at(trial, samples, origin[0], origin[1], box) - norm
            if new > score:
                matrix, score = turned, new
        norm = _match(reference, matrix, image, weight, samples, product)
        angle, step = angle / 2, step / 2
    return matrix, origin, score


@compile_loop
def _refine_part(
    reference: NDArray[np.complex64],
    matrices: NDArray[np.float64],
    origins: NDArray[np.float64],
    images: NDArray[np.complex64],
    weights: NDArray[np.float32],
    samples: NDArray[np.int64],
    box: int,
    angle: float,
    step: float,
    n_levels: int,
    reach: float,
    out_matrices: NDArray[np.float64],
    out_origins: NDArray[np.float64],
    out_scores: NDArray[np.float64],
) -> None:
    limits = np.empty((2, 2))
    for i in range(images.shape[0]):
        limits[0] = origins[i, 0] - reach
        limits[1] = origins[i, 0] + reach
        best = -np.inf
        for k in range(matrices.shape[1]):
            found = _refine_one(
                reference, matrices[i, k], origins[i, k], images[i], weights[i], samples, box, angle, step, 1, limits
            )
            if found[2] > best:
                best = found[2]
                out_matrices[i], out_origins[i] = found[0], found[1]
        found = _refine_one(
            reference,
            out_matrices[i].copy(),
            out_origins[i].copy(),
            images[i],
            weights[i],
            samples,
            box,
            angle / 2,
            step / 2,
            n_levels - 1,
            limits,
        )
        out_matrices[i], out_origins[i], out_scores[i] = found[0], found[1], found[2]


def refine_poses(
    images: FourierImages,
    reference: Tensor,
    noise: Tensor,
    matrices: Tensor,
    origins_px: Tensor,
    *,
    angle_step_deg: float,
    shift_step_px: float,
    n_levels: int = 3,
    reach_px: float = 4.0,
) -> Poses:
    """Return the best pose of each image near its candidates, computed on the CPU.

    Parameters
    ----------
    images, reference
        The reference must hold as many cycles per box as `noise` has samples for.
    noise
        Variance of a complex sample, `(m,)`; only the first m samples of the images are used.
    matrices, origins_px
        `(n, k, 3, 3)` and `(n, k, 2)` candidates.
    angle_step_deg, shift_step_px
        Of the first level, which every candidate goes through; the best goes on with half the step at each level.
    n_levels
        How many.
    reach_px
        How far a shift may go from that of the first candidate, along each axis.

    Raises
    ------
    ValueError
        If the reference holds less than the samples reach.
    """
    n, m = len(images), len(noise)
    check_samples(images.samples[:m], (reference.shape[0] // 2 - 2) / PAD)
    inverse = (1 / noise).float()
    values = (images.values[:, :m] * images.ctf[:, :m] * inverse).numpy()
    weights = (images.ctf[:, :m].square() * inverse).numpy()
    samples, grid = images.samples[:m].numpy(), reference.cpu().numpy()
    rotations, shifts = matrices.double().contiguous().numpy(), origins_px.double().contiguous().numpy()
    out_matrices, out_origins, out_scores = np.empty((n, 3, 3)), np.empty((n, 2)), np.empty(n)

    def work(_: int, start: int, stop: int) -> None:
        part = slice(start, stop)
        _refine_part(
            grid,
            rotations[part],
            shifts[part],
            values[part],
            weights[part],
            samples,
            images.box_px,
            math.radians(angle_step_deg),
            shift_step_px,
            n_levels,
            reach_px,
            out_matrices[part],
            out_origins[part],
            out_scores[part],
        )

    run_in_chunks(work, n, _N_CHUNKS)
    return Poses(torch.from_numpy(out_matrices), torch.from_numpy(out_origins), torch.from_numpy(out_scores))
