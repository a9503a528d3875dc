"""`vitreous compare`: several pickers against the same labels, or two classifications with each other."""

from collections.abc import Sequence
from pathlib import Path

import click
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from vitreous.cli.classes import (
    LEAST_CORRELATION,
    compare_classifications,
    describe_comparison,
    read_classification,
)
from vitreous.cli.evaluate import Evaluation, score
from vitreous.cli.numbers import format_number
from vitreous.cli.options import image_size_option, json_option, named_options, scoring_options
from vitreous.cli.sources import Source, choose_radius, make_sources, read_sources
from vitreous.datasets.overlap import Overlap, find_overlap
from vitreous.engine.project import open_project
from vitreous.engine.records import read_status
from vitreous.errors import SettingError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.coordinates import YOrigin

__all__ = ["Comparison", "PickerResult", "compare"]


class PickerResult(BaseModel):
    """One picker against the labels."""

    model_config = ConfigDict(frozen=True)

    picker: str
    path: str
    training_overlap: Overlap = Field(description="whether its public model was trained on this entry")
    n_picks: int
    resolution_angstrom: float | None = Field(description="of the map, where the picks are those of a project")
    scores: Evaluation


class Comparison(BaseModel):
    """Pickers against the same labels, the best F1 first."""

    model_config = ConfigDict(frozen=True)

    empiar_id: str | None
    n_labels: int
    pickers: tuple[PickerResult, ...]


def parse_named(word: str) -> tuple[str, Path]:
    """Split `NAME=PATH`; a path alone is called by its stem.

    Raises
    ------
    SettingError
        If one of the two is empty.
    """
    name, equals, path = word.partition("=")
    if not equals:
        return Path(word).stem, Path(word)
    if not (name and path):
        raise SettingError(f"{word!r}: expected NAME=PATH, e.g. topaz=picks/topaz.txt")
    return name, Path(path)


def check_names(names: list[str]) -> None:
    """Refuse names that stand for two things.

    Raises
    ------
    SettingError
        If a name is there twice.
    """
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SettingError(f"{min(twice)!r} names two sets of picks; give each a name of its own, as NAME=PATH")


def _compare_classes(named: Sequence[tuple[str, Path]], to: Path | None, least: float, *, as_json: bool) -> None:
    if len(named) != 2:
        raise SettingError(f"compare --classes: give two classifications, as NAME=PATH; found {len(named)}")
    one, other = (read_classification(name, path) for name, path in named)
    found = compare_classifications(one, other, to, least)
    click.echo(found.model_dump_json(indent=1) if as_json else describe_comparison(found))


def _find_resolution(path: Path) -> float | None:
    return read_status(open_project(path)).resolution_angstrom if (path / "project.toml").is_file() else None


def _show(result: Comparison, console: Console) -> None:
    table = Table(title=f"{result.n_labels} labels", title_justify="left")
    for heading in (
        "picker",
        "picks",
        "matched",
        "precision",
        "recall",
        "F1",
        "95 %",
        "mean F1",
        "map",
        "training set",
    ):
        table.add_column(heading)

    for picker in result.pickers:
        scores = picker.scores
        table.add_row(
            picker.picker,
            str(picker.n_picks),
            str(scores.n_matched),
            format_number(scores.precision),
            format_number(scores.recall),
            format_number(scores.f1),
            f"{format_number(scores.f1_low)} to {format_number(scores.f1_high)}",
            format_number(scores.f1_mean_over_micrographs),
            "-" if picker.resolution_angstrom is None else f"{picker.resolution_angstrom:.2f} Å",
            picker.training_overlap,
        )
    console.print(table)


def _write_plot(path: Path, result: Comparison, radius_px: float) -> None:
    from vitreous.reports.comparison_plots import PickerBar, plot_pickers

    def fill(value: float | None) -> float:
        return float("nan") if value is None else value

    bars = [
        PickerBar(
            name=picker.picker,
            precision=fill(picker.scores.precision),
            recall=fill(picker.scores.recall),
            f1=fill(picker.scores.f1),
            f1_low=fill(picker.scores.f1_low),
            f1_high=fill(picker.scores.f1_high),
            marked=picker.training_overlap == "trained on it",
        )
        for picker in result.pickers
    ]
    with open_for_replacement(path) as temporary:
        temporary.write_bytes(plot_pickers(bars, radius_px))


@click.command()
@click.argument("pickers", nargs=-1, required=True, metavar="NAME=PICKS...")
@click.option("--truth", type=click.Path(path_type=Path), help="labels: file, folder or project")
@scoring_options
@image_size_option
@named_options
@click.option("--empiar", "empiar_id", metavar="ID", help="EMPIAR entry, to say which public models were trained on it")
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="draw the scores")
@click.option(
    "--classes", is_flag=True, help="compare two classifications instead: projects, RELION models or stacks of averages"
)
@click.option(
    "--least-correlation",
    type=click.FloatRange(0, 1),
    default=LEAST_CORRELATION,
    show_default=True,
    help="with --classes: averages that correlate less show different views",
)
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="DIR", help="with --classes: write the pairs and a figure"
)
@json_option
def compare(
    pickers: tuple[str, ...],
    truth: Path | None,
    diameter: float | None,
    radius_fraction: float,
    radius: float | None,
    border: float,
    image_size: tuple[float, float] | None,
    picks_y_origin: YOrigin,
    truth_y_origin: YOrigin,
    bottom: tuple[str, ...],
    scaled: tuple[str, ...],
    empiar_id: str | None,
    plot: Path | None,
    classes: bool,
    least_correlation: float,
    to: Path | None,
    as_json: bool,
) -> None:
    """Compare pickers with the same labels: one table, one plot. With --classes, compare two classifications.

    NAME=PICKS names a picker and its picks: a file or folder in any format that `vitreous evaluate` reads, or a project, whose
    map's resolution is then shown too. Pickers called crYOLO, Topaz, CryoSegNet or CryoTransformer are taken for their public
    general models: the last column says whether these were trained on the entry.
    """
    named = [parse_named(word) for word in pickers]
    check_names([name for name, _ in named])
    if classes:
        _compare_classes(named, to, least_correlation, as_json=as_json)
        return
    if truth is None:
        raise SettingError("compare: give the labels, as --truth; or --classes to compare 2D classes")
    radius_px = choose_radius("compare", diameter, radius_fraction, radius)
    sources = [Source(truth, truth_y_origin), *make_sources(named, picks_y_origin, bottom, scaled)]
    (labels, *picks), sizes = read_sources(sources, image_size)
    results = []
    for (name, path), marks in zip(named, picks, strict=True):
        scores = score(
            marks.frame, labels.frame, radius_px=radius_px, border_px=border, sizes=sizes, empty=labels.empty
        )
        for warning in scores.warnings:
            click.echo(f"warning: {name}: {warning}", err=True)
        overlap, resolution = find_overlap(name, empiar_id), _find_resolution(path)
        result = PickerResult(
            picker=name,
            path=str(path),
            training_overlap=overlap,
            n_picks=marks.frame.height,
            resolution_angstrom=resolution,
            scores=scores,
        )
        results.append(result)
    results.sort(key=lambda result: -(result.scores.f1 or 0.0))
    comparison = Comparison(empiar_id=empiar_id, n_labels=labels.frame.height, pickers=tuple(results))
    for result in results:
        if result.training_overlap == "trained on it":
            click.echo(
                f"warning: {result.picker}: its public model was trained on {empiar_id}; its scores here say little about "
                "new data",
                err=True,
            )
    if plot is not None:
        _write_plot(plot, comparison, radius_px)
    if as_json:
        click.echo(comparison.model_dump_json(indent=1))
    else:
        _show(comparison, Console(width=140))
