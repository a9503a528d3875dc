"""The layout in which CryoPPP was published in 2023: one folder per entry, labels in CSV and STAR files.

Its label files count rows from the side of the last row in memory (`Y = ny - row`) and hold whole pixels, while the
micrographs beside them keep their rows. Angles and origins refer to the images as they are in memory.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from vitreous.errors import ProjectError
from vitreous.exporters.card import write_card
from vitreous.exporters.dataset import Dataset, choose_usable, gather_dataset, merge_sizes
from vitreous.exporters.particles import StarColumn, name_images, tabulate, tabulate_optics, write_stacks
from vitreous.exporters.provenance import read_runs
from vitreous.exporters.release import copy_file, link_or_copy, open_release
from vitreous.exporters.summary import ExportSummary
from vitreous.io.atomic import open_for_replacement
from vitreous.io.parquet import read_table
from vitreous.io.star import write_star

__all__ = ["LAYOUT", "export_cryoppp", "write_coordinate_files"]

LAYOUT = "cryoppp-2023"

_STACKS, _STACK_SUFFIX = "particles_stack", "_particles.mrc"
_COORDINATES = {
    "y_origin": "bottom",
    "x": "X = round(x_px), x_px the column of the centre, 0 the first in memory",
    "y": "Y = round(ny_px - y_px), y_px the row of the centre, 0 the first in memory",
    "unit": "pixels of the micrograph, whole; halves are rounded to the even number",
    "angles": "psi and origins as RELION, for images as they are in memory: not turned over with Y",
}
_X = pl.col("x_px").round().cast(pl.Int64)
_Y = (pl.col("ny_px") - pl.col("y_px")).round().cast(pl.Int64)
_DIAMETER = (pl.col("diameter_angstrom") / pl.col("pixel_size_angstrom")).round().cast(pl.Int64)
_B_FACTOR = pl.lit(0.0)
_ALIGNMENT = {
    "Angle-Psi": pl.col("class_psi_deg"),
    "Origin X (Ang)": pl.col("class_origin_x_angstrom"),
    "Origin Y (Ang)": pl.col("class_origin_y_angstrom"),
    "Defocus U": pl.col("defocus_u_angstrom"),
    "Defocus V": pl.col("defocus_v_angstrom"),
    "Defocus Angle": pl.col("defocus_angle_deg"),
    "Phase Shift": pl.col("phase_shift_deg"),
    "CTF B Factor": _B_FACTOR,
}
_PLACES = {"X-Coordinate": _X, "Y-Coordinate": _Y, "Diameter": _DIAMETER}
_ENTRY_COLUMNS = {
    "Particles Filename": pl.col("image_name"),
    "Micrographs Filename": pl.col("name") + ".mrc",
    "X-Coordinate": _X,
    "Y-Coordinate": _Y,
    **_ALIGNMENT,
    "Optics Group": pl.col("group"),
    "Class Number": pl.col("class_id"),
}
_STAR_COLUMNS = {
    "rlnImageName": StarColumn(pl.col("image_name")),
    "rlnMicrographName": StarColumn(pl.format("micrographs/{}.mrc", "name")),
    "rlnCoordinateX": StarColumn(_X),
    "rlnCoordinateY": StarColumn(_Y),
    "rlnAnglePsi": StarColumn(pl.col("class_psi_deg"), 0.0),
    "rlnOriginXAngst": StarColumn(pl.col("class_origin_x_angstrom"), 0.0),
    "rlnOriginYAngst": StarColumn(pl.col("class_origin_y_angstrom"), 0.0),
    "rlnDefocusU": StarColumn(pl.col("defocus_u_angstrom")),
    "rlnDefocusV": StarColumn(pl.col("defocus_v_angstrom")),
    "rlnDefocusAngle": StarColumn(pl.col("defocus_angle_deg")),
    "rlnPhaseShift": StarColumn(pl.col("phase_shift_deg"), 0.0),
    "rlnCtfBfactor": StarColumn(_B_FACTOR),
    "rlnOpticsGroup": StarColumn(pl.col("group")),
    "rlnClassNumber": StarColumn(pl.col("class_id"), 0),
}


def _name_entry(dataset: Dataset) -> str:
    """Return what the files of all particles begin with; an entry that is named by a number is one of EMPIAR."""
    name = str(dataset.entry["entry_id"])
    return f"empiar-{name}" if name.isdecimal() else name


def _write_csv(path: Path, frame: pl.DataFrame, columns: Mapping[str, pl.Expr]) -> None:
    with open_for_replacement(path) as temporary:
        frame.select(expression.alias(name) for name, expression in columns.items()).write_csv(temporary)


def _check_one_geometry(dataset: Dataset) -> list[str]:
    """Refuse several pixel sizes, since the layout states one diameter in pixels for all; return what is doubtful."""
    sizes = merge_sizes(dataset.micrographs["pixel_size_angstrom"]).unique().sort()
    if len(sizes) > 1:
        raise ProjectError(
            f"{dataset.root}: found micrographs of {', '.join(f'{size:g}' for size in sizes)} Å per pixel, expected one pixel "
            "size in a CryoPPP entry. Make a project for each, or export with `--format relion`."
        )
    diameters = dataset.positives.select(_DIAMETER).to_series().unique().sort().to_list()
    if len(diameters) > 1:
        return [f"the positives have diameters of {diameters[0]} to {diameters[-1]} px; the layout has usually one"]
    return []


def write_coordinate_files(folder: Path, dataset: Dataset) -> None:
    """Write the positives and the negatives of every micrograph, be there none, as CSV files under `folder`.

    Where nothing but the places is known of all of them, the files have no other columns, as published ones of such entries.
    """
    both = pl.concat([dataset.positives, dataset.negatives])
    said = [column for label, column in _ALIGNMENT.items() if label != "CTF B Factor"]
    known = bool(both.select(pl.any_horizontal(column.is_not_null() for column in said).any()).item())
    columns = {**_PLACES, **(_ALIGNMENT if known else {})}
    groups = {
        ("particle_coordinates", ".csv"): dataset.positives,
        ("false_positives", "_false_positives.csv"): dataset.false_positives,
    }
    for (subfolder, suffix), frame in groups.items():
        parts = {str(name): rows for (name,), rows in frame.group_by("name", maintain_order=True)}
        for name in dataset.micrographs["name"].to_list():
            _write_csv(folder / subfolder / f"{name}{suffix}", parts.get(name, frame.clear()), columns)


def _write_labels(folder: Path, dataset: Dataset) -> list[str]:
    """Write all of `ground_truth`."""
    write_coordinate_files(folder, dataset)
    usable, warnings = choose_usable(dataset.positives)
    named = name_images(usable, _STACKS, _STACK_SUFFIX)
    excluded = dataset.negatives.with_columns(image_name=pl.lit(None, dtype=pl.String))
    for which, frame in (("selected", named), ("excluded", excluded)):
        stem = f"{_name_entry(dataset)}_particles_{which}"
        block, gaps = tabulate(frame, _STAR_COLUMNS)
        warnings += [f"{stem}.star: {n} particles have no {label}" for label, n in gaps.items()]
        optics = tabulate_optics(dataset.micrographs, frame)
        write_star(folder / f"{stem}.star", {"optics": optics, "particles": block})
        _write_csv(folder / f"{stem}.csv", frame, _ENTRY_COLUMNS)
    write_stacks(usable, dataset.root, folder.parent / _STACKS, _STACK_SUFFIX)
    return warnings


def _write_intermediate(folder: Path, dataset: Dataset) -> int:
    """Write the particles whose classes were the templates of the last picking with templates; return how many."""
    picked = [
        run for run in read_runs(dataset.root) if run.params.get("method") == "template" and "classes" in run.inputs
    ]
    path = dataset.root / "runs" / picked[-1].inputs["classes"] / "particles.parquet" if picked else None
    if path is None or not path.is_file():
        return 0
    places = dataset.micrographs.select("micrograph_id", "name", "ny_px", "group")
    chosen = read_table(path, "particles").filter(pl.col("label") == "positive")
    joined = chosen.join(places, on="micrograph_id", how="inner", maintain_order="left")
    columns = {label: column for label, column in _STAR_COLUMNS.items() if label != "rlnImageName"}
    block, _ = tabulate(joined, columns)
    optics = tabulate_optics(dataset.micrographs)
    write_star(folder / f"{_name_entry(dataset)}_picks_for_templates.star", {"optics": optics, "particles": block})
    return joined.height


def export_cryoppp(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset in CryoPPP's layout to a folder of `to` that has the entry's name.

    Parameters
    ----------
    tables
        The project's tables by name; micrographs and particles are needed.
    root
        The project's folder.
    to
        Folder to write to: missing, empty, or an older export in this layout, which is replaced.

    Raises
    ------
    ProjectError
        If the tables contradict each other or `to` holds something else.
    InputFileError
        If a file of the project is missing or damaged, or `to` cannot be written to.
    """
    dataset = gather_dataset(tables, root)
    warnings = [*dataset.warnings, *_check_one_geometry(dataset)]
    counts = {
        "micrographs": dataset.micrographs.height,
        "positives": dataset.positives.height,
        "negatives": dataset.negatives.height,
    }
    with open_release(to, LAYOUT) as staging:
        folder = staging / dataset.entry["entry_id"]
        for path, name in dataset.micrographs.select("micrograph_path", "name").iter_rows():
            link_or_copy(root / path, folder / "micrographs" / f"{name}.mrc")
        for gain in dataset.micrographs["gain_path"].drop_nulls().unique().sort():
            copy_file(root / gain, folder / "gain" / Path(gain).name)
        warnings += _write_labels(folder / "ground_truth", dataset)
        if n_intermediate := _write_intermediate(folder / "ground_truth" / "intermediate_data", dataset):
            counts["picks for templates"] = n_intermediate
        write_card(folder, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, tuple(warnings))
