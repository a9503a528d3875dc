import numpy as np
import pytest

from vitreous.ops.class_statistics import compute_weighted_resolution

RESOLUTION = np.array([10.0, 20.0, np.nan, 40.0, 8.0])
COUNT = np.array([100, 300, 50, 0, 100])


def test_by_hand() -> None:
    found = compute_weighted_resolution(RESOLUTION, COUNT, 50)
    assert found is not None
    assert (found.n_classes, found.n_particles) == (3, 500)
    assert found.mean_angstrom == pytest.approx((1000 + 6000 + 800) / 500)
    assert found.harmonic_angstrom == pytest.approx(500 / (10 + 15 + 12.5))


def test_the_largest_count_and_of_two_of_one_size_the_finer() -> None:
    found = compute_weighted_resolution(RESOLUTION, COUNT, 2)
    assert found is not None
    assert found.mean_angstrom == pytest.approx((6000 + 800) / 400)


def test_the_interval_is_that_of_drawing_particles() -> None:
    found = compute_weighted_resolution(np.array([10.0, 20.0]), np.array([500, 500]), 10)
    assert found is not None
    # The share of the first has a standard error of 0.5 / sqrt(1000), and the mean goes with ten times that.
    expected = 1.96 * 10 * 0.5 / 1000**0.5
    assert 15 - found.low_angstrom == pytest.approx(expected, rel=0.25)
    assert found.high_angstrom - 15 == pytest.approx(expected, rel=0.25)


def test_nothing_to_weigh() -> None:
    assert compute_weighted_resolution(np.array([np.nan, 9.0]), np.array([10, 0]), 10) is None
    with pytest.raises(ValueError, match="one class or more"):
        compute_weighted_resolution(RESOLUTION, COUNT, 0)
