"""From the raw frames of a movie to a corrected micrograph: defects, motion, exposure weighting.

The movie is read four times: it is summed, reduced to align by, resampled in patches to measure what is left of its motion, and
resampled into the few sums from which the exposure-weighted image follows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitreous.ops.dose import compute_dose_basis
from vitreous.ops.fine_motion import refine_motion
from vitreous.ops.fourier import apply_fourier_crop_2d, compute_frequency_2d, find_good_size, irfft2, rfft2
from vitreous.ops.frame_reduce import reduce_frames, sum_raw_frames
from vitreous.ops.frame_sum import TILE_SHAPE_PX, compute_kernel_transfer, compute_tile_centres, sum_frames
from vitreous.ops.gain import find_defects, replace_defects
from vitreous.ops.local_motion import LocalMotion, LocalMotionSettings, estimate_local_motion
from vitreous.ops.motion import compute_pattern_share, estimate_shifts
from vitreous.ops.motion_field import MotionField

__all__ = ["Correction", "CorrectionSettings", "MovieMotion", "correct_movie"]

_REDUCED_PIXEL_ANGSTROM = 3.0
_COARSE_PIXEL_ANGSTROM = 9.0
_DOSE_PER_GROUP = 1.5
_EARLY_DOSE, _FEWEST_EARLY = 5.0, 1.8
_NEAR_DOSE = 6.0
_MOST_NEAR = 6
_MOST_ROUNDS, _LONG_STEP_ANGSTROM = 2, 0.3
_PATTERN_FRAMES = 4
_MIDDLE_PX = 2560
_N_RINGS = 2000


@dataclass(frozen=True)
class CorrectionSettings:
    """What is known of the movie, and how to correct it."""

    pixel_size_angstrom: float
    voltage_kv: float
    dose_per_frame: float | None
    """e/Å²; None where it is not known: no exposure weighting."""
    pre_exposure: float = 0.0
    """e/Å² before the first frame."""
    local: bool = True
    """Whether places may move beside the whole frame."""
    patch_angstrom: float = 500.0
    """Side of the patches that local motion is measured in."""
    max_shift_angstrom: float = 60.0
    """Greatest displacement from the mean position."""
    b_factor: float = 200.0
    """Weight exp(-B k² / 4) in the search for the motion of the whole frame, Å²."""
    hot_pixel_sigma: float = 8.0
    """Pixels so far from their neighbours are replaced."""
    bin_factor: float = 1.0
    """By how much the result is reduced, in Fourier space."""
    halves: bool = False
    """Whether to sum even and odd frames apart as well."""


@dataclass(frozen=True)
class MovieMotion:
    """Where the specimen stands in every frame relative to the first, px of the movie.

    Attributes
    ----------
    shifts_px
        Of the whole frame, `(n, 2)` as (y, x).
    patch_y_px, patch_x_px
        Where local motion was measured, `(P,)`.
    patch_shifts_px
        Local motion there, beside that of the whole, `(P, n, 2)`; all 0 where the frame moves as a whole.
    is_local
        Whether held-out patches are explained better with local motion.
    significance
        How much better, in standard errors.
    frame_shape
        Rows and columns of a frame.
    """

    shifts_px: Tensor
    patch_y_px: Tensor
    patch_x_px: Tensor
    patch_shifts_px: Tensor
    is_local: bool
    significance: float
    frame_shape: tuple[int, int]


@dataclass(frozen=True)
class Correction:
    """A corrected movie; images are `(ny, nx)` float32, or smaller with a bin factor.

    Attributes
    ----------
    plain
        Sum of the frames.
    weighted
        Exposure-weighted sum; None where the dose is not known.
    even, odd
        Sums of every other frame, where asked for.
    motion
        What was corrected.
    """

    plain: Tensor
    weighted: Tensor | None
    even: Tensor | None
    odd: Tensor | None
    motion: MovieMotion


def _choose_group(settings: CorrectionSettings, n_frames: int) -> int:
    if settings.dose_per_frame is None or n_frames <= _PATTERN_FRAMES:
        return 1
    wanted = 2 * int(_DOSE_PER_GROUP / settings.dose_per_frame / 2 + 0.5) + 1
    return min(wanted, (n_frames - 1) // 4 * 2 + 1)


def _choose_local(settings: CorrectionSettings) -> LocalMotionSettings:
    early = max(_FEWEST_EARLY, _EARLY_DOSE / (settings.dose_per_frame or _DOSE_PER_GROUP))
    return LocalMotionSettings(settings.patch_angstrom, early)


def _estimate_motion(
    frames: Tensor, gain: Tensor, pattern_share: float, settings: CorrectionSettings
) -> tuple[LocalMotion, int]:
    """Return the motion in pixels of reduced frames, and by how much they are reduced."""
    n, ny, nx = frames.shape
    size = max(1, min(round(_REDUCED_PIXEL_ANGSTROM / settings.pixel_size_angstrom), min(ny, nx) // 64))
    reduced = reduce_frames(frames, gain, size)
    reduced = reduced[:, : reduced.shape[1] // 2 * 2, : reduced.shape[2] // 2 * 2]
    pixel, shape = settings.pixel_size_angstrom * size, (reduced.shape[1], reduced.shape[2])
    factor = max(1.0, _COARSE_PIXEL_ANGSTROM / pixel)
    small_y, small_x = (min(find_good_size(round(side / factor)), side) for side in shape)
    small = (small_y, small_x)
    spectra = torch.stack([apply_fourier_crop_2d(rfft2(frame - frame.mean()), shape, small) for frame in reduced])
    scale = torch.tensor([shape[0] / small[0], shape[1] / small[1]], device=spectra.device)
    shifts = scale * estimate_shifts(
        spectra,
        small,
        pixel * float(scale[0]),
        max_shift_angstrom=settings.max_shift_angstrom,
        b_factor=settings.b_factor,
        n_grouped=_choose_group(settings, n),
        pattern_share=pattern_share,
    )
    if not settings.local or not bool(shifts.any()):
        nowhere = torch.zeros(0, dtype=torch.float64)
        return LocalMotion(shifts.double().cpu(), None, 0.0, nowhere, nowhere), size
    return estimate_local_motion(reduced, shifts, pixel, _choose_local(settings)), size


def _displace_tiles(field: MotionField | None, shifts_px: Tensor, size: int, shape: tuple[int, int]) -> Tensor:
    """Return the displacement of every tile of every frame, px of the movie, `(n, n_y, n_x, 2)`."""
    centres = compute_tile_centres(shape)
    moved = shifts_px[:, None, None].expand(-1, *centres.shape)
    if field is None:
        return moved
    y, x = ((axis - (size - 1) / 2) / size for axis in (centres[:, 0, 0], centres[0, :, 1]))
    return moved + field.evaluate_grid(y, x) * size


def _describe_motion(found: LocalMotion, size: int, shape: tuple[int, int]) -> MovieMotion:
    n, n_patches = len(found.shifts_px), len(found.patch_y_px)
    local = torch.zeros(n_patches, n, 2, dtype=torch.float64)
    if found.field is not None:
        local = found.field.evaluate(found.patch_y_px, found.patch_x_px).transpose(0, 1) * size
    y, x = (places * size + (size - 1) / 2 for places in (found.patch_y_px, found.patch_x_px))
    return MovieMotion(found.shifts_px * size, y, x, local, found.field is not None, found.significance, shape)


def _refine(
    frames: Tensor, gain: Tensor, motion: MovieMotion, moved: Tensor, pattern_share: float, settings: CorrectionSettings
) -> tuple[MovieMotion, Tensor]:
    """Return the motion measured with all detail, and the displacement of every tile: once more where the first step was long.

    A step is exact where it is short beside the finest detail, and detail is weighted by how much of it frames share, which
    shows once they lie on each other.
    """
    shape = (frames.shape[1], frames.shape[2])
    near = min(_MOST_NEAR, round(_NEAR_DOSE / (settings.dose_per_frame or _DOSE_PER_GROUP)))
    for _ in range(_MOST_ROUNDS):
        finer = refine_motion(
            frames,
            gain,
            moved,
            motion.shifts_px,
            settings.pixel_size_angstrom,
            _choose_local(settings) if settings.local else None,
            dose_per_frame=settings.dose_per_frame or _DOSE_PER_GROUP,
            voltage_kv=settings.voltage_kv,
            n_near=max(1, near),
            pattern_share=pattern_share,
        )
        found = replace(finer, patch_y_px=motion.patch_y_px, patch_x_px=motion.patch_x_px)
        motion, before = _describe_motion(found, 1, shape), moved
        moved = _displace_tiles(found.field, motion.shifts_px, 1, shape)
        step = moved - before
        length = (step - step.mean(dim=(0, 1, 2))).square().mean().sqrt()
        if float(length) * settings.pixel_size_angstrom < _LONG_STEP_ANGSTROM:
            break
    return motion, moved


def _plan_sums(settings: CorrectionSettings, n_frames: int, k: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return factors of the frames `(n_sums, n)`, and weights of the sums in the plain image and in rings of the weighted."""
    if settings.dose_per_frame is None:
        factors, plain, weighted = torch.ones(1, n_frames), torch.ones(1), None
    else:
        basis = compute_dose_basis(k, n_frames, settings.dose_per_frame, settings.pre_exposure, settings.voltage_kv)
        factors, plain, weighted = basis.factors, basis.plain, basis.weighted
    if settings.halves:
        even = (torch.arange(n_frames) % 2 == 0).float()
        factors = torch.cat([factors, even[None], 1 - even[None]])
    return factors, plain, weighted


def _choose_middle(shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the part of a frame that suffices to measure the camera's pattern by."""
    parts = []
    for n, tile in zip(shape, TILE_SHAPE_PX, strict=True):
        sizes = [size for size in range(tile, min(n, _MIDDLE_PX) + 1, tile) if find_good_size(size) == size]
        size = sizes[-1] if sizes else n
        start = (n - size) // 2 // tile * tile
        parts.append(slice(start, start + size))
    return parts[0], parts[1]


@contextmanager
def _replaced(frames: Tensor, defects: Tensor) -> Iterator[None]:
    """Replace defects in all frames, and put back at the end what was there."""
    places = torch.nonzero(defects.flatten())[:, 0]
    if len(places) == 0:
        yield
        return
    number = torch.arange(defects.numel(), dtype=torch.int32, device=defects.device).reshape(defects.shape)
    source = replace_defects(number, defects).flatten()[places].long().to(frames.device)
    places = places.to(frames.device)
    # Torch cannot index unsigned 16-bit integers.
    flat = (frames.view(torch.int16) if frames.dtype == torch.uint16 else frames).view(len(frames), -1)
    before = flat[:, places]
    flat[:, places] = flat[:, source]
    try:
        yield
    finally:
        flat[:, places] = before


def correct_movie(frames: Tensor, gain: Tensor | None, settings: CorrectionSettings, device: str = "cpu") -> Correction:
    """Correct a movie for defects and motion, and weight its frames by exposure.

    Parameters
    ----------
    frames
        `(n, ny, nx)`, contiguous, as the camera counts. May stay on the CPU. Defects are replaced in it meanwhile, without a copy
        of the movie; afterwards it is as before.
    gain
        Gain reference that multiplies, `(ny, nx)`; 0 marks a defect. None: 1.
    settings
        What is known, and how to correct.
    device
        Where to compute.

    Returns
    -------
    Correction
        In the frame of the first movie frame: a particle is where it was in that.

    Raises
    ------
    ValueError
        If gain and frames have different shapes, or every pixel is a defect.
    """
    n, ny, nx = frames.shape
    if gain is not None and gain.shape != (ny, nx):
        raise ValueError(f"expected a gain of shape {(ny, nx)} as the frames, found {tuple(gain.shape)}")
    factor = torch.ones(ny, nx, device=device) if gain is None else gain.to(device)
    mean_raw = sum_raw_frames(frames).to(device) / n
    defects = find_defects(mean_raw * factor, gain if gain is None else factor, settings.hot_pixel_sigma)
    factor = replace_defects(factor, defects)
    with _replaced(frames, defects):
        middle = _choose_middle((ny, nx))
        sample = frames[:: max(1, n // _PATTERN_FRAMES)][:, *middle].to(device).float() * factor[middle]
        share = compute_pattern_share(replace_defects(mean_raw, defects)[middle] * factor[middle], sample, n)
        found, size = _estimate_motion(frames, factor, share, settings)
        motion = _describe_motion(found, size, (ny, nx))
        moved = _displace_tiles(found.field, motion.shifts_px, size, (ny, nx))
        if bool(found.shifts_px.any()):
            motion, moved = _refine(frames, factor, motion, moved, share, settings)
        ky, kx = compute_frequency_2d((ny, nx), settings.pixel_size_angstrom, device)
        k = torch.sqrt(ky.square() + kx.square())
        step = float(k.max()) / (_N_RINGS - 1)
        factors, plain, weighted = _plan_sums(settings, n, torch.arange(_N_RINGS, dtype=torch.float64) * step)
        sums = sum_frames(frames, factor, moved, factors)
    transfer = compute_kernel_transfer((ny, nx), moved).to(device)
    images = _combine(sums, transfer, plain, weighted, torch.round(k / step).short(), settings.bin_factor)
    return Correction(*images, motion)


def _choose_reduced(n: int, bin_factor: float) -> int:
    return n if bin_factor == 1 else int(2 * round(n / bin_factor / 2))


def _combine(
    sums: Tensor, transfer: Tensor, plain: Tensor, weighted: Tensor | None, ring: Tensor, bin_factor: float
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the plain image, the weighted one and those of even and odd frames, from the sums that `_plan_sums` asked for."""
    shape = (sums.shape[1], sums.shape[2])
    small = (_choose_reduced(shape[0], bin_factor), _choose_reduced(shape[1], bin_factor))
    sharpen = transfer.reciprocal()

    def finish(spectrum: Tensor) -> Tensor:
        cropped = spectrum if small == shape else apply_fourier_crop_2d(spectrum, shape, small)
        return irfft2(cropped, small)

    rank = len(plain)
    totals = [torch.zeros_like(sharpen, dtype=torch.complex64) for _ in range(1 if weighted is None else 2)]
    number = ring.long()
    for r in range(rank):
        spectrum = rfft2(sums[r])
        totals[0].add_(spectrum, alpha=float(plain[r]))
        if weighted is not None:
            totals[1].add_(spectrum.mul_(weighted[r].to(sums.device)[number]))
    images = [finish(total.mul_(sharpen)) for total in totals]
    halves = [finish(rfft2(part) * sharpen) for part in sums[rank:]]
    even, odd = halves if halves else (None, None)
    return images[0], images[1] if weighted is not None else None, even, odd
