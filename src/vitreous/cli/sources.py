"""Picks and labels as the command line names them: files, folders of files, or projects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vitreous.engine.project import Project, open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.errors import InputFileError, ProjectError, SettingError
from vitreous.io.coordinates import YOrigin, list_empty, read_coordinates

__all__ = ["Marks", "Sizes", "Source", "choose_radius", "make_sources", "read_project_picks", "read_sources"]

Sizes = Mapping[str, tuple[float, float]]
"""Micrograph: columns and rows."""


@dataclass(frozen=True)
class Marks:
    """Positions as `read_coordinates` returns them, and the micrographs that were looked at and have none."""

    frame: pl.DataFrame
    empty: tuple[str, ...]


def read_project_picks(project: Project) -> tuple[Marks, Sizes]:
    """Return the final positives of a project, with their scores, and the sizes of its micrographs.

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
    score = pl.coalesce("score_calibrated", "score")
    picks = positives.select("x_px", "y_px", micrograph="micrograph_id", score=score)
    accepted = tables["micrographs"].filter(pl.col("accepted").fill_null(value=True))["micrograph_id"]
    rows = tables["micrographs"].select("micrograph_id", "nx_px", "ny_px").iter_rows()
    return (
        Marks(picks, tuple(sorted(set(accepted) - set(picks["micrograph"])))),
        {name: (float(nx), float(ny)) for name, nx, ny in rows},
    )


@dataclass(frozen=True)
class Source:
    """Picks or labels as the command line names them: a file, a folder of files, or a project."""

    path: Path
    y_origin: YOrigin = "top"
    scale: float = 1.0


def make_sources(
    named: Sequence[tuple[str, Path]], y_origin: YOrigin, bottom: Sequence[str], scales: Sequence[str]
) -> list[Source]:
    """Return the source of each name, with what is said of single ones.

    Parameters
    ----------
    named
        Names and paths.
    y_origin
        How all count rows, but for those in `bottom`.
    bottom
        Names of those that count rows from the last.
    scales
        Factors to full pixels, as `NAME=FACTOR`.

    Raises
    ------
    SettingError
        If a name stands for nothing, or a factor is no positive number.
    """
    names = [name for name, _ in named]
    factors = dict.fromkeys(names, 1.0)
    for word in scales:
        name, _, text = word.rpartition("=")
        try:
            factors[name] = float(text)
        except ValueError:
            factors[name] = 0.0
        if not factors[name] > 0:
            raise SettingError(f"--scaled {word}: expected NAME=FACTOR with a positive number, e.g. topaz=8")
    unknown = {*bottom, *factors} - set(names)
    if unknown:
        raise SettingError(f"{min(unknown)!r} is none of the names that were given: {', '.join(names)}")
    return [Source(path, "bottom" if name in bottom else y_origin, factors[name]) for name, path in named]


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


def read_sources(sources: Sequence[Source], image_size: tuple[float, float] | None = None) -> tuple[list[Marks], Sizes]:
    """Return the marks of each source, and the sizes of the micrographs: as projects know them, else `image_size`.

    Raises
    ------
    InputFileError
        If a file is missing or cannot be read.
    SettingError
        If rows are counted from the bottom and the height is not known.
    """
    sizes: dict[str, tuple[float, float]] = {}
    marks: dict[int, Marks] = {}
    for i, source in enumerate(sources):
        if (source.path / "project.toml").is_file():
            marks[i], found = read_project_picks(open_project(source.path))
            sizes.update(found)
    for i, source in enumerate(sources):
        if i not in marks:
            frame = _read(source, sizes, image_size)
            marks[i] = Marks(frame, list_empty(source.path, frame["micrograph"].unique().to_list()))
    if image_size is not None and not sizes:
        sizes = {name: image_size for one in marks.values() for name in {*one.frame["micrograph"], *one.empty}}
    return [marks[i] for i in range(len(sources))], sizes


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
