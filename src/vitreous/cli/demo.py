"""`vitreous demo`: the whole pipeline on simulated movies, compared with the truth."""

from pathlib import Path

import click

from vitreous.cli.evaluate import score
from vitreous.cli.projects import export_project, run_project
from vitreous.cli.simulate import simulate_watched
from vitreous.cli.sources import read_project_picks
from vitreous.engine.project import Project, create_project, open_project
from vitreous.io.atomic import write_text
from vitreous.io.coordinates import read_coordinates
from vitreous.model.documents import Facts
from vitreous.simulate.settings import DEMO_DIAMETER_ANGSTROM, DEMO_SETTINGS, DEMO_SYMMETRY

__all__ = ["demo"]


def _make_movies(folder: Path) -> None:
    """Simulate the movies, unless the same were simulated before; the note on it is written last."""
    note, text = folder / "truth" / "settings.json", DEMO_SETTINGS.model_dump_json(indent=1) + "\n"
    if not (note.is_file() and note.read_text(encoding="utf-8") == text):
        click.echo(f"simulating {DEMO_SETTINGS.n_movies} movies in {folder / 'movies'}", err=True)
        simulate_watched(folder, DEMO_SETTINGS)
        write_text(note, text)


def _open_project(folder: Path) -> Project:
    root = folder / "project"
    if (root / "project.toml").exists():
        return open_project(root)
    facts = Facts(
        title="simulated apoferritin",
        movies=str(folder / "movies" / "*.tif"),
        gain=str(folder / "gain.mrc"),
        pixel_size_angstrom=DEMO_SETTINGS.pixel_size_angstrom,
        voltage_kv=DEMO_SETTINGS.voltage_kv,
        cs_mm=DEMO_SETTINGS.cs_mm,
        amplitude_contrast=DEMO_SETTINGS.amplitude_contrast,
        total_dose=DEMO_SETTINGS.dose_per_frame * DEMO_SETTINGS.n_frames,
        symmetry=DEMO_SYMMETRY,
    )
    return create_project(root, facts)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("demo"))
@click.option("--workers", type=click.IntRange(1), help="processes that work on items [default: one per core]")
def demo(folder: Path, workers: int | None) -> None:
    """Simulate movies of apoferritin in FOLDER, process them to a dataset, export it and compare with the truth.

    Interrupted, the same command goes on where it was.
    """
    _make_movies(folder)
    project = _open_project(folder)
    run_project(project, None, (), workers, "cpu", None)
    for name in ("cryoppp", "relion"):
        export_project(project, name, folder / "release" / name)
    picks, sizes = read_project_picks(project)
    truth = read_coordinates(folder / "truth" / "coordinates.csv")
    diameter_px = DEMO_DIAMETER_ANGSTROM / DEMO_SETTINGS.pixel_size_angstrom
    # Particles that are cut by the edge are in the truth, but nobody would label them.
    result = score(picks.frame, truth, radius_px=diameter_px / 2, border_px=diameter_px / 2, sizes=sizes)
    click.echo(
        f"labels against the truth: F1 {result.f1:.3f} "
        f"(precision {result.precision:.3f}, recall {result.recall:.3f})\n"
        f"report: {project.root / 'report.html'}"
    )
