"""`vitreous evaluate`: compare picks with labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from vitreous.cli.numbers import drop_nan, format_number
from vitreous.cli.options import image_size_option, json_option, scoring_options
from vitreous.cli.sources import Sizes, Source, choose_radius, read_sources
from vitreous.errors import SettingError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.coordinates import YOrigin
from vitreous.io.naming import match_micrographs
from vitreous.ops.matching import (
    ImageCounts,
    Points,
    bootstrap_scores,
    compute_average_precision,
    count_flips,
    count_images,
    score_counts,
)

__all__ = ["Evaluation", "evaluate", "score"]

_CLEARLY_BETTER = 0.2
_SIGNIFICANT = 4.0
"""Standard deviations by which mirrored picks of a single micrograph must match better to be no chance."""


class MicrographScore(BaseModel):
    """Scores of one micrograph; null where there is nothing to divide by."""

    model_config = ConfigDict(frozen=True)

    micrograph: str
    n_matched: int
    n_false: int
    n_missed: int
    precision: float | None
    recall: float | None
    f1: float | None
    mean_distance_px: float | None


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
    precision_low: float | None = Field(description="lower end of the 95 % interval, from resampling micrographs")
    precision_high: float | None
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    f1: float | None
    f1_low: float | None
    f1_high: float | None
    precision_mean_over_micrographs: float | None
    recall_mean_over_micrographs: float | None
    f1_mean_over_micrographs: float | None
    average_precision: float | None = Field(
        description="area under precision against recall; null where picks have no scores"
    )
    mean_distance_px: float | None = Field(description="between a pick and its label")
    median_distance_px: float | None
    rms_distance_px: float | None
    warnings: tuple[str, ...]
    micrographs: tuple[MicrographScore, ...]


@dataclass(frozen=True)
class _Pairing:
    """Picks and labels of the micrographs that are compared."""

    names: tuple[str, ...]
    picks: tuple[Points, ...]
    truth: tuple[Points, ...]
    scores: tuple[Points, ...] | None
    warnings: tuple[str, ...]


def _split(frame: pl.DataFrame, columns: Sequence[str]) -> dict[str, Points]:
    groups = frame.partition_by("micrograph", as_dict=True, maintain_order=True)
    return {str(key[0]): group.select(columns).to_numpy().astype(np.float64) for key, group in groups.items()}


def _pair(picks: pl.DataFrame, truth: pl.DataFrame, sizes: Sizes) -> _Pairing:
    """Pair micrographs by name; every labelled one counts, a micrograph without labels does not."""
    labelled = _split(truth, ["x_px", "y_px"])
    scored = "score" in picks.columns and not picks["score"].null_count()
    picked = _split(picks, ["x_px", "y_px", "score"] if scored else ["x_px", "y_px"])
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
    found = [picked.get(name, np.empty((0, 3))) for name in names]
    return _Pairing(
        names=tuple(names),
        picks=tuple(points[:, :2] for points in found),
        truth=tuple(labelled[name] for name in names),
        scores=tuple(points[:, 2] for points in found) if scored else None,
        warnings=tuple(warnings),
    )


def _find_sizes(pairing: _Pairing, sizes: Sizes) -> tuple[list[tuple[float, float]], bool]:
    """Return the size of each micrograph; where none is known, the extent of all positions stands in for it."""
    if all(name in sizes for name in pairing.names):
        return [sizes[name] for name in pairing.names], True
    extent = np.ceil(np.concatenate([*pairing.picks, *pairing.truth]).max(axis=0)) + 1
    return [(float(extent[0]), float(extent[1]))] * len(pairing.names), False


def _describe_flip(flip: str) -> str:
    return "transposed" if flip == "transposed" else f"mirrored in {flip}"


_FLIP_REMEDY = (
    "one of the two probably counts rows or columns from the other side; see --picks-y-origin and --truth-y-origin"
)


def _check_flips(
    pairing: _Pairing, plain: list[ImageCounts], radius_px: float, sizes: list[tuple[float, float]]
) -> list[str]:
    """Return a warning where mirrored picks fit far better, all of them or those of single micrographs."""
    mirrored = count_flips(pairing.picks, pairing.truth, radius_px, sizes)
    f1 = np.nan_to_num(score_counts(plain).f1)
    totals = {flip: np.nan_to_num(score_counts(counts).f1) for flip, counts in mirrored.items()}
    best = max(totals, key=lambda flip: totals[flip])
    if totals[best] > f1 + _CLEARLY_BETTER:
        return [
            f"the picks fit the labels far better when {_describe_flip(best)} (F1 {totals[best]:.2f} instead of {f1:.2f}): "
            f"{_FLIP_REMEDY}"
        ]
    warnings = []
    for flip, counts in mirrored.items():
        better = [
            name
            for name, one, other in zip(pairing.names, plain, counts, strict=True)
            if other.n_matched - one.n_matched > _SIGNIFICANT * np.sqrt(other.n_matched + one.n_matched)
            and score_counts([other]).f1 > np.nan_to_num(score_counts([one]).f1) + _CLEARLY_BETTER
        ]
        if better:
            warnings.append(
                f"in {len(better)} of {len(plain)} micrographs the picks fit the labels far better when {_describe_flip(flip)}: "
                f"{', '.join(better[:5])}{', ...' if len(better) > 5 else ''}; {_FLIP_REMEDY}"
            )
    return warnings


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _describe(name: str, count: ImageCounts) -> MicrographScore:
    found = score_counts([count])
    return MicrographScore(
        micrograph=name,
        n_matched=count.n_matched,
        n_false=count.n_false,
        n_missed=count.n_missed,
        precision=drop_nan(found.precision),
        recall=drop_nan(found.recall),
        f1=drop_nan(found.f1),
        mean_distance_px=_mean(count.distances_px),
    )


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
    plain = count_images(pairing.picks, pairing.truth, radius_px)
    warnings = [*pairing.warnings, *_check_flips(pairing, plain, radius_px, found)]
    if border_px > 0 and not known:
        warnings.append(
            f"the size of the micrographs is not known; --border counts from the extent of all positions, {found[0]}: "
            "give --image-size"
        )
    counts = count_images(pairing.picks, pairing.truth, radius_px, border_px, found) if border_px > 0 else plain
    total, interval = score_counts(counts), bootstrap_scores(counts)
    each = tuple(_describe(name, count) for name, count in zip(pairing.names, counts, strict=True))
    distances = np.concatenate([np.array(count.distances_px) for count in counts])
    average_precision = None
    if pairing.scores is not None:
        average_precision = drop_nan(
            compute_average_precision(pairing.picks, pairing.scores, pairing.truth, radius_px, border_px, found)
        )
    return Evaluation(
        radius_px=radius_px,
        border_px=border_px,
        n_micrographs=len(counts),
        n_matched=sum(count.n_matched for count in counts),
        n_false=sum(count.n_false for count in counts),
        n_missed=sum(count.n_missed for count in counts),
        precision=drop_nan(total.precision),
        precision_low=interval["precision"].low,
        precision_high=interval["precision"].high,
        recall=drop_nan(total.recall),
        recall_low=interval["recall"].low,
        recall_high=interval["recall"].high,
        f1=drop_nan(total.f1),
        f1_low=interval["f1"].low,
        f1_high=interval["f1"].high,
        precision_mean_over_micrographs=_mean([one.precision for one in each]),
        recall_mean_over_micrographs=_mean([one.recall for one in each]),
        f1_mean_over_micrographs=_mean([one.f1 for one in each]),
        average_precision=average_precision,
        mean_distance_px=float(distances.mean()) if len(distances) else None,
        median_distance_px=float(np.median(distances)) if len(distances) else None,
        rms_distance_px=float(np.sqrt(np.square(distances).mean())) if len(distances) else None,
        warnings=tuple(warnings),
        micrographs=each,
    )


def _show(result: Evaluation, console: Console) -> None:
    table = Table(
        title=f"{result.n_micrographs} micrographs, radius {result.radius_px:g} px, border {result.border_px:g} px: "
        f"matched {result.n_matched}, false {result.n_false}, missed {result.n_missed}",
        title_justify="left",
    )
    for heading in ("", "all particles", "95 %", "mean over micrographs"):
        table.add_column(heading)
    for name in ("precision", "recall", "f1"):
        low, high = getattr(result, f"{name}_low"), getattr(result, f"{name}_high")
        mean = getattr(result, f"{name}_mean_over_micrographs")
        value = getattr(result, name)
        table.add_row(name, format_number(value), f"{format_number(low)} to {format_number(high)}", format_number(mean))
    console.print(table)
    if result.average_precision is not None:
        console.print(f"average precision {result.average_precision:.3f}")
    console.print(
        f"distance from the label: mean {format_number(result.mean_distance_px, 2)} px, median "
        f"{format_number(result.median_distance_px, 2)} px, root mean square {format_number(result.rms_distance_px, 2)} px"
    )


@click.command()
@click.option("--picks", required=True, type=click.Path(path_type=Path), help="file, folder of files, or a project")
@click.option(
    "--truth", required=True, type=click.Path(path_type=Path), help="labels: file, folder of files, or a project"
)
@scoring_options
@image_size_option
@click.option(
    "--picks-scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="factor to the labels' pixels, for picks of images that were made smaller",
)
@click.option(
    "--table", type=click.Path(path_type=Path), metavar="FILE", help="write the scores of each micrograph as CSV"
)
@json_option
def evaluate(
    picks: Path,
    truth: Path,
    diameter: float | None,
    radius_fraction: float,
    radius: float | None,
    border: float,
    image_size: tuple[float, float] | None,
    picks_y_origin: YOrigin,
    truth_y_origin: YOrigin,
    picks_scale: float,
    table: Path | None,
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
    if table is not None:
        with open_for_replacement(table) as temporary:
            pl.DataFrame([one.model_dump() for one in result.micrographs], infer_schema_length=None).write_csv(
                temporary
            )
    if as_json:
        click.echo(result.model_dump_json(indent=1))
    else:
        _show(result, Console(width=120))
