"""Sums of small decision trees, as gradient boosting makes them (Friedman 2001, doi:10.1214/aos/1013203451)."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoostedTrees", "explain_trees", "predict_logit"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BoostedTrees:
    """Complete binary trees of one depth d. Node i goes on to 2 i + 1, or to 2 i + 2 where the feature exceeds the threshold."""

    feature: NDArray[np.int64]
    """`(trees, 2^d - 1)`: which feature each inner node looks at."""
    threshold: Floats
    """`(trees, 2^d - 1)`."""
    value: Floats
    """`(trees, 2^(d+1) - 1)`: what each node, inner ones too, would add to the logit if the tree ended there."""
    base: float
    """Logit before any tree."""

    @property
    def depth(self) -> int:
        """Comparisons from root to leaf."""
        return int(self.value.shape[1] + 1).bit_length() - 2


def _check(trees: BoostedTrees, features: Floats) -> None:
    if features.ndim != 2 or features.shape[1] <= int(trees.feature.max(initial=0)):
        raise ValueError(
            f"expected features (n, {int(trees.feature.max(initial=0)) + 1} or more), found {features.shape}"
        )


def _walk(trees: BoostedTrees, features: Floats) -> list[NDArray[np.int64]]:
    """Return the nodes of each sample in each tree, root first: `depth + 1` arrays `(n, trees)`."""
    node = np.zeros((len(features), len(trees.value)), dtype=np.int64)
    path, tree = [node], np.arange(len(trees.value))
    for _ in range(trees.depth):
        chosen = features[np.arange(len(features))[:, None], trees.feature[tree, node]]
        node = 2 * node + 1 + (chosen > trees.threshold[tree, node])
        path.append(node)
    return path


def predict_logit(trees: BoostedTrees, features: Floats) -> Floats:
    """Return the logit of each sample, `(n,)`.

    Raises
    ------
    ValueError
        If there are fewer features, `(n, features)`, than the trees look at.
    """
    _check(trees, features)
    leaf = _walk(trees, features)[-1]
    return np.asarray(trees.base + trees.value[np.arange(len(trees.value)), leaf].sum(axis=1))


def explain_trees(trees: BoostedTrees, features: Floats) -> Floats:
    """Return what each feature adds to the logit of each sample, `(n, features)`.

    The step from a node's value to its child's is put down to the feature that the node looks at; with the values of the roots
    and the base the sum is the logit.

    Raises
    ------
    ValueError
        As of `predict_logit`.
    """
    _check(trees, features)
    path, tree = _walk(trees, features), np.arange(len(trees.value))
    added = np.zeros_like(features)
    for before, after in itertools.pairwise(path):
        step = trees.value[tree, after] - trees.value[tree, before]
        for sample in range(len(features)):
            np.add.at(added[sample], trees.feature[tree, before[sample]], step[sample])
    return added
