"""`vitreous statistics`: one row and the figures of each dataset, as the paper's Table 1 and figures."""

import json
from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console
from rich.table import Table

from vitreous.engine.project import open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.errors import ProjectError
from vitreous.io.atomic import open_for_replacement, write_json

__all__ = ["DatasetRow", "describe_tables", "statistics"]

Tables = Mapping[str, pl.DataFrame]
Floats = NDArray[np.float64]


class DatasetRow(BaseModel):
    """One dataset in numbers."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    title: str
    n_micrographs: int = Field(description="accepted micrographs")
    nx_px: int | None = Field(description="columns; null where they differ")
    ny_px: int | None
    pixel_size_angstrom: float | None
    molecular_weight_kda: float | None
    size_gigabytes: float = Field(description="of the micrographs' files, 1e9 bytes")
    n_particles: int = Field(description="positives in accepted micrographs")
    n_negatives: int
    particles_per_micrograph: float
    diameter_angstrom: float | None = Field(description="median")
    diameter_px: int | None
    defocus_low_angstrom: float | None = Field(description="least mean defocus of a micrograph")
    defocus_median_angstrom: float | None
    defocus_high_angstrom: float | None
    resolution_angstrom: float | None = Field(description="of the current map")


def _get_only(values: pl.Series) -> float | None:
    unique = values.unique()
    return float(unique[0]) if len(unique) == 1 else None


def _get_accepted(tables: Tables) -> pl.DataFrame:
    return tables["micrographs"].filter(pl.col("accepted").fill_null(value=True))


def _get_labelled(tables: Tables, label: str) -> pl.DataFrame:
    own = tables["particles"].filter(pl.col("label") == label)
    return own.join(_get_accepted(tables), on="micrograph_id", how="semi", maintain_order="left")


def _get_defocus(tables: Tables) -> Floats:
    mean = (pl.col("defocus_u_angstrom") + pl.col("defocus_v_angstrom")) / 2
    return _get_accepted(tables).select(mean.alias("defocus"))["defocus"].drop_nulls().to_numpy().astype(np.float64)


def describe_tables(name: str, title: str, tables: Tables, root: Path) -> DatasetRow:
    """Return the numbers of a dataset.

    Parameters
    ----------
    name, title
        What to call it.
    tables
        The project's current tables; micrographs and particles are needed.
    root
        The project's folder.
    """
    micrographs, positives = _get_accepted(tables), _get_labelled(tables, "positive")
    defocus = _get_defocus(tables)
    diameters = positives["diameter_angstrom"].to_numpy()
    nx, ny = _get_only(micrographs["nx_px"]), _get_only(micrographs["ny_px"])
    pixel = _get_only(micrographs["pixel_size_angstrom"].round(6))
    diameter = float(np.median(diameters)) if len(diameters) else None
    weights = tables["entries"]["molecular_weight_kda"].drop_nulls() if "entries" in tables else pl.Series()
    paths = [root / path for path in micrographs["micrograph_path"]]
    resolution = tables["volumes"]["resolution_angstrom"].drop_nulls() if "volumes" in tables else pl.Series()
    return DatasetRow(
        dataset=name,
        title=title,
        n_micrographs=micrographs.height,
        nx_px=None if nx is None else int(nx),
        ny_px=None if ny is None else int(ny),
        pixel_size_angstrom=pixel,
        molecular_weight_kda=next(iter(weights), None),
        size_gigabytes=sum(path.stat().st_size for path in paths if path.is_file()) / 1e9,
        n_particles=positives.height,
        n_negatives=_get_labelled(tables, "negative").height,
        particles_per_micrograph=positives.height / max(1, micrographs.height),
        diameter_angstrom=diameter,
        diameter_px=None if diameter is None or pixel is None else round(diameter / pixel),
        defocus_low_angstrom=float(defocus.min()) if len(defocus) else None,
        defocus_median_angstrom=float(np.median(defocus)) if len(defocus) else None,
        defocus_high_angstrom=float(defocus.max()) if len(defocus) else None,
        resolution_angstrom=float(resolution[0]) if len(resolution) else None,
    )


def _count_per_micrograph(tables: Tables) -> Floats:
    counts = _get_labelled(tables, "positive").group_by("micrograph_id").len("n")
    joined = _get_accepted(tables).join(counts, on="micrograph_id", how="left", maintain_order="left")
    return joined["n"].fill_null(0).to_numpy().astype(np.float64)


def _write_figure(path: Path, content: bytes) -> None:
    with open_for_replacement(path) as temporary:
        temporary.write_bytes(content)


def _write(folder: Path, rows: list[DatasetRow], found: Mapping[str, Tables]) -> None:
    from vitreous.reports.statistics_plots import plot_defocus_boxes, plot_histograms, plot_orientations

    write_json(folder / "statistics.json", [row.model_dump(mode="json") for row in rows])
    with open_for_replacement(folder / "table.csv") as temporary:
        pl.DataFrame([row.model_dump() for row in rows], infer_schema_length=None).write_csv(temporary)
    defocus = {name: values for name, tables in found.items() if len(values := _get_defocus(tables))}
    if defocus:
        _write_figure(folder / "defocus.png", plot_defocus_boxes(defocus))
    histograms = {
        "particle diameter (Å)": {
            name: _get_labelled(tables, "positive")["diameter_angstrom"].to_numpy() for name, tables in found.items()
        },
        "particles in a micrograph": {name: _count_per_micrograph(tables) for name, tables in found.items()},
    }
    _write_figure(folder / "histograms.png", plot_histograms(histograms))
    for name, tables in found.items():
        posed = _get_labelled(tables, "positive").drop_nulls(["rot_deg", "tilt_deg"])
        if posed.height:
            content = plot_orientations(posed["rot_deg"].to_numpy(), posed["tilt_deg"].to_numpy())
            _write_figure(folder / f"orientations_{name}.png", content)


def _show(rows: list[DatasetRow], console: Console) -> None:
    table = Table()
    for heading in (
        "dataset",
        "micrographs",
        "size",
        "image",
        "pixel",
        "diameter",
        "weight",
        "particles",
        "each",
        "defocus",
        "map",
    ):
        table.add_column(heading)

    def unit(value: float | None, form: str, scale: float = 1.0) -> str:
        return "-" if value is None else form.format(value * scale)

    for row in rows:
        low, high = row.defocus_low_angstrom, row.defocus_high_angstrom
        table.add_row(
            row.dataset,
            str(row.n_micrographs),
            f"{row.size_gigabytes:.3g} GB",
            "several" if row.nx_px is None or row.ny_px is None else f"{row.nx_px}x{row.ny_px}",
            unit(row.pixel_size_angstrom, "{:.4g} Å"),
            unit(row.diameter_angstrom, "{:.0f} Å") + ("" if row.diameter_px is None else f", {row.diameter_px} px"),
            unit(row.molecular_weight_kda, "{:.4g} kDa"),
            str(row.n_particles),
            f"{row.particles_per_micrograph:.1f}",
            "-" if low is None or high is None else f"{low / 1e4:.2f} to {high / 1e4:.2f} µm",
            unit(row.resolution_angstrom, "{:.1f} Å"),
        )
    console.print(table)


@click.command()
@click.argument("projects", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PROJECT...")
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="write the table and the figures")
@click.option("--json", "as_json", is_flag=True, help="one JSON object on standard output and nothing else")
def statistics(projects: tuple[Path, ...], to: Path | None, as_json: bool) -> None:
    """Describe one or more datasets: a row for each, and figures of defocus, diameter, density and orientation."""
    rows, found = list[DatasetRow](), dict[str, Tables]()
    for path in projects:
        project = open_project(path)
        tables = read_current_tables(project, read_current_records(project))
        if "particles" not in tables:
            raise ProjectError(f"{project.root}: found no particles; expected some. Run `vitreous run {path}` first.")
        name = project.root.name
        if name in found:
            raise ProjectError(
                f"{project.root}: found another project called {name}; expected different names of folders"
            )
        found[name] = tables
        rows.append(describe_tables(name, project.title, tables, project.root))
    if to is not None:
        _write(to, rows, found)
    if as_json:
        click.echo(json.dumps({"datasets": [row.model_dump(mode="json") for row in rows]}, indent=1))
    else:
        _show(rows, Console(width=140))
