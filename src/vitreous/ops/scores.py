"""Thresholds that the scores themselves suggest, and scores made comparable between micrographs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gaussian_kde, theilslopes

__all__ = ["Split", "calibrate_scores", "find_power_limit", "split_scores"]

Values = NDArray[np.float64]

_SIGNAL_SHARE = 0.1
"""Least density of the particles' mode, as a share of the greatest density."""

_SIGNIFICANCE = 2.0
"""How many standard errors of the density a valley is deep."""

_BANDWIDTH, _N_DENSITY, _N_TREND = 0.15, 20_000, 1_000


@dataclass(frozen=True)
class Split:
    """Where two populations of scores part."""

    threshold: float
    separation: float
    """Distance of the means over the root mean square of the deviations (Ashman's D, with 2 for clearly apart)."""


def _find_valley(density: Values, error: Values) -> tuple[int, int | None]:
    """Return the elements of the particles' mode and of the valley left of it, None where there is one mode only."""
    modes = np.nonzero((density[1:-1] >= density[:-2]) & (density[1:-1] > density[2:]))[0] + 1
    for top in modes[density[modes] >= _SIGNAL_SHARE * density.max()][::-1]:
        best, depth = None, 0.0
        for mode in modes[modes < top]:
            low = int(mode) + int(density[mode : top + 1].argmin())
            depths = density[[mode, top]] - density[low]
            if (depths > _SIGNIFICANCE * np.hypot(error[[mode, top]], error[low])).all() and depths[0] > depth:
                best, depth = low, float(depths[0])
        if best is not None:
            return int(top), best
    return int(density.argmax()), None


def split_scores(values: Values) -> Split:
    """Part scores of noise from scores of particles: at the valley left of the particles' mode.

    Particles are the highest mode of the smoothed density that is not negligible and that a significant valley parts from a mode
    below it, which is noise. Where there is one mode only, it is taken for particles, what lies three deviations (of its upper
    half, which no noise reaches) below it for noise, and the separation is 0.

    Raises
    ------
    ValueError
        If there are fewer than four different values.
    """
    if len(np.unique(values)) < 4:
        raise ValueError("fewer than four different scores")
    sample = np.sort(values)[:: -(-len(values) // _N_DENSITY)]
    kernel = gaussian_kde(sample, bw_method=_BANDWIDTH)
    width = float(np.sqrt(kernel.covariance[0, 0]))
    grid = np.linspace(sample[0] - 3 * width, sample[-1] + 3 * width, 400)
    density = kernel(grid)
    # The variance of a sum of Gaussian kernels, where they are narrow.
    error = np.sqrt(density / (2 * np.sqrt(np.pi) * len(sample) * width))
    top, valley = _find_valley(density, error)
    if valley is None:
        upper = values[values >= grid[top]]
        return Split(float(grid[top] - 3 * np.sqrt(np.mean((upper - grid[top]) ** 2))), 0.0)
    threshold = float(grid[valley])
    low, high = values[values < threshold], values[values >= threshold]
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
    chosen = np.nonzero(reference)[0]
    chosen = chosen[np.argsort(group[chosen], kind="stable")]
    present, first = np.unique(group[chosen], return_index=True)
    medians = np.full(len(defocus), np.nan)
    medians[present] = [np.median(values[part]) for part in np.split(chosen, first[1:])] if len(present) else []
    known = np.isfinite(medians) & np.isfinite(defocus)
    if known.sum() < 6 or np.ptp(defocus[known]) < 1.0:
        return values
    # All pairs of very many micrographs would not fit into memory.
    used = np.nonzero(known)[0][:: -(-int(known.sum()) // _N_TREND)]
    slope = float(theilslopes(medians[used], defocus[used])[0]) if np.ptp(defocus[used]) >= 1.0 else 0.0
    trend = np.where(np.isfinite(defocus), slope * (defocus - np.median(defocus[known])), 0.0)
    calibrated: Values = values - trend[group]
    return calibrated


def find_power_limit(power: Values, n_sigma: float, least: float) -> float:
    """Return the power above which a particle is too strong to be one: robust deviations above the median, `least` at least."""
    median = float(np.median(power))
    sigma = 1.4826 * float(np.median(np.abs(power - median)))
    return median + max(n_sigma * sigma, least)
