"""Commands on a project: new, run, status, report, export."""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from vitreous.cli.options import choose_machine, description_options, drop_unset, machine_options, project_argument
from vitreous.cli.watch import watch
from vitreous.engine.plan import parse_setting
from vitreous.engine.project import Project, create_project, open_project
from vitreous.engine.records import ClassesStatus, ProjectStatus, read_current_records, read_current_tables, read_status
from vitreous.errors import ProjectError, SettingError
from vitreous.model.documents import Facts, GainOrientation, GainPolarity
from vitreous.model.params import describe_validation_error
from vitreous.model.provenance import RECIPES
from vitreous.reports.stamp import PAGE, is_current

__all__ = ["export", "export_project", "new", "report", "run", "run_project", "status", "update_report"]


def build_facts(values: dict[str, Any]) -> Facts:
    """Return facts from words; what is wrong with them is a `SettingError`."""
    try:
        return Facts.model_validate(drop_unset(values))
    except ValidationError as error:
        raise SettingError(f"vitreous new: {describe_validation_error(error)}") from error


@click.command()
@project_argument
@click.option("--movies", metavar="GLOB", help="movies (TIFF, MRC), in quotes")
@click.option("--micrographs", metavar="GLOB", help="finished micrographs (MRC, TIFF, PNG, JPEG), in quotes")
@click.option("--gain", metavar="FILE", help="gain reference (MRC, TIFF, DM, .gain); multiplied unless found to divide")
@click.option(
    "--gain-orientation",
    type=click.Choice(get_args(GainOrientation)),
    help="how to turn the gain reference; auto finds it from the movies [default: auto]",
)
@click.option(
    "--gain-polarity",
    type=click.Choice(get_args(GainPolarity)),
    help="whether the gain reference multiplies or divides [default: auto]",
)
@click.option("--defects", metavar="FILE", help="map or list of bad pixels (MRC, TIFF; text of UCSF or SerialEM)")
@click.option(
    "--eer-fractions", type=int, metavar="N", help="fractions that an EER movie is divided into [default: 40]"
)
@click.option(
    "--eer-upsampling", type=click.Choice(["1", "2"]), help="EER: 2 renders a grid twice as fine [default: 1]"
)
@click.option("--pixel-size", "pixel_size_angstrom", type=float, metavar="A", help="Å per pixel of the files")
@click.option("--voltage", "voltage_kv", type=float, metavar="KV", help="acceleration voltage, kV [default: 300]")
@click.option("--cs", "cs_mm", type=float, metavar="MM", help="spherical aberration, mm [default: 2.7]")
@click.option("--amplitude-contrast", type=float, metavar="W", help="fraction of amplitude contrast [default: 0.1]")
@click.option("--total-dose", type=float, metavar="E", help="total exposure, e/Å²; without it no dose weighting")
@click.option("--diameter", "diameter_angstrom", type=float, metavar="A", help="particle diameter, Å; else estimated")
@click.option("--symmetry", metavar="G", help="point group, e.g. D2 [default: C1]")
@description_options
@click.option(
    "--recipe",
    type=click.Choice(list(RECIPES)),
    default="standard",
    show_default=True,
    help="standard: pick twice; loop: pick until the classes get no better; by-hand: likewise, from people's picks",
)
@click.option(
    "--ask",
    multiple=True,
    metavar="STAGE",
    help="stop before every run of STAGE until a person has decided; repeatable",
)
def new(project: Path, recipe: str, ask: tuple[str, ...], **values: Any) -> None:
    """Make a project in the folder PROJECT from movies or from finished micrographs."""
    stages = list(dict.fromkeys(step.stage for step in RECIPES[recipe].unroll()))
    if unknown := sorted(set(ask) - set(stages)):
        raise SettingError(f"--ask {unknown[0]}: the recipe has no such stage; it is {', '.join(stages)}")
    created = create_project(project, build_facts(values), RECIPES[recipe].ask_before(ask))
    click.echo(f"{created.root}: ready; go on with\n  vitreous run {project}", err=True)


def run_project(
    project: Project,
    until: str | None,
    settings: tuple[str, ...],
    workers: int | None,
    device: str,
    scheduler: str | None,
) -> None:
    """Run the recipe, watched, and write the report whatever happens."""
    from vitreous.engine.run import run_recipe

    overrides = [parse_setting(word) for word in settings]
    try:
        with watch() as listener:
            run_recipe(project, until, overrides, choose_machine(workers, device, scheduler), listener)
    finally:
        update_report(project)


@click.command()
@project_argument
@click.option("--until", metavar="STAGE", help="stop after the first run of STAGE (STAGE:2 for the second)")
@click.option("--set", "settings", multiple=True, metavar="STAGE.PARAM=VALUE", help="a parameter of every run of STAGE")
@machine_options
def run(
    project: Path, until: str | None, settings: tuple[str, ...], workers: int | None, device: str, scheduler: str | None
) -> None:
    """Run the whole recipe of PROJECT, unattended. What is done is not done again; after an interruption it goes on."""
    opened = open_project(project)
    run_project(opened, until, settings, workers, device, scheduler)
    click.echo(f"report: {opened.root / 'report.html'}", err=True)


def update_report(project: Project, *, anew: bool = False) -> Path | None:
    """Write the report of what there is, unless it shows that already; None when there is nothing yet."""
    records = read_current_records(project)
    if not records:
        return None
    if not anew and is_current(project.root, project.title, records):
        return project.root / PAGE
    from vitreous.reports.report import write_report

    return write_report(project.root, project.title, read_current_tables(project, records), records)


@click.command()
@project_argument
def report(project: Path) -> None:
    """Write the report of PROJECT, one page that opens from disk, and print where it is."""
    path = update_report(open_project(project), anew=True)
    if path is None:
        raise ProjectError(f"{project}: found no finished run; expected one. Run it with `vitreous run {project}`.")
    click.echo(str(path))


@click.command()
@project_argument
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output and nothing else")
def status(project: Path, as_json: bool) -> None:
    """Show what was done in PROJECT, what failed and what came out."""
    found = read_status(open_project(project))
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        _show_status(found)


def _describe_classes(classes: ClassesStatus) -> str:
    parts = [f"classes: {classes.n_classes}"]
    if classes.n_selected is not None:
        parts.append(
            f"{classes.n_selected} selected with {classes.n_particles_selected} of {classes.n_particles} particles"
        )
    best = {one.n_classes: one.mean_angstrom for one in (classes.best_50, classes.best_10) if one is not None}
    parts += [f"weighted average resolution of the {n} largest {mean:.2f} Å" for n, mean in best.items()]
    return ", ".join(parts)


def _show_status(found: ProjectStatus) -> None:
    table = Table(title=found.title, title_justify="left")
    for heading in ("run", "status", "items", "out", "time", "memory"):
        table.add_column(heading)
    for row in found.runs:
        table.add_row(
            row.folder,
            row.status if row.current or row.status != "done" else "superseded",
            f"{row.n_done}/{row.n_items}" if row.n_items else "",
            ", ".join(f"{rows} {name}" for name, rows in row.outputs.items()),
            "" if row.seconds is None else f"{row.seconds:.1f} s",
            "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 1e9:.2f} GB",
        )
    console = Console()
    console.print(table)
    for row in found.runs:
        for text in (*row.warnings, *(f"failed: {item.item_id}: {item.message}" for item in row.failed), row.message):
            if text and (row.current or row.status != "done"):
                console.print(f"{row.folder}: {text}", markup=False, highlight=False)
    for text in found.gains:
        console.print(text, markup=False, highlight=False)
    for who, marks in found.annotators.items():
        console.print(
            f"by hand, {who}: {marks.n_added} added, {marks.n_moved} moved, {marks.n_removed} removed in {marks.n_micrographs} "
            "micrographs",
            markup=False,
        )
    if found.labels:
        console.print("particles: " + ", ".join(f"{count} {label}" for label, count in found.labels.items()))
    if found.classes is not None:
        console.print(_describe_classes(found.classes), markup=False)
    if found.resolution_angstrom is not None:
        console.print(f"map: {found.resolution_angstrom:.1f} Å")


def export_project(project: Project, name: str, to: Path) -> None:
    """Write the dataset in the layout called `name` to the folder `to`."""
    found = {point.name: point for point in entry_points(group="vitreous.exporters")}
    if name not in found:
        raise SettingError(f"--format {name}: there is no such format; there are {', '.join(sorted(found))}")
    tables = read_current_tables(project, read_current_records(project))
    if "particles" not in tables:
        raise ProjectError(f"{project.root}: found no particles to export; expected some. Run `vitreous run` first.")
    summary = found[name].load()(tables, project.root, to.expanduser().resolve())
    for warning in summary.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{to}: {', '.join(f'{count} {what}' for what, count in summary.counts.items())}", err=True)


@click.command()
@project_argument
@click.option(
    "--format",
    "name",
    required=True,
    metavar="NAME",
    help="cryoppp, relion, cryosparc, eman, topaz, cryolo, coco, lite, webdataset or one that is installed",
)
@click.option("--to", required=True, type=click.Path(path_type=Path), metavar="DIR", help="where to write it")
def export(project: Path, name: str, to: Path) -> None:
    """Write the labelled dataset of PROJECT in the layout of another program."""
    export_project(open_project(project), name, to)
