"""Draw the report's figures. Each function takes plain data and returns the bytes of a PNG."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from vitreous.reports.render import render_png

__all__ = [
    "LABEL_COLOURS",
    "CtfCurve",
    "PickOverlay",
    "plot_ctf_curve",
    "plot_ctf_overview",
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
class CtfCurve:
    """One micrograph's spectrum and fit against frequency (1/Å), and its search over defocus (Å)."""

    name: str
    frequency_per_angstrom: Floats
    spectrum: Floats
    ctf_squared: Floats
    correlation: Floats
    resolution_angstrom: float
    search_defocus_angstrom: Floats
    search_score: Floats


@dataclass(frozen=True)
class PickOverlay:
    """A low-passed micrograph, and its picks in pixels of that image."""

    name: str
    image: NDArray[np.float32]
    x_px: Floats
    y_px: Floats
    kind: Sequence[str]
    radius_px: float


def plot_ctf_overview(
    defocus_angstrom: Floats, astigmatism_angstrom: Floats, resolution_angstrom: Floats, accepted: NDArray[np.bool_]
) -> bytes:
    """Draw the distribution of defocus, astigmatism and fit resolution over micrographs."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    histogram, astigmatism, resolution = figure.subplots(1, 3)
    micron = defocus_angstrom / 1e4
    histogram.hist(micron, bins=min(20, max(3, len(micron) // 3)), color="#4c78a8", edgecolor="white")
    histogram.yaxis.set_major_locator(MaxNLocator(integer=True))
    histogram.set(xlabel="mean defocus (µm)", ylabel="micrographs", title="defocus")
    for axes, values, title in (
        (astigmatism, astigmatism_angstrom, "astigmatism"),
        (resolution, resolution_angstrom, "fit"),
    ):
        for chosen, colour, label in ((accepted, "#2ca02c", "accepted"), (~accepted, "#d62728", "not accepted")):
            if chosen.any():
                axes.scatter(micron[chosen], values[chosen], s=16, color=colour, label=label)
        axes.set(xlabel="mean defocus (µm)", title=title)
    astigmatism.set_ylabel("U - V (Å)")
    resolution.set_ylabel("CTF fit resolution (Å)")
    resolution.legend(fontsize=8)
    return render_png(figure)


def plot_ctf_curve(curve: CtfCurve) -> bytes:
    """Draw one micrograph's defocus search and its spectrum against the fitted CTF, as the paper's Fig. 6."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    search, fit = figure.subplots(1, 2, width_ratios=(1, 2))
    search.plot(curve.search_defocus_angstrom / 1e4, curve.search_score, linewidth=0.8)
    search.set(xlabel="defocus (µm)", ylabel="score", title="search")
    fit.plot(curve.frequency_per_angstrom, curve.spectrum, color="black", linewidth=0.9, label="spectrum")
    fit.plot(curve.frequency_per_angstrom, curve.ctf_squared, color="#d62728", linewidth=0.9, label="CTF²")
    fit.plot(curve.frequency_per_angstrom, curve.correlation, color="#17becf", linewidth=1.1, label="correlation")
    fit.axhline(0.3, color="grey", linewidth=0.6, linestyle=":")
    if np.isfinite(curve.resolution_angstrom):
        label = f"{curve.resolution_angstrom:.1f} Å"
        fit.axvline(1 / curve.resolution_angstrom, color="#2ca02c", linewidth=1, label=label)
    fit.set(xlabel="spatial frequency (1/Å)", ylabel="relative power, correlation", ylim=(-0.75, 1.3), title=curve.name)
    fit.legend(fontsize=8, loc="lower left", ncols=4)
    return render_png(figure)


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
