"""Cross spectra between the frames of a movie in patches, summed over rings: what fine motion is measured from.

A patch is resampled at its present displacement; each frame of it is compared with those before, one by one where they are near
and with sums of ever more where they are far.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import compute_frequency_2d, find_good_size, rfft2
from vitreous.ops.frame_sum import TILE_SHAPE_PX, compute_kernel_transfer, sum_frames
from vitreous.ops.local_motion import make_window

__all__ = ["TAPER", "Band", "Pairs", "choose_patches", "cut_tiles", "make_band", "tally_pairs"]

TAPER = 0.03
"""Share of a patch over which its window falls to 0 at each edge."""
_FINEST_ANGSTROM = 3.0
_FINEST_CYCLES_PER_PX = 0.47
_N_RINGS = 192
_FIRST_RING = 2
_MOST_PIXELS = 2560**2
"""Of all patches together: enough to measure by; they lie apart in a larger frame."""


@dataclass(frozen=True)
class Band:
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


def make_band(shape: tuple[int, int], moved_px: Tensor, pixel_size_angstrom: float, device: torch.device) -> Band:
    """Return the band of patches of a shape, for frames whose tiles are displaced by `moved_px`."""
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
    return Band(
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
def _follow(parts, sums, f, nearest, farthest, end):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Bring the sums of earlier frames up to frame f; where that is one frame, it is not copied."""
    for slot in range(len(nearest)):
        if f < nearest[slot] or nearest[slot] == farthest[slot]:
            continue
        target, come = sums[slot], parts[f - nearest[slot]]
        if f > farthest[slot]:
            gone = parts[f - farthest[slot] - 1]
            for x in range(end):
                target[x] += come[x] - gone[x]
        else:
            for x in range(end):
                target[x] += come[x]


@numba.njit(cache=True, fastmath=True, nogil=True, boundscheck=False, error_model="numpy")
def _tally_runs(spectra, nearest, farthest, sharpen, ring, first, last, of_row, angular_y, angular_x, total):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add up cross spectra over rings: the real part, and the imaginary part times both frequencies.

    Two rows at a time, of opposite frequency: their rings are the same.
    """
    n_slots, n_x, n_y, n = len(nearest), len(angular_x), len(angular_y), len(spectra)
    # Real and imaginary parts of the two rows, of all frames and of the sums of earlier ones.
    parts, sums = np.empty((4, n, n_x), np.float32), np.empty((4, n_slots, n_x), np.float32)
    now = np.empty((4, n_x), np.float32)
    real, odd, moment = np.empty(n_x, np.float32), np.empty(n_x, np.float32), np.empty(n_x, np.float32)
    for y in range(1, (n_y + 1) // 2):
        if of_row[y] == of_row[y + 1]:
            continue
        end, k_y = last[of_row[y + 1] - 1], angular_y[y]
        for f in range(n):
            for x in range(end):
                parts[0, f, x], parts[1, f, x] = spectra[f, y, x].real, spectra[f, y, x].imag
                parts[2, f, x], parts[3, f, x] = spectra[f, n_y - y, x].real, spectra[f, n_y - y, x].imag
        sums[:] = 0
        for f in range(n):
            for i in range(4):
                factor, source, target = sharpen[y if i < 2 else n_y - y], parts[i, f], now[i]
                for x in range(end):
                    target[x] = source[x] * factor[x]
            for i in range(4):
                _follow(parts[i], sums[i], f, nearest, farthest, end)
            p, q, u, v = now[0], now[1], now[2], now[3]
            for slot in range(n_slots):
                if f < nearest[slot]:
                    continue
                if nearest[slot] == farthest[slot]:
                    g = f - nearest[slot]
                    a, b, c, d = parts[0, g], parts[1, g], parts[2, g], parts[3, g]
                else:
                    a, b, c, d = sums[0, slot], sums[1, slot], sums[2, slot], sums[3, slot]
                for x in range(end):
                    upper = a[x] * q[x] - b[x] * p[x]
                    lower = c[x] * v[x] - d[x] * u[x]
                    real[x] = a[x] * p[x] + b[x] * q[x] + c[x] * u[x] + d[x] * v[x]
                    odd[x] = upper - lower
                    moment[x] = angular_x[x] * (upper + lower)
                target = total[f, slot]
                for run in range(of_row[y], of_row[y + 1]):
                    s, t, w = np.float32(0), np.float32(0), np.float32(0)
                    for x in range(first[run], last[run]):
                        s += real[x]
                        t += odd[x]
                        w += moment[x]
                    r = ring[run]
                    target[r, 0] += s
                    target[r, 1] += k_y * t
                    target[r, 2] += w


def _tally_elements(spectra: Tensor, nearest: Tensor, farthest: Tensor, band: Band, total: Tensor) -> None:
    """Add up the same element by element, for accelerators."""
    length = (band.last - band.first).long()
    rows = torch.repeat_interleave(torch.arange(len(band.angular_y)), torch.diff(band.of_row).long())
    within = torch.arange(int(length.sum())) - torch.repeat_interleave(length.cumsum(0) - length, length)
    y = torch.repeat_interleave(rows, length).to(spectra.device)
    x = (torch.repeat_interleave(band.first.long(), length) + within).to(spectra.device)
    ring = torch.repeat_interleave(band.ring, length).to(spectra.device)
    k_y, k_x = band.angular_y[y], band.angular_x[x]
    values = spectra[:, y, x]
    sharpened = values * band.sharpen[y, x]
    for slot, (low, high) in enumerate(zip(nearest.tolist(), farthest.tolist(), strict=True)):
        for f in range(low, len(values)):
            earlier = values[max(0, f - high) : f - low + 1].sum(dim=0)
            cross = earlier.conj() * sharpened[f]
            parts = torch.stack([cross.real, cross.imag * k_y, cross.imag * k_x], dim=-1).double()
            total[f, slot].index_add_(0, ring, parts)


def _tally(spectra: Tensor, nearest: Tensor, farthest: Tensor, band: Band) -> Tensor:
    """Return sums over rings of conj(earlier) * later, `(n, n_slots, n_rings, 3)`: real part, imaginary times k_y and times k_x.

    Earlier are the sums of the frames that are from `nearest` to `farthest` before, `(n_slots,)` int32 each.
    """
    total = torch.zeros(len(spectra), len(nearest), _N_RINGS, 3, dtype=torch.float64, device=spectra.device)
    if spectra.device.type == "cpu":
        parts = (band.sharpen, band.ring, band.first, band.last, band.of_row, band.angular_y, band.angular_x)
        _tally_runs(*(tensor.numpy() for tensor in (spectra, nearest, farthest, *parts, total)))
    else:
        _tally_elements(spectra, nearest, farthest, band, total)
    return total.cpu()


@dataclass(frozen=True)
class Pairs:
    """Sums over rings of the cross spectra of frames with earlier ones.

    Attributes
    ----------
    later
        Number of the later frame, `(m,)`.
    earliest, latest
        First and last frame of the sum of the earlier ones, `(m,)`.
    tallies
        Of every patch, `(P, m, n_rings, 3)`, in units of the power of a frame there.
    """

    later: Tensor
    earliest: Tensor
    latest: Tensor
    tallies: Tensor

    @property
    def n_earlier(self) -> Tensor:
        """How many frames were summed, `(m,)` float64."""
        return (self.latest - self.earliest + 1).double()

    def average(self, matrices: Tensor) -> Tensor:
        """Return the means over the earlier frames of what `(n_rings, n, n)` say of two frames, `(m, n_rings)`."""
        sums = functional.pad(matrices.cumsum(dim=-1), (1, 0))
        total = sums[:, self.later, self.latest + 1] - sums[:, self.later, self.earliest]
        return (total / self.n_earlier).T


def _list_distances(n_frames: int, n_near: int) -> tuple[Tensor, Tensor]:
    """Return the nearest and the farthest distance of each slot, frames: one by one up to `n_near`, then ever more together."""
    nearest, farthest = list(range(1, n_near + 1)), list(range(1, n_near + 1))
    while farthest[-1] < n_frames - 1:
        nearest.append(farthest[-1] + 1)
        end = 2 * farthest[-1]
        farthest.append(n_frames if end > 0.7 * n_frames else end)
    return torch.tensor(nearest, dtype=torch.int32), torch.tensor(farthest, dtype=torch.int32)


def _place(n: int, tile: int, wanted: float, density: float) -> list[slice]:
    """Return parts of `n` pixels, whole tiles of a length quick to transform, spread evenly; all of them if density is 1."""
    if n < tile:
        return [slice(0, n)]
    n_tiles, n_parts = n // tile, max(1, round(n / wanted))
    sizes = [count for count in range(1, n_tiles + 1) if find_good_size(count * tile) == count * tile]

    def choose_size(n_parts: int) -> int:
        return max((size for size in sizes if n_parts * size <= n_tiles), default=1)

    if density == 1:
        near = (n_parts, max(1, n_parts - 1), n_parts + 1)
        n_parts = max(near, key=lambda count: count * choose_size(count) * (count * choose_size(count) <= n_tiles))
    size = choose_size(n_parts)
    n_parts = max(1, round(density * n_parts))
    starts = (
        torch.linspace(0, n_tiles - size, n_parts).round().long().tolist() if n_parts > 1 else [(n_tiles - size) // 2]
    )
    return [slice(start * tile, (start + size) * tile) for start in starts]


def choose_patches(shape: tuple[int, int], side_px: float) -> list[list[slice]]:
    """Return the rows and the columns of patches of about a side, spread evenly over an image."""
    density = min(1.0, (_MOST_PIXELS / (shape[0] * shape[1])) ** 0.5)
    return [_place(n, tile, side_px, density) for n, tile in zip(shape, TILE_SHAPE_PX, strict=True)]


def cut_tiles(moved_px: Tensor, part: tuple[slice, slice]) -> Tensor:
    """Return the displacements `(n, n_y, n_x, 2)` of the tiles of a patch."""
    tiles = [slice(here.start // tile, -(-here.stop // tile)) for here, tile in zip(part, TILE_SHAPE_PX, strict=True)]
    return moved_px[:, *tiles]


def tally_pairs(
    frames: Tensor, gain: Tensor, moved_px: Tensor, parts: list[tuple[slice, slice]], band: Band, n_near: int
) -> Pairs:
    """Return the tallies of all pairs of frames in patches of one shape.

    Parameters
    ----------
    frames, gain, moved_px
        As for `sum_frames`.
    parts
        Rows and columns of each patch, whole tiles.
    band
        Of the shape of a patch.
    n_near
        Frames up to so far apart are compared one by one.
    """
    n, one = len(frames), torch.ones(1, 1)
    nearest, farthest = _list_distances(n, n_near)
    later, slot = torch.nonzero(torch.arange(n)[:, None] >= nearest, as_tuple=True)
    zero = torch.zeros(1, dtype=torch.int32)
    rows, columns = parts[0]
    window = make_window((rows.stop - rows.start, columns.stop - columns.start), TAPER).to(gain.device)
    images = torch.empty(n, *window.shape, device=gain.device)
    tallies = torch.empty(len(parts), len(later), _N_RINGS, 3, dtype=torch.float64)
    for p, part in enumerate(parts):
        moved = cut_tiles(moved_px, part)
        for f in range(n):
            image = sum_frames(frames[f : f + 1], gain, moved[f : f + 1], one, part)[0]
            images[f] = (image - image.mean()) * window
        # With themselves as well, for their power.
        found = _tally(rfft2(images), torch.cat([nearest, zero]), torch.cat([farthest, zero]), band)
        power = found[:, -1, :, 0].mean(dim=0).clamp_min(torch.finfo(torch.float32).tiny) / band.count.clamp_min(1)
        tallies[p] = found[later, slot] / power[:, None]
    return Pairs(later, (later - farthest[slot]).clamp_min(0), later - nearest[slot], tallies)
