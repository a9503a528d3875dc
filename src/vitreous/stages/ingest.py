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
from vitreous.io.defects import read_defects
from vitreous.io.eer import EerRendering
from vitreous.io.images import ImageInfo, find_format, find_stem, probe_image, read_micrograph
from vitreous.io.movie import read_frames
from vitreous.model.documents import Facts
from vitreous.model.stage import Context, Inputs, Item, ItemStage, RunFolder, Saved, StageParams
from vitreous.model.tables import check_table, empty_table
from vitreous.stages.gain_choice import GainChoice, choose_gain
from vitreous.stages.sanity import (
    check_counts,
    check_frame_counts,
    check_frame_dose,
    check_pixel_size,
    check_saturation,
    join_warnings,
)
from vitreous.stages.survey import Sample, Survey, choose_sample, read_survey

__all__ = ["STAGE", "IngestParams"]


_FRAMES_FOR_GAIN = 40
_FRAMES_FOR_COUNTS = 10


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
    gain_path: str | None = None
    gain_shape: tuple[int, int] | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    """The row of one file, and doubts about it."""

    frame: pl.DataFrame
    doubts: tuple[str, ...]


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


def _compare_gain(gain: str, shape: tuple[int, int], movie: str, info: ImageInfo) -> None:
    if shape == (info.ny_px, info.nx_px):
        return
    raise InputFileError(
        gain,
        found=f"a gain reference for {shape[1]}x{shape[0]} pixels, as most movies have",
        expected=f"{info.nx_px}x{info.ny_px} as {movie}",
        remedy="Check that the file given with --gain belongs to this movie, or leave the movie out.",
    )


def _doubt(samples: Sequence[Sample], survey: Survey | None, facts: Facts) -> tuple[str, ...]:
    """Compare the facts with the sample, as far as it tells."""
    if not samples or facts.movies is None:
        return ()
    info, doubts = samples[0].info, list[str]()
    pixel_size = facts.pixel_size_angstrom or info.pixel_size_angstrom
    if facts.total_dose is not None:
        dose = facts.total_dose * info.exposure_used
        doubts += check_frame_dose(dose, info.n_frames)
        if survey is not None and pixel_size is not None:
            doubts += check_counts(survey.mean_per_frame, info.n_frames, dose, pixel_size)
    if survey is not None and survey.zero_frames:
        doubts.append(
            f"frames without any count: found {', '.join(survey.zero_frames[:5])} among {survey.n_frames} that were looked at, "
            "expected counts in all; check the recording, and leave such movies out"
        )
    return tuple(doubts)


def _choose_rendering(facts: Facts) -> EerRendering:
    return EerRendering(n_fractions=facts.eer_fractions, upsampling=facts.eer_upsampling)


def _look(facts: Facts, names: Sequence[str], root: Path) -> tuple[GainChoice | None, tuple[str, ...]]:
    """Look at some files before any work: whether the facts agree with them, and how the gain reference lies on them."""
    samples = choose_sample([(name, _locate(root, name)) for name in names], _choose_rendering(facts))
    if samples:
        _choose_pixel_size(samples[0].path, samples[0].info, facts.pixel_size_angstrom, math.inf)
    if facts.movies is None:
        return None, ()
    if facts.defects is not None and samples:
        read_defects(_locate(root, facts.defects), (samples[0].info.ny_px, samples[0].info.nx_px))
    survey = read_survey(samples, _FRAMES_FOR_COUNTS if facts.gain is None else _FRAMES_FOR_GAIN)
    choice = None
    if facts.gain is not None:
        choice = choose_gain(facts, _locate(root, facts.gain), samples, survey, root)
    return choice, (*(choice.warnings if choice is not None else ()), *_doubt(samples, survey, facts))


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
    gain, doubts = _look(facts, names, context.root)
    return [
        ExposureItem(
            item_id=stem,
            path=name,
            is_movie=facts.movies is not None,
            facts=facts,
            gain_path=facts.gain if gain is None else gain.path,
            gain_shape=None if gain is None else gain.shape,
            doubts=doubts,
        )
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
    rendering = _choose_rendering(item.facts)
    info = probe_image(path, rendering)
    _check_kind(path, item, info)
    # The header says whether a movie is whole; its ends say whether it can be decoded.
    frames = read_frames(path, [0, -1], rendering) if item.is_movie else read_micrograph(path)[0][None]
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


def _compute(exposure: _Exposure, params: IngestParams) -> _Row:
    item, info, facts = exposure.item, exposure.info, exposure.item.facts
    if facts.gain is not None and item.gain_shape is not None:
        _compare_gain(facts.gain, item.gain_shape, item.path, info)
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
        "dose_per_frame": None if facts.total_dose is None else facts.total_dose * info.exposure_used / info.n_frames,
        "pre_exposure": 0.0,
        "gain_path": item.gain_path,
        "defects_path": facts.defects,
        "eer_upsampling": facts.eer_upsampling if find_format(exposure.path) == "EER" else None,
    }
    doubts = check_saturation(exposure.frames) if item.is_movie else ()
    frame = pl.DataFrame([row], schema=empty_table("exposures").schema)
    return _Row(frame, tuple(f"{item.item_id}: {doubt}" for doubt in doubts))


def _save(row: _Row, item: ExposureItem, folder: RunFolder) -> Saved:
    return Saved({"entries": empty_table("entries"), "exposures": row.frame}, (*item.doubts, *row.doubts))


def _describe_size(row: dict[str, Any]) -> str:
    frames = f", {row['n_frames']} frames" if row["movie_path"] else ""
    return f"{row['nx_px']}x{row['ny_px']}{frames}"


def _collect(inputs: Inputs, saved: Saved, params: IngestParams) -> Saved:
    facts, exposures = _get_facts(inputs), saved.tables["exposures"]
    entry = {
        "entry_id": facts.entry_id,
        "title": facts.title or None,
        "source": facts.source or None,
        "licence": facts.licence or None,
        "molecular_weight_kda": facts.molecular_weight_kda,
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
    sizes_px = exposures.select("nx_px", "ny_px", "pixel_size_angstrom").iter_rows()
    warnings += [*check_frame_counts(exposures), *check_pixel_size(sizes_px)]
    return Saved(tables, join_warnings((*saved.warnings, *warnings), list(sizes)))


STAGE: ItemStage[ExposureItem, IngestParams, _Exposure, _Row] = ItemStage(
    name="ingest",
    version="3",
    summary="Find the movies or micrographs, check each file and the gain reference, and note what the project says of them.",
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
