"""Compare picks with labels: exact one-to-one matching within a radius, and the scores that follow from it."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

__all__ = [
    "FLIPS",
    "ImageCounts",
    "Interval",
    "PickScore",
    "bootstrap_f1",
    "bootstrap_scores",
    "compute_average_precision",
    "count_flips",
    "count_images",
    "count_matches",
    "match_points",
    "score_counts",
]

Points = NDArray[np.float64]

FLIPS = ("y", "x", "x and y", "transposed")
"""Ways in which picks can be mirrored against their labels."""

_LARGEST_DENSE = 250_000
_DRAWS_AT_ONCE = 4_000_000


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
        Index of the pick, index of the label and distance of every pair, in the order of picks.

    Raises
    ------
    ValueError
        If the shapes are wrong or the radius is not positive.

    Notes
    -----
    Positions within reach of each other form a sparse graph. Each of its connected components is an assignment problem of its
    own, solved exactly (Crouse 2016); a pair out of reach costs more than all pairs within reach together, so that the number of
    pairs is greatest first and the sum of distances least second.
    """
    pick, label, distance = _match(_find_neighbours([picks_px], [truth_px], radius_px), radius_px)
    return pick, label, distance


@dataclass(frozen=True)
class _Neighbours:
    """Pairs within the radius; indices count through all micrographs."""

    pick: NDArray[np.intp]
    label: NDArray[np.intp]
    distance: Points
    n_picks: int
    n_labels: int


def _find_neighbours(picks_px: Sequence[Points], truth_px: Sequence[Points], radius_px: float) -> _Neighbours:
    """Find all pairs within the radius, in all micrographs at once: the third coordinate keeps micrographs apart."""
    for points in (*picks_px, *truth_px):
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"expected positions (n, 2), found {points.shape}")
    if not radius_px > 0:
        raise ValueError(f"expected a positive radius, found {radius_px}")

    def stack(parts: Sequence[Points]) -> Points:
        place = np.repeat(np.arange(len(parts)) * 2.0 * radius_px, [len(part) for part in parts])
        return np.column_stack([np.concatenate(parts), place]) if parts else np.empty((0, 3))

    picks, labels = stack(picks_px), stack(truth_px)
    nothing = np.empty(0, np.intp)
    if len(picks) == 0 or len(labels) == 0:
        return _Neighbours(nothing, nothing, np.empty(0), len(picks), len(labels))
    first, second = (cKDTree(part, balanced_tree=False, compact_nodes=False) for part in (picks, labels))
    near = first.sparse_distance_matrix(second, radius_px, output_type="coo_matrix")
    order = np.lexsort((near.col, near.row))
    row, col = near.row[order].astype(np.intp), near.col[order].astype(np.intp)
    # The third coordinate is the same in both and adds nothing, not even rounding.
    return _Neighbours(row, col, near.data[order], len(picks), len(labels))


def _match(near: _Neighbours, radius_px: float) -> tuple[NDArray[np.intp], NDArray[np.intp], Points]:
    """Choose among the pairs; see `match_points`."""
    n, size = near.n_picks, near.n_picks + near.n_labels
    graph = coo_array((np.ones(len(near.pick), np.int8), (near.pick, near.label + n)), shape=(size, size))
    n_components, component = connected_components(graph, directed=False)
    home = component[near.pick].astype(np.intp)
    is_member = np.zeros(size, bool)
    is_member[near.pick] = is_member[near.label + n] = True
    n_rows = np.bincount(component[:n][is_member[:n]], minlength=n_components)
    n_columns = np.bincount(component[n:][is_member[n:]], minlength=n_components)
    is_star = np.minimum(n_rows, n_columns)[home] == 1
    # Where one side has a single member, its nearest is the answer.
    stars = np.flatnonzero(is_star)
    stars = stars[np.lexsort((near.distance[stars], home[stars]))]
    chosen = [stars[np.diff(home[stars], prepend=-1) != 0]]
    rest = np.flatnonzero(~is_star)
    rest = rest[np.argsort(home[rest], kind="stable")]
    row, column = (_number(index[rest], home[rest]) for index in (near.pick, near.label))
    ends = [*np.flatnonzero(np.diff(home[rest], prepend=-1)).tolist(), len(rest)]
    for start, stop in itertools.pairwise(ends):
        part, where = slice(start, stop), home[rest[start]]
        shape = (int(n_rows[where]), int(n_columns[where]))
        chosen.append(rest[part][_assign(row[part], column[part], near.distance[rest[part]], shape, radius_px)])
    found = np.sort(np.concatenate(chosen))
    return near.pick[found], near.label[found], near.distance[found]


def _number(index: NDArray[np.intp], group: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each element the rank of its index among the different ones of its group; groups are in order."""
    order = np.lexsort((index, group))
    is_new_group = np.diff(group[order], prepend=-1) != 0
    steps = np.cumsum((np.diff(index[order], prepend=-1) != 0) | is_new_group)
    first = np.maximum.accumulate(np.where(is_new_group, steps, 0))
    rank = np.empty(len(index), np.intp)
    rank[order] = steps - first
    return rank


def _assign(
    row: NDArray[np.intp], column: NDArray[np.intp], distance: Points, shape: tuple[int, int], radius_px: float
) -> NDArray[np.intp]:
    """Return which edges of one component are its best pairs."""
    n, m = shape
    out_of_reach = (min(n, m) + 1) * radius_px
    if n * m <= _LARGEST_DENSE:
        cost = np.full(shape, out_of_reach)
        cost[row, column] = distance
        edge = np.full(shape, -1, np.intp)
        edge[row, column] = np.arange(len(row))
        found = edge[linear_sum_assignment(cost)]
        return found[found >= 0]
    # Every pick may also stay alone. A cost of zero would be no edge.
    alone = np.arange(n)
    costs = np.concatenate([distance + radius_px, np.full(n, out_of_reach + radius_px)])
    table = coo_array((costs, (np.concatenate([row, alone]), np.concatenate([column, m + alone]))), shape=(n, m + n))
    one, other = min_weight_full_bipartite_matching(table.tocsr())
    partner = np.full(n, -1, np.intp)
    partner[one] = other
    return np.flatnonzero(partner[row] == column)


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
    """Match the picks of one micrograph with its labels and count; see `count_images`.

    Raises
    ------
    ValueError
        If there is a border and no size.
    """
    sizes = None if size_px is None else [size_px]
    return count_images([picks_px], [truth_px], radius_px, border_px, sizes)[0]


def count_images(
    picks_px: Sequence[Points],
    truth_px: Sequence[Points],
    radius_px: float,
    border_px: float = 0.0,
    sizes_px: Sequence[tuple[float, float]] | None = None,
) -> list[ImageCounts]:
    """Match the picks of each micrograph with its labels and count.

    Parameters
    ----------
    picks_px, truth_px
        Positions as `(x, y)`, `(n, 2)` and `(m, 2)`, for each micrograph.
    radius_px
        Greatest distance of a pair.
    border_px
        Width of the zone along the edges that is left out. A pair counts when its label is inside, so that a pick just outside
        is no miss of a label just inside, and the other way round; what is single counts when it is inside itself.
    sizes_px
        Columns and rows of each micrograph; needed with a border.

    Raises
    ------
    ValueError
        If there is a border and no size.
    """
    pick_counts, label_counts = _find_inside(picks_px, truth_px, border_px, sizes_px)
    pick, label, distance = _match(_find_neighbours(picks_px, truth_px, radius_px), radius_px)
    n_images = len(picks_px)
    pick_home = np.repeat(np.arange(n_images), [len(points) for points in picks_px])
    label_home = np.repeat(np.arange(n_images), [len(points) for points in truth_px])
    matched = label_counts[label]
    pick_counts[pick] = False
    n_matched = np.bincount(label_home[label[matched]], minlength=n_images)
    n_false = np.bincount(pick_home[pick_counts], minlength=n_images)
    n_missed = np.bincount(label_home[label_counts], minlength=n_images) - n_matched
    distances = np.split(distance[matched], np.cumsum(n_matched)[:-1]) if n_images else []
    return [
        ImageCounts(int(hits), int(false), int(missed), tuple(one.tolist()))
        for hits, false, missed, one in zip(n_matched, n_false, n_missed, distances, strict=True)
    ]


def _find_inside(
    picks_px: Sequence[Points],
    truth_px: Sequence[Points],
    border_px: float,
    sizes_px: Sequence[tuple[float, float]] | None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which picks and which labels, through all micrographs, are inside the border."""
    if border_px <= 0:
        return tuple(np.ones(sum(map(len, parts)), bool) for parts in (picks_px, truth_px))  # type: ignore[return-value]
    if sizes_px is None:
        raise ValueError("a border needs the size of the micrograph")
    nothing = [np.empty(0, bool)]
    return tuple(  # type: ignore[return-value]
        np.concatenate(
            nothing + [_is_inside(points, border_px, size) for points, size in zip(parts, sizes_px, strict=True)]
        )
        for parts in (picks_px, truth_px)
    )


def compute_average_precision(
    picks_px: Sequence[Points],
    scores: Sequence[Points],
    truth_px: Sequence[Points],
    radius_px: float,
    border_px: float = 0.0,
    sizes_px: Sequence[tuple[float, float]] | None = None,
) -> float:
    """Return the area under the curve of precision against recall, as the threshold on the score falls.

    Picks of all micrographs are taken in the order of their scores; each claims the nearest label within the radius that none
    has claimed before, as in the COCO evaluation (Lin et al. 2014). The area is that of the steps, without interpolation. Not a
    number where there are no labels. Parameters as of `count_images`; `scores` has one value for each pick, higher is better.

    Raises
    ------
    ValueError
        If there is a border and no size, or not one score for each pick.
    """
    if [len(score) for score in scores] != [len(points) for points in picks_px]:
        raise ValueError("expected one score for each pick")
    pick_counts, label_counts = _find_inside(picks_px, truth_px, border_px, sizes_px)
    n_labels = int(label_counts.sum())
    if n_labels == 0:
        return float("nan")
    near = _find_neighbours(picks_px, truth_px, radius_px)
    rank = np.empty(near.n_picks, np.intp)
    rank[np.argsort(-np.concatenate(scores), kind="stable")] = np.arange(near.n_picks)
    order = np.lexsort((near.label, near.distance, rank[near.pick]))
    label_of, taken = np.full(near.n_picks, -1, np.intp), np.zeros(near.n_labels, bool).tolist()
    last = -1
    for pick, label in zip(near.pick[order].tolist(), near.label[order].tolist(), strict=True):
        if pick != last and not taken[label]:
            taken[label], label_of[pick], last = True, label, pick
    is_paired = label_of >= 0
    is_hit = is_paired & label_counts[label_of]
    counts = np.where(is_paired, is_hit, pick_counts)
    ordered = np.argsort(rank)
    hits, seen = np.cumsum(is_hit[ordered]), np.cumsum(counts[ordered])
    return float((hits / np.maximum(seen, 1))[is_hit[ordered]].sum() / n_labels)


def score_counts(counts: Sequence[ImageCounts]) -> PickScore:
    """Return the scores over all particles of these micrographs."""
    matched = sum(count.n_matched for count in counts)
    picked = matched + sum(count.n_false for count in counts)
    labelled = matched + sum(count.n_missed for count in counts)

    def divide(top: float, bottom: float) -> float:
        return top / bottom if bottom else float("nan")

    return PickScore(divide(matched, picked), divide(matched, labelled), divide(2 * matched, picked + labelled))


def bootstrap_scores(counts: Sequence[ImageCounts], n_draws: int = 2000, seed: int = 0) -> Mapping[str, Interval]:
    """Return the 95 % intervals of `precision`, `recall` and `f1` from drawing micrographs with replacement.

    Percentile intervals (Efron 1979); the same seed gives the same.
    """
    table = np.array([(count.n_matched, count.n_false, count.n_missed) for count in counts], np.float64)
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // len(table))
    drawn = [
        table[rng.integers(0, len(table), (min(step, n_draws - start), len(table)))].sum(axis=1)
        for start in range(0, n_draws, step)
    ]
    matched, false, missed = np.concatenate(drawn).T
    scores = {
        "precision": matched / np.maximum(matched + false, 1),
        "recall": matched / np.maximum(matched + missed, 1),
        "f1": 2 * matched / np.maximum(2 * matched + false + missed, 1),
    }
    ends = {name: np.quantile(values, [0.025, 0.975]) for name, values in scores.items()}
    return {name: Interval(float(low), float(high)) for name, (low, high) in ends.items()}


def bootstrap_f1(counts: Sequence[ImageCounts], n_draws: int = 2000, seed: int = 0) -> Interval:
    """Return the 95 % interval of F1; see `bootstrap_scores`."""
    return bootstrap_scores(counts, n_draws, seed)["f1"]


def count_flips(
    picks_px: Sequence[Points], truth_px: Sequence[Points], radius_px: float, sizes_px: Sequence[tuple[float, float]]
) -> Mapping[str, list[ImageCounts]]:
    """Return the counts of each micrograph for mirrored picks, by the names in `FLIPS`.

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
    flipped = (
        [picks * (1, -1) + end * (0, 1) for picks, end in zip(picks_px, last, strict=True)],
        [picks * (-1, 1) + end * (1, 0) for picks, end in zip(picks_px, last, strict=True)],
        [end - picks for picks, end in zip(picks_px, last, strict=True)],
        [picks[:, ::-1] for picks in picks_px],
    )
    return {name: count_images(moved, truth_px, radius_px) for name, moved in zip(FLIPS, flipped, strict=True)}
