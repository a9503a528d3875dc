import numpy as np
import pytest

from vitreous.ops.duplicates import find_duplicates


def test_the_better_stays_and_a_chain_loses_its_middle_only() -> None:
    xy = np.array([[0.0, 0], [3, 0], [6, 0], [50, 50]])
    assert find_duplicates(xy, np.array([0.5, 0.4, 0.9, 0.1]), 4).tolist() == [False, True, False, False]
    assert find_duplicates(xy, np.array([0.5, 0.9, 0.4, 0.1]), 4).tolist() == [True, False, True, False]
    # Equal scores: the first; no score: last.
    assert find_duplicates(xy[:2], np.ones(2), 4).tolist() == [False, True]
    assert find_duplicates(xy[:2], np.array([np.nan, -5]), 4).tolist() == [True, False]


def test_distance_is_exclusive() -> None:
    xy = np.array([[0.0, 0], [4, 0]])
    assert not find_duplicates(xy, np.ones(2), 4).any()
    assert find_duplicates(xy, np.ones(2), 4.001).any()
    assert not find_duplicates(xy, np.ones(2), 0).any()
    assert find_duplicates(np.zeros((2, 2)), np.ones(2), 1e-9).any()


def test_same_as_looking_at_every_pair() -> None:
    rng = np.random.default_rng(0)
    xy, score = rng.uniform(0, 100, (300, 2)), rng.random(300)
    kept: list[int] = []
    for i in np.argsort(-score):
        if all(np.hypot(*(xy[i] - xy[j])) >= 7 for j in kept):
            kept.append(int(i))
    found = find_duplicates(xy, score, 7)
    assert sorted(kept) == np.flatnonzero(~found).tolist()
    assert 50 < len(kept) < 250


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="scores"):
        find_duplicates(np.zeros((3, 2)), np.zeros(2), 1)
