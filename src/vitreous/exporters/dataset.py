"""The tables of a project as an exporter needs them: checked, joined and split by label."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from vitreous.errors import InputFileError, ProjectError
from vitreous.exporters.checks import check_pixel_sizes, check_rows
from vitreous.io.mrc import read_mrc_header
from vitreous.model.tables import TABLES, check_table, empty_table

__all__ = ["Dataset", "choose_usable", "gather_dataset", "merge_sizes"]

_UNSAFE = re.compile(r"[\s#\"'@/\\]")
"""What breaks STAR files of other programs, or paths, when it is in a name."""

_STILL_PARTICLES = ("duplicate", "border")
"""Reasons of negatives that are particles all the same."""

_SAME_SIZE = 1.001
_NO_ENTRY: dict[str, Any] = dict.fromkeys(TABLES["entries"].schema) | {"entry_id": "entry"}
_DEFOCUS = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg")
_OPTICS = ("voltage_kv", "cs_mm", "amplitude_contrast")
_FROM_EXPOSURE = ("movie_path", "n_frames", "dose_per_frame", "pre_exposure", "gain_path")


@dataclass(frozen=True)
class Dataset:
    """What is exported.

    Attributes
    ----------
    root
        The project's folder, which paths in the tables are relative to.
    entry
        The row of the entries table; defaults where there is none.
    micrographs
        Those that are not rejected, with `name` (their id, safe in file names), `group` (optics group, from 1 without gaps, each
        with an `optics_group_name` of its own), `original_pixel_size_angstrom`, `movie_nx_px`, `movie_ny_px` (of the movie) and
        what the exposures say.
    positives, negatives, candidates
        Particles of these micrographs by label, ordered as the micrographs, each with its micrograph's columns.
    rejected
        Particles of rejected micrographs.
    volumes
        The maps; empty where there are none.
    warnings
        What the user should know.
    """

    root: Path
    entry: Mapping[str, Any]
    micrographs: pl.DataFrame
    positives: pl.DataFrame
    negatives: pl.DataFrame
    candidates: pl.DataFrame
    rejected: pl.DataFrame
    volumes: pl.DataFrame
    warnings: tuple[str, ...]

    @property
    def false_positives(self) -> pl.DataFrame:
        """The negatives that show no particle: not those that the edge cuts or that lie on a positive."""
        return self.negatives.filter(~pl.col("reason").is_in(_STILL_PARTICLES).fill_null(value=False))


def merge_sizes(sizes: pl.Series) -> pl.Series:
    """Return pixel sizes, Å, in which those within a thousandth, as the rounding of file headers makes them, are one."""
    ordered = sizes.drop_nulls().unique().sort()
    starts = (ordered / ordered.shift(1) > _SAME_SIZE).fill_null(value=True)
    first = pl.select(pl.when(starts).then(ordered).forward_fill()).to_series()
    return sizes.replace_strict(ordered, first, default=None, return_dtype=pl.Float64)


def _check_tables(tables: Mapping[str, pl.DataFrame], root: Path) -> dict[str, pl.DataFrame]:
    checked = {}
    for name in TABLES:
        try:
            checked[name] = check_table(name, tables[name]) if name in tables else empty_table(name)
        except ValueError as error:
            raise ProjectError(f"{root}: {error}. Run the stage that made this table again.") from error
    for name in ("micrographs", "particles"):
        if checked[name].is_empty():
            raise ProjectError(f"{root}: found no {name} to export, expected some. Run `vitreous run {root}` first.")
    return checked


def _name_micrographs(micrographs: pl.DataFrame, root: Path) -> tuple[pl.DataFrame, list[str]]:
    """Add `name`: the identifier with what breaks other programs' files replaced by underscores."""
    ids = micrographs["micrograph_id"].to_list()
    names = [_UNSAFE.sub("_", identifier) for identifier in ids]
    owner: dict[str, str] = {}
    for identifier, name in zip(ids, names, strict=True):
        if name in owner:
            raise ProjectError(
                f"{root}: found the micrographs {owner[name]!r} and {identifier!r}, which would both be exported as {name}; "
                "expected different names. Rename one of the files and make the project again."
            )
        owner[name] = identifier
    changed = [identifier for identifier, name in zip(ids, names, strict=True) if identifier != name]
    warnings = [f"{identifier!r} is exported as {_UNSAFE.sub('_', identifier)}" for identifier in changed[:3]]
    if len(changed) > len(warnings):
        warnings.append(f"{len(changed) - len(warnings)} more names were changed in the same way")
    return micrographs.with_columns(name=pl.Series(names, dtype=pl.String)), warnings


def _name_groups() -> pl.Expr:
    """Return `optics_group_name` by which no two groups are the same: as it came, with the number where it must be."""
    number = pl.col("group").cast(pl.String)
    name = pl.col("optics_group_name").str.replace_all(_UNSAFE.pattern, "_").fill_null("opticsGroup" + number)
    return pl.when(name.is_duplicated()).then(name + "_" + number).otherwise(name).alias("optics_group_name")


def _number_groups(micrographs: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Add `group`: one number for each optics group and, where one holds several, for each of its pixel sizes and optics."""
    keys = ["optics_group", "pixel_key", *_OPTICS]
    keyed = micrographs.with_columns(pixel_key=merge_sizes(micrographs["pixel_size_angstrom"]))
    groups = keyed.select(keys).unique().sort(keys).with_row_index("group", offset=1)
    named = keyed.group_by(keys).agg(pl.col("optics_group_name").drop_nulls().first())
    groups = groups.join(named, on=keys, how="left", nulls_equal=True, maintain_order="left").with_columns(
        _name_groups()
    )
    split = groups.filter(pl.col("optics_group").is_duplicated())
    warnings = []
    if split.height:
        sizes = ", ".join(f"{size:g}" for size in split["pixel_key"].unique().sort())
        warnings.append(
            f"one optics group holds several optics or pixel sizes ({sizes} Å): each is exported as its own group"
        )
    joined = keyed.drop("optics_group_name").join(groups, on=keys, how="left", maintain_order="left").drop("pixel_key")
    return joined.with_columns(pl.col("group").cast(pl.Int64)), warnings


def _prepare_micrographs(checked: Mapping[str, pl.DataFrame], root: Path) -> tuple[pl.DataFrame, list[str]]:
    exposures = checked["exposures"].select(
        "exposure_id",
        *_FROM_EXPOSURE,
        movie_nx_px="nx_px",
        movie_ny_px="ny_px",
        original_pixel_size_angstrom="pixel_size_angstrom",
    )
    named, renamed = _name_micrographs(checked["micrographs"], root)
    joined = named.join(exposures, on="exposure_id", how="left", maintain_order="left").with_columns(
        pl.coalesce("original_pixel_size_angstrom", "pixel_size_angstrom"),
        pl.coalesce("movie_nx_px", "nx_px"),
        pl.coalesce("movie_ny_px", "ny_px"),
    )
    grouped, split = _number_groups(joined)
    return grouped, [*renamed, *split]


def _check_files(micrographs: pl.DataFrame, root: Path) -> None:
    """Check that every image is there, whole and of the size that the table says."""
    for row in micrographs.iter_rows(named=True):
        path = root / row["micrograph_path"]
        shape = read_mrc_header(path).shape
        if shape != (1, row["ny_px"], row["nx_px"]):
            raise InputFileError(
                path,
                found=f"{shape[0]} images of {shape[2]}x{shape[1]} px",
                expected=f"one of {row['nx_px']}x{row['ny_px']} px, as the micrographs table says",
                remedy="Run motion again.",
            )


def _check_particles(particles: pl.DataFrame, root: Path) -> list[str]:
    """Refuse what contradicts the micrographs or itself; return what is only doubtful."""
    orphans = particles.filter(pl.col("name").is_null())
    if orphans.height:
        row = orphans.row(0, named=True)
        raise ProjectError(
            f"{root}: found {orphans.height} particles of micrographs that are not in the project, such as "
            f"{row['particle_id']!r} of {row['micrograph_id']!r}; expected none. Run pick again."
        )
    x, y, nx, ny = (pl.col(name) for name in ("x_px", "y_px", "nx_px", "ny_px"))
    inside = x.is_between(-0.5, nx - 0.5) & y.is_between(-0.5, ny - 0.5)
    outside = particles.filter(~inside)
    if outside.height:
        row = outside.row(0, named=True)
        raise ProjectError(
            f"{root}: found {outside.height} particles outside their micrograph, such as {row['particle_id']!r} at "
            f"x {row['x_px']:.1f}, y {row['y_px']:.1f} px in {row['micrograph_id']!r} of {row['nx_px']}x{row['ny_px']} px; "
            "expected none. Check that the coordinates belong to these micrographs, and their pixel size."
        )
    strange = set(particles["label"]) - {"positive", "negative", "candidate"}
    if strange:
        raise ProjectError(
            f"{root}: found the label {min(strange)!r}, expected positive, negative or candidate. Run review."
        )
    images = particles.filter((pl.col("label") == "positive") & pl.col("stack_path").is_not_null())
    if images.select("stack_path", "stack_index").is_duplicated().any():
        raise ProjectError(
            f"{root}: found positives that share one extracted image, expected one for each. Run extract again."
        )
    positives = particles.filter(pl.col("label") == "positive")
    twice = int(positives.select("micrograph_id", "x_px", "y_px").is_duplicated().sum())
    return [f"{twice} positives lie exactly where another lies"] if twice else []


def _check_boxes(positives: pl.DataFrame, root: Path) -> None:
    """RELION's optics groups, and CryoPPP's stacks, have one size of image each."""
    images = positives.filter(pl.col("stack_path").is_not_null())
    sizes = merge_sizes(images["stack_pixel_size_angstrom"])
    geometry = images.select("group", "box_px", sizes).unique().sort(pl.all())
    mixed = geometry.filter(pl.col("group").is_duplicated())
    if mixed.height:
        listed = ", ".join(f"{box} px at {size:g} Å" for _, box, size in mixed.iter_rows())
        raise ProjectError(
            f"{root}: found extracted images of different sizes in one optics group ({listed}), expected one size. Give the "
            "diameter (`vitreous new --diameter`) and run extract again."
        )


def gather_dataset(tables: Mapping[str, pl.DataFrame], root: Path) -> Dataset:
    """Check the tables of the project in `root`, join them and split the particles.

    Raises
    ------
    ProjectError
        If tables are missing or contradict each other.
    InputFileError
        If a micrograph is missing, damaged or of another size than the table says.
    """
    checked = _check_tables(tables, root)
    micrographs, warnings = _prepare_micrographs(checked, root)
    accepted = micrographs.filter(pl.col("accepted").fill_null(value=True))
    if accepted.is_empty():
        raise ProjectError(f"{root}: found no accepted micrograph, expected some. Accept some, then export again.")
    _check_files(accepted, root)
    check_pixel_sizes(accepted, root)
    # Of the same name in both tables, the particle's own column wins, and where it is null the micrograph's does.
    own = checked["particles"]
    joined = own.join(
        micrographs.with_row_index("micrograph_row")
        .rename({name: f"micrograph_{name}" for name in _DEFOCUS})
        .drop("reason"),
        on="micrograph_id",
        how="left",
        maintain_order="left",
    ).with_columns(pl.coalesce(name, f"micrograph_{name}").alias(name) for name in _DEFOCUS)
    warnings += _check_particles(joined, root)
    particles = joined.sort("micrograph_row", maintain_order=True)
    kept = particles.filter(pl.col("accepted").fill_null(value=True))
    rejected = particles.filter(~pl.col("accepted").fill_null(value=True))
    lost = rejected.filter(pl.col("label") == "positive").height
    if lost:
        warnings.append(f"{lost} positives lie in rejected micrographs and are not exported as positives")
    split = {label: kept.filter(pl.col("label") == label) for label in ("positive", "negative", "candidate")}
    if split["positive"].is_empty():
        warnings.append("there are no positives")
    if split["candidate"].height:
        warnings.append(
            f"{split['candidate'].height} candidates are labelled neither positive nor negative; run review"
        )
    _check_boxes(split["positive"], root)
    check_rows(accepted, split["positive"], root)
    entry = checked["entries"].to_dicts()[0] if checked["entries"].height else _NO_ENTRY
    return Dataset(
        root=root,
        entry=entry | {"entry_id": _UNSAFE.sub("_", entry["entry_id"])},
        micrographs=accepted,
        positives=split["positive"],
        negatives=split["negative"],
        candidates=split["candidate"],
        rejected=rejected,
        volumes=checked["volumes"],
        warnings=tuple(warnings),
    )


def choose_usable(positives: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Return the positives that a STAR file can describe, since it has no way to say that one value is missing.

    Where some have an image, those without are left out; where some have a defocus, those without too.
    """
    warnings = []
    for column, what in (("stack_path", "extracted image"), ("defocus_u_angstrom", "defocus")):
        known = positives.filter(pl.col(column).is_not_null())
        if 0 < known.height < positives.height:
            warnings.append(
                f"{positives.height - known.height} positives have no {what}: their coordinates are exported, but they are not "
                "in the particle STAR file and stacks"
            )
            positives = known
        elif positives.height and not known.height:
            warnings.append(f"the positives have no {what}")
    return positives, warnings
