"""Motion of the whole frame and of its places from all detail that frames share, to a small part of a pixel.

What two frames share depends on how far apart they are: particles stay, but water is stirred by the beam within a few e/Å²
(McMullan, Vinothkumar & Henderson 2015, doi:10.1016/j.ultramic.2015.05.017), and shows neighbouring frames their relative
position best. So every pair of near frames is measured apart, with the weight of each frequency as pairs of that distance show
it, and every frame against the sum of all that came long before. Each patch of the image does so for itself; a smooth field and
the motion of the whole frame are fitted to what all of them say.
"""

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vitreous.ops.frame_pairs import TAPER, Band, Pairs, choose_patches, cut_tiles, make_band, tally_pairs
from vitreous.ops.local_motion import LocalMotion, LocalMotionSettings, choose_intervals, choose_times, make_window
from vitreous.ops.motion import smooth_by_precision
from vitreous.ops.motion_field import Observations, choose_field

__all__ = ["refine_motion"]

_SMOOTH_RINGS, _NARROW_RINGS = 31, 1
_LONGEST_STEP_PX = 1.5
_PATCH_ANGSTROM = 500.0
_FEWEST_PATCHES, _FEWEST_FRAMES = 6, 4
_SIGNIFICANT = 4.0
"""Standard errors; without local motion, 1.8 is what the choice among many fields makes of one."""


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


def _smooth_rings(sums: Tensor, counts: Tensor, n_rings: int) -> Tensor:
    """Return the means over neighbouring rings of sums `(n_rings,)` over so many elements."""
    both = functional.avg_pool1d(torch.stack([sums, counts])[:, None], n_rings, 1, n_rings // 2)[:, 0]
    return both[0] / both[1].clamp_min(1 / n_rings)


def _estimate_shared(real: Tensor, counts: Tensor, looks: float) -> tuple[Tensor, Tensor]:
    """Return what frames share in each ring, of a power of 1, and what the noise in that makes of its product with `real`.

    Parameters
    ----------
    real
        Real parts, summed over the elements of each ring, the mean of many `(n_rings,)`.
    counts
        Elements of each ring.
    looks
        One over the variance that the noise of one element has in that mean.

    Notes
    -----
    The mean over many rings, and of what stands out of it in few (the rings of the contrast transfer function) as much as noise
    would not: the weight that least squares give it (James & Stein).
    """
    wide, narrow = (_smooth_rings(real, counts, width) for width in (_SMOOTH_RINGS, _NARROW_RINGS))
    around = functional.avg_pool1d(counts[None], _NARROW_RINGS, 1, _NARROW_RINGS // 2)[0] * _NARROW_RINGS
    noise = 1 / (looks * around.clamp_min(1))
    excess = _smooth_rings((narrow - wide).square() - noise, torch.ones_like(noise), _SMOOTH_RINGS).clamp_min(0)
    share = excess / (excess + noise)
    return (wide + share * (narrow - wide)).clamp_min(0), share * noise * counts


def _measure(pairs: Pairs, tallies: Tensor, band: Band, looks: float) -> tuple[Tensor, Tensor]:
    """Return what each pair of each patch pulls by, `(P, m, 2)`, and its precision `(P, m)`.

    The pull is the precision times the displacement measured beyond the present one. `looks` is the share of the elements of a
    ring that are independent.
    """
    n_patches, n_pairs = tallies.shape[:2]
    slope = torch.zeros(n_patches, n_pairs, 2, dtype=torch.float64)
    of_patch, of_pair, variance, doubt = (torch.zeros(n_patches, n_pairs, dtype=torch.float64) for _ in range(4))
    half_square = band.angular.square() / 2
    for slot in range(pairs.n_slots):
        chosen = pairs.slot == slot
        here, n_earlier = tallies[:, chosen], pairs.n_earlier[chosen]
        n_all = float(n_earlier.sum())
        real = here[..., 0].mean(dim=0).sum(dim=0) / n_all
        shared, bias = _estimate_shared(real, band.count, 2 * looks * n_patches * n_all)
        of_patch[:, chosen] = ((here[..., 0] / n_earlier[:, None] * shared - bias) * half_square).sum(dim=-1)
        of_pair[:, chosen] = _fit_line(of_patch[:, chosen].mean(dim=0), n_earlier)
        spread = shared.square() * band.count / (2 * looks)
        variance[:, chosen] = (spread * half_square).sum() / n_earlier
        doubt[:, chosen] = (spread * half_square.square()).sum() / n_earlier
        slope[:, chosen] = -(here[..., 1:] * shared[:, None]).sum(dim=2) / n_earlier[:, None]
    variance = variance.clamp_min(1e-30)
    curvature = of_pair * _compare_patches(of_patch, of_pair, variance, doubt)[:, None]
    return slope * (curvature / variance)[..., None], curvature.square() / variance


def _compare_patches(of_patch: Tensor, of_pair: Tensor, variance: Tensor, doubt: Tensor) -> Tensor:
    """Return by how much the frames of a patch have more in common than those of others, `(P,)`; noise is drawn to 1."""
    weight = of_pair / variance
    whole = (weight * of_pair).sum(dim=1).clamp_min(1e-30)
    share = (weight * of_patch).sum(dim=1) / whole
    if len(share) < 2:
        return torch.ones_like(share)
    noise = ((weight.square() * doubt).sum(dim=1) / whole.square()).mean()
    real = (share.var() - noise).clamp_min(0)
    return (1 + (share - 1) * (real / (real + noise).clamp_min(1e-30))).clamp_min(0)


def _fit_line(values: Tensor, weights: Tensor) -> Tensor:
    """Return the values as a straight line, no lower than a fifth of their mean: what frames share fades with exposure."""
    along = torch.arange(len(values), dtype=torch.float64)
    along = along - (weights * along).sum() / weights.sum()
    mean = (weights * values).sum() / weights.sum()
    rise = (weights * along * values).sum() / (weights * along.square()).sum().clamp_min(1e-30)
    fitted: Tensor = torch.maximum(mean + rise * along, mean / 5) if mean > 0 else torch.zeros_like(values)
    return fitted


def refine_motion(
    frames: Tensor,
    gain: Tensor,
    moved_px: Tensor,
    shifts_px: Tensor,
    pixel_size_angstrom: float,
    settings: LocalMotionSettings | None,
    *,
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
    pull, precision = _measure(pairs, _subtract_pattern(pairs, shifts, pattern_share, band), band, looks)
    differences = _list_rows(pairs, n)
    # Of every patch, as seen by its frames.
    normal = torch.einsum("mf,pm,mg->pfg", differences, precision, differences)
    pulled = torch.einsum("mf,pmc->pcf", differences, pull)
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
    step = torch.linalg.lstsq(normal, pull.T, driver="gelsd").solution.clamp(-_LONGEST_STEP_PX, _LONGEST_STEP_PX)
    found = smooth_by_precision(shifts_px + step, normal.expand(2, *normal.shape))
    return found - found[:1]
