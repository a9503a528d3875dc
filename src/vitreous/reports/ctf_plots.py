"""Draw the CTF of micrographs, as the paper's Fig. 6. Each function returns the bytes of a PNG."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vitreous.reports.render import render_png

__all__ = ["CtfFigure", "Landscape", "plot_ctf", "plot_ctf_overview"]

Floats = NDArray[np.float64]

_SPECTRUM, _MODEL, _CORRELATION, _REACH = "#4d4d4d", "#d62728", "#1f77b4", "#2ca02c"
_ACCEPTED, _REJECTED = "#2ca02c", "#d62728"
_CORRELATION_LIMIT = 0.3


@dataclass(frozen=True)
class Landscape:
    """Defocus over a micrograph.

    Attributes
    ----------
    x_px, y_px
        Columns and rows of the grid, `(n_x,)` and `(n_y,)`.
    defocus_angstrom
        Of the fitted surface there, `(n_y, n_x)`.
    tile_x_px, tile_y_px, tile_defocus_angstrom
        Centres of the tiles, and the defocus that each of them alone fits best, `(T,)`.
    """

    x_px: Floats
    y_px: Floats
    defocus_angstrom: Floats
    tile_x_px: Floats
    tile_y_px: Floats
    tile_defocus_angstrom: Floats


@dataclass(frozen=True)
class CtfFigure:
    """What is drawn of one micrograph.

    Attributes
    ----------
    name
        Of the micrograph.
    frequency_per_angstrom, spectrum, ctf_squared, correlation
        Spectrum averaged along lines of equal phase, model, and correlation of both around each frequency, `(n,)`.
    resolution_angstrom
        Where the correlation falls below 0.3.
    defocus_angstrom, defocus_error_angstrom
        Mean over the micrograph and its standard error.
    search_defocus_angstrom, search_score
        Correlation at each defocus that was searched, `(m,)`.
    spectrum_beside_ctf
        The spectrum (left half) and the model (right half), 0 to 255, `(n, n)`, frequency 0 in the middle; empty if not kept.
    k_max_per_angstrom
        At the edges of that picture.
    landscape
        None where no surface was fitted.
    """

    name: str
    frequency_per_angstrom: Floats
    spectrum: Floats
    ctf_squared: Floats
    correlation: Floats
    resolution_angstrom: float
    defocus_angstrom: float
    defocus_error_angstrom: float
    search_defocus_angstrom: Floats
    search_score: Floats
    spectrum_beside_ctf: Floats
    k_max_per_angstrom: float
    landscape: Landscape | None


def plot_ctf_overview(
    defocus_angstrom: Floats,
    error_angstrom: Floats,
    astigmatism_angstrom: Floats,
    resolution_angstrom: Floats,
    accepted: NDArray[np.bool_],
) -> bytes:
    """Draw the distribution of defocus, astigmatism and fit resolution over micrographs."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    histogram, astigmatism, resolution = figure.subplots(1, 3)
    micron = defocus_angstrom / 1e4
    histogram.hist(micron, bins=min(20, max(3, len(micron) // 3)), color="#4c78a8", edgecolor="white")
    histogram.yaxis.set_major_locator(MaxNLocator(integer=True))
    histogram.set(xlabel="mean defocus (µm)", ylabel="micrographs", title="defocus")
    if np.isfinite(error_angstrom).any():
        histogram.set_title(f"defocus, ± {np.nanmedian(error_angstrom):.0f} Å each (median)")
    for axes, values, title in (
        (astigmatism, astigmatism_angstrom, "astigmatism"),
        (resolution, resolution_angstrom, "fit"),
    ):
        for chosen, colour, label in ((accepted, _ACCEPTED, "accepted"), (~accepted, _REJECTED, "not accepted")):
            if chosen.any():
                axes.scatter(micron[chosen], values[chosen], s=16, color=colour, label=label)
        axes.set(xlabel="mean defocus (µm)", title=title)
    astigmatism.set_ylabel("U - V (Å)")
    resolution.set_ylabel("CTF fit resolution (Å)")
    resolution.legend(fontsize=8)
    return render_png(figure)


def _draw_search(axes: Axes, data: CtfFigure) -> None:
    axes.plot(data.search_defocus_angstrom / 1e4, data.search_score, color=_CORRELATION, linewidth=0.8)
    axes.axvline(data.defocus_angstrom / 1e4, color=_REACH, linewidth=1, zorder=0)
    axes.set(xlabel="defocus (µm)", ylabel="correlation", title="search over defocus")


def _draw_profile(axes: Axes, data: CtfFigure) -> None:
    k = data.frequency_per_angstrom
    axes.plot(k, data.spectrum, color=_SPECTRUM, linewidth=0.9, label="spectrum")
    axes.plot(k, data.ctf_squared, color=_MODEL, linewidth=0.9, label="CTF²")
    axes.plot(k, data.correlation, color=_CORRELATION, linewidth=1.4, label="correlation")
    axes.axhline(_CORRELATION_LIMIT, color="black", linewidth=0.7, linestyle=":")
    axes.text(k[-1], _CORRELATION_LIMIT, f" {_CORRELATION_LIMIT}", va="center", fontsize=8)
    if np.isfinite(data.resolution_angstrom):
        axes.axvline(
            1 / data.resolution_angstrom, color=_REACH, linewidth=1.2, label=f"{data.resolution_angstrom:.1f} Å"
        )
    axes.set(
        xlabel="spatial frequency (1/Å)",
        ylabel="relative power, correlation",
        xlim=(k[0], k[-1]),
        ylim=(-0.75, 1.3),
        title="spectrum and model",
    )
    axes.legend(fontsize=8, loc="lower left", ncols=4)


def _draw_halves(axes: Axes, data: CtfFigure) -> None:
    reach = data.k_max_per_angstrom
    axes.imshow(data.spectrum_beside_ctf, cmap="gray", extent=(-reach, reach, reach, -reach), origin="upper")
    axes.axvline(0, color=_REACH, linewidth=0.8)
    axes.set(xlabel="k along x (1/Å)", ylabel="k along y (1/Å)", title="spectrum | CTF²")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _draw_landscape(axes: Axes, landscape: Landscape) -> AxesImage:
    """Draw the surface, and the tiles' own defocus in dots of the same colours."""
    surface, tiles = landscape.defocus_angstrom, landscape.tile_defocus_angstrom
    least, most = np.percentile(tiles, (10, 90))
    low, high = min(float(surface.min()), least) / 1e4, max(float(surface.max()), most, least + 1) / 1e4
    x, y = landscape.x_px, landscape.y_px
    image = axes.imshow(
        surface / 1e4,
        cmap="viridis",
        vmin=low,
        vmax=high,
        extent=(x[0] - 0.5, x[-1] + 0.5, y[-1] + 0.5, y[0] - 0.5),
        origin="upper",
        interpolation="bilinear",
    )
    axes.scatter(
        landscape.tile_x_px,
        landscape.tile_y_px,
        c=tiles / 1e4,
        cmap="viridis",
        vmin=low,
        vmax=high,
        s=22,
        edgecolors="white",
        linewidths=0.6,
    )
    axes.set(xlabel="x (px)", ylabel="y (px)", title="defocus (tiles alone: dots)")
    return image


def plot_ctf(data: CtfFigure) -> bytes:
    """Draw a micrograph's search over defocus, its spectrum against the model in one and two dimensions, and its landscape."""
    figure = Figure(figsize=(11, 7.6), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(1, 1.5))
    _draw_search(figure.add_subplot(grid[0, :2]), data)
    _draw_profile(figure.add_subplot(grid[0, 2:]), data)
    if data.spectrum_beside_ctf.size:
        _draw_halves(figure.add_subplot(grid[1, :3]), data)
    if data.landscape is not None:
        axes = figure.add_subplot(grid[1, 3:])
        figure.colorbar(_draw_landscape(axes, data.landscape), ax=axes, label="µm", shrink=0.85, format="%.3f")
    figure.suptitle(f"{data.name}: {data.defocus_angstrom:.0f} ± {data.defocus_error_angstrom:.0f} Å", fontsize=11)
    return render_png(figure)
