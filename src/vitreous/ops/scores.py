"""Thresholds that the scores themselves suggest, and scores made comparable between micrographs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gaussian_kde, theilslopes

__all__ = ["Split", "calibrate_scores", "find_power_limit", "split_scores"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Split:
    """Where two populations of scores part."""

    threshold: float
    separation: float
    """Distance of the means over the root mean square of the deviations (Ashman's D, with 2 for clearly apart)."""


def _find_otsu(values: Values) -> float:
    """Return the threshold with the greatest variance between the two sides (Otsu 1979)."""
    values = np.sort(values)
    n, k = len(values), np.arange(1, len(values))
    sums = np.cumsum(values)
    between = k * (n - k) * (sums[:-1] / k - (sums[-1] - sums[:-1]) / (n - k)) ** 2
    best = int(between.argmax())
    return float((values[best] + values[best + 1]) / 2)


def split_scores(values: Values) -> Split:
    """Part scores of noise from scores of particles: at the valley between the two modes.

    The sides of Otsu's threshold give the two means; between them the least of the smoothed density is the threshold, or Otsu's
    where there is no valley.

    Raises
    ------
    ValueError
        If there are fewer than four different values.
    """
    if len(np.unique(values)) < 4:
        raise ValueError("fewer than four different scores")
    otsu = _find_otsu(values)
    low, high = values[values < otsu], values[values >= otsu]
    spread = np.sqrt((low.var() + high.var()) / 2)
    separation = float((high.mean() - low.mean()) / max(spread, 1e-12))
    grid = np.linspace(low.mean(), high.mean(), 200)
    density = gaussian_kde(values, bw_method=0.15)(grid)
    lowest = int(density.argmin())
    return Split(otsu if lowest in (0, len(grid) - 1) else float(grid[lowest]), separation)


def calibrate_scores(values: Values, group: NDArray[np.int64], reference: NDArray[np.bool_], defocus: Values) -> Values:
    """Take out the trend of scores with defocus.

    Parameters
    ----------
    values
        Scores, `(n,)`.
    group
        Number of the micrograph of each, from 0, `(n,)`.
    reference
        Which scores the micrographs' medians are taken of, `(n,)`.
    defocus
        Mean defocus of each micrograph, Å; not-a-number where unknown.

    Returns
    -------
    ndarray
        Scores less the line through the medians (Theil & Sen, robust), plus its value at the median defocus. As given where
        fewer than six micrographs have a median and a defocus, or all have the same.
    """
    medians = np.array(
        [
            np.median(values[(group == i) & reference]) if ((group == i) & reference).any() else np.nan
            for i in range(len(defocus))
        ]
    )
    known = np.isfinite(medians) & np.isfinite(defocus)
    if known.sum() < 6 or np.ptp(defocus[known]) < 1.0:
        return values
    slope = float(theilslopes(medians[known], defocus[known])[0])
    trend = np.where(np.isfinite(defocus), slope * (defocus - np.median(defocus[known])), 0.0)
    calibrated: Values = values - trend[group]
    return calibrated


def find_power_limit(power: Values, n_sigma: float, least: float) -> float:
    """Return the power above which a particle is too strong to be one: robust deviations above the median, `least` at least."""
    median = float(np.median(power))
    sigma = 1.4826 * float(np.median(np.abs(power - median)))
    return median + max(n_sigma * sigma, least)
