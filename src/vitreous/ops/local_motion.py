"""Local motion: how patches of the image move beside the whole frame, as one smooth field fitted to all patches together.

No patch is aligned on its own, since the signal of one rarely suffices: each gives the slope and the curvature of its
correlation at the present displacement, and the field takes the step that all of them want.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.fourier import rfft2
from vitreous.ops.motion import smooth_trajectory
from vitreous.ops.motion_field import MotionField, Observations, choose_field

__all__ = [
    "LocalMotion",
    "LocalMotionSettings",
    "choose_intervals",
    "choose_times",
    "estimate_local_motion",
    "make_window",
]

_B_FACTORS = (1500.0, 300.0, 0.0)
"""Å², of the extra weight exp(-B k² / 4) in each step: coarse detail first, which is not lost when the step is long."""
_FINEST_ANGSTROM = 6.5
_TAPER = 0.12
_SIGNIFICANT = 2.5
_FEWEST_PATCHES, _FEWEST_FRAMES = 6, 4
_LONGEST_STEP_PX = 2.0
_NODE_ANGSTROM = 1200.0
_EARLY_PER_INTERVAL = 0.6


@dataclass(frozen=True)
class LocalMotionSettings:
    """How to look for local motion."""

    patch_angstrom: float
    """Side of a patch."""
    early_frames: float
    """Frames after which the specimen moves half as fast as at the beginning."""


@dataclass(frozen=True)
class LocalMotion:
    """Motion of the whole frame and of its places.

    Attributes
    ----------
    shifts_px
        Of the whole frame, `(n, 2)` as (y, x), 0 in the first frame; found anew together with the field.
    field
        Local motion to add; None where held-out patches are not explained better with it.
    significance
        Of the field, in standard errors: how far held-out patches agree with it.
    patch_y_px, patch_x_px
        Centres of the patches, `(P,)`.
    """

    shifts_px: Tensor
    field: MotionField | None
    significance: float
    patch_y_px: Tensor
    patch_x_px: Tensor


@dataclass(frozen=True)
class _Patches:
    """Fourier coefficients of every patch of every frame within the band: `(P, n, Q)`, whitened."""

    values: Tensor
    y: Tensor
    x: Tensor
    taken_px: Tensor
    """Whole pixels by which each frame was already shifted when it was cut, `(n, 2)`."""
    angular: Tensor
    """2 pi times the frequency in cycles per pixel, of the kept coefficients, `(2, Q)` as (y, x)."""
    ring: Tensor
    """Number of the ring of each coefficient, `(Q,)`."""
    k_squared: Tensor
    """1/Å², `(Q,)`."""
    fold: Tensor


def make_window(shape: tuple[int, int], share: float) -> Tensor:
    """Return a window of 1 that falls to 0 over a share of the length at each edge, as a cosine, `shape` float32."""
    lines = []
    for n in shape:
        width = min(max(2, round(share * n)), n // 2)
        edge = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(width) + 0.5) / width)
        lines.append(torch.cat([edge, torch.ones(n - 2 * width), edge.flip(0)]))
    return lines[0][:, None] * lines[1][None, :]


def _cut(frames: Tensor, shifts_px: Tensor, side: int, pixel_size_angstrom: float) -> _Patches:
    n, ny, nx = frames.shape
    starts = [torch.linspace(0, size - side, max(1, size // side)).round().long().tolist() for size in (ny, nx)]
    places = [(i, j, y, x) for i, y in enumerate(starts[0]) for j, x in enumerate(starts[1])]
    taken = shifts_px.round().long()
    window = make_window((side, side), _TAPER).to(frames.device)
    ky = torch.fft.fftfreq(side, device=frames.device)[:, None]
    kx = torch.fft.rfftfreq(side, device=frames.device)[None, :]
    k_squared = (ky.square() + kx.square()) / pixel_size_angstrom**2
    # Rows and columns of the camera show on the axes.
    keep = (
        (k_squared < min(1 / _FINEST_ANGSTROM, 0.45 / pixel_size_angstrom) ** 2)
        & (ky.abs() * side > 1.5)
        & (kx * side > 1.5)
    )
    values = torch.empty(len(places), n, int(keep.sum()), dtype=torch.complex64, device=frames.device)
    for f in range(n):
        rows = [torch.arange(y, y + side, device=frames.device) + taken[f, 0] for _, _, y, _ in places]
        columns = [torch.arange(x, x + side, device=frames.device) + taken[f, 1] for _, _, _, x in places]
        y, x = torch.stack(rows).clamp(0, ny - 1), torch.stack(columns).clamp(0, nx - 1)
        cut = frames[f][y[:, :, None], x[:, None, :]]
        values[:, f] = rfft2((cut - cut.mean(dim=(1, 2), keepdim=True)) * window)[:, keep]
    power = values.abs().square().mean(dim=(0, 1))
    ring = torch.round(k_squared[keep].sqrt() * pixel_size_angstrom * side).long()
    mean = torch.zeros(int(ring.max()) + 1, device=frames.device).index_add_(0, ring, power)
    mean = mean / torch.bincount(ring).clamp_min(1)
    values /= mean[ring].clamp_min(1e-20).sqrt()
    return _Patches(
        values=values,
        y=torch.tensor([y + (side - 1) / 2 for _, _, y, _ in places], dtype=torch.float64),
        x=torch.tensor([x + (side - 1) / 2 for _, _, _, x in places], dtype=torch.float64),
        taken_px=taken.double(),
        angular=2 * torch.pi * torch.stack([ky.expand_as(keep)[keep], kx.expand_as(keep)[keep]]),
        ring=ring,
        k_squared=k_squared[keep],
        fold=torch.tensor([(i + j) % 2 for i, j, _, _ in places]),
    )


def _correlate(patches: _Patches, p: int, moved_px: Tensor) -> Tensor:
    """Return conj(sum of the other frames) * frame of a patch, `(n, Q)`, all brought back by their displacement."""
    angle = (moved_px - patches.taken_px).to(patches.angular) @ patches.angular
    shifted = patches.values[p] * torch.polar(torch.ones_like(angle), angle)
    return (shifted.sum(dim=0) - shifted).conj() * shifted


def _measure(patches: _Patches, moved_px: Tensor, b_factor: float) -> tuple[Tensor, Tensor]:
    """Return pull and precision of steps from the present displacement `(P, n, 2)`, each `(P, n, 2)` float64.

    Notes
    -----
    The correlation of a frame with the sum of the others has slope s and mean curvature G, taken as the same in all directions;
    noise gives the slope the variance V. The step measured is s / G, its precision G² / V, their product G s / V. Each frequency
    weighs by its ratio of signal to noise, which is what the correlation of all patches and frames shows of it.
    """
    crosses = [_correlate(patches, p, moved) for p, moved in enumerate(moved_px)]
    real = torch.stack([cross.real for cross in crosses])
    imaginary = torch.stack([cross.imag for cross in crosses])
    counts = torch.bincount(patches.ring).clamp_min(1)
    signal = torch.zeros(len(counts), device=real.device).index_add_(0, patches.ring, real.mean(dim=(0, 1))) / counts
    weights = signal.clamp_min(0)[patches.ring] * torch.exp(-b_factor * patches.k_squared / 4)
    squared = patches.angular.square().T
    curvature = _estimate_curvature((real @ (weights[:, None] * squared)).double().mean(dim=-1))
    slope = -(imaginary @ (weights[:, None] * patches.angular.T)).double()
    scatter = imaginary.square_() @ (weights.square()[:, None] * squared)
    variance = scatter.double().mean(dim=1, keepdim=True).clamp_min(1e-30)
    return (slope * curvature / variance).cpu(), (curvature.square() / variance).expand_as(slope).cpu()


def _estimate_curvature(of_frames: Tensor) -> Tensor:
    """Return the curvature of each patch, `(P, 1, 1)`, from that of its frames `(P, n)`; noise is drawn to the mean of all."""
    curvature, (n_patches, n) = of_frames.mean(dim=1), of_frames.shape
    mean = curvature.mean()
    if n_patches > 1 and n > 1:
        noise = of_frames.var(dim=1).mean() / n
        real = (curvature.var() - noise).clamp_min(0)
        curvature = mean + (curvature - mean) * (real / (real + noise).clamp_min(1e-30))
    return curvature.clamp_min(0)[:, None, None]


def choose_intervals(
    settings: LocalMotionSettings, n_frames: int, size_angstrom: tuple[float, float]
) -> tuple[int, int, int]:
    """Return into how many intervals the splines divide time, rows and columns."""
    in_time = max(1, min(5, round(n_frames * _EARLY_PER_INTERVAL / settings.early_frames)))
    in_y, in_x = (max(1, min(4, round(size / _NODE_ANGSTROM))) for size in size_angstrom)
    return in_time, in_y, in_x


def choose_times(settings: LocalMotionSettings, n_frames: int) -> Tensor:
    """Return the times of the frames, `(n_frames,)` float64 from 0 to 1, in which the specimen moves about evenly.

    That is the logarithm of the exposure: motion slows down like its inverse.
    """
    times = torch.log1p(torch.arange(n_frames, dtype=torch.float64) / settings.early_frames)
    return times / times[-1].clamp_min(1e-9)


def estimate_local_motion(
    frames: Tensor, shifts_px: Tensor, pixel_size_angstrom: float, settings: LocalMotionSettings
) -> LocalMotion:
    """Find how places of the image move beside the whole frame, and the motion of the whole more exactly.

    Parameters
    ----------
    frames
        Gain-corrected, without defects, reduced so that a pixel is about 3 Å, `(n, ny, nx)` float32.
    shifts_px
        Where the content of each frame lies relative to the first, `(n, 2)` as (y, x), from `estimate_shifts`.
    pixel_size_angstrom
        Of these frames.
    settings
        Sizes of patches and splines.

    Returns
    -------
    LocalMotion
        In pixels of these frames.

    Raises
    ------
    ValueError
        If the frames and shifts do not fit together.
    """
    n, ny, nx = frames.shape
    if shifts_px.shape != (n, 2):
        raise ValueError(f"found shifts {tuple(shifts_px.shape)} for {n} frames; expected ({n}, 2)")
    side = int(min(2 * round(settings.patch_angstrom / pixel_size_angstrom / 2), min(ny, nx) // 2 * 2))
    patches = _cut(frames, shifts_px.double().cpu(), side, pixel_size_angstrom)
    whole = shifts_px.double().cpu()
    still = torch.zeros(len(patches.y), n, 2, dtype=torch.float64)
    for b_factor in _B_FACTORS[1:]:
        pull, precision = _measure(patches, whole + still, b_factor)
        whole = _step_whole(whole, pull, precision)
    if n < _FEWEST_FRAMES or len(patches.y) < _FEWEST_PATCHES:
        return LocalMotion(whole, None, 0.0, patches.y, patches.x)
    intervals = choose_intervals(settings, n, (ny * pixel_size_angstrom, nx * pixel_size_angstrom))
    times = choose_times(settings, n)
    moved, local = whole, still
    for b_factor in _B_FACTORS:
        pull, precision = _measure(patches, moved + local, b_factor)
        # What is the same in all frames cannot be measured: it must not pass for agreement between the patches.
        relative = local - local.mean(dim=1, keepdim=True)
        observed = Observations(
            patches.y,
            patches.x,
            (pull + precision * relative).transpose(1, 2),
            torch.diag_embed(precision.transpose(1, 2)),
            patches.fold,
        )
        fit = choose_field(observed, times, (float(ny), float(nx)), intervals, pixel_size_angstrom)
        found = fit.field.evaluate(patches.y, patches.x).transpose(0, 1)
        # What the field does not explain, all patches together say of the whole frame.
        moved = _step_whole(moved, pull - precision * (found - local), precision)
        local = found
    if fit.significance < _SIGNIFICANT:
        return LocalMotion(whole, None, fit.significance, patches.y, patches.x)
    return LocalMotion(moved, fit.field, fit.significance, patches.y, patches.x)


def _step_whole(shifts_px: Tensor, pull: Tensor, precision: Tensor) -> Tensor:
    """Return the motion of the whole frame after the step that all patches together ask for, smoothed as their errors demand."""
    total = precision.sum(dim=0).clamp_min(1e-12)
    step = (pull.sum(dim=0) / total).clamp(-_LONGEST_STEP_PX, _LONGEST_STEP_PX)
    found = smooth_trajectory(shifts_px + step, 1 / total)
    return found - found[:1]
