"""Whether particles are dark in micrographs, as usual, or bright, where images are inverted."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.blobs import correlate_disc, list_diameters, resample_for_picking, score_diameters

__all__ = ["Contrast", "get_known_contrast", "measure_contrast", "measure_darkness_at"]

Contrast = Literal["dark", "bright"]

_SHARE, _LEAST, _MOST = 0.45, 0.05, 0.6
_SAMPLES = 12
_DARK_TAIL = -0.5
"""Skewness of images below which what stands out is dark, as particles and ice are: real micrographs have -0.1 to -1.3, with much
ice -0.8 to -4; that of inverted ones is positive."""


def get_known_contrast(table: pl.DataFrame) -> Contrast | None:
    """Return the contrast that stands in the first row of particles or classes with one; None where there is none."""
    known = table["contrast"].drop_nulls()
    if known.is_empty():
        return None
    return "bright" if known[0] == "bright" else "dark"


def measure_contrast(
    images: Sequence[Tensor], pixel_size_angstrom: float, low_angstrom: float, high_angstrom: float
) -> Contrast:
    """Tell whether particles are dark in micrographs or bright.

    Inverted micrographs are rare: particles are said to be bright only where the largest discs that stand out nearly as much as
    any are bright, clearly and in most of the micrographs, and no dark tail of the image's values says otherwise. (A hollow
    particle shows the opposite within, and more so.)

    Parameters
    ----------
    images
        Micrographs, `(ny, nx)`.
    pixel_size_angstrom
        Of the micrographs.
    low_angstrom, high_angstrom
        Diameters to try.
    """
    diameters = list_diameters(low_angstrom, high_angstrom)
    scores = torch.stack([score_diameters(image, pixel_size_angstrom, diameters).cpu() for image in images])
    mean = scores.mean(dim=0)
    largest = torch.nonzero(mean.abs() >= _SHARE * mean.abs().max())[-1, 0]
    agree = float((scores[:, largest] < -_LEAST / 2).float().mean())
    if float(mean[largest]) >= -_LEAST or agree <= _MOST:
        return "dark"
    # Bright fringes of ice and carbon look like bright discs too.
    tails = [_measure_skewness(image, pixel_size_angstrom, diameters[int(largest)]) for image in images]
    return "bright" if sum(tails) / len(tails) > _DARK_TAIL else "dark"


def _measure_skewness(image: Tensor, pixel_size_angstrom: float, diameter_angstrom: float) -> float:
    small, _ = resample_for_picking(image, pixel_size_angstrom, diameter_angstrom / _SAMPLES, 4 * diameter_angstrom)
    off = (small - small.mean()).double()
    return float(off.pow(3).mean() / off.square().mean().clamp_min(1e-30) ** 1.5)


def measure_darkness_at(
    image: Tensor, pixel_size_angstrom: float, diameter_angstrom: float, xy_px: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how much the image looks like a dark disc at each position, as a correlation, -1 to 1.

    Parameters
    ----------
    image
        Micrograph, `(ny, nx)`.
    pixel_size_angstrom
        Of the micrograph.
    diameter_angstrom
        Of the particles.
    xy_px
        Their positions `(n, 2)` as (x, y).
    """
    small, pixels = resample_for_picking(
        image, pixel_size_angstrom, diameter_angstrom / _SAMPLES, 4 * diameter_angstrom
    )
    correlation = correlate_disc(small, diameter_angstrom / float(pixels.mean())).double().cpu().numpy()
    place = np.rint(xy_px * (pixel_size_angstrom / pixels.flip(0).double().numpy())).astype(np.int64)
    column, row = (np.clip(place[:, axis], 0, small.shape[1 - axis] - 1) for axis in (0, 1))
    return np.asarray(correlation[row, column])
