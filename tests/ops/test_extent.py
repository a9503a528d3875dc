"""Ellipses of known length."""

import math

import numpy as np
import pytest
import torch

from vitreous.ops.extent import choose_extent, measure_extents


def make_halves(
    long_px: float, short_px: float, noise: float, *, n_px: int = 64, turn_deg: float = 30.0
) -> torch.Tensor:
    """Return two averages of an ellipse with an edge of two pixels, off the centre, with noise of their own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:n_px, :n_px] - n_px // 2 - 1.5
    angle = math.radians(turn_deg)
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    level = np.hypot(along / long_px, across / short_px).clip(1e-3)
    # To first order the distance from the outline.
    distance = (level - 0.5) * level / np.hypot(along / long_px**2, across / short_px**2).clip(1e-6)
    ellipse = np.clip(0.5 - distance / 2, 0, 1)
    return torch.from_numpy(ellipse + noise * rng.normal(size=(2, 1, n_px, n_px))).float()


@pytest.mark.parametrize(("long_px", "short_px"), [(20, 20), (30, 16), (44, 20)])
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_length_of_ellipses(long_px: float, short_px: float, noise: float) -> None:
    found = measure_extents(make_halves(long_px, short_px, noise))
    assert found.shape == (1,)
    assert found[0] == pytest.approx(long_px, abs=4)


def test_neighbours_do_not_count_and_a_hollow_one_is_whole() -> None:
    alone = make_halves(20, 20, 0.05)
    crowded = alone + torch.roll(alone, (24, 0), (-2, -1)) + torch.roll(alone, (0, 26), (-2, -1))
    assert measure_extents(crowded)[0] == pytest.approx(measure_extents(alone)[0], abs=2)
    hollow = alone - make_halves(10, 10, 0.0)
    assert measure_extents(hollow)[0] == pytest.approx(measure_extents(alone)[0], abs=1)


def test_noise_and_slopes_have_no_length() -> None:
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 64, 64))).float()
    assert np.isnan(measure_extents(noise)).all()
    slope = torch.linspace(-1, 1, 64)[None, None, None, :].expand(2, 1, 64, 64)
    assert np.isnan(measure_extents(slope)).all()


def test_the_long_view_is_chosen_not_the_rare_clump() -> None:
    extents = np.array([10.0, 12.0, 20.0, 35.0, np.nan])
    assert choose_extent(extents, np.array([30, 40, 60, 2, 50])) == 20.0
    assert choose_extent(extents, np.array([100, 100, 10, 2, 0])) == 12.0
    assert choose_extent(np.full(2, np.nan), np.array([5, 5])) is None


def test_all_but_the_smallest_of_many_classes_count() -> None:
    extents = np.r_[np.full(25, 20.0), np.full(25, 30.0), 60.0]
    assert choose_extent(extents, np.r_[np.full(50, 100), 10]) == 30.0
    extents[:25] = np.nan
    assert choose_extent(extents, np.r_[np.full(50, 100), 10]) == 30.0
