"""The resolution of a whole set of 2D classes as one number."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["WeightedResolution", "compute_weighted_resolution"]

Floats = NDArray[np.float64]

_N_DRAWS = 200


@dataclass(frozen=True)
class WeightedResolution:
    """Resolution of classes, weighted by their particles."""

    n_classes: int
    n_particles: int
    mean_angstrom: float
    """Mean of the resolutions, Å, as the field states it: poor classes count most."""
    low_angstrom: float
    """Lower end of its 95 % interval, from drawing the particles anew."""
    high_angstrom: float
    harmonic_angstrom: float
    """One over the mean of their inverses, Å."""


def compute_weighted_resolution(
    resolution_angstrom: Floats, n_particles: NDArray[np.int64], n_best: int, seed: int = 0
) -> WeightedResolution | None:
    """Return the weighted resolution of the `n_best` classes of most particles; None if no class has any.

    Parameters
    ----------
    resolution_angstrom, n_particles
        Of each class, `(K,)`. Classes without particles or without a resolution (not-a-number) are left out.
    n_best
        Classes that count, the largest; of two of one size the finer.
    seed
        Of the drawing, which takes the classes of particles anew 200 times.

    Raises
    ------
    ValueError
        If `n_best` is less than 1.

    Notes
    -----
    sum n_k d_k / sum n_k, as Dhakal et al. 2023 (doi:10.1038/s41597-023-02280-2, Table 3) compare classifications.
    """
    if n_best < 1:
        raise ValueError(f"expected one class or more, found {n_best}")
    known = np.isfinite(resolution_angstrom) & (n_particles > 0)
    resolution, count = resolution_angstrom[known], n_particles[known]
    if not len(count):
        return None
    best = np.lexsort((resolution, -count))[:n_best]
    resolution, count = resolution[best], count[best]
    share = count / count.sum()
    drawn = np.random.default_rng(seed).multinomial(int(count.sum()), share, _N_DRAWS) @ resolution / count.sum()
    low, high = np.quantile(drawn, [0.025, 0.975])
    return WeightedResolution(
        n_classes=len(count),
        n_particles=int(count.sum()),
        mean_angstrom=float(share @ resolution),
        low_angstrom=float(low),
        high_angstrom=float(high),
        harmonic_angstrom=float(1 / (share @ (1 / resolution))),
    )
