"""`vitreous evaluate`: compare picks with labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from vitreous.engine.project import Project, open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.errors import InputFileError, ProjectError, SettingError
from vitreous.io.coordinates import read_coordinates
from vitreous.io.naming import match_micrographs
from vitreous.ops.matching import ImageCounts, Points, bootstrap_f1, compute_flips, count_matches, score_counts

__all__ = [
    "Evaluation",
    "Origin",
    "Sizes",
    "Source",
    "choose_radius",
    "evaluate",
    "read_project_picks",
    "read_sources",
    "score",
]

Origin = Literal["top", "bottom"]

Sizes = Mapping[str, tuple[float, float]]
"""Micrograph: columns and rows."""

_CLEARLY_BETTER = 0.2


class MicrographScore(BaseModel):
    """Counts of one micrograph."""

    model_config = ConfigDict(frozen=True)

    micrograph: str
    n_matched: int
    n_false: int
    n_missed: int


class Evaluation(BaseModel):
    """How well picks agree with labels."""

    model_config = ConfigDict(frozen=True)

    radius_px: float
    border_px: float
    n_micrographs: int
    n_matched: int = Field(description="picks that have a label of their own within the radius")
    n_false: int = Field(description="picks without a label")
    n_missed: int = Field(description="labels without a pick")
    precision: float | None
    recall: float | None
    f1: float | None
    f1_low: float | None = Field(description="lower end of the 95 % interval, from resampling micrographs")
    f1_high: float | None
    f1_mean_over_micrographs: float | None
    mean_distance_px: float | None = Field(description="between a pick and its label")
    warnings: tuple[str, ...]
    micrographs: tuple[MicrographScore, ...]


@dataclass(frozen=True)
class _Pairing:
    """Picks and labels of the micrographs that are compared."""

    names: tuple[str, ...]
    picks: tuple[Points, ...]
    truth: tuple[Points, ...]
    warnings: tuple[str, ...]


def _split(frame: pl.DataFrame) -> dict[str, Points]:
    groups = frame.partition_by("micrograph", as_dict=True, maintain_order=True)
    return {str(key[0]): group.select("x_px", "y_px").to_numpy().astype(np.float64) for key, group in groups.items()}


def _pair(picks: pl.DataFrame, truth: pl.DataFrame, sizes: Sizes) -> _Pairing:
    """Pair micrographs by name; every labelled one counts, a micrograph without labels does not."""
    labelled = _split(truth)
    picked = _split(picks)
    meant = match_micrographs(picked, labelled)
    picked = {meant.get(name, name): points for name, points in picked.items()}
    warnings = []
    if unlabelled := sorted(set(picked) - set(labelled)):
        warnings.append(
            f"{len(unlabelled)} micrographs have picks but no labels and are left out, e.g. {unlabelled[0]}"
        )
    known = set(picked) | set(sizes)
    if unpicked := sorted(set(labelled) - known) if sizes else []:
        warnings.append(f"{len(unpicked)} micrographs have labels but are not in the project, e.g. {unpicked[0]}")
    names = [name for name in sorted(labelled) if name in known or not sizes]
    if not set(names) & set(picked):
        raise SettingError(
            f"evaluate: no micrograph has both picks and labels; picks name {sorted(picked)[:3]}, labels {sorted(labelled)[:3]}. "
            "Files are paired by the stem of the micrograph's name."
        )
    none = np.empty((0, 2))
    picks_px = tuple(picked.get(name, none) for name in names)
    return _Pairing(tuple(names), picks_px, tuple(labelled[name] for name in names), tuple(warnings))


def _find_sizes(pairing: _Pairing, sizes: Sizes) -> tuple[list[tuple[float, float]], bool]:
    """Return the size of each micrograph; where none is known, the extent of all positions stands in for it."""
    if all(name in sizes for name in pairing.names):
        return [sizes[name] for name in pairing.names], True
    extent = np.ceil(np.concatenate([*pairing.picks, *pairing.truth]).max(axis=0)) + 1
    return [(float(extent[0]), float(extent[1]))] * len(pairing.names), False


def _check_flips(pairing: _Pairing, radius_px: float, sizes: list[tuple[float, float]]) -> list[str]:
    scores = compute_flips(pairing.picks, pairing.truth, radius_px, sizes)
    best = max(scores, key=lambda flip: np.nan_to_num(scores[flip]))
    if best == "none" or not scores[best] > np.nan_to_num(scores["none"]) + _CLEARLY_BETTER:
        return []
    how = "transposed" if best == "transposed" else f"mirrored in {best}"
    return [
        f"the picks fit the labels far better when {how} (F1 {scores[best]:.2f} instead of {scores['none']:.2f}): one of the two "
        "probably counts rows or columns from the other side; see --picks-y-origin and --truth-y-origin"
    ]


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def score(
    picks: pl.DataFrame, truth: pl.DataFrame, *, radius_px: float, border_px: float = 0.0, sizes: Sizes | None = None
) -> Evaluation:
    """Compare picks with labels, both as `read_coordinates` returns them.

    Raises
    ------
    SettingError
        If no micrograph has both.
    """
    pairing = _pair(picks, truth, sizes or {})
    found, known = _find_sizes(pairing, sizes or {})
    warnings = [*pairing.warnings, *_check_flips(pairing, radius_px, found)]
    if border_px > 0 and not known:
        warnings.append(
            f"the size of the micrographs is not known; --border counts from the extent of all positions, {found[0]}: "
            "give --image-size"
        )
    counts: list[ImageCounts] = [
        count_matches(one, other, radius_px, border_px, size)
        for one, other, size in zip(pairing.picks, pairing.truth, found, strict=True)
    ]
    total, interval = score_counts(counts), bootstrap_f1(counts)
    each = [score_counts([count]).f1 for count in counts]

    def drop_nan(value: float) -> float | None:
        return None if np.isnan(value) else value

    return Evaluation(
        radius_px=radius_px,
        border_px=border_px,
        n_micrographs=len(counts),
        n_matched=sum(count.n_matched for count in counts),
        n_false=sum(count.n_false for count in counts),
        n_missed=sum(count.n_missed for count in counts),
        precision=drop_nan(total.precision),
        recall=drop_nan(total.recall),
        f1=drop_nan(total.f1),
        f1_low=interval.low,
        f1_high=interval.high,
        f1_mean_over_micrographs=_mean([value for value in each if not np.isnan(value)]),
        mean_distance_px=_mean([distance for count in counts for distance in count.distances_px]),
        warnings=tuple(warnings),
        micrographs=tuple(
            MicrographScore(micrograph=name, n_matched=count.n_matched, n_false=count.n_false, n_missed=count.n_missed)
            for name, count in zip(pairing.names, counts, strict=True)
        ),
    )


def read_project_picks(project: Project) -> tuple[pl.DataFrame, Sizes]:
    """Return the final positives of a project and the sizes of its micrographs.

    Raises
    ------
    ProjectError
        If there are no particles yet.
    """
    tables = read_current_tables(project, read_current_records(project))
    if "particles" not in tables:
        raise ProjectError(
            f"{project.root}: found no particles; expected picks. Run `vitreous run {project.root}` first."
        )
    positives = tables["particles"].filter(pl.col("label") == "positive")
    picks = positives.select(pl.col("micrograph_id").alias("micrograph"), "x_px", "y_px")
    rows = tables["micrographs"].select("micrograph_id", "nx_px", "ny_px").iter_rows()
    return picks, {name: (float(nx), float(ny)) for name, nx, ny in rows}


@dataclass(frozen=True)
class Source:
    """Picks or labels as the command line names them: a file, a folder of files, or a project."""

    path: Path
    y_origin: Origin = "top"
    scale: float = 1.0


def _read(source: Source, sizes: Sizes, image_size: tuple[float, float] | None) -> pl.DataFrame:
    path = source.path
    if not path.exists():
        raise InputFileError(path, found="no such file or folder", expected="coordinates", remedy="Check the path.")
    if source.y_origin == "top":
        return read_coordinates(path, scale=source.scale)
    heights = {int(size[1]) for size in ([image_size] if image_size else sizes.values())}
    if len(heights) != 1:
        raise SettingError(
            f"{path}: rows counted from the bottom need the height of the micrographs; give --image-size NX NY"
        )
    return read_coordinates(path, y_origin="bottom", ny_px=heights.pop(), scale=source.scale)


def read_sources(
    sources: Sequence[Source], image_size: tuple[float, float] | None = None
) -> tuple[list[pl.DataFrame], Sizes]:
    """Return the coordinates of each source, and the sizes of the micrographs: as projects know them, else `image_size`.

    Raises
    ------
    InputFileError
        If a file is missing or cannot be read.
    SettingError
        If rows are counted from the bottom and the height is not known.
    """
    sizes: dict[str, tuple[float, float]] = {}
    frames: dict[int, pl.DataFrame] = {}
    for i, source in enumerate(sources):
        if (source.path / "project.toml").is_file():
            frames[i], found = read_project_picks(open_project(source.path))
            sizes.update(found)
    for i, source in enumerate(sources):
        if i not in frames:
            frames[i] = _read(source, sizes, image_size)
    if image_size is not None and not sizes:
        sizes = {name: image_size for frame in frames.values() for name in frame["micrograph"].unique()}
    return [frames[i] for i in range(len(sources))], sizes


def choose_radius(command: str, diameter_px: float | None, fraction: float, radius_px: float | None) -> float:
    """Return the matching radius from the two ways to give it.

    Raises
    ------
    SettingError
        If none or both are given.
    """
    if (diameter_px is None) == (radius_px is None):
        raise SettingError(f"{command}: give either --diameter or --radius, in pixels")
    return radius_px if radius_px is not None else (diameter_px or 0.0) * fraction


def _show(result: Evaluation) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return (
        f"{result.n_micrographs} micrographs, radius {result.radius_px:g} px, border {result.border_px:g} px\n"
        f"matched {result.n_matched}, false {result.n_false}, missed {result.n_missed}\n"
        f"precision {number(result.precision)}, recall {number(result.recall)}, "
        f"F1 {number(result.f1)} (95 % {number(result.f1_low)} to {number(result.f1_high)}), "
        f"mean over micrographs {number(result.f1_mean_over_micrographs)}"
    )


@click.command()
@click.option("--picks", required=True, type=click.Path(path_type=Path), help="file, folder of files, or a project")
@click.option(
    "--truth", required=True, type=click.Path(path_type=Path), help="labels: file, folder of files, or a project"
)
@click.option("--diameter", type=click.FloatRange(0, min_open=True), metavar="PX", help="particle diameter, px")
@click.option("--radius-fraction", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True)
@click.option("--radius", type=click.FloatRange(0, min_open=True), metavar="PX", help="matching radius, px")
@click.option(
    "--border", type=click.FloatRange(0), default=0.0, metavar="PX", help="leave out what is so near the edge"
)
@click.option(
    "--image-size", type=(float, float), metavar="NX NY", help="columns and rows, where no project knows them"
)
@click.option("--picks-y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True)
@click.option("--truth-y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True)
@click.option(
    "--picks-scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="factor to the labels' pixels, for picks of images that were made smaller",
)
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output and nothing else")
def evaluate(
    picks: Path,
    truth: Path,
    diameter: float | None,
    radius_fraction: float,
    radius: float | None,
    border: float,
    image_size: tuple[float, float] | None,
    picks_y_origin: Origin,
    truth_y_origin: Origin,
    picks_scale: float,
    as_json: bool,
) -> None:
    """Compare picks with labels, matched one to one and exactly.

    Formats: .csv, .star, .box, .cbox (crYOLO), .txt (Topaz), _info.json (EMAN2), .cs (CryoSPARC), or a project.

    The radius is --radius, or --diameter times --radius-fraction.
    """
    radius_px = choose_radius("evaluate", diameter, radius_fraction, radius)
    sources = [Source(picks, picks_y_origin, picks_scale), Source(truth, truth_y_origin)]
    (picked, labelled), sizes = read_sources(sources, image_size)
    result = score(picked, labelled, radius_px=radius_px, border_px=border, sizes=sizes)
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(result.model_dump_json(indent=1) if as_json else _show(result))
