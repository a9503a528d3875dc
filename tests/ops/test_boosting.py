import runpy
from pathlib import Path

import numpy as np
import pytest

from vitreous.ops.boosting import BoostedTrees, explain_trees, predict_logit

TRAINING = Path(__file__).parents[2] / "scripts" / "train_class_model.py"


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


@pytest.mark.parametrize("depth", [1, 3])
def test_trees_of_scikit_learn_give_its_probabilities(depth: int) -> None:
    ensemble = pytest.importorskip("sklearn.ensemble", reason="scikit-learn is needed for training only")
    rng = np.random.default_rng(6)
    features = rng.normal(size=(600, 5)).astype(np.float32).astype(np.float64)
    labels = features[:, 0] + features[:, 1] * features[:, 2] + rng.normal(0, 0.3, 600) > 0.4
    model = ensemble.GradientBoostingClassifier(
        n_estimators=60, max_depth=depth, subsample=0.6, min_samples_leaf=25, random_state=2
    ).fit(features[:300], labels[:300])
    # Some branches end before others.
    counts = {int(one[0].tree_.node_count) for one in model.estimators_}
    assert depth == 1 or min(counts) < 2 ** (depth + 1) - 1
    export = runpy.run_path(str(TRAINING))["export_trees"]
    logit = predict_logit(export(model), features)
    assert 1 / (1 + np.exp(-logit)) == pytest.approx(model.predict_proba(features)[:, 1], abs=1e-6)
    assert predict_logit(export(model, 0.8, -0.3), features) == pytest.approx(0.8 * logit - 0.3, abs=1e-6)
    # Parts and roots add up, so that inner nodes, which scikit-learn does not evaluate, are told right.
    trees = export(model)
    parts = explain_trees(trees, features)
    assert parts.sum(axis=1) + trees.base + trees.value[:, 0].sum() == pytest.approx(logit)
    assert np.abs(parts[:, 3:]).mean() < 0.3 * np.abs(parts[:, :3]).mean()


def test_too_few_features() -> None:
    with pytest.raises(ValueError, match="expected features"):
        predict_logit(make_trees(), np.zeros((4, 2)))
