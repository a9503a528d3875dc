"""Thresholds that the scores themselves suggest, and scores made comparable between micrographs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gaussian_kde, theilslopes

__all__ = ["Split", "calibrate_scores", "find_power_limit", "split_scores"]

Values = NDArray[np.float64]

_SIGNAL_SHARE, _NOISE_SHARE = 0.1, 0.005
"""Least density of the particles' mode, and least depth of a valley, as shares of the greatest density."""


@dataclass(frozen=True)
class Split:
    """Where two populations of scores part."""

    threshold: float
    separation: float
    """Distance of the means over the root mean square of the deviations (Ashman's D, with 2 for clearly apart)."""


def split_scores(values: Values) -> Split:
    """Part scores of noise from scores of particles: at the valley left of the particles' mode.

    Particles are the highest mode of the smoothed density that is not negligible; noise is the mode below it from which the
    deepest valley parts it. Where there is one mode only, it is taken for particles, and what lies three deviations (of its upper
    half, which no noise reaches) below it for noise.

    Raises
    ------
    ValueError
        If there are fewer than four different values.
    """
    if len(np.unique(values)) < 4:
        raise ValueError("fewer than four different scores")
    grid = np.linspace(values.min(), values.max(), 400)
    density = gaussian_kde(values, bw_method=0.15)(grid)
    modes = np.nonzero((density[1:-1] >= density[:-2]) & (density[1:-1] > density[2:]))[0] + 1
    top = int(modes[density[modes] >= _SIGNAL_SHARE * density.max()][-1])
    upper = values[values >= grid[top]]
    spread = float(np.sqrt(np.mean((upper - grid[top]) ** 2)))
    best, depth = None, 0.0
    for mode in modes[modes < top]:
        lowest = int(mode) + int(density[mode : top + 1].argmin())
        if density[mode] - density[lowest] > max(depth, _NOISE_SHARE * density.max()):
            best, depth = lowest, density[mode] - density[lowest]
    threshold = float(grid[best]) if best is not None else float(grid[top] - 3 * spread)
    low, high = values[values < threshold], values[values >= threshold]
    if len(low) < 2 or len(high) < 2:
        return Split(threshold, 0.0)
    within = np.sqrt((low.var() + high.var()) / 2)
    return Split(threshold, float((high.mean() - low.mean()) / max(within, 1e-12)))


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
