"""Movies to corrected micrographs: gain, defects, motion of the whole frame and of its places, exposure weighting.

Finished micrographs pass through, as float32 MRC, so that every later stage reads one format.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vitreous.errors import InputFileError, SettingError
from vitreous.io.atomic import write_json
from vitreous.io.defects import read_defects
from vitreous.io.eer import EerRendering
from vitreous.io.images import read_micrograph
from vitreous.io.movie import read_gain, read_movie
from vitreous.io.mrc import write_mrc
from vitreous.model.stage import Context, Inputs, Item, ItemStage, RunFolder, Saved, StageParams
from vitreous.ops.correct import Correction, CorrectionSettings, MovieMotion, correct_movie
from vitreous.stages.sanity import join_warnings

__all__ = ["STAGE", "MotionParams"]

_EARLY_DOSE = 4.0
_MOST_ROUNDING = 0.05
"""Of the standard deviation of an image, what half precision may change: a quarter of a thousandth of the noise's power."""


class MotionParams(StageParams):
    """Choices of method."""

    dose_weighting: bool = Field(True, description="weight frames by exposure, where the dose is known")
    local: bool = Field(
        True, description="let places move beside the whole frame, where that explains the movie better"
    )
    patch_angstrom: float = Field(500.0, gt=50, description="side of the patches that local motion is measured in, Å")
    b_factor: float = Field(
        200.0, ge=0, description="weight exp(-B k²/4) in the search for the whole frame's motion, Å²"
    )
    max_shift_angstrom: float = Field(60.0, gt=0, description="greatest displacement from the mean position, Å")
    hot_pixel_sigma: float = Field(8.0, gt=0, description="pixels so far from their neighbours are replaced")
    bin_factor: float = Field(
        1.0, ge=1, le=8, description="reduce the micrograph, in Fourier space: 2 for super-resolution"
    )
    halves: bool = Field(False, description="also write the sums of even and odd frames, for denoisers")
    float16: bool = Field(False, description="write micrographs in half precision (MRC mode 12)")


class ExposureItem(Item):
    """One exposure."""

    movie_path: str | None
    micrograph_path: str | None
    gain_path: str | None
    defects_path: str | None = None
    eer_upsampling: Literal[1, 2] | None = None
    n_frames: int
    pixel_size_angstrom: float
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    optics_group: int
    dose_per_frame: float | None
    pre_exposure: float | None


@dataclass(frozen=True)
class _Loaded:
    item: ExposureItem
    frames: NDArray[np.generic]
    gain: Tensor | None
    device: str


@dataclass(frozen=True)
class _Corrected:
    item: ExposureItem
    micrograph: Tensor
    correction: Correction | None
    float16: bool


def _plan(inputs: Inputs, params: MotionParams, context: Context) -> Sequence[ExposureItem]:
    fields = [name for name in ExposureItem.model_fields if name != "item_id"]
    return [
        ExposureItem(item_id=row["exposure_id"], **{name: row[name] for name in fields})
        for row in inputs["exposures"].iter_rows(named=True)
    ]


def _load(item: ExposureItem, params: MotionParams, context: Context) -> _Loaded:
    if item.movie_path is None:
        assert item.micrograph_path is not None
        image, _ = read_micrograph(context.root / item.micrograph_path)
        return _Loaded(item, image[None], None, context.device)
    path = Path(os.path.normpath(context.root / item.movie_path))
    frames = read_movie(path, EerRendering(n_fractions=item.n_frames, upsampling=item.eer_upsampling or 1))
    gain: Tensor | None = None
    if item.gain_path is not None:
        # As ingest wrote it: it multiplies, in the movie's orientation and size.
        gain = torch.from_numpy(read_gain(context.root / item.gain_path)).to(context.device)
    _check_frames(path, item, frames, gain)
    if item.defects_path is not None:
        shape = (frames.shape[1], frames.shape[2])
        bad = torch.from_numpy(read_defects(context.root / item.defects_path, shape)).to(context.device)
        # A pixel without gain is a defect.
        gain = (torch.ones(shape, device=context.device) if gain is None else gain).masked_fill(bad, 0.0)
    # Torch takes the machine's own byte order only, and not all that is done is done with these types.
    unusual = (frames.dtype.kind == "u" and frames.dtype.itemsize > 2) or frames.dtype == np.float16
    dtype = np.dtype(np.float32) if unusual else frames.dtype.newbyteorder("=")
    return _Loaded(item, frames.astype(dtype, copy=False), gain, context.device)


def _check_frames(path: Path, item: ExposureItem, frames: NDArray[np.generic], gain: Tensor | None) -> None:
    remedy = "Copy the file again (compare its size with the original), or leave it out."
    if len(frames) != item.n_frames:
        raise InputFileError(
            path, found=f"{len(frames)} frames", expected=f"{item.n_frames} as when it was ingested", remedy=remedy
        )
    if gain is not None and gain.shape != frames.shape[1:]:
        raise InputFileError(
            path,
            found=f"frames of {frames.shape[2]}x{frames.shape[1]} pixels",
            expected=f"{gain.shape[1]}x{gain.shape[0]} as the gain reference",
            remedy="Check that the gain reference belongs to these movies.",
        )
    empty = [number for number, frame in enumerate(frames, start=1) if not frame.any()]
    if empty:
        raise InputFileError(
            path,
            found=f"no count at all in {'frame' if len(empty) == 1 else 'frames'} {', '.join(map(str, empty[:5]))}"
            + (f" and {len(empty) - 5} more" if len(empty) > 5 else ""),
            expected=f"counts in each of {len(frames)} frames",
            remedy="The recording was interrupted; leave the movie out.",
        )
    if not np.issubdtype(frames.dtype, np.floating):
        return
    for number, frame in enumerate(frames, start=1):
        if not np.isfinite(frame).all():
            bad = int(np.count_nonzero(~np.isfinite(frame)))
            raise InputFileError(
                path,
                found=f"{bad} pixels that are no number or infinite in frame {number}",
                expected="finite values",
                remedy=remedy,
            )


def _compute(loaded: _Loaded, params: MotionParams) -> _Corrected:
    item = loaded.item
    if item.movie_path is None:
        return _Corrected(item, torch.from_numpy(loaded.frames[0]).to(loaded.device), None, params.float16)
    settings = CorrectionSettings(
        pixel_size_angstrom=item.pixel_size_angstrom,
        voltage_kv=item.voltage_kv,
        dose_per_frame=item.dose_per_frame if params.dose_weighting else None,
        pre_exposure=item.pre_exposure or 0.0,
        local=params.local,
        patch_angstrom=params.patch_angstrom,
        max_shift_angstrom=params.max_shift_angstrom,
        b_factor=params.b_factor,
        hot_pixel_sigma=params.hot_pixel_sigma,
        bin_factor=params.bin_factor,
        halves=params.halves,
    )
    correction = correct_movie(torch.from_numpy(loaded.frames), loaded.gain, settings, loaded.device)
    micrograph = correction.plain if correction.weighted is None else correction.weighted
    return _Corrected(item, micrograph, correction, params.float16)


def _measure_motion(item: ExposureItem, motion: MovieMotion) -> dict[str, float]:
    pixel, shifts = item.pixel_size_angstrom, motion.shifts_px.double().cpu()
    steps = (shifts[1:] - shifts[:-1]).norm(dim=1).numpy() * pixel
    dose = item.dose_per_frame or 1.0
    early = dose * np.arange(1, len(steps) + 1) <= _EARLY_DOSE
    local = motion.patch_shifts_px.norm(dim=-1) * pixel
    measured = {
        "total_motion_angstrom": float(steps.sum()),
        "local_motion_angstrom": float(local.max()) if local.numel() else 0.0,
    }
    if item.dose_per_frame is not None:
        measured |= {
            "early_motion_angstrom": float(steps[early].sum()),
            "late_motion_angstrom": float(steps[~early].sum()),
        }
    return measured


def _describe_trajectory(motion: MovieMotion, item: ExposureItem) -> dict[str, object]:
    shifts, local = motion.shifts_px.double().cpu(), motion.patch_shifts_px.cpu()
    return {
        "shift_x_px": shifts[:, 1].tolist(),
        "shift_y_px": shifts[:, 0].tolist(),
        "patch_x_px": motion.patch_x_px.tolist(),
        "patch_y_px": motion.patch_y_px.tolist(),
        "patch_shift_x_px": local[..., 1].tolist(),
        "patch_shift_y_px": local[..., 0].tolist(),
        "local_motion": motion.is_local,
        "local_motion_significance": motion.significance,
        "pixel_size_angstrom": item.pixel_size_angstrom,
        "dose_per_frame": item.dose_per_frame,
    }


def _halve_precision(image: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return the image with 11 bits a pixel and values up to 65504, where that holds it."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = image.astype(np.float16)
        lost, spread = float((rounded.astype(np.float32) - image).std()), float(image.std())
    if not lost <= _MOST_ROUNDING * spread:
        raise SettingError(
            f"motion.float16: found values of {image.mean():.4g} on average and {np.abs(image).max():.4g} at most, which vary by "
            f"{spread:.3g}; half precision holds up to 65504 and needs variations above {abs(image.mean()) / 2000:.3g}. "
            "Leave float16 out."
        )
    return rounded


def _save(result: _Corrected, item: ExposureItem, folder: RunFolder) -> Saved:
    images, correction = folder.path / "images", result.correction
    scale = 1.0 if correction is None else correction.motion.frame_shape[0] / result.micrograph.shape[0]
    pixel = item.pixel_size_angstrom * scale

    def write(image: Tensor, suffix: str = "") -> str:
        path, values = images / f"{item.item_id}{suffix}.mrc", image.cpu().numpy().astype(np.float32, copy=False)
        write_mrc(path, _halve_precision(values) if result.float16 else values, pixel)
        return folder.relative(path)

    row: dict[str, object] = {
        "micrograph_id": item.item_id,
        "exposure_id": item.item_id,
        "micrograph_path": write(result.micrograph),
        "nx_px": result.micrograph.shape[1],
        "ny_px": result.micrograph.shape[0],
        **item.model_dump(include={"voltage_kv", "cs_mm", "amplitude_contrast", "optics_group"}),
        "pixel_size_angstrom": pixel,
        "accepted": True,
    }
    if correction is not None:
        trajectory = images / f"{item.item_id}_motion.json"
        write_json(trajectory, _describe_trajectory(correction.motion, item))
        row |= {"trajectory_path": folder.relative(trajectory), **_measure_motion(item, correction.motion)}
        if correction.weighted is not None:
            row["nodw_path"] = write(correction.plain, "_nodw")
        if correction.even is not None and correction.odd is not None:
            row |= {"even_path": write(correction.even, "_even"), "odd_path": write(correction.odd, "_odd")}
    return Saved({"micrographs": pl.DataFrame([row])}, _doubt(result))


def _doubt(result: _Corrected) -> tuple[str, ...]:
    """Say it where nothing was found to align frames by."""
    if result.correction is None or len(shifts := result.correction.motion.shifts_px) == 1 or bool(shifts.any()):
        return ()
    return (
        f"{result.item.item_id}: found nothing that the frames have in common, expected the specimen; they are summed without "
        "alignment. Look at the sum, and leave the movie out if it is empty",
    )


def _collect(inputs: Inputs, saved: Saved, params: MotionParams) -> Saved:
    movies = inputs["exposures"].filter(pl.col("movie_path").is_not_null())
    warnings = list(join_warnings(saved.warnings, saved.tables["micrographs"]["micrograph_id"].to_list()))
    if params.dose_weighting and movies["dose_per_frame"].null_count():
        warnings.append("the dose is not known: frames are summed without exposure weighting; give --total-dose")
    return Saved(saved.tables, tuple(warnings))


STAGE = ItemStage(
    name="motion",
    version="7",
    summary="Correct movies for gain, defects and motion, whole-frame and local, and weight frames by exposure.",
    params=MotionParams,
    item=ExposureItem,
    needs=("exposures",),
    makes=("micrographs",),
    plan=_plan,
    load=_load,
    compute=_compute,
    save=_save,
    collect=_collect,
)
