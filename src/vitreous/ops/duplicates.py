"""Find positions that are one particle picked twice."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from vitreous.ops.matching import Points

__all__ = ["find_duplicates"]


def find_duplicates(xy_px: Points, score: Points, distance_px: float) -> NDArray[np.bool_]:
    """Return which positions lie nearer than `distance_px` to one that is kept and scores better.

    Taken from the best to the worst, each is kept unless one that was kept is too near. Of equal scores the first is better;
    not-a-number is worse than any number.

    Parameters
    ----------
    xy_px
        `(n, 2)`.
    score
        `(n,)`.
    distance_px
        Least distance of two that are kept.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    if xy_px.shape != (len(score), 2):
        raise ValueError(f"expected positions (n, 2) and scores (n,), found {xy_px.shape} and {score.shape}")
    is_duplicate = np.zeros(len(score), bool)
    if len(score) < 2 or distance_px <= 0:
        return is_duplicate
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")
    pairs = cKDTree(xy_px[order]).query_pairs(np.nextafter(distance_px, 0), output_type="ndarray")
    # Pairs of ranks, the better first: what a better one decided is known when its turn comes.
    for better, worse in pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))].tolist():
        if not is_duplicate[order[better]]:
            is_duplicate[order[worse]] = True
    return is_duplicate
