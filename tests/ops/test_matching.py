import itertools
import time
from typing import Any

import numpy as np
import pytest

from vitreous.ops import matching
from vitreous.ops.matching import (
    ImageCounts,
    bootstrap_f1,
    bootstrap_scores,
    compute_average_precision,
    count_flips,
    count_images,
    count_matches,
    match_points,
    score_counts,
)


def brute_force(picks: np.ndarray, truth: np.ndarray, radius: float) -> tuple[int, float]:
    """Try every one-to-one assignment."""
    distance = np.linalg.norm(picks[:, None] - truth[None], axis=-1)
    best = (0, 0.0)
    slots = [*range(len(truth)), *[None] * len(picks)]
    for choice in set(itertools.permutations(slots, len(picks))):
        pairs = [(i, j) for i, j in enumerate(choice) if j is not None]
        if all(distance[pair] <= radius for pair in pairs):
            best = max(best, (len(pairs), -sum(distance[pair] for pair in pairs)))
    return best[0], -best[1]


@pytest.mark.parametrize("seed", range(12))
def test_matching_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picks, truth = rng.uniform(0, 10, (4, 2)), rng.uniform(0, 10, (rng.integers(1, 5), 2))
    pick, label, distance = match_points(picks, truth, 3.5)
    assert len(set(pick)) == len(set(label)) == len(pick)
    np.testing.assert_allclose(distance, np.linalg.norm(picks[pick] - truth[label], axis=1))
    number, total = brute_force(picks, truth, 3.5)
    assert len(pick) == number
    np.testing.assert_allclose(distance.sum(), total)


def test_greedy_matching_would_lose_a_pair() -> None:
    picks, truth = np.array([[0.0, 0], [4.0, 0]]), np.array([[3.0, 0], [7.5, 0]])
    assert len(match_points(picks, truth, 4.0)[0]) == 2


def test_nothing_matches_nothing() -> None:
    empty, one = np.empty((0, 2)), np.zeros((1, 2))
    assert len(match_points(empty, one, 1)[0]) == len(match_points(one, empty, 1)[0]) == 0
    assert len(match_points(one, one + 9, 1)[0]) == 0
    assert np.isnan(score_counts([count_matches(empty, empty, 1)]).f1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        match_points(np.zeros(3), np.zeros((1, 2)), 1)
    with pytest.raises(ValueError, match="radius"):
        match_points(np.zeros((1, 2)), np.zeros((1, 2)), 0)
    with pytest.raises(ValueError, match="size"):
        count_matches(np.zeros((1, 2)), np.zeros((1, 2)), 1, border_px=5)


def test_two_picks_on_one_label_are_one_hit_and_one_false_pick() -> None:
    counts = count_matches(np.array([[10.0, 10], [11.0, 10]]), np.array([[10.5, 10]]), 3)
    assert (counts.n_matched, counts.n_false, counts.n_missed) == (1, 1, 0)
    score = score_counts([counts])
    assert (score.precision, score.recall) == (0.5, 1.0)
    assert score.f1 == pytest.approx(2 / 3)


def test_border_leaves_out_what_is_near_the_edge() -> None:
    picks = np.array([[50.0, 50], [3.0, 50], [9.0, 20], [95.0, 99]])
    truth = np.array([[51.0, 50], [60.0, 2], [11.0, 20]])
    counts = count_matches(picks, truth, 5, border_px=10, size_px=(100, 100))
    # The pick at x = 9 is outside, its label at x = 11 inside: a pair, not a miss.
    assert (counts.n_matched, counts.n_false, counts.n_missed) == (2, 0, 0)
    swapped = count_matches(truth, picks, 5, border_px=10, size_px=(100, 100))
    assert (swapped.n_matched, swapped.n_false, swapped.n_missed) == (1, 0, 0)


@pytest.mark.parametrize("crowding", [0.5, 2.0, 6.0])
def test_sparse_and_dense_solutions_of_a_component_agree(crowding: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    side = 100 / np.sqrt(crowding)
    picks, truth = rng.uniform(0, side, (150, 2)), rng.uniform(0, side, (130, 2))
    dense = match_points(picks, truth, 6.0)
    monkeypatch.setattr(matching, "_LARGEST_DENSE", 0)
    sparse = match_points(picks, truth, 6.0)
    assert len(sparse[0]) == len(set(sparse[1])) == len(dense[0])
    assert sparse[2].sum() == pytest.approx(dense[2].sum())


def test_many_micrographs_at_once_are_each_of_them_alone() -> None:
    rng = np.random.default_rng(2)
    truth = [rng.uniform(0, 500, (n, 2)) for n in (40, 0, 25, 60)]
    picks = [rng.uniform(0, 500, (n, 2)) for n in (35, 7, 0, 80)]
    sizes = [(500.0, 500.0)] * 4
    for border in (0.0, 60.0):
        together = count_images(picks, truth, 30, border, sizes)
        assert together == [
            count_matches(one, other, 30, border, size) for one, other, size in zip(picks, truth, sizes, strict=True)
        ]
    assert together[3].n_matched > 10
    assert count_images([], [], 3) == []


def test_time_grows_with_the_number_of_picks() -> None:
    """A million picks take seconds, see benchmarks/speed/matching.py; here that eight times as many take about eight times."""
    rng = np.random.default_rng(0)

    def measure(n: int) -> float:
        truth = [rng.uniform(0, 4096, (300, 2)) for _ in range(n)]
        picks = [points + rng.normal(0, 20, points.shape) for points in truth]
        start = time.process_time()
        count_images(picks, truth, 54)
        return time.process_time() - start

    measure(10)
    few = min(measure(40) for _ in range(3))
    assert measure(320) < 24 * few


def test_average_precision_by_hand() -> None:
    truth = [np.array([[0.0, 0], [50, 0]]), np.array([[0.0, 0]])]
    picks = [np.array([[1.0, 0], [2, 0], [90, 0], [49, 0]]), np.array([[0.0, 1]])]
    scores = [np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.5])]
    # In order: hit, a second pick on the same label, false, hit, hit.
    expected = (1 + 2 / 4 + 3 / 5) / 3
    assert compute_average_precision(picks, scores, truth, 5) == pytest.approx(expected)
    assert compute_average_precision(truth, [np.ones(2), np.ones(1)], truth, 5) == 1
    assert np.isnan(compute_average_precision(picks, scores, [np.empty((0, 2))] * 2, 5))
    # All at x < 9 lies in the border; what counts is a false pick and a hit.
    size = [(200.0, 20.0)] * 2
    moved = [[points + np.array([0, 10]) for points in part] for part in (picks, truth)]
    assert compute_average_precision(moved[0], scores, moved[1], 5, 9, size) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="one score"):
        compute_average_precision(picks, scores[:1], truth, 5)


@pytest.mark.parametrize(
    ("flip", "turn"),
    [
        ("y", lambda xy: xy * (1, -1) + (0, 99)),
        ("x", lambda xy: xy * (-1, 1) + (199, 0)),
        ("x and y", lambda xy: (199, 99) - xy),
        ("transposed", lambda xy: xy[:, ::-1]),
    ],
)
def test_flipped_picks_are_recognised(flip: str, turn: Any) -> None:
    rng = np.random.default_rng(0)
    truth = [rng.uniform((0, 0), (199, 99), (30, 2)) for _ in range(3)]
    counts = count_flips([turn(points) for points in truth], truth, 3, [(200, 100)] * 3)
    f1 = {name: score_counts(found).f1 for name, found in counts.items()}
    assert f1.pop(flip) == 1
    assert max(f1.values()) < 0.5


def test_interval_holds_the_score_and_shrinks_with_more_micrographs() -> None:
    rng = np.random.default_rng(1)

    def draw(n: int) -> list[ImageCounts]:
        hits = rng.binomial(100, 0.8, n)
        return [ImageCounts(int(hit), int(100 - hit), int(100 - hit)) for hit in hits]

    few, many = draw(5), draw(80)
    for counts in (few, many):
        interval = bootstrap_f1(counts)
        assert interval.low < score_counts(counts).f1 < interval.high
    assert bootstrap_f1(many).high - bootstrap_f1(many).low < bootstrap_f1(few).high - bootstrap_f1(few).low
    assert bootstrap_f1(few) == bootstrap_f1(few)


def test_intervals_of_identical_micrographs_are_points() -> None:
    found = bootstrap_scores([ImageCounts(8, 2, 8)] * 7)
    assert (found["precision"].low, found["precision"].high) == pytest.approx((0.8, 0.8))
    assert (found["recall"].low, found["recall"].high) == pytest.approx((0.5, 0.5))
    assert bootstrap_scores([ImageCounts(8, 2, 8), ImageCounts(1, 9, 3)], seed=1) != found
