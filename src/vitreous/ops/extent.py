"""How long particles are, from averages of aligned images that no mask has cut."""

import math

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.spatial.distance import pdist
from torch import Tensor

__all__ = ["choose_extent", "measure_extents"]

_LEVEL, _NOISE_LEVEL = 0.1, 2.5
"""What belongs to the particle: above this share of its brightest part, and this many deviations of the average's noise."""
_SMOOTH_PX = 1.0
_BRIGHT_QUANTILE = 0.98
_CORE, _BACKGROUND = 0.3, 0.35
"""Radii, as shares of the box's side, within which the particle is bright, and beyond which is background."""
_LEAST_CLARITY = 6.0
"""Deviations of its noise that the brightest part of an average is above the background, for its outline to be known."""
_WIDEST = 0.8
"""Of the box's side: what is longer reaches into the background."""
_LEAST_SHARE, _LEAST_PART, _QUANTILE = 0.05, 0.5, 0.8


def _measure_longest(inside: NDArray[np.bool_]) -> float:
    """Return the greatest distance of two pixels' outer edges, px."""
    points = np.argwhere(inside).astype(np.float64)
    if len(points) < 2:
        return float(len(points))
    try:
        points = points[ConvexHull(points).vertices]
    except QhullError:  # All on a line.
        points = points[[points.sum(axis=1).argmin(), points.sum(axis=1).argmax()]]
    return float(pdist(points).max()) + 1


def measure_extents(halves: Tensor) -> NDArray[np.float64]:
    """Measure the longest extent of the particle in each class average.

    Parameters
    ----------
    halves
        Averages of each half of a class's images, `(2, K, N, N)`, protein bright, centred at N // 2 within a fifth of the box,
        not masked.

    Returns
    -------
    ndarray
        `(K,)`, px: the greatest distance across what is bright about the centre (Feret diameter); not-a-number where the average
        is too noisy or what is bright goes on to the edges.
    """
    n_px = halves.shape[-1]
    offset = np.arange(n_px) - n_px // 2
    radius = np.hypot(offset[:, None], offset[None, :])
    first, second = halves.double().cpu().numpy()
    extents = np.full(len(first), math.nan)
    for number in range(len(first)):
        mean, noise = (
            scipy.ndimage.gaussian_filter(one, _SMOOTH_PX)
            for one in ((first[number] + second[number]) / 2, (first[number] - second[number]) / 2)
        )
        mean = mean - np.median(mean[radius > _BACKGROUND * n_px])
        top, spread = np.quantile(mean[radius < _CORE * n_px], _BRIGHT_QUANTILE), noise.std()
        if not top > _LEAST_CLARITY * spread:
            continue
        pieces = scipy.ndimage.label(mean > max(_LEVEL * top, _NOISE_LEVEL * spread))[0]
        sizes = np.bincount(pieces[radius < _CORE * n_px])
        sizes[0] = 0
        longest = _measure_longest(pieces == sizes.argmax()) if sizes.any() else math.nan
        if longest < _WIDEST * n_px:
            extents[number] = longest
    return extents


def choose_extent(extents: NDArray[np.float64], n_images: NDArray[np.int64]) -> float | None:
    """Return how long particles are whose classes are so long: what four fifths of the images in clear classes do not exceed.

    Views along the particle show it shorter, and a few classes of clumps longer. None where no class is clear.

    Parameters
    ----------
    extents
        Of each class, not-a-number where not known, `(K,)`.
    n_images
        In each class, `(K,)`; classes of less than a twentieth of all do not count, or of many classes those that have less than
        half of an equal share.
    """
    least = min(_LEAST_SHARE, _LEAST_PART / max(len(n_images), 1))
    used = np.isfinite(extents) & (n_images >= least * n_images.sum())
    if not used.any():
        return None
    order = np.argsort(extents[used])
    share = np.cumsum(n_images[used][order]) / n_images[used].sum()
    return float(extents[used][order][int(np.searchsorted(share, _QUANTILE))])
