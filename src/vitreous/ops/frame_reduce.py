"""First passes over the frames of a movie: their sum, and small gain-corrected copies to align by."""

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["reduce_frames", "sum_raw_frames"]

_BAND_ROWS = 16


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def _sum_bands(frames, total):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add up all frames, a band of rows at a time, so that the total stays in the cache."""
    n, ny, nx = frames.shape
    for start in range(0, ny, _BAND_ROWS):
        for f in range(n):
            for y in range(start, min(start + _BAND_ROWS, ny)):
                counts, target = frames[f, y], total[y]
                for x in range(nx):
                    target[x] += np.float32(counts[x])


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def _reduce_bands(frames, gain, size, reduced):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Average squares of `size` pixels; the gain's rows stay in the cache while all frames pass."""
    line = np.empty(frames.shape[2], np.float32)
    n_x = reduced.shape[2]
    for i in range(reduced.shape[1]):
        for f in range(frames.shape[0]):
            line[:] = 0
            for y in range(i * size, (i + 1) * size):
                counts, factor = frames[f, y], gain[y]
                for x in range(len(line)):
                    line[x] += np.float32(counts[x]) * factor[x]
            target = reduced[f, i]
            for j in range(n_x):
                value = np.float32(0)
                for k in range(size):
                    value += line[j * size + k]
                target[j] = value / np.float32(size * size)


def sum_raw_frames(frames: Tensor) -> Tensor:
    """Return the sum of frames `(n, ny, nx)` as float32, `(ny, nx)`."""
    if frames.device.type != "cpu":
        return frames.sum(dim=0, dtype=torch.float32)
    total = torch.zeros(frames.shape[1:], dtype=torch.float32)
    _sum_bands(frames.numpy(), total.numpy())
    return total


def reduce_frames(frames: Tensor, gain: Tensor, size: int) -> Tensor:
    """Return gain-corrected frames averaged over squares of `size` pixels, `(n, ny // size, nx // size)` float32.

    Pixel centres do not stay where they are: position p of the frame is (p - (size - 1) / 2) / size of the small one. What is
    left over at the far edges is left out.

    Parameters
    ----------
    frames
        `(n, ny, nx)`, integers as the camera counts or real numbers; may stay on the CPU.
    gain
        `(ny, nx)` float32: every frame is multiplied by it. Its device is where the work is done.
    size
        Side of the squares, px.

    Raises
    ------
    ValueError
        If the frames are smaller than a square or the gain has another shape.
    """
    n, ny, nx = frames.shape
    if gain.shape != (ny, nx) or not 1 <= size <= min(ny, nx):
        raise ValueError(
            f"frames {tuple(frames.shape)}, gain {tuple(gain.shape)} and squares of {size} do not fit together"
        )
    if gain.device.type != "cpu":
        return torch.cat(
            [functional.avg_pool2d((frame.to(gain.device).float() * gain)[None], size) for frame in frames]
        )
    reduced = torch.empty(n, ny // size, nx // size)
    _reduce_bands(frames.numpy(), gain.contiguous().numpy(), size, reduced.numpy())
    return reduced
