import itertools

import numpy as np
import pytest

from vitreous.ops.matching import (
    ImageCounts,
    bootstrap_f1,
    compute_flips,
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


def test_flipped_picks_are_recognised() -> None:
    rng = np.random.default_rng(0)
    truth = [rng.uniform((0, 0), (199, 99), (30, 2)) for _ in range(3)]
    flipped = [np.column_stack([points[:, 0], 99 - points[:, 1]]) for points in truth]
    scores = compute_flips(flipped, truth, 3, [(200, 100)] * 3)
    assert scores["y"] == 1.0
    assert max(scores["none"], scores["x"], scores["transposed"]) < 0.5


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
