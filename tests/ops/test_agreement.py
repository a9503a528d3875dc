"""Agreement of annotators against simulated truth, brute force and counts done by hand."""

import itertools

import numpy as np
import pytest

from vitreous.ops.agreement import (
    compute_disagreement,
    count_pairwise,
    estimate_truth,
    link_annotators,
    select_consensus,
)
from vitreous.ops.matching import score_counts


def mark(truth: np.ndarray, sensitivity: list[float], n_false: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return who marked what, and what is a particle: the last sites are false marks."""
    rng = np.random.default_rng(seed)
    seen = rng.random((len(truth), len(sensitivity))) < sensitivity
    false = np.zeros((sum(n_false), len(n_false)), bool)
    false[np.arange(sum(n_false)), np.repeat(np.arange(len(n_false)), n_false)] = True
    marked = np.concatenate([seen[seen.any(axis=1)], false])
    return marked, np.arange(len(marked)) < seen.any(axis=1).sum()


def test_linking_finds_the_sites_of_jittered_marks() -> None:
    rng = np.random.default_rng(3)
    centres = np.stack(np.meshgrid(np.arange(5), np.arange(4)), axis=-1).reshape(-1, 2) * 40.0
    seen = rng.random((20, 3)) < 0.7
    points, order = [], []
    for k in range(3):
        rows = rng.permutation(np.flatnonzero(seen[:, k]))
        points.append(centres[rows] + rng.uniform(-4, 4, (len(rows), 2)))
        order.append(rows)
    sites = link_annotators(points, 12)
    assert len(sites.xy_px) == seen.any(axis=1).sum()
    for xy, marks in zip(sites.xy_px, sites.marks, strict=True):
        particle = {int(order[k][i]) for k, i in enumerate(marks) if i >= 0}
        assert len(particle) == 1
        np.testing.assert_array_equal(marks >= 0, seen[particle.pop()])
        np.testing.assert_allclose(xy, np.mean([points[k][i] for k, i in enumerate(marks) if i >= 0], axis=0))


def test_linking_two_is_matching_them() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0, 50, (30, 2)), rng.uniform(0, 50, (25, 2))
    sites = link_annotators([one, other], 6)
    counts = count_pairwise([one], [other], 6)[0]
    assert sites.is_marked.all(axis=1).sum() == counts.n_matched
    assert len(sites.marks) == counts.n_matched + counts.n_false + counts.n_missed
    assert sorted(i for i in sites.marks[:, 1] if i >= 0) == list(range(25))


def test_nobody_and_nothing() -> None:
    with pytest.raises(ValueError, match="at least one annotator"):
        link_annotators([], 1)
    assert link_annotators([np.empty((0, 2)), np.empty((0, 2))], 1).marks.shape == (0, 2)


def test_positive_agreement_by_hand() -> None:
    one, other = np.array([[0.0, 0], [10, 0], [20, 0]]), np.array([[1.0, 0], [11, 0], [50, 0], [60, 0], [70, 0]])
    # Two in common, of three and five.
    assert score_counts(count_pairwise([one], [other], 2)).f1 == pytest.approx(2 * 2 / 8)
    assert score_counts(count_pairwise([one], [other], 0.5)).f1 == 0


@pytest.mark.parametrize("sensitivity", [[0.9, 0.7, 0.8], [0.6, 0.95, 0.5], [0.8, 0.6, 0.7, 0.9]])
def test_three_annotators_reveal_their_rates(sensitivity: list[float]) -> None:
    n_false = [300, 1200, 100, 500][: len(sensitivity)]
    marked, is_true = mark(np.empty(20_000), sensitivity, n_false, seed=1)
    found = estimate_truth(marked)
    assert found.is_determined
    np.testing.assert_allclose(found.sensitivity, sensitivity, atol=0.015)
    np.testing.assert_allclose(found.false_discovery, n_false / marked.sum(axis=0), atol=0.015)
    assert found.n_true == pytest.approx(20_000, rel=0.015)
    assert found.n_unmarked == pytest.approx(20_000 - is_true.sum(), abs=120)
    # Calibrated: of the sites with one mark about as many are true as the probabilities say, within 1 % of all particles.
    single = marked.sum(axis=1) == 1
    for k in range(len(sensitivity)):
        here = single & marked[:, k]
        assert found.probability[here].sum() == pytest.approx(is_true[here].sum(), abs=200)


def test_the_estimate_has_the_greatest_likelihood() -> None:
    marked, _ = mark(np.empty(3000), [0.85, 0.7, 0.6], [150, 300, 80], seed=5)
    found = estimate_truth(marked)
    patterns = [np.array(p, bool) for p in itertools.product([0, 1], repeat=3) if any(p)]
    observed = np.array([(marked == p).all(axis=1).sum() for p in patterns])

    def log_likelihood(n_true: float, s: np.ndarray, false: np.ndarray) -> float:
        """Poisson counts of each pattern."""
        expected = np.array(
            [n_true * np.prod(np.where(p, s, 1 - s)) + (false[p].sum() if p.sum() == 1 else 0) for p in patterns]
        )
        return float((observed * np.log(expected) - expected).sum())

    false = found.false_discovery * marked.sum(axis=0)
    best = log_likelihood(found.n_true, found.sensitivity, false)
    rng = np.random.default_rng(0)
    for _ in range(200):
        other = log_likelihood(
            found.n_true * rng.uniform(0.97, 1.03),
            np.clip(found.sensitivity * rng.uniform(0.97, 1.03, 3), 0, 0.999),
            false * rng.uniform(0.9, 1.1, 3),
        )
        assert other <= best + 1e-6


def test_two_annotators_leave_single_marks_open() -> None:
    marked = np.array([[1, 1]] * 80 + [[1, 0]] * 10 + [[0, 1]] * 20, bool)
    found = estimate_truth(marked)
    assert not found.is_determined
    assert (found.probability[:80] == 1).all()
    assert np.all(np.abs(found.probability[80:] - 0.5) < 0.1)
    # Whatever the single marks are, the rates lie between all and none of them being true.
    assert 80 / 100 <= found.sensitivity[0] <= 1
    assert 0 <= found.false_discovery[1] <= 20 / 100


def test_full_agreement_and_none() -> None:
    same = estimate_truth(np.ones((5, 2), bool))
    np.testing.assert_allclose(same.sensitivity, 1)
    np.testing.assert_allclose(same.false_discovery, 0)
    apart = estimate_truth(np.eye(3, dtype=bool))
    assert np.isfinite([*apart.sensitivity, *apart.false_discovery, *apart.probability, apart.n_true]).all()


@pytest.mark.parametrize("marked", [np.ones((3, 1), bool), np.ones(3, bool), np.array([[1, 0], [0, 0]], bool)])
def test_bad_input_is_refused(marked: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        estimate_truth(marked)


def test_consensus_and_disagreements() -> None:
    marked = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
    probability = np.array([1.0, 1.0, 0.5, 0.1])
    sets = select_consensus(marked, probability)
    assert {name: rows.tolist() for name, rows in sets.items()} == {
        "both": [True, False, False, False],
        "either": [True] * 4,
        "expected": [True, True, True, False],
    }
    doubt = compute_disagreement(marked, probability)
    assert doubt[0] == 0
    assert np.argsort(-doubt).tolist() == [2, 3, 1, 0]
    third = np.log2(3) - 2 / 3
    np.testing.assert_allclose(doubt[1:3], [third, third + 1], atol=1e-9)
