"""Sums of frames that move, each place by its own displacement, without a Fourier transform of every frame.

A frame is resampled with a short Kaiser-Bessel kernel (Jackson et al. 1991, doi:10.1109/42.97598) and added to a few weighted
sums at once, tile by tile, so that the movie is read once. The kernel's transfer function is divided out of the sums, once.
Within a tile the displacement is constant.
"""

import math
from dataclasses import dataclass

import numba
import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.fourier import compute_frequency_2d

__all__ = ["TILE_SHAPE_PX", "compute_kernel_transfer", "compute_tile_centres", "sum_frames"]

TILE_SHAPE_PX = (32, 64)
"""Rows and columns; the length of the rows is what compilers make the best loops of."""
_TILE_Y, _TILE_X = TILE_SHAPE_PX
_TAPS = 6
_N_PARTS = 32
_BETA = 10.0
"""Shape of the kernel: aliases are below 1e-3 up to 0.38 cycles per pixel."""
_LEAST_POWER = 1e-9


def _compute_kernel(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the kernel at distances in pixels, 0 from half its width on."""
    inside = 1 - (2 * distance / _TAPS) ** 2
    scale = np.where(inside > 0, 1.0, 0.0)
    return np.asarray(scale * scipy.special.i0(_BETA * np.sqrt(np.maximum(inside, 0))) / scipy.special.i0(_BETA))


_TAP_OFFSETS = np.arange(_TAPS) - (_TAPS // 2 - 1)


def _weigh_taps(part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of neighbouring pixels in what is read at parts of a pixel, `(..., taps)`.

    They add up to 1 wherever one reads: those of the kernel differ by 4e-4 of the mean count, which would show as tiles.
    """
    weights = _compute_kernel(np.abs(_TAP_OFFSETS - part[..., None]))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def _compute_gain_squared(frequency: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much reading at parts of a pixel changes the power at frequencies in cycles per pixel, `(n_k, n_parts)`."""
    waves = np.exp(2j * np.pi * frequency[:, None] * _TAP_OFFSETS)
    return np.asarray(np.abs(waves @ _weigh_taps(part).T) ** 2)


def compute_kernel_transfer(shape: tuple[int, int], displacement_px: Tensor) -> Tensor:
    """Return by what `sum_frames` multiplies the half spectrum of a sum, `(ny, nx // 2 + 1)`: divide by it.

    Parameters
    ----------
    shape
        Rows and columns.
    displacement_px
        As given to `sum_frames`.

    Notes
    -----
    The root of the mean power that the kernel passes, over the parts of a pixel by which tiles were displaced: white noise
    stays white. Without displacement that is the kernel's transfer; with many it falls short of it above 0.42 cycles per pixel
    only, where the kernel reads content at different parts of a pixel differently.
    """
    part = torch.round((displacement_px.double() % 1) * _N_PARTS).long() % _N_PARTS
    counts = torch.bincount(part[..., 0].flatten() * _N_PARTS + part[..., 1].flatten(), minlength=_N_PARTS**2)
    share = (counts.double() / counts.sum()).reshape(_N_PARTS, _N_PARTS)
    parts = np.arange(_N_PARTS) / _N_PARTS
    y, x = (
        torch.from_numpy(_compute_gain_squared(axis.flatten().double().numpy(), parts))
        for axis in compute_frequency_2d(shape)
    )
    power = y @ share @ x.T
    # Halfway between pixels the kernel passes nothing at Nyquist; rounding errors must not be blown up there.
    return power.clamp_min(_LEAST_POWER * float(power.max())).sqrt().float()


def compute_tile_centres(shape: tuple[int, int]) -> Tensor:
    """Return the centres of the tiles, `(n_y, n_x, 2)` as (y, x), px."""
    y, x = (
        (torch.arange(math.ceil(n / tile)) + 0.5) * tile - 0.5 for n, tile in zip(shape, TILE_SHAPE_PX, strict=True)
    )
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).double()


@dataclass(frozen=True)
class _Steps:
    """For each frame and tile, where to read: whole steps and the kernel's weights; `(n, n_y, n_x, 2)` and `(..., 2, taps)`."""

    whole: NDArray[np.int32]
    weights: NDArray[np.float32]


def _plan_steps(displacement_px: Tensor) -> _Steps:
    """Return how to read the content that moved by `displacement_px` `(n, n_y, n_x, 2)`: at p + displacement."""
    moved = displacement_px.double().cpu().numpy()
    whole = np.floor(moved)
    return _Steps(whole.astype(np.int32), _weigh_taps(moved - whole).astype(np.float32))


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def _accumulate(frames, gain, whole, weights, factors, start_y, start_x, sums):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add every frame, from a pixel on, to every sum. A tile's sums stay in the cache while all frames pass.

    Rows are taken as slices, so that the inner loops run from 0 and are made vector instructions.
    """
    n, ny, nx = frames.shape
    n_sums, sum_ny, sum_nx = sums.shape
    before, tall, wide = _TAPS // 2 - 1, _TILE_Y + _TAPS - 1, _TILE_X + _TAPS - 1
    raw = np.empty((tall, wide), np.float32)
    rows = np.empty((tall, _TILE_X), np.float32)
    line = np.empty(_TILE_X, np.float32)
    total = np.empty((n_sums, _TILE_Y, _TILE_X), np.float32)
    for ty in range(whole.shape[1]):
        for tx in range(whole.shape[2]):
            y0, x0 = ty * _TILE_Y, tx * _TILE_X
            total[:] = 0
            for f in range(n):
                from_y = start_y + y0 + whole[f, ty, tx, 0] - before
                from_x = start_x + x0 + whole[f, ty, tx, 1] - before
                if from_y >= 0 and from_x >= 0 and from_y + tall <= ny and from_x + wide <= nx:
                    for i in range(tall):
                        counts = frames[f, from_y + i, from_x : from_x + wide]
                        factor = gain[from_y + i, from_x : from_x + wide]
                        target = raw[i]
                        for j in range(wide):
                            target[j] = np.float32(counts[j]) * factor[j]
                else:
                    for i in range(tall):
                        y = (from_y + i) % ny
                        for j in range(wide):
                            x = (from_x + j) % nx
                            raw[i, j] = np.float32(frames[f, y, x]) * gain[y, x]
                w = weights[f, ty, tx, 1]
                a, b, c, d, e, g = w[0], w[1], w[2], w[3], w[4], w[5]
                for i in range(tall):
                    r0 = raw[i]
                    r1, r2, r3, r4, r5 = r0[1:], r0[2:], r0[3:], r0[4:], r0[5:]
                    target = rows[i]
                    for j in range(_TILE_X):
                        target[j] = a * r0[j] + b * r1[j] + c * r2[j] + d * r3[j] + e * r4[j] + g * r5[j]
                w = weights[f, ty, tx, 0]
                a, b, c, d, e, g = w[0], w[1], w[2], w[3], w[4], w[5]
                for i in range(_TILE_Y):
                    r0, r1, r2, r3, r4, r5 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3], rows[i + 4], rows[i + 5]
                    for j in range(_TILE_X):
                        line[j] = a * r0[j] + b * r1[j] + c * r2[j] + d * r3[j] + e * r4[j] + g * r5[j]
                    for r in range(n_sums):
                        weight = factors[r, f]
                        target = total[r, i]
                        for j in range(_TILE_X):
                            target[j] += weight * line[j]
            height, width = min(_TILE_Y, sum_ny - y0), min(_TILE_X, sum_nx - x0)
            for r in range(n_sums):
                for i in range(height):
                    for j in range(width):
                        sums[r, y0 + i, x0 + j] = total[r, i, j]


def _sum_by_tiles(
    frames: Tensor, gain: Tensor, steps: _Steps, factors: Tensor, sums: Tensor, start_px: tuple[int, int] = (0, 0)
) -> None:
    """Add the frames to the sums with matrix products of whole tiles: the same arithmetic, for accelerators."""
    device, (ny, nx) = gain.device, gain.shape
    n_y, n_x = steps.whole.shape[1:3]
    before = _TAPS // 2 - 1
    first = [
        start + torch.arange(count, device=device) * tile
        for start, count, tile in zip(start_px, (n_y, n_x), TILE_SHAPE_PX, strict=True)
    ]
    reach = [torch.arange(tile + _TAPS - 1, device=device) - before for tile in TILE_SHAPE_PX]
    taps = [torch.arange(tile, device=device)[:, None] + torch.arange(_TAPS, device=device) for tile in TILE_SHAPE_PX]
    total = torch.zeros(len(sums), n_y * n_x, _TILE_Y, _TILE_X, device=device)
    for f in range(len(frames)):
        whole = torch.from_numpy(steps.whole[f]).to(device).long()
        weights = torch.from_numpy(steps.weights[f]).to(device).reshape(-1, 2, _TAPS)
        y = ((first[0][:, None, None] + whole[..., :1] + reach[0]) % ny).flatten(0, 1)
        x = ((first[1][None, :, None] + whole[..., 1:] + reach[1]) % nx).flatten(0, 1)
        frame = frames[f].to(device)
        down, along = (
            torch.zeros(len(y), len(tap), len(steps_), device=device).scatter_(
                2, tap.expand(len(y), -1, -1), weights[:, axis, None].expand(-1, len(tap), -1)
            )
            for axis, (tap, steps_) in enumerate(zip(taps, reach, strict=True))
        )
        at_y, at_x = y[:, :, None], x[:, None, :]
        moved = down @ (frame[at_y, at_x].float() * gain[at_y, at_x]) @ along.transpose(1, 2)
        total += factors[:, f, None, None, None].to(device) * moved
    whole_image = total.reshape(-1, n_y, n_x, _TILE_Y, _TILE_X).permute(0, 1, 3, 2, 4)
    sums += whole_image.reshape(len(sums), n_y * _TILE_Y, n_x * _TILE_X)[:, : sums.shape[1], : sums.shape[2]]


def sum_frames(
    frames: Tensor,
    gain: Tensor,
    displacement_px: Tensor,
    factors: Tensor,
    part: tuple[slice, slice] | None = None,
) -> Tensor:
    """Return weighted sums of displaced frames, each brought back to where it was at displacement 0.

    Parameters
    ----------
    frames
        `(n, ny, nx)`, integers as the camera counts or real numbers; may stay on the CPU.
    gain
        `(ny, nx)` float32: every frame is multiplied by it. Its device is where the work is done.
    displacement_px
        Where the content of each tile of each frame lies, `(n, n_y, n_x, 2)` as (y, x), see `compute_tile_centres`.
    factors
        Weight of each frame in each sum, `(n_sums, n)`.
    part
        Rows and columns to sum; None for all. Tiles and their displacements are counted from its first pixel.

    Returns
    -------
    Tensor
        `(n_sums, ny, nx)`, or of the part, float32, convolved with the kernel: divide its spectrum by
        `compute_kernel_transfer`. Beyond the frame's edge its other side goes on, as after a shift by Fourier phases.

    Raises
    ------
    ValueError
        If the shapes do not fit together.
    """
    n, ny, nx = frames.shape
    rows, columns = (slice(0, ny), slice(0, nx)) if part is None else part
    shape = (rows.stop - rows.start, columns.stop - columns.start)
    tiles = compute_tile_centres(shape).shape
    if gain.shape != (ny, nx) or displacement_px.shape != (n, *tiles) or factors.shape[1:] != (n,):
        raise ValueError(
            f"frames {tuple(frames.shape)}, gain {tuple(gain.shape)}, displacements {tuple(displacement_px.shape)} and "
            f"factors {tuple(factors.shape)} do not fit together; expected tiles {tuple(tiles)}"
        )
    steps = _plan_steps(displacement_px)
    sums = torch.zeros(len(factors), *shape, device=gain.device)
    start = (rows.start, columns.start)
    if gain.device.type == "cpu":
        weights = factors.float().contiguous().numpy()
        arrays = (frames.numpy(), gain.contiguous().numpy(), steps.whole, steps.weights, weights)
        _accumulate(*arrays, *start, sums.numpy())
    else:
        _sum_by_tiles(frames, gain, steps, factors.float(), sums, start)
    return sums
