"""Ingest: find the files, check that each can be used, and say what they are."""

import glob
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from vitreous.errors import InputFileError
from vitreous.io.images import ImageInfo, find_format, find_stem, probe_image, read_micrograph
from vitreous.io.movie import read_frames, read_gain
from vitreous.model.documents import Facts
from vitreous.model.stage import Context, Inputs, Item, ItemStage, RunFolder, Saved, StageParams
from vitreous.model.tables import check_table, empty_table

__all__ = ["STAGE", "IngestParams"]

ENTRY_ID = "entry"


class IngestParams(StageParams):
    """Choices of ingest."""

    max_pixel_size_difference: float = Field(
        0.01, ge=0, description="largest relative difference between the given pixel size and a header's"
    )


class ExposureItem(Item):
    """One file, with what was said about it."""

    path: str
    is_movie: bool
    facts: Facts
    gain_shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Exposure:
    """One file as read: its size, and the frames that were looked at, `(n, ny, nx)`."""

    path: Path
    item: ExposureItem
    info: ImageInfo
    frames: NDArray[Any]


def _make_sort_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a key that sorts m2 before m10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], name


def _get_facts(inputs: Inputs) -> Facts:
    if inputs.facts is None:
        raise TypeError("ingest reads the facts of the project, none given")
    return inputs.facts


def _locate(root: Path, name: str) -> Path:
    """Return where a path relative to the project lies; normalised as text, so that links stay what they are called."""
    return Path(os.path.normpath(root / name))


def _find_files(facts: Facts, root: Path) -> list[str]:
    """Return the files that the facts' glob matches, relative to the project, in natural order."""
    option, pattern = ("--movies", facts.movies) if facts.movies is not None else ("--micrographs", facts.micrographs)
    found = glob.glob(os.path.normpath(str(pattern)), root_dir=root, recursive=True)  # noqa: PTH207
    names = sorted(
        (os.path.relpath(root / name, root) for name in found if (root / name).is_file()), key=_make_sort_key
    )
    if not names:
        raise InputFileError(
            str(pattern),
            found="no file of that name",
            expected="at least one file",
            remedy=f"Check the glob given with {option}; it is looked up from {root}.",
        )
    return names


def _choose_pixel_size(path: Path, info: ImageInfo, given: float | None, max_difference: float) -> float:
    header = info.pixel_size_angstrom
    if given is None:
        if header is None:
            raise InputFileError(
                path,
                found="no pixel size in its header",
                expected="a pixel size from the header or the command line",
                remedy="Give it in Å with --pixel-size.",
            )
        return header
    if header is not None and abs(header - given) > max_difference * given:
        raise InputFileError(
            path,
            found=f"a pixel size of {header:.4g} Å in its header",
            expected=f"{given:.4g} Å as given with --pixel-size",
            remedy=f"Give --pixel-size {header:.4g} if the header is right; if it is not, raise ingest's "
            f"max_pixel_size_difference (now {max_difference:g}).",
        )
    return given


def _probe_first(names: Sequence[str], root: Path) -> tuple[str, ImageInfo] | None:
    """Return the first file that can be read, and its size; None where none can."""
    for name in names:
        try:
            return name, probe_image(_locate(root, name))
        except InputFileError:
            continue
    return None


def _check_facts(facts: Facts, names: Sequence[str], root: Path) -> tuple[int, int] | None:
    """Compare the facts with the first file, before any work; return the rows and columns of the gain reference."""
    if facts.gain is None and facts.pixel_size_angstrom is not None:
        return None
    first = _probe_first(names, root)
    if first is not None:
        _choose_pixel_size(_locate(root, first[0]), first[1], facts.pixel_size_angstrom, math.inf)
    if facts.gain is None:
        return None
    gain = read_gain(_locate(root, facts.gain))
    shape = (gain.shape[0], gain.shape[1])
    if first is not None:
        _compare_gain(Path(facts.gain), shape, *first)
    return shape


def _compare_gain(path: Path, shape: tuple[int, int], movie: str, info: ImageInfo) -> None:
    if shape == (info.ny_px, info.nx_px):
        return
    remedy = "Check that the file given with --gain belongs to these movies."
    if shape == (info.nx_px, info.ny_px):
        remedy = "It fits when turned by 90 degrees: rotate the gain reference (or check which way it was saved)."
    raise InputFileError(
        path,
        found=f"a gain reference of {shape[1]}x{shape[0]} pixels",
        expected=f"{info.nx_px}x{info.ny_px} as {movie}",
        remedy=remedy,
    )


def _plan(inputs: Inputs, params: IngestParams, context: Context) -> list[ExposureItem]:
    facts = _get_facts(inputs)
    names = _find_files(facts, context.root)
    by_stem: dict[str, str] = {}
    for name in names:
        stem = find_stem(Path(name))
        if stem in by_stem:
            raise InputFileError(
                name,
                found=f"the same name, {stem}, as that of {by_stem[stem]}",
                expected="a name of its own for every file: it identifies the exposure",
                remedy="Rename one of them, or make the glob match one of them only.",
            )
        by_stem[stem] = name
    gain_shape = _check_facts(facts, names, context.root)
    return [
        ExposureItem(item_id=stem, path=name, is_movie=facts.movies is not None, facts=facts, gain_shape=gain_shape)
        for stem, name in by_stem.items()
    ]


def _check_kind(path: Path, item: ExposureItem, info: ImageInfo) -> None:
    if item.is_movie and find_format(path) == "picture":
        found, expected, option = "a PNG or JPEG file", "a movie in MRC or TIFF", "--micrographs"
    elif item.is_movie and info.n_frames == 1:
        found, expected, option = "1 frame", "a movie of several frames", "--micrographs"
    elif not item.is_movie and info.n_frames != 1:
        found, expected, option = f"{info.n_frames} frames", "a finished micrograph of 1 frame", "--movies"
    else:
        return
    kind = "finished micrographs" if item.is_movie else "movies"
    raise InputFileError(path, found=found, expected=expected, remedy=f"Give {kind} with {option}.")


def _load(item: ExposureItem, params: IngestParams, context: Context) -> _Exposure:
    path = _locate(context.root, item.path)
    info = probe_image(path)
    _check_kind(path, item, info)
    # The header says whether a movie is whole; its ends say whether it can be decoded.
    frames = read_frames(path, [0, -1]) if item.is_movie else read_micrograph(path)[0][None]
    return _Exposure(path, item, info, frames)


def _check_pixels(exposure: _Exposure) -> None:
    for frame in exposure.frames:
        if not np.isfinite(frame).all():
            found = f"{np.count_nonzero(~np.isfinite(frame))} pixels that are no number or infinite"
        elif frame.min() == frame.max():
            found = f"an image whose every pixel is {frame.flat[0]}"
        else:
            continue
        raise InputFileError(
            exposure.path,
            found=found,
            expected="an image with finite, varying values",
            remedy="Make or copy the file again, or leave it out.",
        )


def _compute(exposure: _Exposure, params: IngestParams) -> pl.DataFrame:
    item, info, facts = exposure.item, exposure.info, exposure.item.facts
    if facts.gain is not None and item.gain_shape is not None:
        _compare_gain(Path(facts.gain), item.gain_shape, item.path, info)
    _check_pixels(exposure)
    pixel_size = _choose_pixel_size(exposure.path, info, facts.pixel_size_angstrom, params.max_pixel_size_difference)
    row = {
        "exposure_id": item.item_id,
        "movie_path": item.path if item.is_movie else None,
        "micrograph_path": None if item.is_movie else item.path,
        "n_frames": info.n_frames,
        "nx_px": info.nx_px,
        "ny_px": info.ny_px,
        "pixel_size_angstrom": pixel_size,
        "voltage_kv": facts.voltage_kv,
        "cs_mm": facts.cs_mm,
        "amplitude_contrast": facts.amplitude_contrast,
        "optics_group": 1,
        "dose_per_frame": None if facts.total_dose is None else facts.total_dose / info.n_frames,
        "pre_exposure": 0.0,
        "gain_path": facts.gain,
    }
    return pl.DataFrame([row], schema=empty_table("exposures").schema)


def _save(row: pl.DataFrame, item: ExposureItem, folder: RunFolder) -> Saved:
    return Saved({"entries": empty_table("entries"), "exposures": row})


def _describe_size(row: dict[str, Any]) -> str:
    frames = f", {row['n_frames']} frames" if row["movie_path"] else ""
    return f"{row['nx_px']}x{row['ny_px']}{frames}"


def _collect(inputs: Inputs, saved: Saved, params: IngestParams) -> Saved:
    facts, exposures = _get_facts(inputs), saved.tables["exposures"]
    entry = {
        "entry_id": ENTRY_ID,
        "title": facts.title or None,
        "diameter_angstrom": facts.diameter_angstrom,
        "symmetry": facts.symmetry,
        "total_dose": facts.total_dose,
    }
    sizes = {row["exposure_id"]: _describe_size(row) for row in exposures.iter_rows(named=True)}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    warnings = [
        f"{exposure_id}: found {size}, most files are {usual}; check that it belongs to this data set"
        for exposure_id, size in sizes.items()
        if size != usual
    ]
    tables = {
        "entries": check_table("entries", pl.DataFrame([entry], schema=empty_table("entries").schema)),
        "exposures": check_table("exposures", exposures),
    }
    return Saved(tables, (*saved.warnings, *warnings))


STAGE: ItemStage[ExposureItem, IngestParams, _Exposure, pl.DataFrame] = ItemStage(
    name="ingest",
    version="1",
    summary="Find the movies or micrographs, check each file, and note what the project says of them.",
    params=IngestParams,
    item=ExposureItem,
    needs=(),
    makes=("entries", "exposures"),
    plan=_plan,
    load=_load,
    compute=_compute,
    save=_save,
    collect=_collect,
)
