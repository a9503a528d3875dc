"""Peaks of maps whose peaks are known."""

import numpy as np
import pytest
import torch

from vitreous.ops.peaks import find_peaks, select_apart


def make_paraboloid(shape: tuple[int, int], x: float, y: float, height: float = 1.0) -> torch.Tensor:
    rows, columns = torch.arange(shape[0], dtype=torch.float64)[:, None], torch.arange(shape[1], dtype=torch.float64)
    return height - 0.01 * (columns - x) ** 2 - 0.02 * (rows - y) ** 2


@pytest.mark.parametrize(("x", "y"), [(11.0, 7.0), (11.3, 7.45), (10.51, 6.8)])
def test_peak_of_a_paraboloid_is_exact(x: float, y: float) -> None:
    xy, elements = find_peaks(make_paraboloid((16, 24), x, y), 3, 0.0)
    np.testing.assert_allclose(xy, [[x, y]], atol=1e-9)
    assert elements.tolist() == [[round(y), round(x)]]


def test_best_first_and_none_below_the_least_score() -> None:
    score = torch.zeros(20, 30)
    for value, y, x in ((0.5, 4, 5), (0.9, 10, 20), (0.2, 15, 6)):
        score[y, x] = value
    assert find_peaks(score, 3, 0.1)[1].tolist() == [[10, 20], [4, 5], [15, 6]]
    assert find_peaks(score, 3, 0.3)[1].tolist() == [[10, 20], [4, 5]]
    assert find_peaks(score, 3, 0.1, 1)[1].tolist() == [[10, 20]]
    assert find_peaks(score, 3, 1.0)[0].shape == (0, 2)


def test_the_lower_of_two_near_peaks_goes_and_one_at_the_distance_stays() -> None:
    score = torch.zeros(20, 30)
    score[8, 5], score[8, 10], score[8, 11] = 0.5, 0.9, 0.1
    score[8, 15] = 0.4
    assert find_peaks(score, 5, 0.05)[1].tolist() == [[8, 10], [8, 5], [8, 15]]
    assert find_peaks(score, 5.1, 0.05)[1].tolist() == [[8, 10]]


def test_ties_are_broken_by_position() -> None:
    score = torch.zeros(9, 12)
    for y, x in ((6, 3), (2, 8), (2, 5)):
        score[y, x] = 1.0
    assert find_peaks(score, 2, 0.5)[1].tolist() == [[2, 5], [2, 8], [6, 3]]
    # Only one of the two in row 2 is left, and it is the first.
    assert find_peaks(score, 3.5, 0.5)[1].tolist() == [[2, 5], [6, 3]]


def test_selection_is_that_of_a_double_loop() -> None:
    points = np.random.default_rng(0).uniform(0, 100, (400, 2))
    kept: list[int] = []
    for i, point in enumerate(points):
        if all(np.hypot(*(point - points[j])) >= 9 for j in kept):
            kept.append(i)
    assert select_apart(points, 9).tolist() == kept
    assert select_apart(points, 9, 7).tolist() == kept[:7]
    assert select_apart(np.empty((0, 2)), 9).tolist() == []
