"""`vitreous picks`: people's picks, written down as decisions."""

import getpass
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import polars as pl
from rich.console import Console
from rich.table import Table

from vitreous.cli.options import project_argument, y_origin_option
from vitreous.engine.project import Project, open_project, read_decisions, record_marks
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.errors import ProjectError, SettingError
from vitreous.io.coordinates import (
    COORDINATES_SCHEMA,
    YOrigin,
    convert_rows,
    keep_inside,
    read_coordinates,
    write_coordinates,
)
from vitreous.io.naming import match_micrographs
from vitreous.model.documents import Decision
from vitreous.ops.marks import replay_marks
from vitreous.stages.annotate import AnnotateParams, convert_mark

__all__ = ["picks", "read_standing_picks"]

Place = tuple[float, float]


@dataclass(frozen=True)
class _Desk:
    """A project whose micrographs can be picked."""

    project: Project
    run: str
    tables: Mapping[str, pl.DataFrame]

    @property
    def micrographs(self) -> pl.DataFrame:
        return self.tables["micrographs"]


def _open(path: Path) -> _Desk:
    project = open_project(path)
    records = read_current_records(project)
    makers = {name: record.folder for record in records for name in record.outputs}
    if "micrographs" not in makers:
        raise ProjectError(
            f"{project.root}: found no micrographs to pick from, expected some. Run `vitreous run {path} --until curate` first."
        )
    return _Desk(project, makers["micrographs"], read_current_tables(project, records))


def _check_places(desk: _Desk, micrograph: str, places: Sequence[Place]) -> None:
    found = desk.micrographs.filter(pl.col("micrograph_id") == micrograph)
    if found.is_empty():
        names = desk.micrographs["micrograph_id"].head(3).to_list()
        raise SettingError(
            f"--micrograph {micrograph}: the project has no such micrograph, expected a name like {', '.join(names)}"
        )
    nx, ny = found.select("nx_px", "ny_px").row(0)
    for x, y in places:
        if not (0 <= x <= nx - 1 and 0 <= y <= ny - 1):
            raise SettingError(
                f"place {x:g}, {y:g}: found it outside {micrograph}, expected 0 to {nx - 1}, 0 to {ny - 1}"
            )


def _record(desk: _Desk, who: str, marks: Sequence[Mapping[str, Any]]) -> None:
    made = record_marks(desk.project, who=who, run=desk.run, marks=marks)
    acts = ", ".join(f"{n} {act}" for act, n in sorted(Counter(mark.verdict for mark in made).items()))
    n = len({mark.subject for mark in made})
    where = f"{n} micrograph{'s' * (n != 1)}"
    click.echo(f"{who}: {acts or 'nothing'} in {where}; `vitreous run` takes it up", err=True)


_who = click.option("--who", default=getpass.getuser, metavar="NAME", help="annotator [default: your login name]")
_micrograph = click.option("--micrograph", required=True, metavar="NAME", help="identifier of the micrograph")
_note = click.option("--note", default="", help="a remark that is kept")


def _at(act: str) -> Callable[[Any], Any]:
    return click.option(
        "--at",
        "places",
        type=(float, float),
        multiple=True,
        required=True,
        metavar="X Y",
        help=f"centre to {act}, px; repeatable",
    )


@click.group()
def picks() -> None:
    """Pick by hand: add, remove and move picks in any micrographs, or bring them from a file.

    Every mark is kept for good with who made it and when. Marks of several people in one place are one particle; later marks
    come after earlier ones. Positions are pixels of the corrected micrograph, row 0 the first in memory.
    """


@picks.command()
@project_argument
@_who
@_micrograph
@_at("add")
@_note
def add(project: Path, who: str, micrograph: str, places: Sequence[Place], note: str) -> None:
    """Add particles to a micrograph of PROJECT."""
    _mark_places(project, who, micrograph, "add", places, note)


@picks.command()
@project_argument
@_who
@_micrograph
@_at("remove")
@_note
def remove(project: Path, who: str, micrograph: str, places: Sequence[Place], note: str) -> None:
    """Say that there are no particles at some places of a micrograph of PROJECT, whoever or whatever picked them."""
    _mark_places(project, who, micrograph, "remove", places, note)


@picks.command()
@project_argument
@_who
@_micrograph
@click.option("--from", "start", type=(float, float), required=True, metavar="X Y", help="where the pick is, px")
@click.option("--to", "end", type=(float, float), required=True, metavar="X Y", help="where it belongs, px")
@_note
def move(project: Path, who: str, micrograph: str, start: Place, end: Place, note: str) -> None:
    """Move a pick in a micrograph of PROJECT, a person's or a picker's."""
    desk = _open(project)
    _check_places(desk, micrograph, [start, end])
    _record(desk, who, [{**_make_mark(micrograph, "move", start, note), "to_x_px": end[0], "to_y_px": end[1]}])


def _make_mark(micrograph: str, act: str, place: Place, note: str) -> dict[str, Any]:
    return {"subject": micrograph, "verdict": act, "x_px": place[0], "y_px": place[1], "note": note}


def _mark_places(project: Path, who: str, micrograph: str, act: str, places: Sequence[Place], note: str) -> None:
    desk = _open(project)
    _check_places(desk, micrograph, places)
    _record(desk, who, [_make_mark(micrograph, act, place, note) for place in places])


def _place_in_micrographs(desk: _Desk, frame: pl.DataFrame, y_origin: YOrigin) -> pl.DataFrame:
    """Name the project's micrographs and count rows as it does; leave out, and say, what lies in none."""
    columns = desk.micrographs.select("micrograph_id", "nx_px", "ny_px")
    meant = match_micrographs(frame["micrograph"].unique(), columns["micrograph_id"])
    if not meant:
        raise SettingError(
            f"found picks of micrographs named {', '.join(frame['micrograph'].unique().sort().head(3))}, expected names like "
            f"{', '.join(columns['micrograph_id'].head(3))}"
        )
    identifier = pl.col("micrograph").replace_strict(dict(meant), default=None, return_dtype=pl.String)
    joined = frame.with_columns(micrograph_id=identifier).join(columns, on="micrograph_id", maintain_order="left")
    kept, _ = keep_inside(convert_rows(joined, y_origin, pl.col("ny_px")))
    if kept.height < frame.height:
        click.echo(
            f"warning: {frame.height - kept.height} of {frame.height} picks lie in no micrograph of the project and are left out",
            err=True,
        )
    return kept


@picks.command("import")
@project_argument
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@_who
@y_origin_option
@click.option(
    "--scale", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="factor to full pixels"
)
@_note
def import_picks(project: Path, source: Path, who: str, y_origin: YOrigin, scale: float, note: str) -> None:
    """Add the picks of a person that are in FILE, or in a folder of files, to PROJECT: all of them or, after an error, none.

    Formats: .csv, .star, .box, .cbox (crYOLO), .txt (Topaz), .cs (CryoSPARC), .json (EMAN2's _info.json, or what `vitreous picks
    list --json` prints). Picks that are there already are not doubled.
    """
    desk = _open(project)
    frame = _place_in_micrographs(desk, read_coordinates(source, scale=scale), y_origin)
    rows = frame.select("micrograph_id", "x_px", "y_px").iter_rows()
    _record(desk, who, [_make_mark(name, "add", (x, y), note) for name, x, y in rows])


def _find_diameter(desk: _Desk, diameter_angstrom: float | None) -> float:
    if diameter_angstrom is not None:
        return diameter_angstrom
    for name in ("particles", "entries"):
        if name in desk.tables and len(known := desk.tables[name]["diameter_angstrom"].drop_nulls()):
            return float(str(known.median()))
    raise SettingError("found no particle diameter, expected one to tell picks apart; give it in Å with --diameter")


def read_standing_picks(micrographs: pl.DataFrame, marks: Sequence[Decision], diameter_angstrom: float) -> pl.DataFrame:
    """Return what people's marks come to: columns as of `COORDINATES_SCHEMA`, and `annotator`.

    Parameters
    ----------
    micrographs
        The project's table.
    marks
        Decisions of the kind `mark`, oldest first.
    diameter_angstrom
        Of the particles.
    """
    fraction = float(AnnotateParams().radius_fraction)
    made: dict[str, list[Decision]] = {}
    for mark in marks:
        made.setdefault(mark.subject, []).append(mark)
    parts = [pl.DataFrame(schema={**COORDINATES_SCHEMA, "annotator": pl.String})]
    for name, pixel in micrographs.select("micrograph_id", "pixel_size_angstrom").iter_rows():
        if name in made:
            found = replay_marks([convert_mark(mark) for mark in made[name]], fraction * diameter_angstrom / pixel)
            columns = {
                "micrograph": [name] * len(found.who),
                "x_px": found.xy_px[:, 0],
                "y_px": found.xy_px[:, 1],
                "score": pl.Series([None] * len(found.who), dtype=pl.Float64),
                "diameter_px": pl.Series([diameter_angstrom / pixel] * len(found.who), dtype=pl.Float64),
                "annotator": pl.Series([", ".join(who) for who in found.who], dtype=pl.String),
            }
            parts.append(pl.DataFrame(columns))
    return pl.concat(parts)


@picks.command("list")
@project_argument
@click.option("--who", "annotators", multiple=True, metavar="NAME", help="only this annotator's marks; repeatable")
@click.option("--diameter", "diameter_angstrom", type=click.FloatRange(0, min_open=True), metavar="A", help="Å")
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="write the picks (.csv, .star, .txt)")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output and nothing else")
def list_picks(
    project: Path, annotators: tuple[str, ...], diameter_angstrom: float | None, to: Path | None, as_json: bool
) -> None:
    """Show what people's marks in PROJECT come to, without the pickers' picks, and write them to a file."""
    desk = _open(project)
    marks = [
        mark
        for mark in read_decisions(desk.project)
        if mark.kind == "mark" and (not annotators or mark.who in annotators)
    ]
    found = read_standing_picks(desk.micrographs, marks, _find_diameter(desk, diameter_angstrom))
    if to is not None:
        write_coordinates(to, found.drop("annotator"))
    if as_json:
        click.echo(json.dumps({"picks": found.select("micrograph", "x_px", "y_px", "annotator").to_dicts()}))
        return
    table = Table(title=f"{found.height} picks, {len(marks)} marks", title_justify="left")
    for heading in ("micrograph", "annotator", "picks"):
        table.add_column(heading)
    for name, who, count in found.group_by("micrograph", "annotator", maintain_order=True).len().iter_rows():
        table.add_row(name, who, str(count))
    Console(width=120).print(table)
