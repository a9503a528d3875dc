"""2D class averages with what is known of them: RELION's model STAR beside a stack, or a stack alone."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.star import read_star, write_star

__all__ = ["ClassAverages", "read_class_averages", "write_class_averages"]

_STACK, _MODEL, _DATA = "_classes.mrcs", "_model.star", "_data.star"
_UNKNOWN = 999.0


@dataclass(frozen=True)
class ClassAverages:
    """Class averages.

    Attributes
    ----------
    images
        `(K, N, N)`, protein bright.
    pixel_size_angstrom
        Å per pixel.
    table
        `class_id` (from 1), `n_particles` and `share` (null where unknown), `resolution_angstrom` (null where unknown), in the
        order of the images.
    """

    images: NDArray[np.float32]
    pixel_size_angstrom: float
    table: pl.DataFrame


def write_class_averages(folder: Path, stem: str, averages: ClassAverages, prefix: str = "") -> None:
    """Write `<stem>_classes.mrcs` and `<stem>_model.star` as RELION 3.1 names and fills them.

    Parameters
    ----------
    folder
        Where to; made if missing.
    stem
        Beginning of the names, `run` as a rule.
    averages
        What to write. RELION numbers classes by their place in the stack.
    prefix
        What the model puts before the stack's name: the folder's path from where RELION is run.
    """
    n_classes, n_px = averages.images.shape[:2]
    folder.mkdir(parents=True, exist_ok=True)
    write_mrc(folder / f"{stem}{_STACK}", averages.images, averages.pixel_size_angstrom)
    name = f"{PurePosixPath(prefix) / stem}{_STACK}"
    resolution = averages.table["resolution_angstrom"].fill_null(_UNKNOWN)
    general = {
        "rlnReferenceDimensionality": 2,
        "rlnDataDimensionality": 2,
        "rlnOriginalImageSize": n_px,
        "rlnCurrentResolution": float(resolution.to_numpy().min()),
        "rlnCurrentImageSize": n_px,
        "rlnPaddingFactor": 2.0,
        "rlnPixelSize": averages.pixel_size_angstrom,
        "rlnNrClasses": n_classes,
        "rlnNrBodies": 1,
        "rlnNrGroups": 1,
    }
    classes = pl.DataFrame(
        {
            "rlnReferenceImage": [f"{i + 1:06d}@{name}" for i in range(n_classes)],
            "rlnClassDistribution": averages.table["share"].fill_null(1 / n_classes),
            "rlnEstimatedResolution": resolution,
        }
    )
    write_star(folder / f"{stem}{_MODEL}", {"model_general": general, "model_classes": classes})


def _find_stack(model: Path, named: str) -> Path:
    """Return the stack that a model names from where RELION was run: beside it, or further up."""
    places = [model.parent / PurePosixPath(named).name, *(parent / named for parent in model.resolve().parents)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputFileError(
            model,
            found=f"the stack {named}, which is neither beside it nor in a folder above",
            expected="the averages of its classes",
            remedy="Copy the stack to the model's folder.",
        )
    return found


def _read_model(path: Path) -> ClassAverages:
    blocks = read_star(path)
    if "model_classes" not in blocks or "rlnReferenceImage" not in blocks["model_classes"].columns:
        raise InputFileError(
            path,
            found=f"the blocks {', '.join(blocks) or 'of nothing'}",
            expected="model_classes with rlnReferenceImage, as of RELION's run_it025_model.star",
            remedy="Give the model of a 2D classification, or its stack of averages.",
        )
    classes = blocks["model_classes"]
    parts = [str(name).partition("@") for name in classes["rlnReferenceImage"]]
    names = [named if at else number for number, at, named in parts]
    stacks = {name: read_mrc(_find_stack(path, name)) for name in set(names)}
    images = [
        stacks[name][0].reshape(-1, *stacks[name][0].shape[-2:])[int(number) - 1 if at else 0]
        for name, (number, at, _) in zip(names, parts, strict=True)
    ]
    share = classes["rlnClassDistribution"].cast(pl.Float64) if "rlnClassDistribution" in classes.columns else None
    resolution = (
        classes["rlnEstimatedResolution"].cast(pl.Float64) if "rlnEstimatedResolution" in classes.columns else None
    )
    number = pl.Series("class_id", range(1, classes.height + 1), dtype=pl.Int64)
    table = pl.DataFrame({"class_id": number}).with_columns(
        n_particles=_count_particles(path, number),
        share=share if share is not None else pl.lit(None, dtype=pl.Float64),
        resolution_angstrom=resolution if resolution is not None else pl.lit(None, dtype=pl.Float64),
    )
    # RELION says 999 where it knows none.
    table = table.with_columns(
        resolution_angstrom=pl.when(pl.col("resolution_angstrom").is_between(0, _UNKNOWN, closed="none")).then(
            pl.col("resolution_angstrom")
        )
    )
    general = blocks.get("model_general", pl.DataFrame())
    header = next(iter(stacks.values()))[1]
    pixel = float(general["rlnPixelSize"][0]) if "rlnPixelSize" in general.columns else header.pixel_size_angstrom
    return ClassAverages(np.stack(images).astype(np.float32), _check_pixel(path, pixel), table)


def _count_particles(model: Path, number: pl.Series) -> pl.Series:
    """Return the particles of each class by the data file beside a model; null where there is none."""
    data = model.with_name(model.name.removesuffix(_MODEL) + _DATA)
    if not (model.name.endswith(_MODEL) and data.is_file()):
        return pl.Series("n_particles", [None] * len(number), dtype=pl.Int64)
    blocks = read_star(data)
    particles = blocks.get("particles", next(iter(blocks.values())))
    counts = dict(particles["rlnClassNumber"].cast(pl.Int64).value_counts().iter_rows())
    return pl.Series("n_particles", [counts.get(one, 0) for one in number], dtype=pl.Int64)


def _check_pixel(path: Path, pixel_size_angstrom: float | None) -> float:
    if not pixel_size_angstrom or pixel_size_angstrom <= 0:
        raise InputFileError(
            path, found="no pixel size", expected="one", remedy="Write it into the header, or give the RELION model."
        )
    return float(pixel_size_angstrom)


def read_class_averages(path: Path) -> ClassAverages:
    """Read the averages of a RELION model STAR (sizes from the data file beside it), or of a stack alone.

    Raises
    ------
    InputFileError
        If there is no such file, or it holds no class averages.
    """
    if path.suffix == ".star":
        return _read_model(path)
    stack, header = read_mrc(path)
    images = stack.reshape(-1, *stack.shape[-2:]).astype(np.float32)
    number = pl.Series("class_id", range(1, len(images) + 1), dtype=pl.Int64)
    table = pl.DataFrame({"class_id": number}).with_columns(
        n_particles=pl.lit(None, dtype=pl.Int64),
        share=pl.lit(None, dtype=pl.Float64),
        resolution_angstrom=pl.lit(None, dtype=pl.Float64),
    )
    return ClassAverages(images, _check_pixel(path, header.pixel_size_angstrom), table)
