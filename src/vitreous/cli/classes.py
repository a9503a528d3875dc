"""Comparison of two classifications: which averages show the same view, how large and how fine they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from vitreous.engine.project import open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.errors import InputFileError, ProjectError
from vitreous.io.atomic import open_for_replacement, write_json
from vitreous.io.class_averages import ClassAverages, read_class_averages
from vitreous.io.stacks import read_averages
from vitreous.ops.class_matching import AverageMatches, assign_averages, compare_averages, compute_divergence, lay_over
from vitreous.ops.class_statistics import WeightedResolution, compute_weighted_resolution
from vitreous.ops.fourier import apply_fourier_crop_2d, irfft2, rfft2

__all__ = [
    "LEAST_CORRELATION",
    "ClassComparison",
    "compare_classifications",
    "describe_comparison",
    "is_classification",
    "read_classification",
]

LEAST_CORRELATION = 0.8
"""Averages that correlate less show different views: their outlines alone bring most to a half or more."""

_MAX_SHIFT = 0.05
_MOST_PX = 64
_BEST = (50, 10)


class ClassificationSummary(BaseModel):
    """One of the two classifications."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: str
    n_classes: int = Field(
        description="classes compared: the selected ones of a project, all that are not empty of a file"
    )
    n_particles: int | None = Field(description="in these classes; null where unknown")
    weighted_resolution: dict[str, WeightedResolution | None] = Field(
        description="of the 50 and of the 10 classes of most particles; null where sizes or resolutions are unknown"
    )
    matched_share: float = Field(
        description="share of its particles (of its classes, where unknown) in matched classes"
    )


class ClassPair(BaseModel):
    """Two averages that show one view."""

    model_config = ConfigDict(frozen=True)

    first: int = Field(description="class number")
    second: int
    correlation: float
    angle_deg: float = Field(description="turn of the second, after its mirror, onto the first, from +x towards +y")
    is_mirrored: bool
    n_first: int | None
    n_second: int | None
    resolution_first_angstrom: float | None
    resolution_second_angstrom: float | None


class ClassComparison(BaseModel):
    """Two classifications."""

    model_config = ConfigDict(frozen=True)

    first: ClassificationSummary
    second: ClassificationSummary
    least_correlation: float = Field(description="pairs that correlate less are no pairs")
    pairs: tuple[ClassPair, ...] = Field(description="matched one to one, the most alike first")
    only_first: tuple[int, ...] = Field(description="classes without a partner")
    only_second: tuple[int, ...]
    view_divergence_bits: float = Field(
        description="Jensen-Shannon divergence of the particles over views: 0 the same, 1 nothing in common; a view is a class "
        "of the first, and classes of the second belong to the one they are most like"
    )


@dataclass(frozen=True)
class Classification:
    """Averages by name and path."""

    name: str
    path: Path
    averages: ClassAverages


def is_classification(path: Path) -> bool:
    """Return whether a path names a project with classes, a model of RELION or a stack."""
    if (path / "project.toml").is_file():
        project = open_project(path)
        return "classes" in read_current_tables(project, read_current_records(project))
    return path.name.endswith("_model.star") or path.suffix in {".mrcs", ".mrc"}


def read_classification(name: str, path: Path) -> Classification:
    """Read the selected classes of a project (all before selection), or all non-empty ones of a RELION model or a stack.

    Raises
    ------
    ProjectError
        If the project has no classes.
    InputFileError
        If a file is missing or holds no classes.
    """
    if (path / "project.toml").is_file():
        project = open_project(path)
        tables = read_current_tables(project, read_current_records(project))
        if "classes" not in tables or tables["classes"].is_empty():
            raise ProjectError(f"{path}: found no 2D classes, expected some. Run `vitreous run {path}` first.")
        chosen = tables["classes"].filter(pl.col("selected").fill_null(value=True))
        table = chosen.select("class_id", "n_particles", "share", "resolution_angstrom")
        found = ClassAverages(read_averages(project.root, chosen), float(chosen["pixel_size_angstrom"][0]), table)
    else:
        found = read_class_averages(path)
    shown = found.images.std(axis=(1, 2)) > 0
    if not shown.any():
        raise InputFileError(path, found="empty averages only", expected="2D classes", remedy="Check the file.")
    table = found.table.filter(pl.Series(shown))
    return Classification(name, path, ClassAverages(found.images[shown], found.pixel_size_angstrom, table))


def _resample(averages: ClassAverages, pixel_size_angstrom: float, n_px: int) -> torch.Tensor:
    """Return averages at a coarser pixel size, cut or padded to `n_px`."""
    images = torch.from_numpy(averages.images)
    side = images.shape[-1] + images.shape[-1] % 2
    if side != images.shape[-1]:
        images = torch.nn.functional.pad(images, (1, 0, 1, 0))
    reduced = max(2, 2 * round(side * averages.pixel_size_angstrom / pixel_size_angstrom / 2))
    if reduced < side:
        small = apply_fourier_crop_2d(rfft2(images), (side, side), (reduced, reduced))
        images, side = irfft2(small, (reduced, reduced)), reduced
    before = (n_px - side) // 2
    return torch.nn.functional.pad(images, (before, n_px - side - before, before, n_px - side - before))


def _choose_grid(one: ClassAverages, other: ClassAverages) -> tuple[float, int]:
    """Return a pixel size that both have or are finer than, and the side of the smaller field of view."""
    extent = min(side.images.shape[-1] * side.pixel_size_angstrom for side in (one, other))
    pixel = max(one.pixel_size_angstrom, other.pixel_size_angstrom, extent / _MOST_PX)
    return pixel, max(8, 2 * round(extent / pixel / 2))


def _get_weights(table: pl.DataFrame) -> NDArray[np.float64]:
    """Return the particles of each class, its share where they are unknown, or 1."""
    for name in ("n_particles", "share"):
        if table[name].null_count() == 0 and float(table[name].to_numpy().sum()) > 0:
            return np.asarray(table[name].to_numpy(), dtype=np.float64)
    return np.ones(table.height)


def _summarise(source: Classification, matched: Sequence[int]) -> ClassificationSummary:
    table, weights = source.averages.table, _get_weights(source.averages.table)
    known = table["n_particles"].null_count() == 0
    resolution = table["resolution_angstrom"].to_numpy()
    best = {
        str(n): compute_weighted_resolution(resolution, table["n_particles"].to_numpy(), n) if known else None
        for n in _BEST
    }
    return ClassificationSummary(
        name=source.name,
        path=str(source.path),
        n_classes=table.height,
        n_particles=int(weights.sum()) if known else None,
        weighted_resolution=best,
        matched_share=float(weights[list(matched)].sum() / weights.sum()),
    )


def _measure_divergence(
    correlation: NDArray[np.float64], first: NDArray[np.float64], second: NDArray[np.float64], least: float
) -> float:
    """Return how much the particles over views differ; a class like none of the first is a view of its own."""
    n_first, n_second = correlation.shape
    like, alone = correlation.argmax(axis=0), correlation.max(axis=0) < least
    bins = np.zeros((2, n_first + n_second))
    bins[0, :n_first] = first
    np.add.at(bins[1], np.where(alone, n_first + np.arange(n_second), like), second)
    return compute_divergence(bins[0], bins[1])


@dataclass(frozen=True)
class _Match:
    comparison: ClassComparison
    images: tuple[torch.Tensor, torch.Tensor]
    found: AverageMatches


def _match(one: Classification, other: Classification, least: float) -> _Match:
    pixel, n_px = _choose_grid(one.averages, other.averages)
    images = (_resample(one.averages, pixel, n_px), _resample(other.averages, pixel, n_px))
    found = compare_averages(*images, _MAX_SHIFT * n_px)
    correlation = found.correlation.double().numpy()
    pairs = assign_averages(correlation, least)
    pairs.sort(key=lambda pair: -correlation[pair])
    rows = [one.averages.table.row(i, named=True) for i, _ in pairs]
    columns = [other.averages.table.row(j, named=True) for _, j in pairs]
    matched = [{i for i, _ in pairs}, {j for _, j in pairs}]
    left = [
        tuple(number for k, number in enumerate(side.averages.table["class_id"]) if k not in taken)
        for side, taken in zip((one, other), matched, strict=True)
    ]
    comparison = ClassComparison(
        first=_summarise(one, sorted(matched[0])),
        second=_summarise(other, sorted(matched[1])),
        least_correlation=least,
        pairs=tuple(
            ClassPair(
                first=row["class_id"],
                second=column["class_id"],
                correlation=float(correlation[pair]),
                angle_deg=float(found.angle_deg[pair]),
                is_mirrored=bool(found.is_mirrored[pair]),
                n_first=row["n_particles"],
                n_second=column["n_particles"],
                resolution_first_angstrom=row["resolution_angstrom"],
                resolution_second_angstrom=column["resolution_angstrom"],
            )
            for pair, row, column in zip(pairs, rows, columns, strict=True)
        ),
        only_first=left[0],
        only_second=left[1],
        view_divergence_bits=_measure_divergence(
            correlation, _get_weights(one.averages.table), _get_weights(other.averages.table), least
        ),
    )
    return _Match(comparison, images, found)


def _draw(match: _Match, one: Classification, other: Classification) -> bytes:
    from vitreous.reports.comparison_plots import MatchedClasses, plot_matched_classes

    places = [{number: k for k, number in enumerate(side.averages.table["class_id"])} for side in (one, other)]

    def describe(number: int, n: int | None, resolution: float | None) -> str:
        words = [
            f"{number}" if n is None else f"{number}: {n}",
            *([] if resolution is None else [f"{resolution:.1f} Å"]),
        ]
        return ", ".join(words)

    def show_alone(side: int, number: int) -> MatchedClasses:
        row = (one, other)[side].averages.table.row(places[side][number], named=True)
        image, caption = (
            match.images[side][places[side][number]].numpy(),
            describe(number, row["n_particles"], row["resolution_angstrom"]),
        )
        return (
            MatchedClasses(image, None, caption, "", None)
            if side == 0
            else MatchedClasses(None, image, "", caption, None)
        )

    drawn = []
    for pair in match.comparison.pairs:
        i, j = places[0][pair.first], places[1][pair.second]
        laid = lay_over(
            match.images[1][j : j + 1],
            match.found.angle_deg[i, j : j + 1],
            match.found.is_mirrored[i, j : j + 1],
            match.found.shift_px[i, j : j + 1],
        )
        drawn.append(
            MatchedClasses(
                match.images[0][i].numpy(),
                laid[0].numpy(),
                describe(pair.first, pair.n_first, pair.resolution_first_angstrom),
                describe(pair.second, pair.n_second, pair.resolution_second_angstrom),
                pair.correlation,
            )
        )
    drawn += [show_alone(0, number) for number in match.comparison.only_first]
    drawn += [show_alone(1, number) for number in match.comparison.only_second]
    return plot_matched_classes(one.name, other.name, drawn)


def compare_classifications(
    one: Classification, other: Classification, to: Path | None, least: float = LEAST_CORRELATION
) -> ClassComparison:
    """Match averages that correlate by `least`; write `classes_<one>_<other>.json` and `.png` to the folder `to`, if any."""
    match = _match(one, other, least)
    if to is not None:
        stem = f"classes_{one.name}_{other.name}"
        write_json(to / f"{stem}.json", match.comparison.model_dump(mode="json"))
        with open_for_replacement(to / f"{stem}.png") as temporary:
            temporary.write_bytes(_draw(match, one, other))
    return match.comparison


def describe_comparison(found: ClassComparison) -> str:
    """Return the comparison in a few lines."""
    lines = []
    for side in (found.first, found.second):
        best = [f"{one.mean_angstrom:.2f} Å over the {n} largest" for n, one in side.weighted_resolution.items() if one]
        size = "" if side.n_particles is None else f", {side.n_particles} particles"
        words = f"; weighted average resolution {', '.join(best)}" if best else ""
        lines.append(f"{side.name}: {side.n_classes} classes{size}, {side.matched_share:.0%} in matched ones{words}")
    mean = np.mean([pair.correlation for pair in found.pairs]) if found.pairs else float("nan")
    alone = (
        f"{len(found.only_first)} of {found.first.name} and {len(found.only_second)} of {found.second.name} have none"
    )
    lines.append(
        f"{len(found.pairs)} pairs of averages show the same view (mean correlation {mean:.2f}), {alone}; divergence of views "
        f"{found.view_divergence_bits:.2f} bits"
    )
    return "\n".join(lines)
