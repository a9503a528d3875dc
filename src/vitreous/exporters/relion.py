"""A folder in which RELION 3.1 and later can be run: micrographs, picks, particles, motion and maps.

Positions are in the frame of the micrograph in memory, as RELION's own.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vitreous.errors import ProjectError
from vitreous.exporters.card import write_card
from vitreous.exporters.dataset import Dataset, choose_usable, gather_dataset
from vitreous.exporters.particles import StarColumn, name_images, tabulate, tabulate_optics, write_stacks
from vitreous.exporters.release import copy_file, link_or_copy, open_release
from vitreous.exporters.relion_classes import write_classes
from vitreous.exporters.relion_motion import read_track, write_motion
from vitreous.exporters.summary import ExportSummary
from vitreous.io.mrc import read_mrc, read_mrc_header, write_mrc
from vitreous.io.star import write_star
from vitreous.model.tables import empty_table

__all__ = ["LAYOUT", "export_relion"]

LAYOUT = "relion"

_MICROGRAPHS, _STACKS, _MOTION, _MAPS, _GAIN, _MOVIES = "Micrographs", "Particles", "motion", "maps", "Gain", "Movies"
_CLASSES = "Class2D"
_POOR_FIT_PX = 0.3
_FLOAT16_MODE = 12
_PICKS_SUFFIX = "_autopick.star"
_COORDINATES = {
    "y_origin": "top",
    "x": "rlnCoordinateX = x_px, the column of the centre, 0 the first in memory",
    "y": "rlnCoordinateY = y_px, the row of the centre, 0 the first in memory",
    "unit": "pixels of the micrograph",
    "angles": "as RELION",
}
_IMAGE = pl.format("{}/{}.mrc", pl.lit(_MICROGRAPHS), "name")
_DEFOCUS = {
    "rlnDefocusU": StarColumn(pl.col("defocus_u_angstrom")),
    "rlnDefocusV": StarColumn(pl.col("defocus_v_angstrom")),
    "rlnDefocusAngle": StarColumn(pl.col("defocus_angle_deg")),
    "rlnPhaseShift": StarColumn(pl.col("phase_shift_deg"), 0.0),
}
_MICROGRAPH_COLUMNS = {
    "rlnMicrographName": StarColumn(_IMAGE),
    "rlnMicrographMetadata": StarColumn(
        pl.when(pl.col("trajectory_path").is_not_null()).then(pl.format("{}/{}.star", pl.lit(_MOTION), "name"))
    ),
    "rlnOpticsGroup": StarColumn(pl.col("group")),
    **_DEFOCUS,
    "rlnCtfAstigmatism": StarColumn(pl.col("defocus_u_angstrom") - pl.col("defocus_v_angstrom")),
    "rlnCtfFigureOfMerit": StarColumn(pl.col("ctf_score")),
    "rlnCtfMaxResolution": StarColumn(pl.col("ctf_resolution_angstrom")),
    "rlnAccumMotionTotal": StarColumn(pl.col("total_motion_angstrom")),
    "rlnAccumMotionEarly": StarColumn(pl.col("early_motion_angstrom")),
    "rlnAccumMotionLate": StarColumn(pl.col("late_motion_angstrom")),
}
_PICK_COLUMNS = {
    "rlnCoordinateX": StarColumn(pl.col("x_px")),
    "rlnCoordinateY": StarColumn(pl.col("y_px")),
    "rlnAutopickFigureOfMerit": StarColumn(pl.col("score")),
}
_PARTICLE_COLUMNS = {
    **_PICK_COLUMNS,
    "rlnImageName": StarColumn(pl.col("image_name")),
    "rlnMicrographName": StarColumn(_IMAGE),
    "rlnOpticsGroup": StarColumn(pl.col("group")),
    **_DEFOCUS,
    "rlnClassNumber": StarColumn(pl.col("class_id"), 0),
    "rlnAngleRot": StarColumn(pl.col("rot_deg"), 0.0),
    "rlnAngleTilt": StarColumn(pl.col("tilt_deg"), 0.0),
    "rlnAnglePsi": StarColumn(pl.coalesce("psi_deg", "class_psi_deg"), 0.0),
    "rlnOriginXAngst": StarColumn(pl.coalesce("origin_x_angstrom", "class_origin_x_angstrom"), 0.0),
    "rlnOriginYAngst": StarColumn(pl.coalesce("origin_y_angstrom", "class_origin_y_angstrom"), 0.0),
    "rlnRandomSubset": StarColumn(pl.col("half")),
}
_EXCLUDED_COLUMNS = {
    **_PICK_COLUMNS,
    "rlnMicrographName": StarColumn(_IMAGE),
    "rlnOpticsGroup": StarColumn(pl.col("group")),
    **_DEFOCUS,
    "rlnClassNumber": StarColumn(pl.col("class_id"), 0),
    "vitreousReason": StarColumn(pl.col("excluded_because")),
}


def _describe_gaps(file: str, gaps: Mapping[str, int], columns: Mapping[str, StarColumn], total: int) -> list[str]:
    """Say what was done about values that some rows do not have."""
    return [
        f"{file}: {n} of {total} rows have no {label}; "
        + (
            "the column is left out"
            if columns[label].default is None
            else f"{columns[label].default:g} is written there"
        )
        for label, n in gaps.items()
        if label != "rlnClassNumber"
    ]


def _write_image(folder: Path, root: Path, row: Mapping[str, Any]) -> bool:
    """Link the micrograph, or write it as float32 where it is in half precision; return whether it is."""
    source, target = root / row["micrograph_path"], folder / f"{row['name']}.mrc"
    is_half = read_mrc_header(source).mode == _FLOAT16_MODE
    if is_half:
        write_mrc(target, read_mrc(source)[0].astype("float32"), row["pixel_size_angstrom"])
    else:
        link_or_copy(source, target)
    return is_half


def _write_micrographs(folder: Path, dataset: Dataset) -> list[str]:
    micrographs, warnings = dataset.micrographs, []
    n_half = sum(_write_image(folder / _MICROGRAPHS, dataset.root, row) for row in micrographs.iter_rows(named=True))
    if n_half:
        warnings.append(
            f"{n_half} micrographs are in half precision, which RELION 3.1 cannot read: they are written again as float32 and "
            "take space of their own"
        )
    fitted = micrographs.filter(pl.col("defocus_u_angstrom").is_not_null())
    if 0 < fitted.height < micrographs.height:
        warnings.append(
            f"{micrographs.height - fitted.height} micrographs have no defocus and are not in micrographs.star"
        )
        micrographs = fitted
    block, gaps = tabulate(micrographs, _MICROGRAPH_COLUMNS)
    warnings += _describe_gaps("micrographs.star", gaps, _MICROGRAPH_COLUMNS, micrographs.height)
    write_star(folder / "micrographs.star", {"optics": tabulate_optics(dataset.micrographs), "micrographs": block})
    return warnings


def _write_picks(folder: Path, dataset: Dataset) -> None:
    """Write the positives of each micrograph that has some beside it, and the list of these files."""
    parts = dataset.positives.partition_by("name", as_dict=True, maintain_order=True)
    for (name,), rows in parts.items():
        block, _ = tabulate(rows, _PICK_COLUMNS)
        write_star(folder / _MICROGRAPHS / f"{name}{_PICKS_SUFFIX}", {"": block})
    names = pl.Series([str(name) for (name,) in parts], dtype=pl.String)
    listed = pl.DataFrame(
        {
            "rlnMicrographName": [f"{_MICROGRAPHS}/{name}.mrc" for name in names],
            "rlnMicrographCoordinates": [f"{_MICROGRAPHS}/{name}{_PICKS_SUFFIX}" for name in names],
        },
        schema={"rlnMicrographName": pl.String, "rlnMicrographCoordinates": pl.String},
    )
    write_star(folder / "autopick.star", {"coordinate_files": listed})


def _name_gain(row: Mapping[str, Any]) -> str:
    name = Path(row["gain_path"])
    return f"{name.stem}_eer.mrc" if _goes_with_eer(row) else name.name


def _goes_with_eer(row: Mapping[str, Any]) -> bool:
    return Path(row["movie_path"] or "").suffix.lower() == ".eer"


def _write_gains(folder: Path, dataset: Dataset) -> None:
    """Write the gain references; RELION divides EER movies by an MRC one, and multiplies others with it."""
    rows = dataset.micrographs.drop_nulls("gain_path").iter_rows(named=True)
    for name, row in {_name_gain(row): row for row in rows}.items():
        source = dataset.root / row["gain_path"]
        if not _goes_with_eer(row):
            copy_file(source, folder / name)
            continue
        gain, header = read_mrc(source)
        divisor = np.divide(1, gain, out=np.zeros(gain.shape, np.float32), where=gain > 0)
        write_mrc(folder / name, divisor, header.pixel_size_angstrom or 0.0)


def _write_motions(folder: Path, dataset: Dataset) -> list[str]:
    """Write the motion of each movie; warn where RELION's polynomial does not say it well."""
    residuals = {}
    for row in dataset.micrographs.filter(pl.col("trajectory_path").is_not_null()).iter_rows(named=True):
        track = read_track(dataset.root / row["trajectory_path"], row["n_frames"])
        movie = f"{_MOVIES}/{Path(row['movie_path'] or row['name']).name}"
        gain = f"{_GAIN}/{_name_gain(row)}" if row["gain_path"] else None
        residuals[row["name"]] = write_motion(folder / f"{row['name']}.star", track, row, movie, gain)
    poor = [name for name, residual in residuals.items() if residual > _POOR_FIT_PX]
    if not poor:
        return []
    worst = max(poor, key=lambda name: residuals[name])
    return [
        f"RELION's polynomial cannot follow the local motion of {len(poor)} movies: it is off by {residuals[worst]:.2f} px (rms) "
        f"in {worst}; their micrographs are corrected with the whole of it"
    ]


def _write_particles(folder: Path, dataset: Dataset) -> list[str]:
    usable, warnings = choose_usable(dataset.positives)
    named = name_images(usable, _STACKS, ".mrcs")
    block, gaps = tabulate(named, _PARTICLE_COLUMNS)
    warnings += _describe_gaps("particles.star", gaps, _PARTICLE_COLUMNS, named.height)
    write_star(
        folder / "particles.star",
        {"optics": tabulate_optics(dataset.micrographs, usable), "particles": block},
    )
    write_stacks(usable, dataset.root, folder / _STACKS, ".mrcs")
    return warnings


def _write_excluded(folder: Path, dataset: Dataset) -> int:
    """Write all that is no positive, with the reason; return how many."""
    excluded = pl.concat(
        [
            dataset.negatives.with_columns(excluded_because=pl.col("reason").fill_null("negative")),
            dataset.candidates.with_columns(excluded_because=pl.lit("candidate")),
            dataset.rejected.with_columns(excluded_because=pl.lit("micrograph")),
        ]
    )
    block, _ = tabulate(excluded, _EXCLUDED_COLUMNS)
    optics = tabulate_optics(excluded if excluded.height else dataset.micrographs, excluded.clear())
    write_star(folder / "particles_excluded.star", {"optics": optics, "particles": block})
    return excluded.height


def _write_maps(folder: Path, dataset: Dataset) -> int:
    for row in dataset.volumes.iter_rows(named=True):
        for column, suffix in (("map", ""), ("half1", "_half1"), ("half2", "_half2"), ("mask", "_mask")):
            if row[f"{column}_path"] is not None:
                link_or_copy(dataset.root / row[f"{column}_path"], folder / _MAPS / f"{row['volume_id']}{suffix}.mrc")
    return dataset.volumes.height


def _check_movie_names(dataset: Dataset) -> None:
    movies = dataset.micrographs["movie_path"].drop_nulls().str.split("/").list.last()
    if movies.is_duplicated().any():
        raise ProjectError(
            f"{dataset.root}: found several movies named {movies.filter(movies.is_duplicated())[0]}, expected different names, "
            "since RELION is to find them in one folder. Rename them and make the project again."
        )


def export_relion(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset as a folder in which RELION can be run; what RELION itself wrote there since stays.

    Parameters and errors as of `export_cryoppp`.
    """
    dataset = gather_dataset(tables, root)
    _check_movie_names(dataset)
    warnings = list(dataset.warnings)
    with open_release(to, LAYOUT) as staging:
        warnings += _write_micrographs(staging, dataset)
        _write_picks(staging, dataset)
        warnings += _write_motions(staging / _MOTION, dataset)
        _write_gains(staging / _GAIN, dataset)
        warnings += _write_particles(staging, dataset)
        counts = {
            "micrographs": dataset.micrographs.height,
            "positives": dataset.positives.height,
            "excluded particles": _write_excluded(staging, dataset),
            "classes": write_classes(
                staging / _CLASSES,
                _CLASSES,
                tables.get("classes", empty_table("classes")),
                root,
                staging / "particles.star",
            ),
            "maps": _write_maps(staging, dataset),
        }
        write_card(staging, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, tuple(warnings))
