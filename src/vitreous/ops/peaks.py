"""Peaks of score maps, no two of them too near."""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional

__all__ = ["Peaks", "find_peaks", "select_apart"]

Peaks = tuple[NDArray[np.float64], NDArray[np.int64]]


def select_apart(points: NDArray[np.float64], min_distance: float, n_most: int | None = None) -> NDArray[np.int64]:
    """Return which points `(n, 2)`, best first, are kept when each kept one removes all later ones nearer than the distance.

    No more than the first `n_most` that are kept are looked for.
    """
    alive = np.ones(len(points), bool)
    tree = cKDTree(points) if len(points) else None
    kept: list[int] = []
    for i in range(len(points)):
        if len(kept) == n_most:
            break
        if alive[i] and tree is not None:
            kept.append(i)
            near = np.array(tree.query_ball_point(points[i], min_distance * (1 - 1e-9)))
            alive[near[near > i]] = False
    return np.array(kept, np.int64)


def find_peaks(score: Tensor, min_distance_px: float, min_score: float, n_most: int | None = None) -> Peaks:
    """Return sub-pixel positions of local maxima as `(x, y)`, `(n, 2)`, best first, and their elements `(y, x)`, `(n, 2)`.

    Ties are broken by position, so that the result is the same everywhere.

    Parameters
    ----------
    score
        `(ny, nx)`.
    min_distance_px
        Of two peaks the lower goes when they are nearer.
    min_score
        Lower maxima are left out.
    n_most
        How many of the best to return; all where not given.
    """
    highest = functional.max_pool2d(score[None, None], 3, stride=1, padding=1)[0, 0]
    is_peak = (score == highest) & (score >= min_score)
    is_peak[0], is_peak[-1], is_peak[:, 0], is_peak[:, -1] = False, False, False, False
    y, x = (index.cpu().numpy() for index in torch.nonzero(is_peak, as_tuple=True))
    values = score.double().cpu().numpy()
    order = np.lexsort((x, y, -values[y, x]))
    y, x = y[order], x[order]
    kept = select_apart(np.column_stack([x, y]).astype(np.float64), min_distance_px, n_most)
    y, x = y[kept], x[kept]

    def refine(
        before: NDArray[np.float64], here: NDArray[np.float64], after: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        curvature = np.minimum(before - 2 * here + after, -1e-12)
        return np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)

    here = values[y, x]
    fine_x = x + refine(values[y, x - 1], here, values[y, x + 1])
    fine_y = y + refine(values[y - 1, x], here, values[y + 1, x])
    return np.column_stack([fine_x, fine_y]), np.column_stack([y, x]).astype(np.int64)
