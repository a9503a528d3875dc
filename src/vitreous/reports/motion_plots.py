"""Draw the motion of movies, as the paper's Fig. 5. Each function returns the bytes of a PNG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vitreous.reports.render import render_png

__all__ = ["PatchMotion", "Track", "plot_motion_overview", "plot_patch_motion"]

Floats = NDArray[np.float64]

_USED, _NOT_USED, _WHOLE, _PATCH = "#2ca02c", "#7f7f7f", "#1f4e79", "#e08214"
_N_OPAQUE = 15
"""So many lines are still told apart when drawn opaque."""


@dataclass(frozen=True)
class Track:
    """Motion of one movie.

    Attributes
    ----------
    name
        Of the micrograph.
    x_angstrom, y_angstrom
        Displacement of the content of the whole frame relative to the first, `(n,)`.
    total_angstrom, local_angstrom
        Length of that path; greatest local displacement beside it, 0 where the frame moves as a whole.
    significance
        Of local motion, in standard errors.
    is_local
        Whether local motion was corrected.
    """

    name: str
    x_angstrom: Floats
    y_angstrom: Floats
    total_angstrom: float
    local_angstrom: float
    significance: float
    is_local: bool


@dataclass(frozen=True)
class PatchMotion:
    """Local motion of one movie, beside that of its whole frame.

    Attributes
    ----------
    track
        Motion of the whole.
    image
        The micrograph, shrunk.
    pixel_size_angstrom
        Of that image.
    patch_x_px, patch_y_px
        Centres of the patches in that image, `(P,)`.
    patch_x_angstrom, patch_y_angstrom
        Local displacement, `(P, n)`.
    """

    track: Track
    image: NDArray[np.float32]
    pixel_size_angstrom: float
    patch_x_px: Floats
    patch_y_px: Floats
    patch_x_angstrom: Floats
    patch_y_angstrom: Floats


def _choose_round(value: float, digits: Sequence[int]) -> float:
    """Return the largest number of one of the digits and zeros that is not above the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(digit * power for digit in digits if digit * power <= value * (1 + 1e-9))


def plot_motion_overview(tracks: Sequence[Track]) -> bytes:
    """Draw the whole-frame motion of all movies, how far they moved, and where local motion was corrected."""
    # Margins by hand: to find them, the layout engine takes longer than all the drawing.
    figure = Figure(figsize=(11, 6.2))
    grid = {"left": 0.06, "right": 0.985, "bottom": 0.085, "top": 0.95, "wspace": 0.25, "hspace": 0.38}
    (path, along_x, along_y), (lengths, local, evidence) = figure.subplots(2, 3, gridspec_kw=grid)
    many = len(tracks) > _N_OPAQUE
    alpha = max(0.2, _N_OPAQUE / len(tracks)) if many else 1.0
    for track in tracks:
        frames = np.arange(1, len(track.x_angstrom) + 1)
        style = {"color": _WHOLE if many else None, "linewidth": 0.7 if many else 1.0, "alpha": alpha}
        path.plot(track.x_angstrom, track.y_angstrom, marker=None if many else ".", markersize=3, **style)
        along_x.plot(frames, track.x_angstrom, **style)
        along_y.plot(frames, track.y_angstrom, **style)
    path.plot(0, 0, marker="+", color="black", markersize=9, zorder=3)
    path.set(xlabel="x (Å)", ylabel="y (Å)", title="whole-frame trajectories, + first frame")
    path.invert_yaxis()
    path.set_aspect("equal", adjustable="datalim")
    along_x.set(xlabel="frame", ylabel="x (Å)", title="x against frame")
    along_y.set(xlabel="frame", ylabel="y (Å)", title="y against frame")
    total, most = np.array([[track.total_angstrom, track.local_angstrom] for track in tracks]).T
    used = np.array([track.is_local for track in tracks])
    lengths.hist(total, bins=min(20, max(3, len(tracks) // 3)), color=_WHOLE, edgecolor="white")
    lengths.set(xlabel="path of the whole frame (Å)", ylabel="movies", title="total motion")
    lengths.yaxis.set_major_locator(MaxNLocator(integer=True))
    significance = np.array([track.significance for track in tracks])
    for chosen, colour, label in ((used, _USED, "local motion corrected"), (~used, _NOT_USED, "corrected as a whole")):
        if chosen.any():
            shade = {"s": 18, "color": colour, "alpha": max(0.4, alpha)}
            local.scatter(total[chosen], most[chosen], clip_on=False, zorder=3, **shade)
            evidence.scatter(total[chosen], significance[chosen], label=label, **shade)
    local.set(xlabel="path of the whole frame (Å)", ylabel="greatest local motion (Å)", title="local motion")
    local.set_ylim(0, max(1.0, 1.1 * float(most.max())))
    evidence.set_ylim(min(0.0, 1.2 * float(significance.min())), max(5.0, 1.25 * float(significance.max())))
    evidence.set(xlabel="path of the whole frame (Å)", ylabel="standard errors", title="significance of local motion")
    evidence.legend(fontsize=8)
    return render_png(figure)


def _draw_patches(axes: Axes, motion: PatchMotion) -> LineCollection:
    """Draw the path of every patch over the micrograph, exaggerated; return the lines, coloured by frame."""
    ny, nx = motion.image.shape
    low, high = np.percentile(motion.image, (1, 99))
    axes.imshow(motion.image, cmap="gray", vmin=low - 1.2 * (high - low), vmax=high, origin="upper")
    step = math.sqrt(nx * ny / len(motion.patch_x_px))
    reach = float(np.hypot(motion.patch_x_angstrom, motion.patch_y_angstrom).max())
    drawn_px_per_angstrom = 0.8 * step / max(reach, 1e-3)
    factor = _choose_round(drawn_px_per_angstrom * motion.pixel_size_angstrom, range(1, 10))
    scale = factor / motion.pixel_size_angstrom
    x = motion.patch_x_px[:, None] + scale * motion.patch_x_angstrom
    y = motion.patch_y_px[:, None] + scale * motion.patch_y_angstrom
    points = np.stack([x, y], axis=-1)
    segments = np.stack([points[:, :-1], points[:, 1:]], axis=2).reshape(-1, 2, 2)
    numbers = np.tile(np.arange(2, x.shape[1] + 1), len(x))
    lines = LineCollection(list(segments), cmap="plasma", norm=Normalize(1, x.shape[1]), linewidths=2, clip_on=False)
    lines.set_array(numbers)
    axes.add_collection(lines)
    axes.scatter(motion.patch_x_px, motion.patch_y_px, s=6, color="black", zorder=3)
    length = _choose_round(0.25 * nx / scale, (1, 2, 5))
    # Below the image, which the paths of the lowest patches may reach the edge of.
    left, right, level = 0.02 * nx, 0.02 * nx + length * scale, 1.08 * ny
    axes.plot([left, right], [level, level], color="black", linewidth=3, solid_capstyle="butt")
    axes.text(right + 0.02 * nx, level, f"{length:g} Å of motion (drawn {factor:g} times)", va="center", fontsize=9)
    axes.set(xlim=(-0.5, nx - 0.5), ylim=(1.14 * ny, -0.5))
    axes.axis("off")
    axes.set_title("patches (dots) beside the whole frame")
    return lines


def _add_lines(axes: Axes, x: Floats, y: Floats) -> None:
    """Draw a line for each patch, `(P, n)`, all as one: the layout asks every artist for its extent."""
    lines = LineCollection(list(np.stack([x, y], axis=-1)), colors=_PATCH, linewidths=0.7, alpha=0.6, label="patches")
    axes.add_collection(lines)
    axes.autoscale_view()


def plot_patch_motion(motion: PatchMotion) -> bytes:
    """Draw a movie's patch trajectories over its micrograph, and the track of the whole frame with those of the patches."""
    figure = Figure(figsize=(11, 4.6))
    over = figure.add_axes((0.015, 0.02, 0.33, 0.9))
    grid = figure.add_gridspec(
        2, 2, width_ratios=(1.05, 1.25), left=0.47, right=0.985, bottom=0.11, top=0.93, wspace=0.27, hspace=0.35
    )
    path = figure.add_subplot(grid[:, 0])
    lines = _draw_patches(over, motion)
    scale = figure.add_axes((0.37, 0.16, 0.012, 0.7))
    figure.colorbar(lines, cax=scale)
    scale.set_title("frame", fontsize=9)
    track = motion.track
    _add_lines(path, track.x_angstrom + motion.patch_x_angstrom, track.y_angstrom + motion.patch_y_angstrom)
    path.plot(track.x_angstrom, track.y_angstrom, color=_WHOLE, marker=".", markersize=4, linewidth=1.2)
    path.plot(0, 0, marker="+", color="black", markersize=9, zorder=3)
    path.set(xlabel="x (Å)", ylabel="y (Å)", title="trajectories, + first frame")
    path.invert_yaxis()
    path.set_aspect("equal", adjustable="datalim")
    frames = np.arange(1, len(track.x_angstrom) + 1)
    rows = (
        ("x", track.x_angstrom, motion.patch_x_angstrom),
        ("y", track.y_angstrom, motion.patch_y_angstrom),
    )
    for row, (name, whole, patches) in enumerate(rows):
        axes = figure.add_subplot(grid[row, 1])
        _add_lines(axes, np.broadcast_to(frames, patches.shape), whole + patches)
        axes.plot(frames, whole, color=_WHOLE, marker=".", markersize=4, linewidth=1.2, label="whole frame")
        axes.set(xlabel="frame" if row else None, ylabel=f"{name} (Å)", title=f"{name} against frame")
        if row == 0:
            axes.legend(fontsize=8)
    return render_png(figure)
