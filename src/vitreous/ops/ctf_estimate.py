"""Everything about the CTF of one micrograph from the spectra of its tiles: search, refinement, surface, quality."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.ctf import compute_chi, compute_ctf_1d, compute_wavelength_angstrom
from vitreous.ops.ctf_fit import CtfSearch, CtfValues, FitBand, search_ctf
from vitreous.ops.ctf_quality import (
    compute_ice_ring_score,
    correlate_locally,
    find_resolution,
    find_strict_resolution,
    make_background_basis,
    remove_background,
    scale_to_unit,
)
from vitreous.ops.ctf_refine import RefinedCtf, list_pixels, refine_ctf
from vitreous.ops.ctf_surface import DefocusSurface, Profiles, average_equal_phase, fit_surface
from vitreous.ops.spectra import TileSpectra, compute_polar_spectrum

__all__ = ["CtfCurves", "CtfEstimate", "compute_half_and_half", "estimate_ctf"]

_N_ANGLES, _N_FREQUENCIES = 90, 320
_SHARE = 4
"""Neighbouring angles that are averaged: at high frequencies 90 lines alone would miss most elements of a spectrum."""
_BEYOND = 1.15
"""Frequencies are used up to this much beyond the resolution of a first fit."""
_WIDER = 1.05
_STRAYED = 0.15
_N_PICTURE_ANGLES, _ARC = 180, 6
_SMOOTH = 20
_NARROW_ANGSTROM = 60.0
"""A surface that spans less does not blur rings."""


@dataclass(frozen=True)
class CtfCurves:
    """What a plot of the fit shows, `(n_k,)` each."""

    frequency_per_angstrom: Tensor
    spectrum: Tensor
    """Mean along lines of equal phase, over all tiles brought to one defocus: log power without background, 0 to 1."""
    ctf_squared: Tensor
    correlation: Tensor
    """Of the two, over a window of one and a half rings."""
    last: int
    """Index of the resolution: where the correlation falls below 0.3."""

    @property
    def score(self) -> float:
        """Mean correlation up to the resolution."""
        first = len(self.correlation) // 10
        return float(self.correlation[first : self.last + 1].mean()) if self.last > first else 0.0

    @property
    def resolution_angstrom(self) -> float:
        """Where the correlation falls below 0.3."""
        return 1 / float(self.frequency_per_angstrom[self.last])

    @property
    def strict_resolution_angstrom(self) -> float:
        """By CTFFIND's rule."""
        return 1 / float(self.frequency_per_angstrom[find_strict_resolution(self.correlation)])


@dataclass(frozen=True)
class CtfEstimate:
    """The CTF of one micrograph."""

    refined: RefinedCtf
    surface: DefocusSurface | None
    """None where no rings were seen."""
    curves: CtfCurves
    ice_ring_score: float | None
    search: CtfSearch


def _merge_profiles(profiles: Profiles, offsets: Tensor, mean: float, band: FitBand) -> Tensor:
    """Return the mean profile of tiles stretched to one defocus, `(n_k,)`."""
    quartic = 0.5 * band.cs_mm * 1e7 * compute_wavelength_angstrom(band.voltage_kv) ** 2
    k, squared = profiles.k, profiles.k.square()
    phase = mean * squared - quartic * squared.square()
    local = (mean + offsets)[:, None]
    source = (2 * phase / (local + (local.square() - 4 * quartic * phase).clamp_min(0).sqrt())).clamp_min(0).sqrt()
    position = ((source - k[0]) / (k[1] - k[0])).clamp(0, len(k) - 1.001)
    below = position.long()
    part = position - below
    merged: Tensor = (profiles.power.gather(1, below) * (1 - part) + profiles.power.gather(1, below + 1) * part).mean(0)
    return merged


def _judge(profile: Tensor, k: Tensor, values: CtfValues, band: FitBand) -> CtfCurves:
    optics = {
        "voltage_kv": band.voltage_kv,
        "cs_mm": band.cs_mm,
        "amplitude_contrast": band.amplitude_contrast,
        "phase_shift_deg": values.phase_shift_deg,
    }
    log_power = torch.log(profile.clamp_min(1e-30))
    spectrum = remove_background(log_power, make_background_basis(k))
    mean = torch.as_tensor(values.mean_angstrom, dtype=k.dtype, device=k.device)
    rings = compute_ctf_1d(k, mean, **optics).square()
    chi = compute_chi(k.square(), mean, **optics)
    correlation = correlate_locally(spectrum, rings, chi)
    return CtfCurves(k, scale_to_unit(spectrum), rings, correlation, find_resolution(correlation, chi))


def estimate_ctf(
    tiles: TileSpectra,
    pixel_sizes: tuple[float, float],
    shape: tuple[int, int],
    image_pixel_angstrom: float,
    band: FitBand,
    *,
    min_defocus_angstrom: float,
    max_defocus_angstrom: float,
    phase_shifts_deg: Sequence[float] = (0.0,),
    with_surface: bool = True,
) -> CtfEstimate:
    """Estimate defocus, astigmatism, phase shift and the defocus surface.

    Parameters
    ----------
    tiles
        Spectra, and where the tiles are in the image.
    pixel_sizes
        Å per pixel of the tiles along y and along x.
    shape, image_pixel_angstrom
        Rows and columns of the image and Å per pixel, in the pixels that `tiles.centres_px` is given in.
    band
        Frequencies and optics.
    min_defocus_angstrom, max_defocus_angstrom
        What is searched.
    phase_shifts_deg
        What is searched; refined if there is more than one.
    with_surface
        Whether to look for differences of defocus over the micrograph.

    Raises
    ------
    ValueError
        If the band holds too few frequencies.
    """
    power = tiles.mean
    device, tile = power.device, power.shape[0]
    k = torch.linspace(band.k_min, band.k_max, _N_FREQUENCIES, device=device)
    fine = compute_polar_spectrum(
        power, k * pixel_sizes[0], _SHARE * _N_ANGLES, pixel_ratio=pixel_sizes[1] / pixel_sizes[0]
    )
    polar = fine.reshape(_N_ANGLES, _SHARE, -1).mean(dim=1)
    angles = ((torch.arange(_N_ANGLES, device=device) + 0.5 * (1 - 1 / _SHARE)) / _N_ANGLES - 0.5) * math.pi
    found = search_ctf(
        polar,
        k,
        angles,
        band,
        min_defocus_angstrom=min_defocus_angstrom,
        max_defocus_angstrom=max_defocus_angstrom,
        phase_shifts_deg=phase_shifts_deg,
    )
    with_phase = len(phase_shifts_deg) > 1
    every = list_pixels(tile, pixel_sizes, band.k_min, band.k_max, device)
    refined = _refine(power, found.values, band, pixel_sizes, found.resolution_angstrom, tiles, with_phase, None)
    profiles = average_equal_phase(tiles.power, every, refined.values, band)
    curves = _judge(profiles.power.mean(dim=0), profiles.k, refined.values, band)
    if _find_end(curves.resolution_angstrom, band) > _WIDER * _find_end(found.resolution_angstrom, band):
        # The search sees a share of the elements only; with all of them rings go on.
        refined = _refine(power, refined.values, band, pixel_sizes, curves.resolution_angstrom, tiles, with_phase, None)
        profiles = average_equal_phase(tiles.power, every, refined.values, band)
        curves = _judge(profiles.power.mean(dim=0), profiles.k, refined.values, band)
    surface: DefocusSurface | None = None
    if with_surface and curves.score > 0:
        for _ in range(2):
            surface = fit_surface(
                profiles,
                tiles.centres_px,
                tile * (pixel_sizes[0] * pixel_sizes[1]) ** 0.5 / image_pixel_angstrom,
                shape,
                image_pixel_angstrom,
                refined,
                band,
                tiles.n_looks,
                _find_end(curves.resolution_angstrom, band),
            )
            offsets = surface.compute_offsets(tiles.centres_px)
            if float(offsets.max() - offsets.min()) < _NARROW_ANGSTROM:
                break
            merged = _merge_profiles(profiles, offsets, refined.values.mean_angstrom, band)
            curves = _judge(merged, profiles.k, refined.values, band)
            again = _refine(
                power, refined.values, band, pixel_sizes, curves.resolution_angstrom, tiles, with_phase, offsets
            )
            refined = _take_mean(again, surface)
    return CtfEstimate(
        refined=refined,
        surface=surface,
        curves=curves,
        ice_ring_score=compute_ice_ring_score(power, pixel_sizes),
        search=found,
    )


def _find_end(resolution_angstrom: float, band: FitBand) -> float:
    """Return the highest frequency used, 1/Å, where a first fit reached `resolution_angstrom`."""
    least = band.k_min + 0.2 * (band.k_max - band.k_min)
    return min(max(_BEYOND / resolution_angstrom, least), band.k_max)


def _refine(
    power: Tensor,
    start: CtfValues,
    band: FitBand,
    pixel_sizes: tuple[float, float],
    resolution_angstrom: float,
    tiles: TileSpectra,
    with_phase: bool,
    offsets: Tensor | None,
) -> RefinedCtf:
    end = _find_end(resolution_angstrom, band)
    pixels = list_pixels(power.shape[0], pixel_sizes, band.k_min, end, power.device)
    refined = refine_ctf(
        power,
        pixels,
        start,
        band,
        tiles.n_looks,
        tiles.lag_weights,
        with_phase=with_phase,
        offsets_angstrom=offsets,
    )
    strayed = abs(refined.values.mean_angstrom - start.mean_angstrom) > _STRAYED * start.mean_angstrom + 300
    # Without rings the steps lead anywhere; the search's answer is then as good, and its score says what it is worth.
    return replace(refined, values=start) if strayed else refined


def _take_mean(refined: RefinedCtf, surface: DefocusSurface) -> RefinedCtf:
    """Take the mean defocus from the tiles one by one: their rings do not cancel as those of the whole do."""
    covariance = refined.covariance.clone()
    covariance[0, :], covariance[:, 0] = 0.0, 0.0
    covariance[0, 0] = surface.constant_error_angstrom**2
    values = replace(refined.values, mean_angstrom=surface.constant_angstrom)
    return replace(refined, values=values, covariance=covariance)


def compute_half_and_half(
    power: Tensor, pixel_sizes: tuple[float, float], values: CtfValues, band: FitBand, k_max: float, side: int = 160
) -> tuple[Tensor, float]:
    """Return a picture of the spectrum (left half) beside CTF² (right half), and the frequency at its edges, 1/Å.

    The spectrum is averaged over arcs of 12°, and shown as log power less its background, over the deviation at that frequency.

    Parameters
    ----------
    power
        Half spectrum, `(tile, tile // 2 + 1)`.
    pixel_sizes
        Å per pixel along y and along x.
    values
        The CTF.
    band
        Its lowest frequency and the optics.
    k_max
        The picture goes up to this frequency, 1/Å, or to where rings are narrower than three of its elements.
    side
        Rows and columns.

    Returns
    -------
    Tensor
        0 to 1, `(side, side)`, frequency 0 in the middle.
    float
        1/Å.
    """
    wavelength = compute_wavelength_angstrom(band.voltage_kv)
    k_max = max(min(k_max, math.sqrt(side / (12 * wavelength * values.mean_angstrom))), 1.5 * band.k_min)
    rings = torch.linspace(0, k_max, 2 * side, dtype=power.dtype, device=power.device)
    ratio = pixel_sizes[1] / pixel_sizes[0]
    polar = compute_polar_spectrum(power, rings * pixel_sizes[0], _N_PICTURE_ANGLES, pixel_ratio=ratio)
    arcs = functional.pad(polar.clamp_min(1e-30).T[None], (_ARC, _ARC), mode="circular")
    logs = functional.avg_pool1d(arcs, 2 * _ARC + 1, 1)[0].T.log()
    seen = rings >= band.k_min
    flat = torch.zeros_like(logs)
    flat[:, seen] = remove_background(logs[:, seen].double(), make_background_basis(rings[seen])).to(logs)
    deviation = functional.pad(flat.square().mean(dim=0)[None, None], (_SMOOTH, _SMOOTH), mode="reflect")
    deviation = functional.avg_pool1d(deviation, 2 * _SMOOTH + 1, 1)[0, 0].sqrt().clamp_min(1e-12)
    line = (torch.arange(side, dtype=power.dtype, device=power.device) + 0.5 - side / 2) * (2 * k_max / side)
    ky, kx = line[:, None].expand(side, side), line[None, :].expand(side, side)
    k, azimuth = torch.hypot(ky, kx), torch.atan2(ky, kx)
    chi = compute_chi(
        k.square(),
        values.compute_directional(azimuth),
        voltage_kv=band.voltage_kv,
        cs_mm=band.cs_mm,
        amplitude_contrast=band.amplitude_contrast,
        phase_shift_deg=values.phase_shift_deg,
    )
    picture = torch.sin(chi).square()
    left = slice(0, side // 2)
    ring = (k[:, left] / k_max * (2 * side - 1)).round().long()
    # The angle of the point reflection, which half a circle holds.
    turn = ((azimuth[:, left] / math.pi + 0.5) % 1 * _N_PICTURE_ANGLES).round().long() % _N_PICTURE_ANGLES
    inside = ring < 2 * side
    ring = ring.clamp(max=2 * side - 1)
    shown = (0.5 + flat[turn, ring] / (4 * deviation[ring])).clamp(0, 1)
    picture[:, left] = torch.where(inside & (k[:, left] >= band.k_min), shown, 0.5)
    return picture, k_max
