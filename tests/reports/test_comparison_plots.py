"""Figures of pickers and annotators: what is drawn stands where its value says."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from vitreous.reports.comparison_plots import PickerBar, plot_agreement, plot_pickers


def count_pixels(content: bytes, colour: str) -> int:
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(pixels - wanted).max(axis=2) < 24).sum())


def test_a_higher_score_is_a_longer_bar() -> None:
    def draw(precision: float) -> int:
        bars = [PickerBar("a", precision, 0.5, 0.5, 0.4, 0.6), PickerBar("b", 0.2, 0.5, 0.5, 0.4, 0.6, marked=True)]
        return count_pixels(plot_pickers(bars, 54), "#4c78a8")

    low, high = draw(0.2), draw(0.8)
    # Two bars of 0.2 against one of 0.2 and one of 0.8, beside the same legend.
    assert high > 2 * low


def test_nothing_known_draws_an_empty_place() -> None:
    nan = float("nan")
    assert plot_pickers([PickerBar("a", nan, nan, nan, nan, nan)], 5).startswith(b"\x89PNG")


@pytest.mark.parametrize("draw", [lambda: plot_agreement([5, 10], {"a, b": [(0.5, 0.4, 0.6), (0.8, 0.7, 0.9)]})])
def test_a_curve_for_each_pair(draw: Callable[[], bytes]) -> None:
    assert count_pixels(draw(), "#1f77b4") > 100
