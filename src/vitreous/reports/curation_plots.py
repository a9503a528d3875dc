"""Draw how micrographs were judged. Each function returns the bytes of a PNG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vitreous.reports.render import render_png

__all__ = ["JudgedColumn", "plot_limits", "plot_rejected"]

_ACCEPTED, _REJECTED = "#2ca02c", "#d62728"


@dataclass(frozen=True)
class JudgedColumn:
    """A column of the micrographs and what is accepted of it.

    Attributes
    ----------
    name
        Of the column.
    values
        One for each micrograph, NaN where there is none.
    low, high
        Both ends are accepted; infinite where there is no limit.
    """

    name: str
    values: NDArray[np.float64]
    low: float
    high: float


def plot_limits(columns: Sequence[JudgedColumn], accepted: NDArray[np.bool_]) -> bytes:
    """Draw the distribution of every limited column, by verdict, with its limits."""
    per_row = 4
    n_rows = -(-len(columns) // per_row)
    figure = Figure(figsize=(11, 2.3 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, per_row, squeeze=False).ravel()
    for axes, column in zip(grid, columns, strict=False):
        found = np.isfinite(column.values)
        ends = [end for end in (column.low, column.high) if np.isfinite(end)]
        edges = np.histogram_bin_edges(np.append(column.values[found], ends), bins=24)
        parts = [column.values[found & accepted], column.values[found & ~accepted]]
        axes.hist(
            parts, bins=list(edges), stacked=True, color=[_ACCEPTED, _REJECTED], label=["accepted", "not accepted"]
        )
        for end in ends:
            axes.axvline(end, color="black", linewidth=1, linestyle="--")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(column.name, fontsize=9)
    grid[0].legend(fontsize=7)
    for axes in grid[len(columns) :]:
        axes.axis("off")
    return render_png(figure)


def plot_rejected(images: Sequence[NDArray[np.float32]], captions: Sequence[str]) -> bytes:
    """Draw shrunk micrographs that were not accepted, with the reason."""
    per_row = 6
    n_rows = -(-len(images) // per_row)
    figure = Figure(figsize=(11, 2.2 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, per_row, squeeze=False).ravel()
    for axes, image, caption in zip(grid, images, captions, strict=False):
        low, high = np.percentile(image, (1, 99))
        axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="upper")
        axes.set_title(caption, fontsize=7, wrap=True)
    for axes in grid:
        axes.axis("off")
    return render_png(figure)
