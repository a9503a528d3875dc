"""A few items that stand for many."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose_spread"]

Floats = NDArray[np.float64]


def choose_spread(values: Floats, badness: Floats, n_most: int, seed: int) -> NDArray[np.int64]:
    """Return the indices of at most `n_most` items that are spread over the range of a value, and the best of their like.

    Items are put in order of the value and divided into as many groups of equal size as are wanted; of each group the one is
    taken that has the least mean rank among all items, over all measures that are known of it.

    Parameters
    ----------
    values
        What to spread over, `(n,)`; items without one (not-a-number) come last.
    badness
        Measures `(m, n)`, large where an item is bad, not-a-number where not known.
    n_most
        Number wanted.
    seed
        Of the choice among items between which nothing decides.

    Returns
    -------
    ndarray
        In increasing order.

    Raises
    ------
    ValueError
        If fewer than one item is wanted, or the shapes do not match.
    """
    n = len(values)
    if n_most < 1 or badness.ndim != 2 or badness.shape[1] != n:
        raise ValueError(
            f"expected at least 1 of {n} items and measures (m, {n}), found {n_most} wanted and {badness.shape}"
        )
    if n <= n_most:
        return np.arange(n, dtype=np.int64)
    chance = np.random.default_rng(seed).permutation(n)
    ranks = np.full(badness.shape, np.nan)
    for rank, measure in zip(ranks, badness, strict=True):
        known = measure[np.isfinite(measure)]
        if len(known):
            below, up_to = (np.searchsorted(np.sort(known), measure, side) for side in ("left", "right"))
            rank[:] = np.where(np.isfinite(measure), (below + up_to) / (2 * len(known)), np.nan)
    counts = np.isfinite(ranks).sum(axis=0)
    mean = np.where(counts > 0, np.nansum(ranks, axis=0) / np.maximum(counts, 1), 0.5)
    order = np.lexsort((chance, values))
    chosen = [group[np.lexsort((chance[group], mean[group]))[0]] for group in np.array_split(order, n_most)]
    return np.sort(np.array(chosen, dtype=np.int64))
