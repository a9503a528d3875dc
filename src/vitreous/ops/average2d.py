"""Averages of aligned images: turning them, filtering them, and how far they can be trusted."""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Protocol, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.fourier import compute_frequency_2d, compute_half_weights, compute_radial_mean, irfft2, rfft2

__all__ = [
    "KERNEL_TAPS",
    "PADDING",
    "ImageSource",
    "average_images",
    "combine_halves",
    "compute_kernel_taps",
    "compute_kernel_transform",
    "compute_mass_centre",
    "compute_power",
    "compute_ring_correlation",
    "compute_ring_index",
    "divide_by_ctf",
    "find_resolution_ring",
    "make_soft_circle",
    "multiply_complex",
    "run_single_threaded",
    "shift_spectra",
    "sum_turned_back",
]

PADDING = 2
"""How much finer the grid is that images and transforms are interpolated on."""
KERNEL_TAPS = 4
_BETA = math.pi * math.sqrt((KERNEL_TAPS / PADDING * (PADDING - 0.5)) ** 2 - 0.8)
_BATCH = 256
_TRUSTED_RINGS = 3
_TABLE_STEPS = 4096

T = TypeVar("T")


class ImageSource(Protocol):
    """Images `(n, N, N)` that are read some at a time: a tensor, or what looks like one when it is indexed by a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Tensor:
        """Return the images with indices `(b,)`, `(b, N, N)`."""


def multiply_complex(first: Tensor, second: Tensor) -> Tensor:
    """Return the product, part by part: torch's own rounds differently with the number of threads."""
    real = first.real * second.real - first.imag * second.imag
    return torch.complex(real, first.real * second.imag + first.imag * second.real)


def compute_power(values: Tensor) -> Tensor:
    """Return |values|², rounded alike with any number of threads."""
    return values.real.square() + values.imag.square()


def shift_spectra(spectra: Tensor, shifts_px: Tensor) -> Tensor:
    """Move the content of images with half spectra `(..., N, N // 2 + 1)` by shifts `(..., 2)` as (y, x), px."""
    n_px = spectra.shape[-2]
    ky, kx = compute_frequency_2d((n_px, n_px), device=spectra.device)
    angle = -2 * torch.pi * (shifts_px[..., 0, None, None] * ky + shifts_px[..., 1, None, None] * kx)
    return multiply_complex(spectra, torch.complex(angle.cos(), angle.sin()))


def compute_ring_index(n_px: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the ring of every element of the half spectrum of an `n_px` image: its distance from the origin, rounded."""
    ky, kx = compute_frequency_2d((n_px, n_px), device=device)
    return torch.round(torch.sqrt(ky.square() + kx.square()) * n_px).long()


def make_soft_circle(n_px: int, radius_px: float, edge_px: float, device: torch.device | str = "cpu") -> Tensor:
    """Return a mask that is 1 within the radius of the centre, N // 2, and falls to 0 as a cosine over `edge_px` beyond it."""
    offset = torch.arange(n_px, device=device) - n_px // 2
    radius = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float())
    return 0.5 + 0.5 * torch.cos(torch.pi * ((radius - radius_px) / edge_px).clamp(0, 1))


def compute_kernel_transform(frequency: Tensor) -> Tensor:
    """Return the transform of the interpolation kernel at frequencies of up to a quarter cycle per point of the fine grid."""
    root = torch.sqrt(_BETA**2 - (torch.pi * KERNEL_TAPS * frequency).square())
    transform: Tensor = KERNEL_TAPS * torch.sinh(root) / (root * torch.special.i0(root.new_tensor(_BETA)))
    return transform


def compute_kernel_taps(places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points of the fine grid round places on it, and their weights: `(...)` to two `(..., 4)`.

    A Kaiser-Bessel kernel (Jackson et al. 1991, doi:10.1109/42.97598) of the width parameter of Beatty, Nishimura & Pauly 2005
    (doi:10.1109/TMI.2005.848376). What is interpolated must be divided by the kernel's transform first; the error is about a
    thousandth.
    """
    taps = torch.floor(places)[..., None] + torch.arange(
        1 - KERNEL_TAPS // 2, 1 + KERNEL_TAPS // 2, device=places.device
    )
    inside = (1 - ((places[..., None] - taps) * (2 / KERNEL_TAPS)).square()).clamp_min(0)
    return taps.long(), torch.special.i0(_BETA * inside.sqrt()) / torch.special.i0(places.new_tensor(_BETA))


def run_single_threaded(work: Callable[[int], T], items: Iterable[int]) -> list[T]:
    """Return what `work` makes of the items, as many at a time as torch has threads.

    Each is the work of one thread, so that the result does not depend on how many there are.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(n_threads) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(n_threads)


def compute_ring_correlation(first: Tensor, second: Tensor, n_px: int) -> Tensor:
    """Return the Fourier ring correlation of half spectra, `(..., n_px // 2 + 1)`; rings without signal are 0."""
    cross = compute_radial_mean(first.real * second.real + first.imag * second.imag, (n_px, n_px))
    power = compute_radial_mean(compute_power(first), (n_px, n_px)) * compute_radial_mean(
        compute_power(second), (n_px, n_px)
    )
    return cross / power.clamp_min(1e-30).sqrt()


def find_resolution_ring(correlation: Tensor, limit: float = 0.143) -> float:
    """Return the ring, interpolated, at which a correlation curve first falls below the limit; its last ring if never."""
    for i in range(1, len(correlation)):
        if float(correlation[i]) < limit:
            before, after = float(correlation[i - 1]), float(correlation[i])
            return i - 1 + max(before - limit, 0.0) / max(before - after, 1e-12)
    return float(len(correlation) - 1)


def compute_mass_centre(images: Tensor) -> Tensor:
    """Return where the mass of each image lies from its centre, `(n, 2)` as (y, x), px; only what exceeds a fifth of the peak."""
    n_px = images.shape[-1]
    offset = (torch.arange(n_px, device=images.device) - n_px // 2).to(images.dtype)
    mass = (images - 0.2 * images.amax(dim=(-2, -1), keepdim=True)).clamp_min(0)
    total = mass.sum(dim=(-2, -1)).clamp_min(1e-12)
    y, x = (mass * offset[:, None]).sum(dim=(-2, -1)) / total, (mass * offset).sum(dim=(-2, -1)) / total
    return torch.stack([y, x], dim=-1)


def divide_by_ctf(sums: Tensor, power: Tensor, n_px: int) -> Tensor:
    """Return half spectra of averages from those of sums of images times their CTF, and the sums of CTF² per ring."""
    ring = compute_ring_index(n_px, sums.device).clamp_max(power.shape[-1] - 1)
    floor = 0.02 * power.amax(dim=-1, keepdim=True) + 1e-6
    return sums / torch.maximum(power, floor)[..., ring]


def _compute_gain(correlation: Tensor, n_px: int) -> Tensor:
    """Return the Wiener filter `(K, N, N // 2 + 1)` of averages over both halves, from the ring correlation of the halves."""
    known = correlation.clamp(0, 0.999)
    gain = 2 * known / (1 + known)
    # An empty half leaves no correlation; the lowest rings are kept in any case, or a weak class would vanish.
    gain[:, :_TRUSTED_RINGS] = 1
    return gain[:, compute_ring_index(n_px, gain.device).clamp_max(gain.shape[-1] - 1)]


def combine_halves(sums: Tensor, power: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Turn sums of aligned images, each times its CTF, into averages.

    Parameters
    ----------
    sums
        `(2, K, N, N // 2 + 1)`: half spectra, for each half of the images.
    power
        `(2, K, rings)`: sum of CTF² per ring.
    mask
        `(N, N)`: where the particle may be.

    Returns
    -------
    tuple
        Averages `(K, N, N)` under the mask, filtered by their signal-to-noise ratio, and the ring correlation of the masked
        halves, `(K, N // 2 + 1)`.

    Notes
    -----
    Signal to noise follows from the correlation F of the halves: the full average correlates with the truth as
    sqrt(2 F / (1 + F)) (Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013), and the Wiener filter is its square.
    """
    n_px = mask.shape[-1]
    halves = rfft2(irfft2(divide_by_ctf(sums, power, n_px), (n_px, n_px)) * mask)
    correlation = compute_ring_correlation(halves[0], halves[1], n_px)
    full = divide_by_ctf(sums.sum(dim=0), power.sum(dim=0), n_px)
    return irfft2(full * _compute_gain(correlation, n_px), (n_px, n_px)) * mask, correlation


@lru_cache(maxsize=1)
def _tabulate_kernel() -> NDArray[np.float32]:
    """Return the kernel at distances of 0 to 2 points, in steps of 1 / `_TABLE_STEPS`."""
    distance = torch.arange(KERNEL_TAPS // 2 * _TABLE_STEPS + 2) / _TABLE_STEPS
    inside = (1 - (distance * (2 / KERNEL_TAPS)).square()).clamp_min(0)
    table = torch.special.i0(_BETA * inside.sqrt()) / torch.special.i0(distance.new_tensor(_BETA))
    return np.asarray(table.float().numpy())


@numba.njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _spread(spectra, weight, angle, table, fine):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Add half spectra `(n, N, N // 2 + 1, 2)`, turned back by their angles in radians, to `fine` `(F, F, 2)`."""
    n_px, size, n_columns = spectra.shape[1], fine.shape[0], spectra.shape[2]
    scale, steps = size / n_px, (table.shape[0] - 2) // 2
    weights_y, weights_x = np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(spectra.shape[0]):
        cosine, sine = np.cos(angle[i]) * scale, np.sin(angle[i]) * scale
        for row in range(n_px):
            ky = row if row < (n_px + 1) // 2 else row - n_px
            for kx in range(n_columns):
                if kx * kx + ky * ky > n_px * n_px // 4:
                    break
                x, y = cosine * kx + sine * ky, cosine * ky - sine * kx
                first_x, first_y = int(np.floor(x)) - 1, int(np.floor(y)) - 1
                for tap in range(4):
                    weights_y[tap] = table[int(abs(y - first_y - tap) * steps + 0.5)] * weight[kx]
                    weights_x[tap] = table[int(abs(x - first_x - tap) * steps + 0.5)]
                real, imaginary = spectra[i, row, kx, 0], spectra[i, row, kx, 1]
                for j in range(4):
                    line = fine[(first_y + j) % size]
                    for tap in range(4):
                        part = weights_y[j] * weights_x[tap]
                        column = (first_x + tap) % size
                        line[column, 0] += part * real
                        line[column, 1] += part * imaginary


def sum_turned_back(
    images: ImageSource, ctf: Callable[[Tensor], Tensor] | None, index: Tensor, angle_deg: Tensor, shift_px: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sum of images times their CTF, moved and turned back, `(N, N)`, and their sum of CTF² per ring."""
    n_px = images.shape[-1]
    size = n_px * PADDING
    fine = torch.zeros(size, size, 2)
    power = torch.zeros(n_px // 2 + 1)
    weight = compute_half_weights((n_px, n_px))[0].numpy()
    for chosen in torch.split(index, _BATCH) if len(index) else ():
        # The origin goes to pixel 0, so that neighbouring coefficients differ little.
        spectra = shift_spectra(rfft2(images[chosen].float().cpu()), -shift_px[chosen] - n_px // 2)
        ring_power = torch.ones(len(chosen), n_px // 2 + 1)
        if ctf is not None:
            factor = ctf(chosen).cpu()
            spectra = spectra * factor
            ring_power = compute_radial_mean(factor.square(), (n_px, n_px))
        angles = torch.deg2rad(angle_deg[chosen].double()).numpy()
        arguments: tuple[Any, ...] = (
            torch.view_as_real(spectra).numpy(),
            weight,
            angles,
            _tabulate_kernel(),
            fine.numpy(),
        )
        _spread(*arguments)
        power += ring_power.sum(dim=0)
    place = (torch.arange(n_px) - n_px // 2).double() / size
    kernel = compute_kernel_transform(place).float()
    image = torch.roll(torch.fft.ifft2(torch.view_as_complex(fine)).real, (n_px // 2, n_px // 2), dims=(0, 1))
    return image[:n_px, :n_px] * PADDING**2 / (kernel[:, None] * kernel), power


def average_images(
    images: ImageSource,
    ctf: Callable[[Tensor], Tensor] | None,
    half: Tensor,
    class_index: Tensor,
    angle_deg: Tensor,
    shift_px: Tensor,
    mask: Tensor,
) -> tuple[Tensor, Tensor]:
    """Average images that are sorted and aligned.

    Parameters
    ----------
    images
        `(n, N, N)`.
    ctf
        Returns the CTF `(b, N, N // 2 + 1)` of the images with indices `(b,)`; None for 1.
    half
        `(n,)`, 0 or 1.
    class_index
        `(n,)`, from 0.
    angle_deg, shift_px
        `(n,)`, and `(n, 2)` as (y, x): the image shows the average turned by the angle from +x towards +y, then shifted.
    mask
        `(N, N)`: where the particle may be.

    Returns
    -------
    tuple
        Averages `(K, N, N)` and ring correlations `(K, N // 2 + 1)`, as of `combine_halves`. The correlations are honest
        only where the halves were aligned to averages of their own: noise that both were aligned to correlates as well.
    """
    n_px, n_classes = images.shape[-1], int(class_index.max()) + 1
    slot = half * n_classes + class_index

    def work(number: int) -> tuple[Tensor, Tensor]:
        return sum_turned_back(images, ctf, torch.nonzero(slot == number)[:, 0], angle_deg, shift_px)

    found = run_single_threaded(work, range(2 * n_classes))
    sums = torch.stack([image for image, _ in found])
    power = torch.stack([part for _, part in found])
    spectra = rfft2(sums).reshape(2, n_classes, n_px, n_px // 2 + 1)
    return combine_halves(spectra, power.reshape(2, n_classes, -1), mask)
