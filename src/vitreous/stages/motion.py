"""Movies to corrected micrographs: gain, defects, whole-frame motion, exposure weighting.

Finished micrographs pass through, as float32 MRC, so that every later stage reads one format.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vitreous.errors import InputFileError
from vitreous.io.atomic import write_json
from vitreous.io.images import read_micrograph
from vitreous.io.movie import read_gain, read_movie
from vitreous.io.mrc import write_mrc
from vitreous.model.stage import Context, Inputs, Item, ItemStage, RunFolder, Saved, StageParams
from vitreous.ops.dose import compute_dose_weights
from vitreous.ops.fourier import (
    apply_fourier_crop_2d,
    compute_frequency_2d,
    compute_shift_phase,
    find_good_size,
    irfft2,
    rfft2,
)
from vitreous.ops.gain import apply_gain, compute_gain_misfits, find_defects, replace_defects
from vitreous.ops.motion import compute_pattern_share, estimate_shifts

__all__ = ["STAGE", "MotionParams"]

_DOSE_PER_GROUP = 1.5
_EARLY_DOSE = 4.0
_GAIN_CLEARLY_BETTER = 0.9
_PATTERN_FRAMES = 4
"""So many frames tell the noise of one."""


class MotionParams(StageParams):
    """Choices of method."""

    dose_weighting: bool = Field(True, description="weight frames by exposure, where the dose is known")
    alignment_pixel_size_angstrom: float = Field(
        4.0, gt=0, description="frames are aligned at about this pixel size, Å"
    )
    b_factor: float = Field(200.0, ge=0, description="weight exp(-B k²/4) on the correlation, Å²")
    max_shift_angstrom: float = Field(60.0, gt=0, description="greatest displacement from the mean position, Å")
    hot_pixel_sigma: float = Field(8.0, gt=0, description="pixels so far from their neighbours are replaced")


class ExposureItem(Item):
    """One exposure."""

    movie_path: str | None
    micrograph_path: str | None
    gain_path: str | None
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
    micrograph: Tensor
    nodw: Tensor | None
    shifts_px: Tensor | None
    warnings: tuple[str, ...] = ()


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
    gain = None
    if item.gain_path is not None:
        gain = torch.from_numpy(read_gain(context.root / item.gain_path)).to(context.device)
    path = Path(os.path.normpath(context.root / item.movie_path))
    frames = read_movie(path)
    _check_frames(path, item, frames, gain)
    # Torch takes the machine's own byte order only.
    return _Loaded(item, frames.astype(frames.dtype.newbyteorder("="), copy=False), gain, context.device)


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


def _choose_crop(shape: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return the even shape, quick to transform, that crops both axes by about `factor`, 1 at least."""
    ny, nx = (min(find_good_size(round(n / max(1.0, factor))), n // 2 * 2) for n in shape)
    return ny, nx


def _compute(loaded: _Loaded, params: MotionParams) -> _Corrected:
    item, device = loaded.item, loaded.device
    if item.movie_path is None:
        return _Corrected(torch.from_numpy(loaded.frames[0]).to(device), None, None)
    shape = (loaded.frames.shape[1], loaded.frames.shape[2])
    mean_raw = torch.from_numpy(loaded.frames.mean(axis=0, dtype=np.float32)).to(device)
    defects = find_defects(apply_gain(mean_raw, loaded.gain), loaded.gain, params.hot_pixel_sigma)
    pixel = item.pixel_size_angstrom
    small = _choose_crop(shape, params.alignment_pixel_size_angstrom / pixel)
    n_frames = len(loaded.frames)
    cropped, sample = [], []
    for i, frame in enumerate(loaded.frames):
        counts = replace_defects(apply_gain(torch.from_numpy(frame).to(device), loaded.gain), defects)
        cropped.append(apply_fourier_crop_2d(rfft2(counts), shape, small))
        if i % max(1, n_frames // _PATTERN_FRAMES) == 0:
            sample.append(counts)
    mean_corrected = replace_defects(apply_gain(mean_raw, loaded.gain), defects)
    grouped = 1
    if item.dose_per_frame is not None and n_frames > 4:
        grouped = min(2 * int(_DOSE_PER_GROUP / item.dose_per_frame / 2 + 0.5) + 1, (n_frames - 1) // 4 * 2 + 1)
    shifts = estimate_shifts(
        torch.stack(cropped),
        small,
        pixel * shape[0] / small[0],
        max_shift_angstrom=params.max_shift_angstrom,
        b_factor=params.b_factor,
        n_grouped=grouped,
        pattern_share=compute_pattern_share(mean_corrected, torch.stack(sample), n_frames),
    ) * torch.tensor([shape[0] / small[0], shape[1] / small[1]], device=device)
    weighted, plain = _sum_frames(loaded, defects, shifts, params)
    warnings = () if loaded.gain is None else _check_gain(item, mean_raw, loaded.gain)
    return _Corrected(
        weighted if weighted is not None else plain, plain if weighted is not None else None, shifts, warnings
    )


def _sum_frames(loaded: _Loaded, defects: Tensor, shifts: Tensor, params: MotionParams) -> tuple[Tensor | None, Tensor]:
    """Return the exposure-weighted sum, None where the dose is not known or not wanted, and the plain sum."""
    item, shape = loaded.item, (loaded.frames.shape[1], loaded.frames.shape[2])
    weights: Tensor | None = None
    if params.dose_weighting and item.dose_per_frame is not None:
        ky, kx = compute_frequency_2d(shape, item.pixel_size_angstrom, loaded.device)
        # One weight per ring is exact enough and spares a table of the size of the movie.
        step = float(torch.sqrt(ky.square().max() + kx.square().max())) / 4000
        rings = torch.arange(4002, device=loaded.device, dtype=torch.float64) * step
        weights = compute_dose_weights(
            rings, len(loaded.frames), item.dose_per_frame, item.pre_exposure or 0.0, item.voltage_kv
        )
        ring = torch.round(torch.sqrt(ky.square() + kx.square()) / step).long()
    plain = torch.zeros(shape[0], shape[1] // 2 + 1, dtype=torch.complex64, device=loaded.device)
    weighted = torch.zeros_like(plain) if weights is not None else None
    for i, frame in enumerate(loaded.frames):
        counts = replace_defects(apply_gain(torch.from_numpy(frame).to(loaded.device), loaded.gain), defects)
        spectrum = rfft2(counts) * compute_shift_phase(shape, -shifts[i])
        plain += spectrum
        if weights is not None and weighted is not None:
            weighted += spectrum * weights[i][ring]
    if weights is None or weighted is None:
        return None, irfft2(plain, shape)
    norm = (weights.square().sum(dim=0) / len(weights)).sqrt()
    return irfft2(weighted / norm[ring], shape), irfft2(plain, shape)


def _check_gain(item: ExposureItem, mean_raw: Tensor, gain: Tensor) -> tuple[str, ...]:
    misfits = compute_gain_misfits(mean_raw, gain)
    best = min(misfits, key=lambda name: misfits[name])
    if misfits[best] > _GAIN_CLEARLY_BETTER * misfits["as given"]:
        return ()
    what = "without it" if best == "none" else f"{best}"
    return (
        f"gain {item.gain_path}: the pattern of the camera is taken out better {what} than as given "
        f"({misfits[best]:.3g} left instead of {misfits['as given']:.3g}); check its orientation",
    )


def _measure_motion(item: ExposureItem, shifts_px: Tensor) -> dict[str, float]:
    steps = (shifts_px[1:] - shifts_px[:-1]).double().norm(dim=1).cpu().numpy() * item.pixel_size_angstrom
    dose = item.dose_per_frame or 1.0
    early = dose * np.arange(1, len(steps) + 1) <= _EARLY_DOSE
    motion = {"total_motion_angstrom": float(steps.sum())}
    if item.dose_per_frame is not None:
        motion |= {
            "early_motion_angstrom": float(steps[early].sum()),
            "late_motion_angstrom": float(steps[~early].sum()),
        }
    return motion


def _save(result: _Corrected, item: ExposureItem, folder: RunFolder) -> Saved:
    images = folder.path / "images"
    path, pixel = images / f"{item.item_id}.mrc", item.pixel_size_angstrom
    write_mrc(path, result.micrograph.cpu().numpy(), pixel)
    row: dict[str, object] = {
        "micrograph_id": item.item_id,
        "exposure_id": item.item_id,
        "micrograph_path": folder.relative(path),
        "nx_px": result.micrograph.shape[1],
        "ny_px": result.micrograph.shape[0],
        **item.model_dump(include={"pixel_size_angstrom", "voltage_kv", "cs_mm", "amplitude_contrast", "optics_group"}),
        "accepted": True,
    }
    if result.nodw is not None:
        nodw = images / f"{item.item_id}_nodw.mrc"
        write_mrc(nodw, result.nodw.cpu().numpy(), pixel)
        row["nodw_path"] = folder.relative(nodw)
    if result.shifts_px is not None:
        trajectory = images / f"{item.item_id}_motion.json"
        shifts = result.shifts_px.double().cpu()
        write_json(
            trajectory,
            {
                "shift_x_px": shifts[:, 1].tolist(),
                "shift_y_px": shifts[:, 0].tolist(),
                "pixel_size_angstrom": pixel,
                "dose_per_frame": item.dose_per_frame,
            },
        )
        row |= {"trajectory_path": folder.relative(trajectory), **_measure_motion(item, shifts)}
    return Saved({"micrographs": pl.DataFrame([row])}, result.warnings)


def _collect(inputs: Inputs, saved: Saved, params: MotionParams) -> Saved:
    movies = inputs["exposures"].filter(pl.col("movie_path").is_not_null())
    warnings = list(saved.warnings)
    if params.dose_weighting and movies["dose_per_frame"].null_count():
        warnings.append("the dose is not known: frames are summed without exposure weighting; give --total-dose")
    return Saved(saved.tables, tuple(warnings))


STAGE = ItemStage(
    name="motion",
    version="2",
    summary="Correct movies for gain, defects and whole-frame motion, and weight frames by exposure.",
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
