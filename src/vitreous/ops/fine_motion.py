"""Motion of the whole frame and of its places from all detail that frames share, to a small part of a pixel.

What two frames share depends on how far apart they are: particles stay, but the beam stirs the ice, which shows near frames their
relative position best. So every pair of near frames is measured apart, and every frame against sums of those long before,
with the weights that the covariance of the frames asks for. Each patch of the image does so for itself; a smooth field and the
motion of the whole frame are fitted to what all of them say.
"""

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.frame_pairs import TAPER, Band, Pairs, choose_patches, cut_tiles, make_band, tally_pairs
from vitreous.ops.local_motion import LocalMotion, LocalMotionSettings, choose_intervals, choose_times, make_window
from vitreous.ops.motion import smooth_by_precision
from vitreous.ops.motion_field import Observations, choose_field
from vitreous.ops.shared_signal import estimate_covariance

__all__ = ["refine_motion"]

_START_PX, _LONGEST_STEP_PX = 1.0, 1.5
"""Error of where the motion starts from, which is as much as is known where frames share nothing; and how far a step may go."""
_PATCH_ANGSTROM = 500.0
_FEWEST_PATCHES, _FEWEST_FRAMES = 6, 4
_SIGNIFICANT = 4.0
"""Standard errors; that fields are many makes chance agree a little better."""


def _list_rows(pairs: Pairs, n_frames: int) -> Tensor:
    """Return which difference of displacements each pair measures, `(m, n)`: that of the frame less that of the earlier."""
    frames = torch.arange(n_frames)
    is_earlier = (frames >= pairs.earliest[:, None]) & (frames <= pairs.latest[:, None])
    return (frames == pairs.later[:, None]).double() - is_earlier / pairs.n_earlier[:, None]


def _subtract_pattern(pairs: Pairs, shifts_px: Tensor, share: float, band: Band) -> Tensor:
    """Return the tallies less what the camera's pattern gives: white, and displaced against the specimen.

    Over a ring, cos(k.d) has the mean J0(k d) and k sin(k.d) the mean k J1(k d) in the direction of d.
    """
    if share == 0:
        return pairs.tallies
    tallies, k = pairs.tallies.clone(), band.angular.numpy()
    for m, f in enumerate(pairs.later.tolist()):
        for g in range(int(pairs.earliest[m]), int(pairs.latest[m]) + 1):
            apart = (shifts_px[f] - shifts_px[g]).numpy()
            distance = float(np.hypot(*apart))
            expected = share * band.count.numpy()
            tallies[:, m, :, 0] -= torch.from_numpy(expected * scipy.special.j0(k * distance))
            pull: NDArray[np.float64] = expected * k * scipy.special.j1(k * distance) / max(distance, 1e-9)
            tallies[:, m, :, 1:] -= torch.from_numpy(pull[:, None] * apart)
    return tallies


def _measure(pairs: Pairs, tallies: Tensor, band: Band, covariance: Tensor, looks: float) -> tuple[Tensor, Tensor]:
    """Return what the frames of each patch pull by `(P, 2, n)`, and the precision of their displacements `(P, n, n)`.

    The pull is the precision times the displacement measured beyond the present one. `looks` is the share of the elements of a
    ring that are independent.

    Notes
    -----
    With C the covariance of the frames at a frequency, W = -inv(C) weighs the products of two frames in the slope of their
    likelihood, and 2 (C o inv(C) - 1) is the Fisher information of their phases.
    """
    n = covariance.shape[-1]
    between = 1 - torch.eye(n, dtype=torch.float64)
    weights = -torch.linalg.inv(covariance) * between
    of_pairs = pairs.average(weights)
    half_square = band.angular.square() / 2
    information = torch.einsum("r,rfg->fg", 2 * looks * band.count * half_square, covariance * weights)
    strength = _compare_patches(tallies[..., 0], of_pairs, pairs, band, looks)
    slope = -2 * looks * torch.einsum("pmrc,mr->pmc", tallies[..., 1:], of_pairs)
    pull = strength[:, None, None] * torch.einsum("mf,pmc->pcf", _list_rows(pairs, n), slope)
    precision = torch.diag(information.sum(dim=1)) - information
    return pull, strength.square()[:, None, None] * precision


def _compare_patches(real: Tensor, weights: Tensor, pairs: Pairs, band: Band, looks: float) -> Tensor:
    """Return by how much the frames of a patch have more in common than those of others, `(P,)`; noise is drawn to 1."""
    half_square = band.angular.square() / 2
    curvature = torch.einsum("pmr,mr->p", real, weights * half_square)
    mean = curvature.mean()
    if len(curvature) < 2 or mean <= 0:
        return torch.ones_like(curvature)
    share = curvature / mean
    scatter = (pairs.n_earlier[:, None] * weights.square() * band.count * half_square.square()).sum()
    noise = scatter / (2 * looks * mean.square())
    real_spread = (share.var() - noise).clamp_min(0)
    return (1 + (share - 1) * (real_spread / (real_spread + noise).clamp_min(1e-30))).clamp_min(0)


def refine_motion(
    frames: Tensor,
    gain: Tensor,
    moved_px: Tensor,
    shifts_px: Tensor,
    pixel_size_angstrom: float,
    settings: LocalMotionSettings | None,
    *,
    dose_per_frame: float = 1.5,
    voltage_kv: float = 300.0,
    n_near: int = 4,
    pattern_share: float = 0.0,
) -> LocalMotion:
    """Return the displacement of the whole frame and of its places, relative to the first frame, measured anew.

    Parameters
    ----------
    frames
        `(n, ny, nx)` as the camera counts, without defects; may stay on the CPU.
    gain
        `(ny, nx)` float32; its device is where the work is done.
    moved_px
        Displacement of every tile of every frame, `(n, n_y, n_x, 2)`, as for `sum_frames`: right to about a pixel.
    shifts_px
        The part of it that is common to the whole frame, `(n, 2)`.
    pixel_size_angstrom
        Of the frames.
    settings
        Sizes of patches and splines of local motion; None where places do not move by themselves.
    dose_per_frame, voltage_kv
        Of the exposure, e/Å² and kV.
    n_near
        Frames up to so far apart are compared one by one, others with sums of ever more frames.
    pattern_share
        Share of the noise of a frame that is the camera's pattern, from `compute_pattern_share`.

    Returns
    -------
    LocalMotion
        In pixels of the frames; `field` is None where it is not significant, and where that was not measured `significance` is 0.
    """
    n, ny, nx = frames.shape
    shifts = shifts_px.double().cpu()
    side = _PATCH_ANGSTROM if settings is None else settings.patch_angstrom
    rows, columns = choose_patches((ny, nx), side / pixel_size_angstrom)
    parts = [(y, x) for y in rows for x in columns]
    centre_y, centre_x = (
        torch.tensor([(part[axis].start + part[axis].stop - 1) / 2 for part in parts], dtype=torch.float64)
        for axis in (0, 1)
    )
    if n < 2:
        return LocalMotion(shifts, None, 0.0, centre_y, centre_x)
    shape = (rows[0].stop - rows[0].start, columns[0].stop - columns[0].start)
    band = make_band(shape, moved_px, pixel_size_angstrom, gain.device)
    pairs = tally_pairs(frames, gain, moved_px, parts, band, min(n_near, n - 1))
    window = make_window(shape, TAPER)
    looks = float(window.square().mean().square() / window.pow(4).mean())
    tallies = _subtract_pattern(pairs, shifts, pattern_share, band)
    k = band.angular / (2 * torch.pi * pixel_size_angstrom)
    covariance = estimate_covariance(pairs, tallies, band, k, dose_per_frame, voltage_kv, looks)
    pulled, normal = _measure(pairs, tallies, band, covariance, looks)
    whole = _step_whole(shifts, pulled.sum(dim=0), normal.sum(dim=0))
    if settings is None or n < _FEWEST_FRAMES or len(parts) < _FEWEST_PATCHES:
        return LocalMotion(whole, None, 0.0, centre_y, centre_x)
    before = torch.stack([cut_tiles(moved_px, part).mean(dim=(1, 2)) for part in parts]).double().cpu() - shifts
    before = before.transpose(1, 2)
    fold = torch.tensor([(i + j) % 2 for i in range(len(rows)) for j in range(len(columns))])
    observed = Observations(
        centre_y,
        centre_x,
        pulled + torch.einsum("pfg,pcg->pcf", normal, before),
        normal[:, None].expand(-1, 2, -1, -1),
        fold,
    )
    intervals = choose_intervals(settings, n, (ny * pixel_size_angstrom, nx * pixel_size_angstrom))
    fit = choose_field(observed, choose_times(settings, n), (float(ny), float(nx)), intervals, pixel_size_angstrom)
    if fit.significance < _SIGNIFICANT:
        return LocalMotion(whole, None, fit.significance, centre_y, centre_x)
    # What the field does not explain, all patches together say of the whole frame.
    found = fit.field.evaluate(centre_y, centre_x).permute(1, 2, 0)
    rest = pulled - torch.einsum("pfg,pcg->pcf", normal, found - before)
    whole = _step_whole(shifts, rest.sum(dim=0), normal.sum(dim=0))
    return LocalMotion(whole, fit.field, fit.significance, centre_y, centre_x)


def _step_whole(shifts_px: Tensor, pull: Tensor, normal: Tensor) -> Tensor:
    """Return the motion of the whole frame after the step that pulls `(2, n)` ask for, smoothed as their errors demand."""
    known = normal + torch.eye(len(normal), dtype=normal.dtype) / _START_PX**2
    step = torch.linalg.solve(known, pull.T).clamp(-_LONGEST_STEP_PX, _LONGEST_STEP_PX)
    found = smooth_by_precision(shifts_px + step, normal.expand(2, *normal.shape))
    return found - found[:1]
