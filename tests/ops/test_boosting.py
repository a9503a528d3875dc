import numpy as np
import pytest

from vitreous.ops.boosting import BoostedTrees, explain_trees, predict_logit


def make_trees() -> BoostedTrees:
    """Two trees of depth 2 written down by hand."""
    return BoostedTrees(
        feature=np.array([[0, 1, 2], [2, 0, 0]]),
        threshold=np.array([[0.0, 1.0, -1.0], [5.0, 2.0, 3.0]]),
        value=np.array([[0.1, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]]),
        base=0.5,
    )


def walk(trees: BoostedTrees, sample: np.ndarray) -> float:
    """Follow each tree one node after the other."""
    total = trees.base
    for feature, threshold, value in zip(trees.feature, trees.threshold, trees.value, strict=True):
        node = 0
        while node < len(feature):
            node = 2 * node + 1 + int(sample[feature[node]] > threshold[node])
        total += value[node]
    return total


def test_a_sample_by_hand() -> None:
    trees = make_trees()
    assert trees.depth == 2
    # First tree: 0 is not more than 0, 2 is more than 1: leaf 4. Second: 9 > 5, 0 is not more than 3: leaf 5.
    assert predict_logit(trees, np.array([[0.0, 2.0, 9.0]])) == pytest.approx([0.5 + 4.0 - 5.0])


def test_many_samples_as_one_after_the_other_and_parts_add_up() -> None:
    trees = make_trees()
    samples = np.random.default_rng(1).normal(0, 4, (50, 3))
    logit = predict_logit(trees, samples)
    assert logit == pytest.approx([walk(trees, sample) for sample in samples])
    parts = explain_trees(trees, samples)
    assert parts.sum(axis=1) + trees.base + trees.value[:, 0].sum() == pytest.approx(logit)
    # By hand: the first tree goes 0.1, 1.0, 4.0 by features 0 and 1; the second 0, -2, -5 by features 2 and 0.
    assert explain_trees(trees, np.array([[0.0, 2.0, 9.0]]))[0] == pytest.approx([0.9 - 3.0, 3.0, -2.0])


def test_too_few_features() -> None:
    with pytest.raises(ValueError, match="expected features"):
        predict_logit(make_trees(), np.zeros((4, 2)))
