"""Gold-standard Fourier shell correlation of the half maps: without a mask, in three masks and corrected for the mask."""

import math
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from vitreous.errors import InputFileError, UserError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.ops.mask import compute_density_region, compute_soft_mask, compute_soft_sphere
from vitreous.ops.resolution import compute_corrected_fsc, compute_fsc, compute_resolution_angstrom, randomise_phases

__all__ = ["STAGE", "ValidateParams"]

_FALLEN = 0.143
_MASK_EFFECT_ANGSTROM = 0.15


class ValidateParams(StageParams):
    """Choices of method."""

    threshold: float = Field(0.143, gt=0, lt=1, description="correlation at which the resolution is read")
    mask_low_pass_angstrom: float = Field(15.0, gt=0, description="smoothing of the map before it is made a mask, Å")
    loose_extend_angstrom: float = Field(6.0, ge=0, description="how far the loose mask reaches beyond the density, Å")
    loose_edge_angstrom: float = Field(15.0, gt=0, description="fall-off of the loose mask, Å")
    tight_extend_angstrom: float = Field(3.0, ge=0, description="how far the tight mask reaches beyond the density, Å")
    tight_edge_angstrom: float = Field(6.0, gt=0, description="fall-off of the tight mask, Å")
    randomise_below: float = Field(
        0.8, gt=0, lt=1, description="phases are randomised from where the unmasked correlation falls below this"
    )
    n_randomisations: int = Field(4, ge=1, le=100, description="randomisations that are averaged")
    seed: int = Field(0, ge=0, description="seed of the random phases")


@dataclass(frozen=True)
class _Loaded:
    halves: tuple[Tensor, Tensor]
    pixel_size_angstrom: float
    diameter_angstrom: float


@dataclass(frozen=True)
class _Curves:
    curves: dict[str, Tensor]
    mask: Tensor
    pixel_size_angstrom: float
    warnings: tuple[str, ...]


def _read_half(path: Path, device: str) -> Tensor:
    volume, _ = read_mrc(path)
    if volume.ndim != 3 or len(set(volume.shape)) != 1 or volume.shape[0] % 2:
        raise InputFileError(
            path,
            found=f"an array of {'x'.join(str(size) for size in volume.shape)}",
            expected="a cube with an even number of voxels along each side",
            remedy="Run reconstruct again.",
        )
    return torch.from_numpy(volume).float().to(device)


def _load(inputs: Inputs, params: ValidateParams, context: Context) -> _Loaded:
    row = inputs["volumes"].row(0, named=True)
    if row["half1_path"] is None or row["half2_path"] is None:
        raise UserError(
            f"validate: found no half maps of {row['volume_id']}, expected two; run reconstruct again, which makes them"
        )
    first, second = (_read_half(context.root / row[name], context.device) for name in ("half1_path", "half2_path"))
    if first.shape != second.shape:
        raise UserError(
            f"validate: found half maps of {first.shape[0]} and {second.shape[0]} voxels, expected one size; "
            "run reconstruct again"
        )
    used = inputs["particles"].filter(pl.col("rot_deg").is_not_null())
    diameters = (used if used.height else inputs["particles"])["diameter_angstrom"]
    return _Loaded((first, second), row["pixel_size_angstrom"], float(diameters.to_numpy().mean()))


def _find_start(fsc: Tensor, below: float) -> int:
    """Return the first shell, from 1 on, where the curve is below."""
    return next((shell for shell in range(1, len(fsc)) if float(fsc[shell]) < below), len(fsc) - 1)


def _find_doubts(curves: dict[str, Tensor], pixel: float, threshold: float) -> tuple[str, ...]:
    resolutions = {name: compute_resolution_angstrom(curve, pixel, threshold) for name, curve in curves.items()}
    corrected = curves["fsc_corrected"]
    doubts = []
    if float(corrected[-4:-1].mean()) > _FALLEN:
        doubts.append(
            f"the corrected FSC is {float(corrected[-4:-1].mean()):.2f} near Nyquist and does not fall to zero: the images are "
            "reduced too far for this map (raise max_box_px of extract), or the halves are not independent"
        )
    best, masked = resolutions["fsc_corrected"], resolutions["fsc_tight"]
    if math.isinf(best):
        doubts.append("the half maps do not correlate at any resolution: the map is not to be trusted")
    elif best > masked * (1 + _MASK_EFFECT_ANGSTROM):
        doubts.append(
            f"the tight mask promises {masked:.1f} Å but only {best:.1f} Å remain once the mask's own effect is taken out: "
            "the mask is too tight"
        )
    start = _find_start(curves["fsc_unmasked"], 0.5)
    later = curves["fsc_unmasked"][min(len(corrected) - 1, start + 3) :]
    if len(later) > 1 and float(later.max()) > 0.6:
        doubts.append(
            f"the unmasked FSC rises again to {float(later.max()):.2f} after having fallen below 0.5: look at the curve, "
            "duplicate particles or a defect of the CTF correction do that"
        )
    return tuple(doubts)


def _compute(loaded: _Loaded, params: ValidateParams, progress: Progress) -> _Curves:
    first, second = loaded.halves
    n, pixel = first.shape[0], loaded.pixel_size_angstrom
    radius = min(0.5 * loaded.diameter_angstrom * 1.1 / pixel, n / 2 - 3)
    sphere = compute_soft_sphere(n, radius, params.tight_edge_angstrom / pixel, first.device)
    region = compute_density_region((first + second) / 2, pixel, radius * pixel, params.mask_low_pass_angstrom)
    loose = compute_soft_mask(region, params.loose_extend_angstrom / pixel, params.loose_edge_angstrom / pixel)
    tight = compute_soft_mask(region, params.tight_extend_angstrom / pixel, params.tight_edge_angstrom / pixel)
    curves = {"fsc_unmasked": compute_fsc(first, second)}
    for name, mask in (("fsc_spherical", sphere), ("fsc_loose", loose), ("fsc_tight", tight)):
        curves[name] = compute_fsc(first * mask, second * mask)
    start = _find_start(curves["fsc_unmasked"], params.randomise_below)
    random = torch.zeros_like(curves["fsc_tight"])
    generator = torch.Generator().manual_seed(params.seed)
    for i in range(params.n_randomisations):
        halves = [randomise_phases(half, start, generator) * tight for half in (first, second)]
        random += compute_fsc(halves[0], halves[1]) / params.n_randomisations
        progress((i + 1) / params.n_randomisations, "phase randomisation")
    curves["fsc_corrected"] = compute_corrected_fsc(curves["fsc_tight"], random, start)
    return _Curves(curves, tight, pixel, _find_doubts(curves, pixel, params.threshold))


def _save(result: _Curves, inputs: Inputs, params: ValidateParams, folder: RunFolder) -> Saved:
    images, pixel = folder.path / "images", result.pixel_size_angstrom
    n = result.mask.shape[0]
    write_mrc(images / "mask.mrc", result.mask.cpu().numpy(), pixel, volume=True)
    frame = pl.DataFrame(
        {
            "frequency_per_angstrom": (torch.arange(n // 2 + 1, dtype=torch.float64) / (n * pixel)).numpy(),
            **{name: curve.cpu().numpy() for name, curve in result.curves.items()},
        }
    )
    with open_for_replacement(images / "fsc.parquet") as temporary:
        frame.write_parquet(temporary)
    found = {
        column: compute_resolution_angstrom(result.curves[name], pixel, params.threshold)
        for column, name in (
            ("resolution_angstrom", "fsc_corrected"),
            ("resolution_unmasked_angstrom", "fsc_unmasked"),
        )
    }
    row = inputs["volumes"][:1].with_columns(
        pl.lit(folder.relative(images / "mask.mrc")).alias("mask_path"),
        pl.lit(folder.relative(images / "fsc.parquet")).alias("fsc_path"),
        *(pl.lit(value if math.isfinite(value) else None, dtype=pl.Float64).alias(key) for key, value in found.items()),
    )
    return Saved({"volumes": row}, result.warnings)


STAGE = DatasetStage(
    name="validate",
    version="1",
    summary="Measure the resolution by Fourier shell correlation, with masks and corrected for them.",
    params=ValidateParams,
    needs=("volumes", "particles"),
    makes=("volumes",),
    load=_load,
    compute=_compute,
    save=_save,
)
