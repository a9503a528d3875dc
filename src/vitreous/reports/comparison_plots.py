"""Figures that compare pickers and annotators, as bytes of a PNG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vitreous.reports.render import render_png

__all__ = ["MatchedClasses", "PickerBar", "plot_agreement", "plot_matched_classes", "plot_pickers"]

_MATCHES_IN_ROW = 8
_COLOURS = {"precision": "#4c78a8", "recall": "#f58518", "F1": "#54a24b"}


@dataclass(frozen=True)
class PickerBar:
    """Scores of one picker, 0 to 1; not-a-number where there is none. `marked`: say that its training data overlap."""

    name: str
    precision: float
    recall: float
    f1: float
    f1_low: float
    f1_high: float
    marked: bool = False


def plot_pickers(bars: Sequence[PickerBar], radius_px: float) -> bytes:
    """Draw precision, recall and F1 (with its 95 % interval) of every picker."""
    figure = Figure(figsize=(2.4 + 1.5 * len(bars), 3.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(bars))
    for i, (label, values) in enumerate(
        (
            ("precision", [bar.precision for bar in bars]),
            ("recall", [bar.recall for bar in bars]),
            ("F1", [bar.f1 for bar in bars]),
        )
    ):
        axes.bar(places + 0.26 * (i - 1), values, 0.24, label=label, color=_COLOURS[label])
    f1 = np.array([bar.f1 for bar in bars])
    ends = np.array([[bar.f1_low, bar.f1_high] for bar in bars]).reshape(-1, 2)
    spread = np.clip(np.abs(ends.T - f1), 0, None)
    axes.errorbar(places + 0.26, f1, spread, fmt="none", ecolor="black", capsize=3, linewidth=1)
    names = [f"{bar.name}*" if bar.marked else bar.name for bar in bars]
    axes.set_xticks(places, names)
    axes.set(ylim=(0, 1.02), ylabel="score", title=f"picks against labels within {radius_px:g} px")
    axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, -0.12), frameon=False)
    if any(bar.marked for bar in bars):
        figure.supxlabel("* trained on these data", fontsize="small", x=0.99, ha="right")
    return render_png(figure)


def plot_agreement(radii_px: Sequence[float], f1: Mapping[str, Sequence[tuple[float, float, float]]]) -> bytes:
    """Draw the F1 of every pair of annotators against the matching radius, with its 95 % interval.

    Parameters
    ----------
    radii_px
        The radii, ascending.
    f1
        For each pair, at each radius: F1, lower and upper end of the interval.
    """
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, values in f1.items():
        middle, low, high = np.array(values).T
        line = axes.plot(radii_px, middle, marker="o", label=name)[0]
        axes.fill_between(radii_px, low, high, alpha=0.2, color=line.get_color())
    axes.set(xlabel="matching radius (px)", ylabel="F1 = positive agreement", ylim=(0, 1.02))
    axes.legend(frameon=False)
    return render_png(figure)


@dataclass(frozen=True)
class MatchedClasses:
    """Two averages `(y, x)` of one view, the second laid over the first, a line on each, and their correlation.

    Where a view has no partner, that is None, and so is the correlation.
    """

    first: NDArray[np.float32] | None
    second: NDArray[np.float32] | None
    first_caption: str
    second_caption: str
    correlation: float | None


def plot_matched_classes(first: str, second: str, matches: Sequence[MatchedClasses]) -> bytes:
    """Draw class averages, those of `first` above those of `second` that they match, as the paper's Figs. 13 and 14."""
    columns = min(_MATCHES_IN_ROW, max(1, len(matches)))
    rows = max(1, -(-len(matches) // columns))
    figure = Figure(figsize=(1.4 * columns + 0.5, 3.5 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.set_visible(False)
    for k, match in enumerate(matches):
        upper, lower = grid[2 * (k // columns), k % columns], grid[2 * (k // columns) + 1, k % columns]
        for axes, image in ((upper, match.first), (lower, match.second)):
            axes.set_visible(True)
            if image is None:
                axes.set_frame_on(False)
                continue
            low, high = np.percentile(image, (0.5, 99.8))
            axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="upper")
        upper.set_title(match.first_caption, fontsize=8)
        lower.set_title(match.second_caption, fontsize=8)
        alike = "no partner" if match.correlation is None else f"correlation {match.correlation:.2f}"
        lower.set_xlabel(alike, fontsize=8)
        if k % columns == 0:
            upper.set_ylabel(first, fontsize=9)
            lower.set_ylabel(second, fontsize=9)
    return render_png(figure)
