"""Averages of aligned images: turning them, filtering them, and how far they can be trusted."""

import math

import torch
from torch import Tensor

from vitreous.ops.fourier import (
    compute_frequency_2d,
    compute_radial_mean,
    irfft2,
    rfft2,
)

__all__ = [
    "KERNEL_TAPS",
    "PADDING",
    "average_images",
    "centre_spectra",
    "combine_halves",
    "compute_kernel_taps",
    "compute_kernel_transform",
    "compute_mass_centre",
    "compute_power",
    "compute_ring_correlation",
    "compute_ring_index",
    "filter_halves",
    "find_resolution_ring",
    "make_soft_circle",
    "multiply_complex",
    "rotate_images",
    "shift_spectra",
]

PADDING = 2
"""How much finer the grid is that images and transforms are interpolated on."""
KERNEL_TAPS = 4
_BETA = math.pi * math.sqrt((KERNEL_TAPS / PADDING * (PADDING - 0.5)) ** 2 - 0.8)
_BATCH = 256
_TRUSTED_RINGS = 3


def centre_spectra(spectra: Tensor, n_px: int) -> Tensor:
    """Move the origin of half spectra of `n_px` images from element 0 to the centre, N // 2; its own inverse."""
    iy, ix = (
        torch.arange(spectra.shape[-2], device=spectra.device),
        torch.arange(spectra.shape[-1], device=spectra.device),
    )
    if n_px % 2:
        raise ValueError(f"expected an even side, found {n_px}")
    return spectra * (1 - 2 * ((iy[:, None] + ix[None, :]) % 2)).to(spectra.real.dtype)


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


def rotate_images(images: Tensor, angles_deg: Tensor) -> Tensor:
    """Turn each image about its centre, N // 2, by its angle, from +x towards +y.

    Parameters
    ----------
    images
        `(n, N, N)`, N even.
    angles_deg
        `(n,)`.

    Notes
    -----
    The images are interpolated on a grid twice as fine, see `compute_kernel_taps`; what comes from outside is 0.
    """
    n_px = images.shape[-1]
    fine, half = n_px * PADDING, n_px // 2
    ky, kx = compute_frequency_2d((n_px, n_px), device=images.device)
    spectra = rfft2(images) / (compute_kernel_transform(ky / PADDING) * compute_kernel_transform(kx / PADDING))
    padded = torch.zeros(len(images), fine, fine // 2 + 1, dtype=spectra.dtype, device=images.device)
    padded[:, :half, :half] = spectra[:, :half, :half]
    padded[:, -half + 1 :, :half] = spectra[:, -half + 1 :, :half]
    dense = irfft2(padded, (fine, fine)).flatten(1) * PADDING**2
    step = (torch.arange(n_px, device=images.device) - half).float() * PADDING
    angle = torch.deg2rad(angles_deg.float())[:, None, None]
    x = torch.cos(angle) * step + torch.sin(angle) * step[:, None] + fine // 2
    y = torch.cos(angle) * step[:, None] - torch.sin(angle) * step + fine // 2
    (columns, weights_x), (rows, weights_y) = compute_kernel_taps(x), compute_kernel_taps(y)
    turned = torch.zeros_like(x)
    for i in range(KERNEL_TAPS):
        for j in range(KERNEL_TAPS):
            place = (rows[..., i] % fine) * fine + columns[..., j] % fine
            value = dense.gather(1, place.flatten(1)).reshape(x.shape)
            turned += weights_y[..., i] * weights_x[..., j] * value
    return turned * ((x >= 0) & (x < fine) & (y >= 0) & (y < fine))


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
            return i - 1 + (before - limit) / max(before - after, 1e-12)
    return float(len(correlation) - 1)


def compute_mass_centre(images: Tensor) -> Tensor:
    """Return where the mass of each image lies from its centre, `(n, 2)` as (y, x), px; only what exceeds a fifth of the peak."""
    n_px = images.shape[-1]
    offset = (torch.arange(n_px, device=images.device) - n_px // 2).to(images.dtype)
    mass = (images - 0.2 * images.amax(dim=(-2, -1), keepdim=True)).clamp_min(0)
    total = mass.sum(dim=(-2, -1)).clamp_min(1e-12)
    y, x = (mass * offset[:, None]).sum(dim=(-2, -1)) / total, (mass * offset).sum(dim=(-2, -1)) / total
    return torch.stack([y, x], dim=-1)


def _divide(sums: Tensor, power: Tensor, n_px: int) -> Tensor:
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
    halves = rfft2(irfft2(_divide(sums, power, n_px), (n_px, n_px)) * mask)
    correlation = compute_ring_correlation(halves[0], halves[1], n_px)
    full = _divide(sums.sum(dim=0), power.sum(dim=0), n_px)
    return irfft2(full * _compute_gain(correlation, n_px), (n_px, n_px)) * mask, correlation


def filter_halves(sums: Tensor, power: Tensor, mask: Tensor, correlation: Tensor, shared_ring: int) -> Tensor:
    """Return an average for each half, `(2, K, N, N)`: that of all images up to a ring, its own beyond.

    What is shared holds the halves in one position; beyond it noise that images were aligned to is not common to both, so that
    their correlation is that of what is there. The filter of a half is F. Parameters and F as of `combine_halves`.
    """
    n_px = mask.shape[-1]
    own = _divide(sums, power, n_px)
    ring = compute_ring_index(n_px, sums.device)
    own = own * correlation.clamp(0, 0.999)[:, ring.clamp_max(correlation.shape[-1] - 1)]
    full = _divide(sums.sum(dim=0), power.sum(dim=0), n_px) * _compute_gain(correlation, n_px)
    return irfft2(torch.where(ring <= shared_ring, full[None], own), (n_px, n_px)) * mask


def average_images(
    images: Tensor,
    ctf: Tensor | None,
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
        `(n, N, N // 2 + 1)`, or None for 1.
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
    n_px = images.shape[-1]
    n_classes = int(class_index.max()) + 1
    sums = torch.zeros(2 * n_classes, n_px, n_px, device=images.device)
    power = torch.zeros(2 * n_classes, n_px // 2 + 1, device=images.device)
    slot = half * n_classes + class_index
    for index in torch.split(torch.arange(len(images), device=images.device), _BATCH):
        spectra = shift_spectra(rfft2(images[index]), -shift_px[index])
        ring_power = torch.ones(len(index), n_px // 2 + 1, device=images.device)
        if ctf is not None:
            spectra = spectra * ctf[index]
            ring_power = compute_radial_mean(ctf[index].square(), (n_px, n_px))
        sums.index_add_(0, slot[index], rotate_images(irfft2(spectra, (n_px, n_px)), -angle_deg[index]))
        power.index_add_(0, slot[index], ring_power)
    spectra = rfft2(sums).reshape(2, n_classes, n_px, n_px // 2 + 1)
    return combine_halves(spectra, power.reshape(2, n_classes, -1), mask)
