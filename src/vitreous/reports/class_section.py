"""2D classes in the report: the gallery, as the paper's Fig. 8, and what the set is worth as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vitreous.io.stacks import read_averages
from vitreous.ops.class_statistics import compute_weighted_resolution
from vitreous.reports.render import render_png

__all__ = ["ClassPicture", "draw_classes", "plot_class_gallery"]

_COLUMNS = 8
_SELECTED, _REJECTED, _UNDECIDED = "#2ca02c", "#d62728", "#7f7f7f"
_BEST = (50, 10)


@dataclass(frozen=True)
class ClassPicture:
    """One class average `(y, x)`, the lines above and below it, and whether it is selected; None before that was decided."""

    image: NDArray[np.float32]
    above: str
    below: str
    selected: bool | None


def plot_class_gallery(pictures: Sequence[ClassPicture]) -> bytes:
    """Draw class averages, framed green where selected and red where rejected."""
    columns = min(_COLUMNS, max(1, len(pictures)))
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(1.5 * columns, 1.95 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes, picture in zip(grid, pictures, strict=False):
        low, high = np.percentile(picture.image, (0.5, 99.8))
        axes.imshow(picture.image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="upper")
        axes.set_title(picture.above, fontsize=8, pad=3)
        colour = _UNDECIDED if picture.selected is None else _SELECTED if picture.selected else _REJECTED
        axes.set_xlabel(picture.below, fontsize=8, color=colour, labelpad=3)
        for spine in axes.spines.values():
            spine.set(color=colour, linewidth=2.5)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
    for axes in grid[len(pictures) :]:
        axes.axis("off")
    return render_png(figure)


def _describe(row: Mapping[str, object]) -> tuple[str, str]:
    resolution, share, score = row["resolution_angstrom"], row["share"], row["score"]
    above = f"{row['class_id']}: {row['n_particles']}"
    above += f" ({share:.1%})" if isinstance(share, float) else ""
    words = [f"{resolution:.1f} Å"] if isinstance(resolution, float) else []
    words += [f"{score:.2f}"] if isinstance(score, float) else []
    words += [str(row["reason"])] if row["reason"] else []
    return above, ", ".join(words)


def _summarise(classes: pl.DataFrame) -> str:
    """Return the line over the gallery."""
    decided = classes["selected"].null_count() < classes.height
    chosen = classes.filter("selected") if decided else classes
    text = (
        f"{chosen.height} of {classes.height} classes selected (green), {chosen['n_particles'].sum()} of "
        f"{classes['n_particles'].sum()} particles; rejected ones (red) come last."
        if decided
        else f"{classes.height} classes, {classes['n_particles'].sum()} particles, none selected yet."
    )
    for n_best in _BEST:
        resolution = chosen["resolution_angstrom"].to_numpy()
        found = compute_weighted_resolution(resolution, chosen["n_particles"].to_numpy(), n_best)
        if found is not None and (found.n_classes == n_best or n_best == _BEST[0]):
            text += (
                f" Weighted average resolution of the {found.n_classes} largest: {found.mean_angstrom:.2f} Å "
                f"(95 %: {found.low_angstrom:.2f} to {found.high_angstrom:.2f})."
            )
    return f"{text} Above each: number, particles, share; below: resolution, score, reason."


def draw_classes(root: Path, tables: Mapping[str, pl.DataFrame]) -> list[tuple[str, bytes]]:
    """Draw the class averages: the selected ones first, the largest first."""
    if "classes" not in tables or not tables["classes"].height:
        return []
    order = ["selected", "n_particles"]
    classes = tables["classes"].sort(*order, descending=True, nulls_last=True, maintain_order=True)
    pictures = [
        ClassPicture(image, *_describe(row), selected=row["selected"])
        for image, row in zip(read_averages(root, classes), classes.iter_rows(named=True), strict=True)
    ]
    return [(_summarise(classes), plot_class_gallery(pictures))]
