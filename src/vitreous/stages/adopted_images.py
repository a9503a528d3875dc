"""Which extracted images of another program can be used as they lie: all there, alike, normalised, protein bright."""

import os
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.errors import UserError
from vitreous.io.images import trust_pixel_size
from vitreous.io.mrc import read_mrc_header
from vitreous.io.named_images import IMAGES_SCHEMA
from vitreous.io.stacks import read_particle_images
from vitreous.model.tables import TABLES

__all__ = ["IMAGE_COLUMNS", "choose_images"]

IMAGE_COLUMNS = ("stack_path", "stack_index", "box_px", "stack_pixel_size_angstrom")
"""Columns of the particles table that name an extracted image."""

_N_LOOKED_AT = 256
_INSIDE, _OUTSIDE = 0.7, 1.1
"""Diameters, in particle diameters, of the disc in which protein is looked for and of that outside which it is not."""

_MOST_OFFSET, _LEAST_DEVIATION, _MOST_DEVIATION = 0.3, 0.7, 1.4
"""Of the mean and the deviation of the background of images that are normalised to 0 and 1."""

_CLEARLY = 3.0
_SAME_SIZE = 1e-3


def _drop_images(picks: pl.DataFrame) -> pl.DataFrame:
    schema = TABLES["particles"].schema
    return picks.drop(*IMAGES_SCHEMA).with_columns(pl.lit(None, schema[name]).alias(name) for name in IMAGE_COLUMNS)


def _measure_stacks(positives: pl.DataFrame) -> pl.DataFrame:
    """Return `stack_path`, `box_px` and the pixel size in the header of every stack; images that are not square have box -1."""
    rows = []
    for name in positives["stack_path"].unique().sort():
        header = read_mrc_header(Path(name))
        ny, nx = header.shape[-2:]
        rows.append((name, nx if nx == ny else -1, trust_pixel_size(header.pixel_size_angstrom), header.shape[0]))
    schema = {"stack_path": pl.String, "box_px": pl.Int64, "header_angstrom": pl.Float64, "n_images": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _look(positives: pl.DataFrame, diameter_angstrom: float) -> str | None:
    """Return what is wrong with the images themselves, judged by some of them."""
    some = positives[:: max(1, positives.height // _N_LOOKED_AT)]
    images = read_particle_images(some, Path("/"))
    box, pixel = images.shape[-1], float(some["stack_pixel_size_angstrom"][0])
    y, x = np.mgrid[:box, :box] - box // 2
    distance = 2 * np.hypot(y, x) * pixel / diameter_angstrom
    inside = images[:, distance <= _INSIDE]
    outside = images[:, distance > min(_OUTSIDE, 0.96 * box * pixel / diameter_angstrom)]
    offset, deviation = float(np.median(outside.mean(axis=1))), float(np.median(outside.std(axis=1)))
    if abs(offset) > _MOST_OFFSET or not _LEAST_DEVIATION < deviation < _MOST_DEVIATION:
        return (
            f"their background has a mean of {offset:.2g} and a deviation of {deviation:.2g} where 0 and 1 are expected"
        )
    strength = inside.mean(axis=1)
    error = strength.std() / np.sqrt(len(strength))
    return "protein is dark in them" if strength.mean() < -_CLEARLY * error else None


def _judge(positives: pl.DataFrame, diameter_angstrom: float) -> tuple[pl.DataFrame, str | None]:
    """Return the positives with `box_px`, and why their images cannot be used as they lie."""
    lacking = positives["stack_path"].null_count()
    if lacking:
        return positives, f"{lacking} of {positives.height} are not where the picks say"
    if positives["is_premultiplied"].any():
        return positives, "they are multiplied by their CTF"
    if positives.select("stack_path", "stack_index").is_duplicated().any():
        return positives, "particles share images"
    measured = positives.join(_measure_stacks(positives), on="stack_path", how="left", maintain_order="left")
    sized = measured.with_columns(pl.coalesce("stack_pixel_size_angstrom", "header_angstrom"))
    pixels = sized["stack_pixel_size_angstrom"]
    if pixels.null_count():
        return positives, "their pixel size is not said (1 Å in the header of a stack may mean that it is not known)"
    boxes, sizes = sized["box_px"].unique().to_list(), pixels.unique().sort().to_list()
    if len(boxes) > 1 or boxes[0] < 0 or boxes[0] % 2 or sizes[-1] > sizes[0] * (1 + _SAME_SIZE):
        found = ", ".join(f"{box} px at {size:.4g} Å" for box, size in zip(boxes, sizes, strict=False))
        return positives, f"they are not squares of one even size ({found})"
    if (sized["stack_index"] >= sized["n_images"]).any():
        return positives, "stacks have fewer images than the picks say"
    sized = sized.with_columns(stack_pixel_size_angstrom=pl.lit(sizes[0]))
    return sized.drop("header_angstrom", "n_images"), _look(sized, diameter_angstrom)


def choose_images(picks: pl.DataFrame, root: Path, diameter_angstrom: float | None) -> tuple[pl.DataFrame, list[str]]:
    """Return the picks with `IMAGE_COLUMNS`, null unless the images of all positives can be used, and what is to be said.

    Parameters
    ----------
    picks
        As `read_particles` returns them, with `label`.
    root
        The project's folder, which `stack_path` is made relative to.
    diameter_angstrom
        Particle diameter, Å; where it is not known no image is used, since none can be looked at.
    """
    positives = picks.filter(pl.col("label") == "positive")
    if diameter_angstrom is None or positives["stack_index"].null_count() == positives.height:
        return _drop_images(picks), []
    try:
        judged, problem = _judge(positives, diameter_angstrom)
    except UserError as error:
        problem = str(error)
    if problem is not None:
        return _drop_images(picks), [
            f"the images that came with the particles are not used, they are cut out again: {problem}"
        ]
    paths = judged["stack_path"].unique().to_list()
    relative = {path: Path(os.path.relpath(path, root)).as_posix() for path in paths}
    judged = judged.with_columns(pl.col("stack_path").replace_strict(relative, return_dtype=pl.String))
    others = _drop_images(picks.filter(pl.col("label") != "positive"))
    n = judged.height
    return pl.concat([judged.select(others.columns), others]), [f"{n} extracted images are used as they came"]
