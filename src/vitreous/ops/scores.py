"""Thresholds that the scores themselves suggest, and scores made comparable between micrographs."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from scipy.stats import gaussian_kde, theilslopes

__all__ = ["PowerLimits", "Split", "calibrate_scores", "find_noise_limit", "find_power_limits", "split_scores"]

Values = NDArray[np.float64]

_SIGNAL_SHARE = 0.1
"""Least density of the particles' mode, as a share of the greatest density."""

_SIGNIFICANCE = 2.0
"""How many standard errors of the density a valley is deep."""

_EM_ROUNDS = 200
_JUNK_SIGMA, _LEAST_JUNK = 4.0, 5
_LEAST_GAIN = 10.0
"""Of the Bayesian information criterion of two populations over one, for two to be believed."""

_LEAST_STRETCH = 0.2
"""Of the usual distance of particles from the anchor, what it is taken for where it is less."""
_BANDWIDTH, _N_DENSITY, _N_TREND = 0.15, 20_000, 1_000
_OUTLIER_SIGMA, _LEAST_BENT, _TREND_ROUNDS = 3.0, 5, 3
"""Robust deviations from the trend beyond which a micrograph does not count for it, how many micrographs a parabola needs at
least, and how often what counts is chosen anew."""


@dataclass(frozen=True)
class Split:
    """Where two populations of scores part."""

    threshold: float
    least: float
    """The lowest score that may be as rare as that of the threshold; where few candidates lie between, a valley is broad."""
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


@dataclass(frozen=True)
class _Mixture:
    """Two normal distributions, the one with the lower mean first."""

    mean: Values
    variance: Values
    weight: Values
    gain: float
    """Bayesian information criterion of one normal distribution less that of the two."""

    def compute_upper_share(self, values: Values) -> Values:
        """Return the probability that each value belongs to the upper distribution."""
        logs = (
            np.log(self.weight) - 0.5 * np.log(self.variance) - 0.5 * (values[:, None] - self.mean) ** 2 / self.variance
        )
        return np.asarray(1 / (1 + np.exp(np.clip(logs[:, 0] - logs[:, 1], -500, 500))))


def _fit_mixture(values: Values, start: float) -> _Mixture:
    """Fit two normal distributions by expectation maximisation, from the values parted at `start`."""
    upper = (values >= start).astype(np.float64)
    least = 1e-6 * values.var() + 1e-30
    for _ in range(_EM_ROUNDS):
        shares = np.stack([1 - upper, upper])
        weight = np.maximum(shares.mean(axis=1), 1e-12)
        mean = shares @ values / (weight * len(values))
        variance = np.array([share @ (values - m) ** 2 for share, m in zip(shares, mean, strict=True)])
        variance = np.maximum(variance / (weight * len(values)), least)
        mixture = _Mixture(mean, variance, weight, 0.0)
        before, upper = upper, mixture.compute_upper_share(values)
        if np.abs(upper - before).max() < 1e-4:
            break
    density = (weight / np.sqrt(2 * np.pi * variance) * np.exp(-0.5 * (values[:, None] - mean) ** 2 / variance)).sum(
        axis=1
    )
    two = np.log(np.maximum(density, 1e-300)).sum()
    one = -0.5 * len(values) * (np.log(2 * np.pi * values.var()) + 1)
    gain = float(2 * (two - one) - 3 * np.log(len(values)))
    order = np.argsort(mean)
    return _Mixture(mean[order], variance[order], weight[order], gain)


def _find_otsu(values: Values) -> float:
    """Return the threshold with the largest variance between the two sides (Otsu 1979)."""
    levels = np.quantile(values, np.linspace(0.05, 0.95, 91))
    below = np.array([(values < level).mean() for level in levels])
    total = np.array([values[values < level].sum() / len(values) for level in levels])
    between = (values.mean() * below - total) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return float(levels[int(between.argmax())])


def _split_overlapping(values: Values) -> Split | None:
    """Part two populations that overlap where both are equally likely; None where one explains the values as well."""
    mixture = _fit_mixture(values, _find_otsu(values))
    low, high = mixture.mean
    if mixture.gain < _LEAST_GAIN or mixture.weight.min() < _SIGNAL_SHARE / 2:
        return None
    levels = np.linspace(low, high, 1000)
    threshold = float(levels[int(np.abs(mixture.compute_upper_share(levels) - 0.5).argmin())])
    return Split(threshold, threshold, float((high - low) / np.sqrt(mixture.variance.mean())))


def split_scores(values: Values) -> Split:
    """Part scores of noise from scores of particles: at the valley left of the particles' mode, else between two that overlap.

    Particles are the highest mode of the smoothed density that is not negligible and that a significant valley parts from a mode
    below it, which is noise. Where there is one mode only, two normal distributions are fitted, and the threshold is where both
    are as likely. Where one distribution explains the values as well, it is taken for particles, what lies three deviations (of
    its upper half, which no noise reaches) below it for noise, and the separation is 0.

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
        overlapping = _split_overlapping(sample)
        if overlapping is not None:
            return overlapping
        upper = values[values >= grid[top]]
        threshold = float(grid[top] - 3 * np.sqrt(np.mean((upper - grid[top]) ** 2)))
        return Split(threshold, threshold, 0.0)
    threshold = float(grid[valley])
    low, high = values[values < threshold], values[values >= threshold]
    within = np.sqrt((low.var() + high.var()) / 2)
    denser = density[:valley] - _SIGNIFICANCE * np.hypot(error[:valley], error[valley]) > density[valley]
    least = float(grid[int(denser.nonzero()[0][-1]) + 1]) if denser.any() else threshold
    return Split(threshold, least, float((high.mean() - low.mean()) / max(within, 1e-12)))


def find_noise_limit(scores: Values, noise_peaks: Values, group: NDArray[np.int64], share: float) -> float | None:
    """Return the least score down to which no more than a share of the candidates is expected to be noise.

    Parameters
    ----------
    scores
        `(n,)`.
    noise_peaks
        How many peaks of noise each candidate's micrograph is expected to have with at least its score, `(n,)`;
        not-a-number where not known.
    group
        Number of the micrograph of each, `(n,)`.
    share
        Of the candidates, 0 to 1.

    Returns
    -------
    float or None
        None where it is not known, or more is expected even of the best.
    """
    order = np.lexsort((-scores, group))
    order = order[np.isfinite(noise_peaks[order])]
    # What each candidate adds to the number expected in its micrograph.
    added = np.diff(noise_peaks[order], prepend=0.0)
    first = np.diff(group[order], prepend=-1) != 0
    added[first] = noise_peaks[order][first]
    best_first = np.argsort(-scores[order], kind="stable")
    expected = added[best_first].cumsum()
    allowed = np.nonzero(expected <= share * np.arange(1, len(expected) + 1))[0]
    return float(scores[order][best_first][allowed[-1]]) if len(allowed) else None


def _fit_trend(x: Values, y: Values) -> Polynomial:
    """Return the least-squares line, or parabola where it says clearly more, through what lies near it.

    What lies near is told from the robust line (Theil & Sen) first. That alone leaves a trend where the points bend, as scores do
    at strong defocus.
    """
    slope, intercept, _, _ = theilslopes(y, x)
    trend = Polynomial([intercept, slope])
    for _ in range(_TREND_ROUNDS):
        off = np.abs(y - trend(x))
        near = off <= _OUTLIER_SIGMA * 1.4826 * np.median(off)
        if near.sum() < 3 or np.ptp(x[near]) < 1.0:
            return trend
        n = int(near.sum())
        line, parabola = (Polynomial.fit(x[near], y[near], degree) for degree in (1, 2))
        # As the Bayesian information criterion has it.
        left_line, left_parabola = (float(np.square((y - fit(x))[near]).sum()) + 1e-30 for fit in (line, parabola))
        trend = parabola if n >= _LEAST_BENT and n * np.log(left_line / left_parabola) > np.log(n) else line
    return trend


def calibrate_scores(
    values: Values, group: NDArray[np.int64], reference: NDArray[np.bool_], defocus: Values, anchor: float | None = None
) -> Values:
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
    anchor
        Score that is the same at any defocus, below the reference's: noise correlates no better at strong defocus, particles do.
        None where all scores move alike.

    Returns
    -------
    ndarray
        Scores less the trend of the medians (robust), plus its value at the median defocus; with an anchor, what they are above
        it over what the trend is, times what that is at the median defocus. As given where fewer than six micrographs have a
        median and a defocus, all have the same, or the trend does not reach the anchor.
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
    if np.ptp(defocus[used]) < 1.0:
        return values
    trend = _fit_trend(defocus[used], medians[used])
    middle = float(np.median(defocus[known]))
    usual = float(trend(middle))
    # A parabola says nothing beyond what it was fitted to.
    low, high = trend.domain if trend.degree() > 1 else (-np.inf, np.inf)
    at = trend(np.clip(np.where(np.isfinite(defocus), defocus, middle), low, high))
    if anchor is None:
        calibrated: Values = values - (at - usual)[group]
        return calibrated
    if usual <= anchor:
        return values
    stretched: Values = anchor + (values - anchor) / np.maximum((at - anchor) / (usual - anchor), _LEAST_STRETCH)[group]
    return stretched


class PowerLimits(NamedTuple):
    """Local power below which there is too little for a particle, and above which too much."""

    least: float
    most: float


def find_power_limits(power: Values, best: NDArray[np.bool_], n_sigma: float, margin: float) -> PowerLimits:
    """Return the limits of the power of particles.

    Particles have one normal distribution. What is above it (ice, clumps) has another: where two are significantly better, and
    four deviations apart, the upper limit is where a candidate is as likely to be one as the other, though never nearer to
    the particles' mean than four of their deviations.

    Parameters
    ----------
    power
        Of candidates that look like particles, log10, `(n,)`.
    best
        Which of them hardly are anything else, `(n,)`.
    n_sigma
        Robust deviations from the median of the best that are too far in any case.
    margin
        Distance from that median that is not too far, where there is no second distribution.
    """
    median = float(np.median(power[best]))
    # Junk is above: what is below the median tells the particles' own spread.
    below = power[best & (power <= median)]
    sigma = 1.4826 * float(np.median(median - below))
    reach = max(n_sigma * sigma, margin)
    most = median + reach
    beyond = power > median + _JUNK_SIGMA * sigma
    if sigma > 0 and beyond.sum() >= _LEAST_JUNK:
        mixture = _fit_mixture(power, median + _JUNK_SIGMA * sigma)
        spread = float(np.sqrt(mixture.variance[0]))
        far = mixture.mean[0] + _JUNK_SIGMA * spread
        # A second distribution about the same mean only says that the first has tails.
        if mixture.gain >= _LEAST_GAIN and mixture.weight[1] < 0.5 and mixture.mean[1] > far:
            levels = np.linspace(far, max(far, most), 500)
            junk = mixture.compute_upper_share(levels) >= 0.5
            most = float(levels[int(junk.argmax())]) if junk.any() else most
    return PowerLimits(median - reach, most)
