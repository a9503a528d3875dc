"""Defocus, astigmatism, phase shift and local defocus of every micrograph: how far the fit holds, how well it is known."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl
import torch
from pydantic import Field, model_validator
from torch import Tensor

from vitreous.io.atomic import write_json
from vitreous.io.mrc import read_mrc
from vitreous.model.stage import Context, Inputs, Item, ItemStage, RunFolder, Saved, StageParams
from vitreous.ops.ctf_estimate import CtfEstimate, compute_half_and_half, estimate_ctf
from vitreous.ops.ctf_fit import FitBand
from vitreous.ops.curation import Appearance, measure_appearance
from vitreous.ops.fourier import apply_fourier_crop_2d, find_good_size, irfft2, rfft2
from vitreous.ops.spectra import compute_tile_spectra
from vitreous.stages.doubt import is_ctf_doubtful, settle_defocus
from vitreous.stages.sanity import check_defocus

__all__ = ["STAGE", "CtfParams"]

_LANDSCAPE_POINTS = 17
_SHOWN_BEYOND = 1.2
"""The picture of the spectrum goes beyond the resolution by this much."""


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
    local_defocus: bool = Field(True, description="whether to look for differences of defocus over the micrograph")
    min_phase_shift_deg: float = Field(0.0, ge=0, lt=180, description="least phase shift of a phase plate, degrees")
    max_phase_shift_deg: float = Field(
        0.0,
        ge=0,
        le=180,
        description="greatest phase shift searched, degrees; the same as the least: it is given, not fitted",
    )

    @model_validator(mode="after")
    def _check_order(self) -> "CtfParams":
        if self.min_defocus_angstrom >= self.max_defocus_angstrom:
            raise ValueError("min_defocus_angstrom must be less than max_defocus_angstrom")
        if self.high_resolution_angstrom >= self.low_resolution_angstrom:
            raise ValueError("high_resolution_angstrom must be finer (less) than low_resolution_angstrom")
        if self.min_phase_shift_deg > self.max_phase_shift_deg:
            raise ValueError("min_phase_shift_deg is greater than max_phase_shift_deg")
        return self

    def list_phase_shifts(self) -> list[float]:
        """Return the phase shifts to search, at most 10° apart."""
        low, high = self.min_phase_shift_deg, self.max_phase_shift_deg
        n = math.ceil((high - low) / 10)
        return [low + (high - low) * i / n for i in range(n + 1)] if n else [low]


class MicrographItem(Item):
    """One micrograph."""

    image_path: str
    pixel_size_angstrom: float
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float
    row: dict[str, str | float | int | bool | None]


@dataclass(frozen=True)
class _Fitted:
    estimate: CtfEstimate
    picture: Tensor
    """The spectrum beside CTF², 0 to 1."""
    k_max: float
    """1/Å, at the edges of the picture."""
    appearance: Appearance | None
    tile_centres_px: Tensor
    shape: tuple[int, int]


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


def _compute(loaded: _Loaded, params: CtfParams) -> _Fitted:
    item, image = loaded.item, loaded.image
    pixel = item.pixel_size_angstrom
    appearance = measure_appearance(image, pixel)
    shape = (image.shape[0], image.shape[1])
    pixel_sizes, ratio = (pixel, pixel), (1.0, 1.0)
    if pixel < 0.9 * params.fit_pixel_size_angstrom:
        small = [min(find_good_size(round(n * pixel / params.fit_pixel_size_angstrom)), n // 2 * 2) for n in shape]
        cropped = apply_fourier_crop_2d(rfft2(image - image.mean()), shape, (small[0], small[1]))
        image = irfft2(cropped, (small[0], small[1]))
        ratio = (shape[0] / small[0], shape[1] / small[1])
        pixel_sizes = (pixel * ratio[0], pixel * ratio[1])
    tiles = compute_tile_spectra(image, min(params.tile_px, min(image.shape) // 2 * 2))
    tiles = replace(tiles, centres_px=tiles.centres_px * tiles.centres_px.new_tensor([ratio[1], ratio[0]]))
    band = FitBand(
        k_min=1 / params.low_resolution_angstrom,
        k_max=min(1 / params.high_resolution_angstrom, 0.95 * 0.5 / max(pixel_sizes)),
        voltage_kv=item.voltage_kv,
        cs_mm=item.cs_mm,
        amplitude_contrast=item.amplitude_contrast,
    )
    estimate = estimate_ctf(
        tiles,
        pixel_sizes,
        shape,
        pixel,
        band,
        min_defocus_angstrom=params.min_defocus_angstrom,
        max_defocus_angstrom=params.max_defocus_angstrom,
        phase_shifts_deg=params.list_phase_shifts(),
        with_surface=params.local_defocus,
    )
    reach = min(_SHOWN_BEYOND / estimate.curves.resolution_angstrom, band.k_max)
    picture, k_max = compute_half_and_half(tiles.mean, pixel_sizes, estimate.refined.values, band, reach)
    return _Fitted(estimate, picture, k_max, appearance, tiles.centres_px, shape)


def _describe_landscape(fitted: _Fitted) -> dict[str, object]:
    """Return the local defocus in Å on a grid over the micrograph, and at the tiles one by one."""
    surface, mean = fitted.estimate.surface, fitted.estimate.refined.values.mean_angstrom
    if surface is None:
        return {}
    ny, nx = fitted.shape
    y = torch.linspace(0, ny - 1, _LANDSCAPE_POINTS, dtype=torch.float64)
    x = torch.linspace(0, nx - 1, _LANDSCAPE_POINTS, dtype=torch.float64)
    xy = torch.cartesian_prod(y, x).flip(1).to(surface.coefficients.device)
    grid = (mean + surface.compute_offsets(xy)).reshape(_LANDSCAPE_POINTS, _LANDSCAPE_POINTS)
    return {
        "landscape_x_px": x.tolist(),
        "landscape_y_px": y.tolist(),
        "landscape_defocus_angstrom": grid.round(decimals=1).tolist(),
        "tile_x_px": fitted.tile_centres_px[:, 0].tolist(),
        "tile_y_px": fitted.tile_centres_px[:, 1].tolist(),
        "tile_defocus_angstrom": surface.tile_defocus_angstrom.round(decimals=1).tolist(),
        "tile_error_angstrom": surface.tile_error_angstrom.round(decimals=1).tolist(),
    }


def _round(curve: Tensor) -> list[float]:
    return [float(f"{value:.5g}") for value in curve.tolist()]


def _save(fitted: _Fitted, item: MicrographItem, folder: RunFolder) -> Saved:
    estimate = fitted.estimate
    path = folder.path / "images" / f"{item.item_id}_ctf.json"
    curves = {
        "frequency_per_angstrom": estimate.curves.frequency_per_angstrom,
        "spectrum": estimate.curves.spectrum,
        "ctf_squared": estimate.curves.ctf_squared,
        "correlation": estimate.curves.correlation,
        "search_defocus_angstrom": estimate.search.defocus_angstrom,
        "search_score": estimate.search.score,
    }
    document: dict[str, object] = {name: _round(curve) for name, curve in curves.items()}
    grey = (255 * fitted.picture).round().to(torch.uint8).cpu().numpy()
    document["spectrum_beside_ctf"] = [row.tobytes().hex() for row in grey]
    document["spectrum_k_max_per_angstrom"] = fitted.k_max
    write_json(path, document | _describe_landscape(fitted))
    row = pl.DataFrame([item.row | _list_columns(fitted, item) | {"ctf_curve_path": folder.relative(path)}])
    return Saved({"micrographs": row})


def _list_columns(fitted: _Fitted, item: MicrographItem) -> dict[str, str | float | None]:
    estimate = fitted.estimate
    refined, values, surface = estimate.refined, estimate.refined.values, estimate.surface
    columns: dict[str, str | float | None] = {
        "defocus_u_angstrom": values.defocus_u_angstrom,
        "defocus_v_angstrom": values.defocus_v_angstrom,
        "defocus_angle_deg": values.defocus_angle_deg,
        "phase_shift_deg": values.phase_shift_deg,
        "defocus_error_angstrom": refined.mean_error_angstrom,
        "astigmatism_angstrom": values.astigmatism_angstrom,
        "astigmatism_error_angstrom": refined.astigmatism_error_angstrom,
        "defocus_angle_error_deg": refined.angle_error_deg,
        "phase_shift_error_deg": refined.phase_shift_error_deg,
        "ctf_resolution_angstrom": estimate.curves.resolution_angstrom,
        "ctf_strict_resolution_angstrom": estimate.curves.strict_resolution_angstrom,
        "ctf_score": estimate.curves.score,
        "ctf_significance": refined.significance,
        "ice_ring_score": estimate.ice_ring_score,
    }
    if fitted.appearance is not None:
        columns |= {"coarseness": fitted.appearance.coarseness, "structure": fitted.appearance.structure}
    if surface is not None:
        tilt, axis, error = surface.compute_tilt(item.pixel_size_angstrom)
        offsets = surface.compute_offsets(fitted.tile_centres_px)
        columns |= {
            "defocus_range_angstrom": float(offsets.max() - offsets.min()),
            "specimen_tilt_deg": tilt,
            "specimen_tilt_axis_deg": axis if surface.degree else None,
            "specimen_tilt_error_deg": error,
            "defocus_surface": json.dumps(
                {"degree": surface.degree, "coefficients_angstrom": surface.coefficients.cpu().tolist()}
            )
            if surface.degree
            else None,
        }
    return columns


def _collect(inputs: Inputs, saved: Saved, params: CtfParams) -> Saved:
    frame = saved.tables["micrographs"]
    doubtful = frame.filter(is_ctf_doubtful())
    warnings = [
        f"{row['micrograph_id']}: the CTF fit is doubtful (defocus {row['defocus_u_angstrom']:.0f} and "
        f"{row['defocus_v_angstrom']:.0f} Å, correlation {row['ctf_score']:.2f} up to "
        f"{row['ctf_resolution_angstrom']:.1f} Å, rings of {row['ctf_significance']:.0f} "
        "standard errors)"
        for row in doubtful.iter_rows(named=True)
    ]
    if doubtful.height:
        used = settle_defocus(frame).join(doubtful, on="micrograph_id", how="semi")["defocus_u_angstrom"][0]
        instead = "no CTF, of any" if used is None else f"the median defocus of the others, {used:.0f} Å, for these"
        warnings.append(
            f"{doubtful.height} of {frame.height} CTF fits are doubtful: picking and 2D classification use {instead}"
        )
    for (pixel,), group in frame.group_by("pixel_size_angstrom", maintain_order=True):
        warnings += check_defocus(group, float(str(pixel)))
    return Saved(saved.tables, (*saved.warnings, *warnings))


STAGE = ItemStage(
    name="ctf",
    version="6",
    summary="Fit defocus, astigmatism and local defocus to the power spectra of every micrograph, with standard errors.",
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
