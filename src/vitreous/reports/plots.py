"""Draw the report's figures. Each function takes plain data and returns the bytes of a PNG."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vitreous.reports.render import render_png

__all__ = [
    "LABEL_COLOURS",
    "plot_fsc",
    "plot_map_slices",
]

Floats = NDArray[np.float64]

LABEL_COLOURS = {
    "positive": "#2ca02c",
    "candidate": "#1f77b4",
    "score": "#ff7f0e",
    "ice": "#d62728",
    "aggregate": "#9467bd",
    "carbon": "#8c564b",
    "border": "#7f7f7f",
    "duplicate": "#bcbd22",
    "class": "#e377c2",
}


def plot_fsc(frequency_per_angstrom: Floats, curves: Sequence[tuple[str, Floats]], resolution_angstrom: float) -> bytes:
    """Draw Fourier shell correlation curves with the 0.143 line."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, values in curves:
        axes.plot(frequency_per_angstrom, values, linewidth=1.2, label=name)
    axes.axhline(0.143, color="grey", linestyle=":", linewidth=0.8)
    axes.axhline(0.0, color="black", linewidth=0.5)
    if np.isfinite(resolution_angstrom):
        axes.axvline(1 / resolution_angstrom, color="grey", linewidth=0.8)
        axes.set_title(f"gold-standard resolution {resolution_angstrom:.1f} Å at 0.143")
    axes.set(xlabel="spatial frequency (1/Å)", ylabel="FSC", ylim=(-0.2, 1.05), xlim=(0, None))
    axes.legend(fontsize=8)
    return render_png(figure)


def plot_map_slices(volume: NDArray[np.float32]) -> bytes:
    """Draw the three central sections of a map `(z, y, x)` and its projections along the axes."""
    figure = Figure(figsize=(9, 6.2), layout="constrained")
    grid = figure.subplots(2, 3)
    centre = [size // 2 for size in volume.shape]
    for axis, name in enumerate("zyx"):
        grid[0, axis].imshow(volume.take(centre[axis], axis=axis), cmap="gray", origin="upper")
        grid[0, axis].set_title(f"section at the centre of {name}", fontsize=8)
        grid[1, axis].imshow(volume.sum(axis=axis), cmap="gray", origin="upper")
        grid[1, axis].set_title(f"projection along {name}", fontsize=8)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    return render_png(figure)
