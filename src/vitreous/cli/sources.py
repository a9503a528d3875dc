"""Picks and labels as the command line names them: files, folders of files, or projects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from vitreous.engine.project import Project, open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.errors import InputFileError, ProjectError, SettingError
from vitreous.io.coordinates import YOrigin, read_coordinates

__all__ = ["Sizes", "Source", "choose_radius", "read_project_picks", "read_sources"]

Sizes = Mapping[str, tuple[float, float]]
"""Micrograph: columns and rows."""


def read_project_picks(project: Project) -> tuple[pl.DataFrame, Sizes]:
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
    score = pl.coalesce("ncc_calibrated", "ncc")
    picks = positives.select("x_px", "y_px", micrograph="micrograph_id", score=score)
    rows = tables["micrographs"].select("micrograph_id", "nx_px", "ny_px").iter_rows()
    return picks, {name: (float(nx), float(ny)) for name, nx, ny in rows}


@dataclass(frozen=True)
class Source:
    """Picks or labels as the command line names them: a file, a folder of files, or a project."""

    path: Path
    y_origin: YOrigin = "top"
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
