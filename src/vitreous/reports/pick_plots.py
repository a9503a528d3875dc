"""Draw picks: on micrographs, by their scores, and their scores against defocus. Each function returns the bytes of a PNG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from vitreous.reports.plots import LABEL_COLOURS
from vitreous.reports.render import render_png

__all__ = ["PickOverlay", "ScoreLimits", "ScoreTrend", "plot_pick_histogram", "plot_picks", "plot_score_trends"]

Floats = NDArray[np.float64]

_JUNK_COLOURS = ("", LABEL_COLOURS["carbon"], LABEL_COLOURS["ice"], LABEL_COLOURS["aggregate"])


@dataclass(frozen=True)
class PickOverlay:
    """A low-passed micrograph, its picks in pixels of that image, and the junk in it on a grid of its own."""

    name: str
    image: NDArray[np.float32]
    x_px: Floats
    y_px: Floats
    kind: Sequence[str]
    radius_px: float
    junk: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class ScoreTrend:
    """One score of micrographs: medians over their particles before and after calibration, `(n,)`."""

    label: str
    raw: Floats
    calibrated: Floats


@dataclass(frozen=True)
class ScoreLimits:
    """Where scores were cut; None where not."""

    score: float | None = None
    power: tuple[float | None, float | None] = field(default=(None, None))


def plot_picks(overlay: PickOverlay, side_inch: float = 5.0) -> bytes:
    """Draw a micrograph with a circle around every pick, coloured by label or reason, and its junk; row 0 is at the top."""
    ny, nx = overlay.image.shape
    figure = Figure(figsize=(side_inch, side_inch * ny / nx))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    low, high = np.percentile(overlay.image, (0.5, 99.5))
    axes.imshow(overlay.image, cmap="gray", vmin=low, vmax=high, origin="upper", interpolation="nearest")
    if overlay.junk is not None:
        _draw_junk(axes, overlay.junk, (ny, nx))
    points_per_px = side_inch * 72 / nx
    size = (2 * overlay.radius_px * points_per_px) ** 2
    kinds = np.asarray(overlay.kind)
    for kind, colour in LABEL_COLOURS.items():
        chosen = kinds == kind
        if chosen.any():
            axes.scatter(
                overlay.x_px[chosen],
                overlay.y_px[chosen],
                s=size,
                facecolors="none",
                edgecolors=colour,
                linewidths=1.6 if kind in {"positive", "candidate"} else 1.0,
            )
    axes.set(xlim=(-0.5, nx - 0.5), ylim=(ny - 0.5, -0.5))
    axes.axis("off")
    return render_png(figure)


def _draw_junk(axes: Axes, junk: NDArray[np.uint8], shape: tuple[int, int]) -> None:
    (my, mx), (ny, nx) = junk.shape, shape
    x, y = (np.arange(mx) + 0.5) * nx / mx - 0.5, (np.arange(my) + 0.5) * ny / my - 0.5
    for value in np.unique(junk[junk > 0]):
        inside = (junk == value).astype(np.float64)
        colour = _JUNK_COLOURS[int(value)]
        axes.contourf(x, y, inside, levels=[0.5, 1.5], colors=[colour], alpha=0.25)
        axes.contour(x, y, inside, levels=[0.5], colors=[colour], linewidths=1.2)


def _draw_limits(axes: Axes, limits: ScoreLimits) -> None:
    if limits.score is not None:
        axes.axvline(limits.score, color="black", linewidth=0.8, linestyle="--")
    for power in limits.power:
        if power is not None:
            axes.axhline(power, color="black", linewidth=0.8, linestyle="--")


def plot_pick_histogram(
    score: Floats, power: Floats, reason: Sequence[str], limits: ScoreLimits | None = None
) -> bytes:
    """Draw the two-dimensional histogram of score against local power, as the paper's Fig. 12, and what became of the candidates.

    Parameters
    ----------
    score, power
        Calibrated scores, `(n,)`.
    reason
        Why each was rejected; empty where it was kept.
    limits
        The cuts, drawn as broken lines.
    """
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    both, by_label = figure.subplots(1, 2)
    limits = limits or ScoreLimits()
    box = [(np.percentile(values, 0.2) - 1e-6, np.percentile(values, 99.8) + 1e-6) for values in (score, power)]
    counts, x_edges, y_edges = np.histogram2d(score, power, bins=60, range=box)
    most = max(2, int(counts.max()))
    shown = np.ma.masked_equal(counts.T, 0)
    mesh = both.pcolormesh(x_edges, y_edges, shown, cmap="viridis", norm=LogNorm(vmin=1, vmax=most))
    ticks = [step * 10**power for power in range(7) for step in (1, 2, 5) if step * 10**power <= most]
    bar = figure.colorbar(mesh, ax=both, label="candidates", ticks=FixedLocator(ticks), format="%g")
    bar.ax.minorticks_off()
    both.set_title("all candidates")
    reasons = np.asarray(reason)
    for name, count in zip(*np.unique(reasons, return_counts=True), strict=True):
        chosen = reasons == name
        label, colour = (name, LABEL_COLOURS.get(name, "#d62728")) if name else ("kept", LABEL_COLOURS["positive"])
        by_label.scatter(score[chosen], power[chosen], s=4, color=colour, label=f"{label} ({count})", linewidths=0)
    by_label.set_title("kept, and why not")
    by_label.legend(fontsize=8, markerscale=3)
    for axes in (both, by_label):
        _draw_limits(axes, limits)
        axes.set(xlabel="score, calibrated", ylabel="log10 local power, calibrated", xlim=box[0], ylim=box[1])
    return render_png(figure)


def plot_score_trends(defocus_angstrom: Floats, trends: Sequence[ScoreTrend]) -> bytes:
    """Draw micrographs' median scores against defocus before and after calibration, with lines through them (Fig. 11)."""
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    grid = figure.subplots(1, len(trends), squeeze=False)[0]
    micron = defocus_angstrom / 1e4
    for axes, trend in zip(grid, trends, strict=True):
        kinds: Mapping[str, tuple[Floats, str]] = {
            "raw": (trend.raw, "#7f7f7f"),
            "calibrated": (trend.calibrated, "#2ca02c"),
        }
        for name, (values, colour) in kinds.items():
            usable = np.isfinite(values) & np.isfinite(micron)
            axes.scatter(micron[usable], values[usable], s=18, color=colour)
            label = name
            if usable.sum() >= 3 and np.ptp(micron[usable]) > 0 and np.ptp(values[usable]) > 0:
                slope, offset = np.polyfit(micron[usable], values[usable], 1)
                ends = np.array([micron[usable].min(), micron[usable].max()])
                r = float(np.corrcoef(micron[usable], values[usable])[0, 1])
                label = f"{name}: {slope:+.3g} per µm, r = {r:+.2f}"
                axes.plot(ends, slope * ends + offset, color=colour, linewidth=1)
            axes.scatter([], [], s=18, color=colour, label=label)
        axes.set(xlabel="mean defocus (µm)", ylabel=f"median {trend.label} of particles")
        axes.legend(fontsize=8)
    return render_png(figure)
