"""Draw the report's figures. Each function takes plain data and returns the bytes of a PNG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from vitreous.reports.render import render_png

__all__ = [
    "LABEL_COLOURS",
    "PickOverlay",
    "plot_class_gallery",
    "plot_fsc",
    "plot_map_slices",
    "plot_pick_histogram",
    "plot_picks",
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


@dataclass(frozen=True)
class PickOverlay:
    """A low-passed micrograph, and its picks in pixels of that image."""

    name: str
    image: NDArray[np.float32]
    x_px: Floats
    y_px: Floats
    kind: Sequence[str]
    radius_px: float


def plot_picks(overlay: PickOverlay, side_inch: float = 5.0) -> bytes:
    """Draw a micrograph with a circle around every pick, coloured by label or reason; row 0 is at the top."""
    ny, nx = overlay.image.shape
    figure = Figure(figsize=(side_inch, side_inch * ny / nx))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    low, high = np.percentile(overlay.image, (0.5, 99.5))
    axes.imshow(overlay.image, cmap="gray", vmin=low, vmax=high, origin="upper", interpolation="nearest")
    points_per_px = side_inch * 72 / nx
    size = (2 * overlay.radius_px * points_per_px) ** 2
    kinds = np.asarray(overlay.kind)
    for kind in LABEL_COLOURS:
        chosen = kinds == kind
        if chosen.any():
            line = 1.6 if kind in {"positive", "candidate"} else 1.0
            axes.scatter(
                overlay.x_px[chosen],
                overlay.y_px[chosen],
                s=size,
                facecolors="none",
                edgecolors=LABEL_COLOURS[kind],
                linewidths=line,
            )
    axes.set(xlim=(-0.5, nx - 0.5), ylim=(ny - 0.5, -0.5))
    axes.axis("off")
    return render_png(figure)


def plot_class_gallery(images: NDArray[np.float32], captions: Sequence[str], selected: Sequence[bool]) -> bytes:
    """Draw class averages `(n, y, x)`, framed green where selected and red where not."""
    columns = min(8, max(1, len(captions)))
    rows = -(-len(captions) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.75 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes, image, caption, chosen in zip(grid, images, captions, selected, strict=False):
        axes.imshow(image, cmap="gray", origin="upper")
        axes.set_title(caption, fontsize=8)
        for spine in axes.spines.values():
            spine.set(color="#2ca02c" if chosen else "#d62728", linewidth=2)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
    for axes in grid[len(captions) :]:
        axes.axis("off")
    return render_png(figure)


def plot_pick_histogram(ncc: Floats, power: Floats, kept: NDArray[np.bool_]) -> bytes:
    """Draw the two-dimensional histogram of NCC against local power, as the paper's Fig. 12, and what was kept of it."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    both, by_label = figure.subplots(1, 2)
    limits = [(np.percentile(values, 0.2) - 1e-6, np.percentile(values, 99.8) + 1e-6) for values in (ncc, power)]
    counts, x_edges, y_edges = np.histogram2d(ncc, power, bins=60, range=limits)
    most = max(2, int(counts.max()))
    shown = np.ma.masked_equal(counts.T, 0)
    mesh = both.pcolormesh(x_edges, y_edges, shown, cmap="viridis", norm=LogNorm(vmin=1, vmax=most))
    ticks = [step * 10**power for power in range(7) for step in (1, 2, 5) if step * 10**power <= most]
    bar = figure.colorbar(mesh, ax=both, label="candidates", ticks=FixedLocator(ticks), format="%g")
    bar.ax.minorticks_off()
    both.set(xlabel="NCC", ylabel="log10 local power", title="all candidates")
    by_label.scatter(ncc[~kept], power[~kept], s=4, color="#d62728", label="negative")
    by_label.scatter(ncc[kept], power[kept], s=4, color="#2ca02c", label="kept")
    by_label.set(xlabel="NCC", ylabel="log10 local power", title="kept and rejected")
    by_label.legend(fontsize=8, markerscale=4)
    return render_png(figure)


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
