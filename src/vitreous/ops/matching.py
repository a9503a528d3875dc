"""Compare picks with labels: exact one-to-one matching within a radius, and the scores that follow from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = [
    "ImageCounts",
    "Interval",
    "PickScore",
    "bootstrap_f1",
    "compute_flips",
    "count_matches",
    "match_points",
    "score_counts",
]

Points = NDArray[np.float64]


@dataclass(frozen=True)
class ImageCounts:
    """Of one micrograph: picks that have a label, picks that have none, labels that have none."""

    n_matched: int
    n_false: int
    n_missed: int
    distances_px: tuple[float, ...] = ()


@dataclass(frozen=True)
class PickScore:
    """Precision, recall and F1; not-a-number where there is nothing to divide by."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def match_points(
    picks_px: Points, truth_px: Points, radius_px: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], Points]:
    """Match picks with labels, one to one: as many pairs as possible within the radius, and among those the nearest.

    Parameters
    ----------
    picks_px, truth_px
        Positions, `(n, 2)` and `(m, 2)`.
    radius_px
        Greatest distance of a pair, inclusive.

    Returns
    -------
    tuple
        Index of the pick, index of the label and distance of every pair.

    Raises
    ------
    ValueError
        If the shapes are wrong or the radius is not positive.

    Notes
    -----
    Positions within reach of each other form a sparse graph. Each of its connected components is an assignment problem of its
    own, solved exactly; a pair out of reach costs more than all pairs within reach together, so that the number of pairs is
    greatest first and the sum of distances least second.
    """
    if picks_px.ndim != 2 or truth_px.ndim != 2 or picks_px.shape[1] != 2 or truth_px.shape[1] != 2:
        raise ValueError(f"expected positions (n, 2), found {picks_px.shape} and {truth_px.shape}")
    if not radius_px > 0:
        raise ValueError(f"expected a positive radius, found {radius_px}")
    n, m = len(picks_px), len(truth_px)
    nothing = np.empty(0, np.intp)
    if n == 0 or m == 0:
        return nothing, nothing, np.empty(0)
    near = cKDTree(picks_px).sparse_distance_matrix(cKDTree(truth_px), radius_px, output_type="coo_matrix")
    graph = coo_array((np.ones(near.nnz), (near.row, near.col + n)), shape=(n + m, n + m))
    n_components, component = connected_components(graph, directed=False)
    members: list[list[int]] = [[] for _ in range(n_components)]
    for edge, pick in enumerate(near.row):
        members[component[pick]].append(edge)
    pairs: list[tuple[int, int, float]] = []
    for edges in members:
        if not edges:
            continue
        rows, row = np.unique(near.row[edges], return_inverse=True)
        columns, column = np.unique(near.col[edges], return_inverse=True)
        out_of_reach = (min(len(rows), len(columns)) + 1) * radius_px
        cost = np.full((len(rows), len(columns)), out_of_reach)
        cost[row, column] = near.data[edges]
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            if cost[i, j] < out_of_reach:
                pairs.append((int(rows[i]), int(columns[j]), float(cost[i, j])))
    pairs.sort()
    if not pairs:
        return nothing, nothing, np.empty(0)
    first, second, distance = zip(*pairs, strict=True)
    return np.array(first, np.intp), np.array(second, np.intp), np.array(distance)


def _is_inside(points_px: Points, border_px: float, size_px: tuple[float, float]) -> NDArray[np.bool_]:
    low, high = border_px, np.array(size_px) - 1 - border_px
    return np.asarray(np.all((points_px >= low) & (points_px <= high), axis=1))


def count_matches(
    picks_px: Points,
    truth_px: Points,
    radius_px: float,
    border_px: float = 0.0,
    size_px: tuple[float, float] | None = None,
) -> ImageCounts:
    """Match the picks of one micrograph with its labels and count.

    Parameters
    ----------
    picks_px, truth_px
        Positions as `(x, y)`, `(n, 2)` and `(m, 2)`.
    radius_px
        Greatest distance of a pair.
    border_px
        Width of the zone along the edges that is left out. A pair counts when its label is inside, so that a pick just outside
        is no miss of a label just inside, and the other way round; what is single counts when it is inside itself.
    size_px
        Columns and rows of the micrograph; needed with a border.

    Raises
    ------
    ValueError
        If there is a border and no size.
    """
    pick, label, distance = match_points(picks_px, truth_px, radius_px)
    if border_px > 0 and size_px is None:
        raise ValueError("a border needs the size of the micrograph")
    pick_counts, label_counts = np.ones(len(picks_px), bool), np.ones(len(truth_px), bool)
    if border_px > 0 and size_px is not None:
        pick_counts = _is_inside(picks_px, border_px, size_px)
        label_counts = _is_inside(truth_px, border_px, size_px)
    matched = label_counts[label]
    pick_counts[pick] = False
    n_missed = int(label_counts.sum() - matched.sum())
    return ImageCounts(int(matched.sum()), int(pick_counts.sum()), n_missed, tuple(distance[matched].tolist()))


def score_counts(counts: Sequence[ImageCounts]) -> PickScore:
    """Return the scores over all particles of these micrographs."""
    matched = sum(count.n_matched for count in counts)
    picked = matched + sum(count.n_false for count in counts)
    labelled = matched + sum(count.n_missed for count in counts)

    def divide(top: float, bottom: float) -> float:
        return top / bottom if bottom else float("nan")

    return PickScore(divide(matched, picked), divide(matched, labelled), divide(2 * matched, picked + labelled))


def bootstrap_f1(counts: Sequence[ImageCounts], n_draws: int = 2000, seed: int = 0) -> Interval:
    """Return the 95 % interval of F1 from drawing micrographs with replacement (Efron 1979, percentile interval)."""
    table = np.array([(count.n_matched, count.n_false, count.n_missed) for count in counts], np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(table), (n_draws, len(table)))
    matched, false, missed = np.moveaxis(table[drawn].sum(axis=1), -1, 0)
    f1 = 2 * matched / np.maximum(2 * matched + false + missed, 1)
    low, high = np.quantile(f1, [0.025, 0.975])
    return Interval(float(low), float(high))


def compute_flips(
    picks_px: Sequence[Points], truth_px: Sequence[Points], radius_px: float, sizes_px: Sequence[tuple[float, float]]
) -> Mapping[str, float]:
    """Return the F1 of the picks as they are and mirrored: `none`, `y`, `x`, `x and y`, `transposed`.

    Parameters
    ----------
    picks_px, truth_px
        Positions as `(x, y)`, one array for each micrograph.
    radius_px
        Greatest distance of a pair.
    sizes_px
        Columns and rows of each micrograph.
    """
    last = [np.array(size) - 1 for size in sizes_px]
    flipped = {
        "none": list(picks_px),
        "y": [picks * (1, -1) + end * (0, 1) for picks, end in zip(picks_px, last, strict=True)],
        "x": [picks * (-1, 1) + end * (1, 0) for picks, end in zip(picks_px, last, strict=True)],
        "x and y": [end - picks for picks, end in zip(picks_px, last, strict=True)],
        "transposed": [picks[:, ::-1] for picks in picks_px],
    }
    return {
        name: score_counts(
            [count_matches(picks, truth, radius_px) for picks, truth in zip(moved, truth_px, strict=True)]
        ).f1
        for name, moved in flipped.items()
    }
