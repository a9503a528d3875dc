"""What the exporters' particle files share: columns with gaps, optics groups, stacks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars import selectors

from vitreous.exporters.release import link_or_copy
from vitreous.io.mrc import read_mrc_header, write_mrc
from vitreous.io.stacks import check_stack, read_particle_images

__all__ = ["StarColumn", "name_images", "tabulate", "tabulate_optics", "write_stacks"]

_FLOAT32_MODE = 2


@dataclass(frozen=True)
class StarColumn:
    """A column of a STAR file, which has no way to say that a value is missing.

    Not-a-number and infinity count as null. A column that is null in all rows is left out. In one that is null in some,
    nulls become `default`; without a default the column is left out too.
    """

    value: pl.Expr
    default: float | None = None


def tabulate(frame: pl.DataFrame, columns: Mapping[str, StarColumn]) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the columns by label, and for each label with gaps the number of rows that have no value."""
    filled = frame.select(column.value.alias(label) for label, column in columns.items())
    filled = filled.with_columns(pl.when(selectors.float().is_finite()).then(selectors.float()))
    gaps = {label: filled[label].null_count() for label in columns}
    gaps = {label: n for label, n in gaps.items() if n}
    kept = [label for label in columns if gaps.get(label, 0) < max(1, frame.height)]
    kept = [label for label in kept if label not in gaps or columns[label].default is not None]
    defaults = (pl.col(label).fill_null(columns[label].default) if label in gaps else pl.col(label) for label in kept)
    return filled.select(defaults), {label: n for label, n in gaps.items() if n < frame.height}


def tabulate_optics(micrographs: pl.DataFrame, positives: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return RELION's table of optics groups: of micrographs, or of particles where `positives` are given."""
    groups = micrographs.group_by("group").first().sort("group")
    columns = {
        "rlnOpticsGroupName": pl.col("optics_group_name"),
        "rlnOpticsGroup": pl.col("group"),
        "rlnMicrographOriginalPixelSize": pl.col("original_pixel_size_angstrom"),
        "rlnVoltage": pl.col("voltage_kv"),
        "rlnSphericalAberration": pl.col("cs_mm"),
        "rlnAmplitudeContrast": pl.col("amplitude_contrast"),
    }
    if positives is None:
        return groups.select(**columns, rlnMicrographPixelSize=pl.col("pixel_size_angstrom"))
    images = positives.filter(pl.col("stack_path").is_not_null())
    if images.is_empty():
        return groups.select(**columns)
    geometry = images.group_by("group").first().select("group", "box_px", "stack_pixel_size_angstrom")
    return (
        groups.join(geometry, on="group", how="inner")
        .sort("group")
        .select(
            **columns,
            rlnImagePixelSize=pl.col("stack_pixel_size_angstrom"),
            rlnImageSize=pl.col("box_px"),
            rlnImageDimensionality=pl.lit(2, dtype=pl.Int64),
        )
    )


def name_images(positives: pl.DataFrame, folder: str, suffix: str) -> pl.DataFrame:
    """Add `image_name`, `000001@folder/name<suffix>`, counted from 1 in each micrograph; null where there is no image."""
    number = pl.int_range(1, pl.len() + 1).over("micrograph_id")
    text = pl.format("{}@{}/{}{}", number.cast(pl.String).str.zfill(6), pl.lit(folder), "name", pl.lit(suffix))
    return positives.with_columns(image_name=pl.when(pl.col("stack_path").is_not_null()).then(text))


def write_stacks(positives: pl.DataFrame, root: Path, folder: Path, suffix: str) -> None:
    """Write one stack for each micrograph, its images in the order of the rows, float32.

    Raises
    ------
    InputFileError
        If a stack of the project is missing, damaged or not what the particles table says.
    """
    images = positives.filter(pl.col("stack_path").is_not_null())
    for (name,), rows in images.group_by("name", maintain_order=True):
        target = folder / f"{name}{suffix}"
        sources = rows["stack_path"].unique()
        header = read_mrc_header(root / sources[0])
        whole = rows["stack_index"].to_list() == list(range(header.shape[0]))
        if whole and len(sources) == 1 and header.mode == _FLOAT32_MODE:
            check_stack(root / sources[0], header.shape, rows)
            link_or_copy(root / sources[0], target)
        else:
            write_mrc(target, read_particle_images(rows, root), float(rows["stack_pixel_size_angstrom"][0]))
