"""A chosen few: spread over the value, the best of their group, the same for the same seed."""

import numpy as np
import pytest

from vitreous.ops.subsets import choose_spread


def test_the_best_of_each_group_is_taken() -> None:
    values = np.array([3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    badness = np.array([[9.0, 1.0, 5.0, 2.0, 8.0, 7.0]])
    # Groups by value: items 1, 2 | 0, 5 | 4, 3.
    assert choose_spread(values, badness, 3, 0).tolist() == [1, 3, 5]


def test_what_is_not_known_does_not_count() -> None:
    nan = np.nan
    # By the first measure alone item 1 is better, by both together item 0.
    badness = np.array([[2.0, 1.0, 3.0, 3.0], [1.0, 4.0, nan, nan]])
    assert choose_spread(np.array([1.0, 1.0, 2.0, 2.0]), badness[:1], 2, 0)[0] == 1
    assert choose_spread(np.array([1.0, 1.0, 2.0, 2.0]), badness, 2, 0)[0] == 0
    # Items without a value are the last group, not lost; of two that nothing tells apart one is taken.
    found = choose_spread(np.array([1.0, 2.0, nan, nan]), np.full((1, 4), nan), 2, 3)
    assert found[0] in (0, 1)
    assert found[1] in (2, 3)


def test_spread_and_quality_of_many() -> None:
    rng = np.random.default_rng(1)
    values, badness = rng.uniform(5e3, 3e4, 300), rng.normal(size=(4, 300))
    chosen = choose_spread(values, badness, 20, 0)
    edges = np.quantile(values, np.linspace(0, 1, 21))
    counts, _ = np.histogram(values[chosen], edges)
    assert (counts == 1).all()
    # The least of 15 independent standard normals has a mean of -1.74; so have means of ranks, in their deviations.
    deviation = badness.mean(axis=0).std()
    assert badness[:, chosen].mean() < -1.3 * deviation


def test_a_seed_decides_where_nothing_else_does() -> None:
    values, badness = np.full(200, np.nan), np.full((0, 200), np.nan)
    one, again, other = (choose_spread(values, badness, 20, seed).tolist() for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(set(one)) == 20
    # Chance is no order of the table.
    assert 60 < np.mean(one) < 140


def test_few_are_all_taken_and_nonsense_is_refused() -> None:
    assert choose_spread(np.array([1.0, np.nan]), np.zeros((1, 2)), 5, 0).tolist() == [0, 1]
    with pytest.raises(ValueError, match="at least 1"):
        choose_spread(np.array([1.0]), np.zeros((1, 1)), 0, 0)
    with pytest.raises(ValueError, match="measures"):
        choose_spread(np.array([1.0, 2.0]), np.zeros((1, 3)), 1, 0)
