"""Agreement of annotators who marked the same micrographs: sites, pairwise scores, and what is probably true.

A site is a place that one or more annotators marked, at most once each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitreous.ops.matching import ImageCounts, Points, count_matches, match_points

__all__ = [
    "AnnotatorRates",
    "Sites",
    "compute_disagreement",
    "count_pairwise",
    "estimate_truth",
    "link_annotators",
    "select_consensus",
]

_TOLERANCE = 1e-10
_LEAST = 1e-12


@dataclass(frozen=True)
class Sites:
    """Places that annotators marked.

    Attributes
    ----------
    xy_px
        Mean of the marks, `(n, 2)`.
    marks
        Index of each annotator's mark, `(n, annotators)`; -1 where the annotator has none.
    """

    xy_px: Points
    marks: NDArray[np.intp]

    @property
    def is_marked(self) -> NDArray[np.bool_]:
        """Who marked what, `(n, annotators)`."""
        return np.asarray(self.marks >= 0)


@dataclass(frozen=True)
class AnnotatorRates:
    """What `estimate_truth` finds.

    Attributes
    ----------
    sensitivity
        Share of the true particles that each annotator marked, `(annotators,)`.
    false_discovery
        Share of each annotator's marks that are no particle, `(annotators,)`.
    n_true
        Estimated number of particles, those included that nobody marked.
    n_unmarked
        Of these, those that nobody marked.
    probability
        That the site is a particle, `(n,)`.
    is_determined
        Whether the data determine the rates: with two annotators they do not, and a single mark counts as about a half.
    """

    sensitivity: Points
    false_discovery: Points
    n_true: float
    n_unmarked: float
    probability: Points
    is_determined: bool


def link_annotators(points_px: Sequence[Points], radius_px: float) -> Sites:
    """Join the marks of all annotators in one micrograph to sites.

    Parameters
    ----------
    points_px
        Positions `(n_k, 2)` of each annotator.
    radius_px
        Greatest distance of a mark from the mean of the marks that it joins.

    Returns
    -------
    Sites
        Those that the first annotator marked first, in that order.

    Raises
    ------
    ValueError
        If there is no annotator.

    Notes
    -----
    One annotator after another is matched, one to one and exactly, with the means of the sites so far; what is left over becomes
    sites of its own. With two annotators that is the matching of `match_points`.
    """
    if not points_px:
        raise ValueError("expected the marks of at least one annotator, found none")
    n_annotators = len(points_px)
    total, marks = np.empty((0, 2)), np.empty((0, n_annotators), np.intp)
    for k, points in enumerate(points_px):
        number = (marks >= 0).sum(axis=1)
        mark, site, _ = match_points(points, total / np.maximum(number, 1)[:, None], radius_px)
        marks[site, k] = mark
        total[site] += points[mark]
        left = np.setdiff1d(np.arange(len(points)), mark)
        new = np.full((len(left), n_annotators), -1, np.intp)
        new[:, k] = left
        marks, total = np.concatenate([marks, new]), np.concatenate([total, points[left]])
    number = (marks >= 0).sum(axis=1)
    return Sites(total / np.maximum(number, 1)[:, None], marks)


def count_pairwise(first_px: Sequence[Points], second_px: Sequence[Points], radius_px: float) -> list[ImageCounts]:
    """Return the counts of each micrograph: matched marks, marks of the first alone, marks of the second alone.

    Their F1 is also the positive agreement of Cicchetti and Feinstein (1990), twice the common marks over all marks of both:
    there is no count of true negatives, on which kappa would depend.
    """
    return [count_matches(one, other, radius_px) for one, other in zip(first_px, second_px, strict=True)]


def estimate_truth(is_marked: NDArray[np.bool_], n_iterations: int = 10_000) -> AnnotatorRates:
    """Estimate, for every site, the probability that it is a particle, and how reliable each annotator is.

    Parameters
    ----------
    is_marked
        Who marked what, `(sites, annotators)`; every site is marked by someone.
    n_iterations
        Most steps.

    Raises
    ------
    ValueError
        If there are fewer than two annotators, or a site that nobody marked.

    Notes
    -----
    The model: of `N` particles annotator `k` marks each with probability `s_k`, independently; besides, `k` makes `F_k` marks
    where there is nothing, and no two annotators make one at the same place. Then a site of several marks is a particle, and one
    of a single mark by `k` is one with probability `t_k = e_k / (e_k + F_k)`, `e_k = N s_k prod_{j != k} (1 - s_j)`. Expectation
    maximisation (Dempster, Laird and Rubin 1977) counts the `N prod (1 - s_j)` particles that nobody marked as missing data.
    From three annotators on, the sites of several marks alone determine `N` and all `s_k`, as in capture and recapture.
    """
    if is_marked.ndim != 2 or is_marked.shape[1] < 2:
        raise ValueError(f"expected marks (sites, annotators) of two or more annotators, found {is_marked.shape}")
    number = is_marked.sum(axis=1)
    if (number == 0).any():
        raise ValueError("expected sites that someone marked, found one that nobody marked")
    n_annotators = is_marked.shape[1]
    several = is_marked[number > 1].sum(axis=0).astype(np.float64)
    single = is_marked[number == 1].sum(axis=0).astype(np.float64)
    n_several = float((number > 1).sum())
    true_single, unmarked = single / 2, 0.0
    sensitivity = np.zeros(n_annotators)
    for _ in range(n_iterations):
        n_true = n_several + true_single.sum() + unmarked
        sensitivity = (several + true_single) / max(n_true, _LEAST)
        missed = np.maximum(1 - sensitivity, _LEAST)
        expected = n_true * sensitivity * missed.prod() / missed
        false = single - true_single
        updated = single * expected / np.maximum(expected + false, _LEAST)
        change = np.abs(updated - true_single).max() + abs(n_true * missed.prod() - unmarked)
        true_single, unmarked = updated, float(n_true * missed.prod())
        if change < _TOLERANCE * max(n_true, 1.0):
            break
    share = true_single / np.maximum(single, _LEAST)
    probability = np.where(number > 1, 1.0, is_marked @ share)
    marked = several + single
    return AnnotatorRates(
        sensitivity=sensitivity,
        false_discovery=(single - true_single) / np.maximum(marked, _LEAST),
        n_true=float(n_several + true_single.sum() + unmarked),
        n_unmarked=unmarked,
        probability=np.clip(probability, 0.0, 1.0),
        is_determined=n_annotators > 2,
    )


def select_consensus(is_marked: NDArray[np.bool_], probability: Points) -> dict[str, NDArray[np.bool_]]:
    """Return which sites belong to each consensus set.

    Parameters
    ----------
    is_marked
        Who marked what, `(sites, annotators)`.
    probability
        That the site is a particle, `(sites,)`.

    Returns
    -------
    dict
        `both`: marked by all; `either`: marked by anyone; `expected`: a particle with a probability of a half or more.
    """
    number = is_marked.sum(axis=1)
    return {"both": number == is_marked.shape[1], "either": number > 0, "expected": probability >= 0.5}


def compute_disagreement(is_marked: NDArray[np.bool_], probability: Points) -> Points:
    """Return how much a second look at each site would tell, `(sites,)`: bits of doubt, 0 where all agree.

    The doubt about the site itself (entropy of its probability) and about the annotators (entropy of the share who marked it),
    summed, so that of two equally doubtful sites the one on which more annotators are divided comes first.
    """

    def compute_entropy(share: Points) -> Points:
        inside = np.clip(share, _LEAST, 1 - _LEAST)
        return np.asarray(-inside * np.log2(inside) - (1 - inside) * np.log2(1 - inside))

    doubt = compute_entropy(probability) + compute_entropy(is_marked.mean(axis=1))
    return np.where(is_marked.all(axis=1), 0.0, doubt)
