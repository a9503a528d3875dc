"""Motion of the whole frame from all detail that frames share, to a small part of a pixel.

What two frames share depends on how far apart they are: particles stay, but water is stirred by the beam within a few e/Å²
(McMullan, Vinothkumar & Henderson 2015, doi:10.1016/j.ultramic.2015.05.017), and shows neighbouring frames their relative
position best. So every pair of near frames is measured apart, with the weight of each frequency as pairs of that distance show
it, and every frame against the sum of all that came long before. The frames pass once.
"""

from dataclasses import dataclass

import numba
import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import compute_frequency_2d, rfft2
from vitreous.ops.frame_sum import compute_kernel_transfer, sum_frames
from vitreous.ops.motion import smooth_by_precision

__all__ = ["refine_shifts"]

_FINEST_ANGSTROM = 2.5
_FINEST_CYCLES_PER_PX = 0.47
_N_RINGS = 96
_FIRST_RING = 2
_SMOOTH_RINGS = 15
_LONGEST_STEP_PX = 1.5


@dataclass(frozen=True)
class _Band:
    """The part of the half spectrum that is used, as runs of elements in a row that lie in the same ring.

    Attributes
    ----------
    ring, first, last
        Number of the ring, first column, and the column after the last, of each run, `(n_runs,)` int32.
    of_row
        First run of each row, and the number of runs, `(ny + 1,)` int32.
    sharpen
        One over the squared transfer of the kernel, `(ny, nx // 2 + 1)`.
    angular_y, angular_x
        2 pi times the frequency in cycles per pixel, `(ny,)` and `(nx // 2 + 1,)`.
    count
        Elements in each ring, `(n_rings,)` float64.
    angular
        2 pi times the middle frequency of each ring, `(n_rings,)` float64.
    """

    ring: Tensor
    first: Tensor
    last: Tensor
    of_row: Tensor
    sharpen: Tensor
    angular_y: Tensor
    angular_x: Tensor
    count: Tensor
    angular: Tensor


def _make_band(shape: tuple[int, int], moved_px: Tensor, pixel_size_angstrom: float, device: torch.device) -> _Band:
    ky, kx = compute_frequency_2d(shape)
    step = min(_FINEST_CYCLES_PER_PX, pixel_size_angstrom / _FINEST_ANGSTROM) / _N_RINGS
    ring = torch.floor(torch.sqrt(ky.square() + kx.square()) / step).clamp_max(_N_RINGS).int()
    ring[ring < _FIRST_RING] = _N_RINGS
    # Rows and columns of the camera show on the axes.
    ring[:2], ring[-1:], ring[:, :2] = _N_RINGS, _N_RINGS, _N_RINGS
    starts = torch.ones_like(ring, dtype=torch.bool)
    starts[:, 1:] = ring[:, 1:] != ring[:, :-1]
    rows, first = torch.nonzero(starts, as_tuple=True)
    last = torch.cat([first[1:], first[:1]])
    last[last == 0] = ring.shape[1]
    of_run = ring[rows, first]
    used = of_run < _N_RINGS
    of_row = torch.cat([torch.zeros(1), torch.bincount(rows[used], minlength=shape[0]).cumsum(0)])
    return _Band(
        ring=of_run[used],
        first=first[used].int(),
        last=last[used].int(),
        of_row=of_row.int(),
        sharpen=compute_kernel_transfer(shape, moved_px).pow(-2).to(device),
        angular_y=(2 * torch.pi * ky.flatten()).to(device),
        angular_x=(2 * torch.pi * kx.flatten()).to(device),
        count=torch.bincount(ring.flatten(), minlength=_N_RINGS + 1)[:_N_RINGS].double(),
        angular=2 * torch.pi * step * (torch.arange(_N_RINGS, dtype=torch.float64) + 0.5),
    )


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def _tally_runs(earlier, later, sharpen, ring, first, last, of_row, angular_y, angular_x, total):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add up cross spectra over rings: the real part, and the imaginary part times both frequencies."""
    real_part, imaginary_part = np.empty(len(angular_x), np.float32), np.empty(len(angular_x), np.float32)
    for y in range(len(angular_y)):
        if of_row[y] == of_row[y + 1]:
            continue
        k_y = angular_y[y]
        for x in range(len(angular_x)):
            real_part[x] = later[y, x].real * sharpen[y, x]
            imaginary_part[x] = later[y, x].imag * sharpen[y, x]
        for p in range(len(earlier)):
            a = earlier[p, y]
            for run in range(of_row[y], of_row[y + 1]):
                real, imaginary, moment = np.float32(0), np.float32(0), np.float32(0)
                for x in range(first[run], last[run]):
                    sine = a[x].real * imaginary_part[x] - a[x].imag * real_part[x]
                    real += a[x].real * real_part[x] + a[x].imag * imaginary_part[x]
                    imaginary += sine
                    moment += angular_x[x] * sine
                r = ring[run]
                total[p, r, 0] += real
                total[p, r, 1] += k_y * imaginary
                total[p, r, 2] += moment


def _tally_elements(earlier: Tensor, later: Tensor, band: _Band, total: Tensor) -> None:
    """Add up the same element by element, for accelerators."""
    length = (band.last - band.first).long()
    rows = torch.repeat_interleave(torch.arange(len(band.angular_y)), torch.diff(band.of_row).long())
    within = torch.arange(int(length.sum())) - torch.repeat_interleave(length.cumsum(0) - length, length)
    y = torch.repeat_interleave(rows, length).to(later.device)
    x = (torch.repeat_interleave(band.first.long(), length) + within).to(later.device)
    ring = torch.repeat_interleave(band.ring, length).to(later.device)
    for first, sums in zip(earlier, total, strict=True):
        cross = first[y, x].conj() * later[y, x] * band.sharpen[y, x]
        parts = (cross.real, cross.imag * band.angular_y[y], cross.imag * band.angular_x[x])
        sums.index_add_(0, ring, torch.stack(parts, dim=-1).double())


def _tally(earlier: Tensor, later: Tensor, band: _Band) -> Tensor:
    """Return sums over rings of conj(earlier) * later: real part, imaginary part times k_y and times k_x, `(p, n_rings, 3)`."""
    total = torch.zeros(len(earlier), _N_RINGS, 3, dtype=torch.float64, device=later.device)
    if later.device.type == "cpu":
        parts = (band.sharpen, band.ring, band.first, band.last, band.of_row, band.angular_y, band.angular_x)
        arrays = [tensor.numpy() for tensor in (earlier, later, *parts, total)]
        _tally_runs(*arrays)
    else:
        _tally_elements(earlier, later, band, total)
    return total.cpu()


@dataclass(frozen=True)
class _Pairs:
    """Sums over rings of the cross spectra of frames with earlier ones.

    Attributes
    ----------
    later
        Number of the later frame, `(m,)`.
    lag
        How many frames earlier the other one is, `(m,)`; 0 stands for the sum of all that are more than `n_near` earlier.
    tallies
        `(m, n_rings, 3)`, in units of the power of a frame.
    n_near
        Frames up to so far apart are paired one by one.
    """

    later: Tensor
    lag: Tensor
    tallies: Tensor
    n_near: int


def _tally_pairs(frames: Tensor, gain: Tensor, moved_px: Tensor, band: _Band, n_near: int) -> _Pairs:
    n, one, n_slots = len(frames), torch.ones(1, 1), n_near + 1
    # The sum of all that were long before, and then the last few frames.
    kept = torch.zeros(n_slots + 1, *band.sharpen.shape, dtype=torch.complex64, device=gain.device)
    later, lag, tallies = list[int](), list[int](), list[Tensor]()
    power = torch.zeros(_N_RINGS, dtype=torch.float64)
    for f in range(n):
        slot = 1 + f % n_slots
        if f >= n_slots:
            kept[0] += kept[slot]
        image = sum_frames(frames[f : f + 1], gain, moved_px[f : f + 1], one)[0]
        kept[slot] = rfft2(image)
        found = _tally(kept[: f + 2], kept[slot], band)
        power += found[slot, :, 0]
        for distance in range(0 if f > n_near else 1, min(f, n_near) + 1):
            later.append(f)
            lag.append(distance)
            tallies.append(found[1 + (f - distance) % n_slots if distance else 0])
    mean = (power / (n * band.count.clamp_min(1))).clamp_min(torch.finfo(torch.float32).tiny)
    return _Pairs(torch.tensor(later), torch.tensor(lag), torch.stack(tallies) / mean[:, None], n_near)


def _list_rows(pairs: _Pairs, n_frames: int) -> Tensor:
    """Return which difference of displacements each pair measures, `(m, n)`: that of the frame less that of the earlier."""
    rows = torch.zeros(len(pairs.later), n_frames, dtype=torch.float64)
    for row, f, lag in zip(rows, pairs.later.tolist(), pairs.lag.tolist(), strict=True):
        row[f] = 1
        if lag:
            row[f - lag] = -1
        else:
            row[: f - pairs.n_near] = -1 / (f - pairs.n_near)
    return rows


def _subtract_pattern(pairs: _Pairs, shifts_px: Tensor, share: float, band: _Band) -> Tensor:
    """Return the tallies less what the camera's pattern gives: white, and displaced against the specimen.

    Over a ring, cos(k.d) has the mean J0(k d) and k sin(k.d) the mean k J1(k d) in the direction of d.
    """
    tallies = pairs.tallies.clone()
    if share == 0:
        return tallies
    k = band.angular.numpy()
    for tally, f, lag in zip(tallies, pairs.later.tolist(), pairs.lag.tolist(), strict=True):
        earlier = [f - lag] if lag else range(f - pairs.n_near)
        for g in earlier:
            apart = (shifts_px[f] - shifts_px[g]).numpy()
            distance = float(np.hypot(*apart))
            expected = share * band.count.numpy()
            tally[:, 0] -= torch.from_numpy(expected * scipy.special.j0(k * distance))
            pull: NDArray[np.float64] = expected * k * scipy.special.j1(k * distance) / max(distance, 1e-9)
            tally[:, 1:] -= torch.from_numpy(pull[:, None] * apart)
    return tallies


def _measure(pairs: _Pairs, tallies: Tensor, band: _Band) -> tuple[Tensor, Tensor]:
    """Return the displacement that each pair measures beyond the present one, `(m, 2)`, and its precision `(m,)`."""
    measured = torch.zeros(len(pairs.later), 2, dtype=torch.float64)
    precision = torch.zeros(len(pairs.later), dtype=torch.float64)
    weight = band.count * band.angular.square() / 2
    for lag in range(pairs.n_near + 1):
        chosen = pairs.lag == lag
        if not chosen.any():
            continue
        n_earlier = torch.ones(int(chosen.sum()), dtype=torch.float64)
        if lag == 0:
            n_earlier = (pairs.later[chosen] - pairs.n_near).double()
        total = tallies[chosen].sum(dim=0)[:, 0] / n_earlier.sum()
        smooth = functional.avg_pool1d(
            torch.stack([total, band.count])[:, None], _SMOOTH_RINGS, 1, _SMOOTH_RINGS // 2, count_include_pad=False
        )[:, 0]
        shared = (smooth[0] / smooth[1].clamp_min(1)).clamp_min(0)
        curvature = _fit_line(
            (tallies[chosen, :, 0] * (shared * band.angular.square() / 2)).sum(dim=1) / n_earlier, n_earlier
        )
        variance = (shared.square() * weight).sum() / 2 / n_earlier
        slope = -(tallies[chosen, :, 1:] * shared[:, None]).sum(dim=1) / n_earlier[:, None]
        good = curvature > 0
        measured[chosen] = torch.where(good[:, None], slope / curvature.clamp_min(1e-30)[:, None], 0.0)
        precision[chosen] = torch.where(good, curvature.square() / variance.clamp_min(1e-30), 0.0)
    return measured, precision


def _fit_line(values: Tensor, weights: Tensor) -> Tensor:
    """Return the values as a straight line, no lower than a fifth of their mean: what frames share fades with exposure."""
    along = torch.arange(len(values), dtype=torch.float64)
    along = along - (weights * along).sum() / weights.sum()
    mean = (weights * values).sum() / weights.sum()
    rise = (weights * along * values).sum() / (weights * along.square()).sum().clamp_min(1e-30)
    fitted: Tensor = torch.maximum(mean + rise * along, mean / 5) if mean > 0 else torch.zeros_like(values)
    return fitted


def refine_shifts(
    frames: Tensor,
    gain: Tensor,
    moved_px: Tensor,
    shifts_px: Tensor,
    pixel_size_angstrom: float,
    *,
    n_near: int = 4,
    pattern_share: float = 0.0,
) -> Tensor:
    """Return the displacement of the whole frame, relative to the first, measured anew, `(n, 2)` float64.

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
    n_near
        Frames up to so far apart are compared one by one, others with the sum of all that were longer before.
    pattern_share
        Share of the noise of a frame that is the camera's pattern, from `compute_pattern_share`.
    """
    n, ny, nx = frames.shape
    shifts = shifts_px.double().cpu()
    if n < 2:
        return shifts
    band = _make_band((ny, nx), moved_px, pixel_size_angstrom, gain.device)
    pairs = _tally_pairs(frames, gain, moved_px, band, min(n_near, n - 1))
    measured, precision = _measure(pairs, _subtract_pattern(pairs, shifts, pattern_share, band), band)
    rows = _list_rows(pairs, n)
    normal = rows.T @ (precision[:, None] * rows)
    pull = rows.T @ (precision[:, None] * measured)
    step = torch.linalg.lstsq(normal, pull, driver="gelsd").solution.clamp(-_LONGEST_STEP_PX, _LONGEST_STEP_PX)
    found = smooth_by_precision(shifts + step, normal.expand(2, n, n))
    return found - found[:1]
