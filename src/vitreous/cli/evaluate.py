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

from vitreous.cli.flips import describe_flips, find_sizes
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
    count_images,
    score_counts,
)

__all__ = ["Evaluation", "evaluate", "score"]

_FLIP_REMEDY = "see --picks-y-origin and --truth-y-origin"


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


def _pair(picks: pl.DataFrame, truth: pl.DataFrame, sizes: Sizes, empty: Sequence[str]) -> _Pairing:
    """Pair micrographs by name; every labelled one counts, one of which no labels are known does not."""
    labelled = dict.fromkeys(empty, np.empty((0, 2))) | _split(truth, ["x_px", "y_px"])
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
    picks: pl.DataFrame,
    truth: pl.DataFrame,
    *,
    radius_px: float,
    border_px: float = 0.0,
    sizes: Sizes | None = None,
    empty: Sequence[str] = (),
) -> Evaluation:
    """Compare picks with labels, both as `read_coordinates` returns them.

    Parameters
    ----------
    picks, truth
        Picks and labels.
    radius_px
        How far a pick may be from its label, px.
    border_px
        What is nearer to an edge is left out, px.
    sizes
        Micrographs that are known, with their columns and rows.
    empty
        Micrographs that are labelled as holding no particle: all picks there are false.

    Raises
    ------
    SettingError
        If no micrograph has both.
    """
    pairing = _pair(picks, truth, sizes or {}, empty)
    found, known = find_sizes(pairing.names, [*pairing.picks, *pairing.truth], sizes or {})
    plain = count_images(pairing.picks, pairing.truth, radius_px)
    flips = describe_flips(
        pairing.names,
        pairing.picks,
        pairing.truth,
        plain,
        radius_px,
        found,
        subject="the picks fit the labels",
        remedy=_FLIP_REMEDY,
    )
    warnings = [*pairing.warnings, *flips]
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
    result = score(
        picked.frame, labelled.frame, radius_px=radius_px, border_px=border, sizes=sizes, empty=labelled.empty
    )
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
