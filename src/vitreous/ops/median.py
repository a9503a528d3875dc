"""Median of small neighbourhoods."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["filter_median"]

_BAND_ROWS = 16

# Comparisons that leave the median of nine values in the middle (Devillard 1998, "Fast median search").
_EXCHANGES = (
    (1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3),
    (5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2),
)  # fmt: skip


def filter_median(image: Tensor) -> Tensor:
    """Return the median of the 3 x 3 neighbourhood of every pixel of `(ny, nx)`; edges are mirrored.

    Raises
    ------
    ValueError
        If the image has fewer than two rows or columns.
    """
    if min(image.shape) < 2:
        raise ValueError(f"expected at least two rows and columns, found {tuple(image.shape)}")
    padded = functional.pad(image[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
    ny, nx = image.shape
    # By whole bands of rows, since nine copies of an image would not fit in a cache or even in memory.
    result = torch.empty_like(image)
    for start in range(0, ny, _BAND_ROWS):
        stop = min(start + _BAND_ROWS, ny)
        values = [padded[start + i : stop + i, j : j + nx] for i in range(3) for j in range(3)]
        for low, high in _EXCHANGES:
            values[low], values[high] = (
                torch.minimum(values[low], values[high]),
                torch.maximum(values[low], values[high]),
            )
        result[start:stop] = values[4]
    return result
