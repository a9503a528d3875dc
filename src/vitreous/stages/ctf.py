"""Defocus and astigmatism of every micrograph, with the resolution up to which the fit holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from vitreous.io.atomic import write_json
from vitreous.io.mrc import read_mrc
from vitreous.model.stage import Context, Inputs, Item, ItemStage, RunFolder, Saved, StageParams
from vitreous.ops.ctf_fit import CtfFit, FitBand, fit_ctf
from vitreous.ops.fourier import apply_fourier_crop_2d, find_good_size, irfft2, rfft2
from vitreous.ops.spectra import compute_polar_spectrum, compute_tile_spectrum

__all__ = ["STAGE", "CtfParams"]

_N_ANGLES, _N_FREQUENCIES = 90, 320
_DOUBTFUL_SCORE = 0.4
_DOUBTFUL_RESOLUTION_ANGSTROM = 15.0


class CtfParams(StageParams):
    """Choices of method."""

    min_defocus_angstrom: float = Field(3000.0, gt=0, description="least defocus searched, Å")
    max_defocus_angstrom: float = Field(50000.0, gt=0, description="greatest defocus searched, Å")
    low_resolution_angstrom: float = Field(30.0, gt=0, description="lowest frequency fitted, as resolution, Å")
    high_resolution_angstrom: float = Field(4.0, gt=0, description="highest frequency fitted, as resolution, Å")
    fit_pixel_size_angstrom: float = Field(
        1.4, gt=0, description="finer micrographs are resampled to this pixel size, Å"
    )
    tile_px: int = Field(512, ge=64, description="side of the tiles whose spectra are averaged")


class MicrographItem(Item):
    """One micrograph."""

    image_path: str
    pixel_size_angstrom: float
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    row: dict[str, str | float | int | bool | None]


@dataclass(frozen=True)
class _Loaded:
    item: MicrographItem
    image: Tensor


def _plan(inputs: Inputs, params: CtfParams, context: Context) -> Sequence[MicrographItem]:
    return [
        MicrographItem(
            item_id=row["micrograph_id"],
            image_path=row["nodw_path"] or row["micrograph_path"],
            pixel_size_angstrom=row["pixel_size_angstrom"],
            voltage_kv=row["voltage_kv"],
            cs_mm=row["cs_mm"],
            amplitude_contrast=row["amplitude_contrast"],
            row=row,
        )
        for row in inputs["micrographs"].iter_rows(named=True)
    ]


def _load(item: MicrographItem, params: CtfParams, context: Context) -> _Loaded:
    image = torch.from_numpy(read_mrc(context.root / item.image_path)[0]).float()
    return _Loaded(item, image.to(context.device))


def _compute(loaded: _Loaded, params: CtfParams) -> CtfFit:
    item, image = loaded.item, loaded.image
    pixel = item.pixel_size_angstrom
    pixel_sizes = (pixel, pixel)
    if pixel < 0.9 * params.fit_pixel_size_angstrom:
        shape = (image.shape[0], image.shape[1])
        small = [min(find_good_size(round(n * pixel / params.fit_pixel_size_angstrom)), n // 2 * 2) for n in shape]
        cropped = apply_fourier_crop_2d(rfft2(image - image.mean()), shape, (small[0], small[1]))
        image = irfft2(cropped, (small[0], small[1]))
        pixel_sizes = (pixel * shape[0] / small[0], pixel * shape[1] / small[1])
    tile = min(params.tile_px, min(image.shape) // 2 * 2)
    power = compute_tile_spectrum(image, tile)
    nyquist = 0.5 / max(pixel_sizes)
    band = FitBand(
        k_min=1 / params.low_resolution_angstrom,
        k_max=min(1 / params.high_resolution_angstrom, 0.95 * nyquist),
        voltage_kv=item.voltage_kv,
        cs_mm=item.cs_mm,
        amplitude_contrast=item.amplitude_contrast,
    )
    k = torch.linspace(band.k_min, band.k_max, _N_FREQUENCIES, device=image.device)
    polar = compute_polar_spectrum(power, k * pixel_sizes[0], _N_ANGLES, pixel_ratio=pixel_sizes[1] / pixel_sizes[0])
    angles = (torch.arange(_N_ANGLES, device=image.device) / _N_ANGLES - 0.5) * torch.pi
    return fit_ctf(
        polar,
        k,
        angles,
        band,
        min_defocus_angstrom=params.min_defocus_angstrom,
        max_defocus_angstrom=params.max_defocus_angstrom,
    )


def _save(fit: CtfFit, item: MicrographItem, folder: RunFolder) -> Saved:
    path = folder.path / "images" / f"{item.item_id}_ctf.json"
    curves = (
        "frequency_per_angstrom",
        "spectrum",
        "ctf_squared",
        "correlation",
        "search_defocus_angstrom",
        "search_score",
    )
    write_json(path, {name: getattr(fit, name).cpu().tolist() for name in curves})
    row = pl.DataFrame([item.row], schema_overrides={"ctf_curve_path": pl.String}).with_columns(
        defocus_u_angstrom=pl.lit(fit.defocus_u_angstrom),
        defocus_v_angstrom=pl.lit(fit.defocus_v_angstrom),
        defocus_angle_deg=pl.lit(fit.defocus_angle_deg),
        phase_shift_deg=pl.lit(0.0),
        ctf_resolution_angstrom=pl.lit(fit.resolution_angstrom),
        ctf_score=pl.lit(fit.score),
        ctf_curve_path=pl.lit(folder.relative(path)),
    )
    return Saved({"micrographs": row})


def _collect(inputs: Inputs, saved: Saved, params: CtfParams) -> Saved:
    frame = saved.tables["micrographs"]
    doubtful = frame.filter(
        (pl.col("ctf_score") < _DOUBTFUL_SCORE) | (pl.col("ctf_resolution_angstrom") > _DOUBTFUL_RESOLUTION_ANGSTROM)
    )
    warnings = [
        f"{row['micrograph_id']}: the CTF fit is doubtful (defocus {row['defocus_u_angstrom']:.0f} Å, correlation "
        f"{row['ctf_score']:.2f} up to {row['ctf_resolution_angstrom']:.1f} Å)"
        for row in doubtful.iter_rows(named=True)
    ]
    return Saved(saved.tables, (*saved.warnings, *warnings))


STAGE = ItemStage(
    name="ctf",
    version="2",
    summary="Fit defocus and astigmatism to the power spectrum of every micrograph.",
    params=CtfParams,
    item=MicrographItem,
    needs=("micrographs",),
    makes=("micrographs",),
    plan=_plan,
    load=_load,
    compute=_compute,
    save=_save,
    collect=_collect,
)
