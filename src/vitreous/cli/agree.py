"""`vitreous agree`: how two or more annotators agree, what they agree on, and where to look again."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from vitreous.cli.classes import (
    ClassComparison,
    compare_classifications,
    describe_comparison,
    is_classification,
    read_classification,
)
from vitreous.cli.compare import check_names, parse_named
from vitreous.cli.flips import describe_flips, find_sizes
from vitreous.cli.numbers import drop_nan, format_number
from vitreous.cli.options import image_size_option, json_option, named_options, radius_options, y_origin_option
from vitreous.cli.sources import Marks, Sizes, choose_radius, make_sources, read_sources
from vitreous.errors import SettingError
from vitreous.io.atomic import open_for_replacement, write_json
from vitreous.io.coordinates import YOrigin, write_coordinates
from vitreous.io.naming import match_micrographs
from vitreous.ops.agreement import (
    AnnotatorRates,
    Sites,
    compute_disagreement,
    count_pairwise,
    estimate_truth,
    link_annotators,
    select_consensus,
)
from vitreous.ops.matching import Points, bootstrap_f1, score_counts

__all__ = ["Agreement", "agree", "measure_agreement"]


class PairAtRadius(BaseModel):
    """Two annotators at one radius. F1 and positive agreement are the same number: there are no true negatives."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    radius_px: float
    n_common: int
    n_first_only: int
    n_second_only: int
    f1: float | None
    f1_low: float | None = Field(description="lower end of the 95 % interval, from resampling micrographs")
    f1_high: float | None
    f1_by_micrograph: dict[str, float | None]


class Annotator(BaseModel):
    """How reliable one annotator is, as the marks of all tell."""

    model_config = ConfigDict(frozen=True)

    name: str
    n_marks: int
    sensitivity: float
    false_discovery: float


class Agreement(BaseModel):
    """Agreement of annotators."""

    model_config = ConfigDict(frozen=True)

    radius_px: float = Field(description="radius at which marks are one site")
    micrographs: tuple[str, ...]
    annotators: tuple[Annotator, ...]
    rates_are_determined: bool = Field(description="false with two annotators: a single mark counts as about a half")
    n_expected: float = Field(description="estimated number of particles, those that nobody marked included")
    consensus: dict[str, int] = Field(description="sites in each set: both (all annotators), either (any), expected")
    positive_agreement: dict[str, float | None] = Field(
        description="at each radius: common marks of all pairs over all marks of all pairs"
    )
    pairs: tuple[PairAtRadius, ...]
    warnings: tuple[str, ...]
    classes: tuple[ClassComparison, ...] = Field(
        (), description="2D classes of each two annotators that are projects with classes"
    )


@dataclass(frozen=True)
class Measured:
    """The result, and all sites: micrograph, position, probability, doubt, and a column for each annotator."""

    agreement: Agreement
    sites: pl.DataFrame


def _collect(marks: Sequence[Marks], names: Sequence[str]) -> tuple[list[str], list[list[Points]]]:
    """Return the micrographs that every annotator worked on and the marks of each in them, be there none."""
    reference = {*marks[0].frame["micrograph"].unique(), *marks[0].empty}
    by_name: list[dict[str, Points]] = []
    for one in marks:
        parts = {str(key[0]): part for key, part in one.frame.partition_by("micrograph", as_dict=True).items()}
        meant = match_micrographs({*parts, *one.empty}, reference)
        none = one.frame.clear()
        by_name.append(
            {
                ours: parts.get(theirs, none).select("x_px", "y_px").to_numpy().astype(np.float64)
                for theirs, ours in meant.items()
            }
        )
    common = sorted(set.intersection(*(set(found) for found in by_name)))
    if not common:
        raise SettingError(
            f"agree: {', '.join(names)} have no micrograph in common; the first names {sorted(reference)[:3]}. "
            "Files are paired by the stem of the micrograph's name."
        )
    return common, [[found[name] for name in common] for found in by_name]


def _check_flips(
    names: Sequence[str], micrographs: Sequence[str], points: Sequence[list[Points]], radius_px: float, sizes: Sizes
) -> list[str]:
    """Return a warning for every two annotators whose marks fit far better mirrored."""
    extent, _ = find_sizes(micrographs, [part for parts in points for part in parts], sizes)
    return [
        warning
        for i, j in itertools.combinations(range(len(names)), 2)
        for warning in describe_flips(
            micrographs,
            points[i],
            points[j],
            count_pairwise(points[i], points[j], radius_px),
            radius_px,
            extent,
            subject=f"the marks of {names[i]} fit those of {names[j]}",
            remedy="see --bottom NAME",
        )
    ]


def _measure_pair(
    names: tuple[str, str], micrographs: Sequence[str], one: list[Points], other: list[Points], radius_px: float
) -> PairAtRadius:
    counts = count_pairwise(one, other, radius_px)
    interval = bootstrap_f1(counts)
    return PairAtRadius(
        first=names[0],
        second=names[1],
        radius_px=radius_px,
        n_common=sum(count.n_matched for count in counts),
        n_first_only=sum(count.n_false for count in counts),
        n_second_only=sum(count.n_missed for count in counts),
        f1=drop_nan(score_counts(counts).f1),
        f1_low=interval.low,
        f1_high=interval.high,
        f1_by_micrograph={
            name: drop_nan(score_counts([count]).f1) for name, count in zip(micrographs, counts, strict=True)
        },
    )


def _tabulate(
    names: Sequence[str], micrographs: Sequence[str], found: Sequence[Sites], rates: AnnotatorRates
) -> pl.DataFrame:
    marked: NDArray[np.bool_] = np.concatenate([sites.is_marked for sites in found])
    xy = np.concatenate([sites.xy_px for sites in found])
    where = [name for name, sites in zip(micrographs, found, strict=True) for _ in range(len(sites.xy_px))]
    sets = select_consensus(marked, rates.probability)
    return pl.DataFrame(
        {
            "micrograph": pl.Series(where, dtype=pl.String),
            "x_px": xy[:, 0],
            "y_px": xy[:, 1],
            "probability": rates.probability,
            "doubt_bits": compute_disagreement(marked, rates.probability),
            **{f"in_{name}": members for name, members in sets.items()},
            **{f"by_{name}": marked[:, k] for k, name in enumerate(names)},
        }
    )


def measure_agreement(
    names: Sequence[str], marks: Sequence[Marks], radius_px: float, radii_px: Sequence[float], sizes: Sizes
) -> Measured:
    """Measure the agreement of annotators on the micrographs that all of them worked on.

    Parameters
    ----------
    names, marks
        Annotators and their marks.
    radius_px
        Radius at which marks are one site, px.
    radii_px
        Radii at which pairs are compared, px.
    sizes
        Columns and rows of the micrographs, where they are known.

    Raises
    ------
    SettingError
        If they have no micrograph in common.
    """
    micrographs, points = _collect(marks, names)
    pairs = [
        _measure_pair((names[i], names[j]), micrographs, points[i], points[j], radius)
        for radius in radii_px
        for i, j in itertools.combinations(range(len(names)), 2)
    ]
    found = [link_annotators(here, radius_px) for here in zip(*points, strict=True)]
    marked = np.concatenate([sites.is_marked for sites in found])
    rates = estimate_truth(marked)
    overall = {}
    for radius in radii_px:
        here = [pair for pair in pairs if pair.radius_px == radius]
        common = 2 * sum(pair.n_common for pair in here)
        total = common + sum(pair.n_first_only + pair.n_second_only for pair in here)
        overall[f"{radius:g}"] = common / total if total else None
    table = _tabulate(names, micrographs, found, rates)
    agreement = Agreement(
        radius_px=radius_px,
        micrographs=tuple(micrographs),
        annotators=tuple(
            Annotator(
                name=name,
                n_marks=int(marked[:, k].sum()),
                sensitivity=float(rates.sensitivity[k]),
                false_discovery=float(rates.false_discovery[k]),
            )
            for k, name in enumerate(names)
        ),
        rates_are_determined=rates.is_determined,
        n_expected=rates.n_true,
        consensus={name: int(table[f"in_{name}"].sum()) for name in ("both", "either", "expected")},
        positive_agreement=overall,
        pairs=tuple(pairs),
        warnings=tuple(_check_flips(names, micrographs, points, radius_px, sizes)),
    )
    return Measured(agreement, table)


def _write(folder: Path, measured: Measured) -> None:
    """Write the numbers, the three consensus sets, all disagreements (the most doubtful first) and a figure."""
    from vitreous.reports.comparison_plots import plot_agreement

    result, sites = measured.agreement, measured.sites
    write_json(folder / "agreement.json", result.model_dump(mode="json"))
    for name in result.consensus:
        chosen = sites.filter(pl.col(f"in_{name}")).with_columns(score=pl.col("probability"))
        write_coordinates(folder / f"consensus_{name}.csv", chosen)
    disputed = sites.filter(pl.col("doubt_bits") > 0).sort("doubt_bits", descending=True, maintain_order=True)
    with open_for_replacement(folder / "disagreements.csv") as temporary:
        disputed.write_csv(temporary, float_precision=4)
    radii = sorted({pair.radius_px for pair in result.pairs})
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for pair in sorted(result.pairs, key=lambda pair: pair.radius_px):
        values = [float("nan") if value is None else value for value in (pair.f1, pair.f1_low, pair.f1_high)]
        curves.setdefault(f"{pair.first}, {pair.second}", []).append((values[0], values[1], values[2]))
    with open_for_replacement(folder / "agreement.png") as temporary:
        temporary.write_bytes(plot_agreement(radii, curves))


def _show(result: Agreement, console: Console) -> None:
    pairs = Table(title=f"{len(result.micrographs)} micrographs", title_justify="left")
    for heading in ("pair", "radius", "common", "first only", "second only", "F1 = positive agreement", "95 %"):
        pairs.add_column(heading)

    for pair in result.pairs:
        pairs.add_row(
            f"{pair.first}, {pair.second}",
            f"{pair.radius_px:g} px",
            *(str(n) for n in (pair.n_common, pair.n_first_only, pair.n_second_only)),
            format_number(pair.f1),
            f"{format_number(pair.f1_low)} to {format_number(pair.f1_high)}",
        )
    console.print(pairs)
    rates = Table()
    for heading in ("annotator", "marks", "sensitivity", "false discovery"):
        rates.add_column(heading)
    for one in result.annotators:
        rates.add_row(one.name, str(one.n_marks), format_number(one.sensitivity), format_number(one.false_discovery))
    console.print(rates)
    sets = ", ".join(f"{name} {count}" for name, count in result.consensus.items())
    for found in result.classes:
        console.print(describe_comparison(found), markup=False, highlight=False)
    console.print(f"consensus within {result.radius_px:g} px: {sets}; about {result.n_expected:.0f} particles in all")


@click.command()
@click.argument("annotators", nargs=-1, required=True, metavar="NAME=MARKS...")
@radius_options
@click.option(
    "--at",
    "factors",
    default="0.25,0.5,1",
    show_default=True,
    metavar="F,F,...",
    help="radii at which pairs are compared, in diameters (twice --radius)",
)
@image_size_option
@y_origin_option
@named_options
@click.option(
    "--to", type=click.Path(path_type=Path), metavar="DIR", help="write consensus sets, disagreements, figure"
)
@json_option
def agree(
    annotators: tuple[str, ...],
    diameter: float | None,
    radius_fraction: float,
    radius: float | None,
    factors: str,
    image_size: tuple[float, float] | None,
    y_origin: YOrigin,
    bottom: tuple[str, ...],
    scaled: tuple[str, ...],
    to: Path | None,
    as_json: bool,
) -> None:
    """Measure how two or more annotators agree, and make consensus sets.

    NAME=MARKS names an annotator (a person or a picker) and a file, a folder or a project, in any format that
    `vitreous evaluate` reads. Only micrographs that all of them worked on are compared: those that they marked, those of a
    project, and those that have a file of their own, be it empty. With two annotators the marks cannot tell who is right where
    only one marked: from three on they can.
    """
    if len(annotators) < 2:
        raise SettingError("agree: give two or more annotators, as NAME=MARKS")
    radius_px = choose_radius("agree", diameter, radius_fraction, radius)
    try:
        steps = sorted({float(word) for word in factors.split(",")})
    except ValueError as error:
        raise SettingError(f"--at {factors}: expected numbers with commas between them, e.g. 0.25,0.5,1") from error
    if not steps or steps[0] <= 0:
        raise SettingError(f"--at {factors}: expected positive numbers")
    named = [parse_named(word) for word in annotators]
    names = [name for name, _ in named]
    check_names(names)
    marks, sizes = read_sources(make_sources(named, y_origin, bottom, scaled), image_size)
    unit = diameter if diameter is not None else 2 * radius_px
    measured = measure_agreement(names, marks, radius_px, [unit * step for step in steps], sizes)
    sorted_ones = [
        read_classification(name, path)
        for name, path in named
        if (path / "project.toml").is_file() and is_classification(path)
    ]
    compared = tuple(compare_classifications(*pair, to) for pair in itertools.combinations(sorted_ones, 2))
    measured = replace(measured, agreement=measured.agreement.model_copy(update={"classes": compared}))
    if to is not None:
        _write(to, measured)
    for warning in measured.agreement.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not measured.agreement.rates_are_determined:
        click.echo(
            "warning: two annotators cannot tell which single marks are right; each counts as about a half", err=True
        )
    if as_json:
        click.echo(measured.agreement.model_dump_json(indent=1))
    else:
        _show(measured.agreement, Console(width=120))
