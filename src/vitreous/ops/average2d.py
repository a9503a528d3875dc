"""Averages of aligned images: turning them, filtering them, and how far they can be trusted."""

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import (
    compute_frequency_2d,
    compute_radial_mean,
    compute_shift_phase,
    irfft2,
    rfft2,
)

__all__ = [
    "average_images",
    "centre_spectra",
    "combine_halves",
    "compute_mass_centre",
    "compute_ring_correlation",
    "compute_ring_index",
    "find_resolution_ring",
    "make_soft_circle",
    "rotate_images",
]

_PADDING = 2
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


def compute_ring_index(n_px: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the ring of every element of the half spectrum of an `n_px` image: its distance from the origin, rounded."""
    ky, kx = compute_frequency_2d((n_px, n_px), device=device)
    return torch.round(torch.sqrt(ky.square() + kx.square()) * n_px).long()


def make_soft_circle(n_px: int, radius_px: float, edge_px: float, device: torch.device | str = "cpu") -> Tensor:
    """Return a mask that is 1 within the radius of the centre, N // 2, and falls to 0 as a cosine over `edge_px` beyond it."""
    offset = torch.arange(n_px, device=device) - n_px // 2
    radius = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float())
    return 0.5 + 0.5 * torch.cos(torch.pi * ((radius - radius_px) / edge_px).clamp(0, 1))


def rotate_images(images: Tensor, angles_deg: Tensor) -> Tensor:
    """Turn each image about its centre, N // 2, by its angle, from +x towards +y.

    Parameters
    ----------
    images
        `(n, N, N)`.
    angles_deg
        `(n,)`.

    Notes
    -----
    The images are interpolated bicubically on a grid twice as fine, which Fourier padding makes; the error is below a hundredth
    for content up to two thirds of Nyquist.
    """
    n_px = images.shape[-1]
    spectra = rfft2(images)
    fine = n_px * _PADDING
    padded = torch.zeros(len(images), fine, fine // 2 + 1, dtype=spectra.dtype, device=images.device)
    half = n_px // 2
    padded[:, :half, :half] = spectra[:, :half, :half]
    padded[:, -half + 1 :, :half] = spectra[:, -half + 1 :, :half]
    dense = irfft2(padded, (fine, fine)) * _PADDING**2
    step = (torch.arange(n_px, device=images.device) - n_px // 2).float() * _PADDING
    angle = torch.deg2rad(angles_deg.float())[:, None, None]
    x = torch.cos(angle) * step[None, None, :] + torch.sin(angle) * step[None, :, None]
    y = -torch.sin(angle) * step[None, None, :] + torch.cos(angle) * step[None, :, None]
    grid = 2 * (torch.stack([x, y], dim=-1) + fine // 2) / (fine - 1) - 1
    return functional.grid_sample(dense[:, None], grid, mode="bicubic", align_corners=True)[:, 0]


def compute_ring_correlation(first: Tensor, second: Tensor, n_px: int) -> Tensor:
    """Return the Fourier ring correlation of half spectra, `(..., n_px // 2 + 1)`; rings without signal are 0."""
    cross = compute_radial_mean((first * second.conj()).real, (n_px, n_px))
    power = compute_radial_mean(first.abs().square(), (n_px, n_px)) * compute_radial_mean(
        second.abs().square(), (n_px, n_px)
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
    shape = (n_px, n_px)
    ring = compute_ring_index(n_px, sums.device).clamp_max(power.shape[-1] - 1)
    floor = 0.02 * power.amax(dim=-1, keepdim=True) + 1e-6
    halves = rfft2(irfft2(sums / torch.maximum(power, floor)[..., ring], shape) * mask)
    correlation = compute_ring_correlation(halves[0], halves[1], n_px)
    known = correlation.clamp(0, 0.999)
    gain = 2 * known / (1 + known)
    # An empty half leaves no correlation; the lowest rings are kept in any case, or a weak class would vanish.
    gain[:, :_TRUSTED_RINGS] = 1
    full = sums.sum(dim=0) / torch.maximum(power.sum(dim=0), floor.sum(dim=0))[..., ring]
    return irfft2(full * gain[:, ring.clamp_max(gain.shape[-1] - 1)], shape) * mask, correlation


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
        Averages `(K, N, N)` and ring correlations `(K, N // 2 + 1)`, as of `combine_halves`. All images are aligned to averages
        of both halves, so that the correlations flatter small classes.
    """
    n_px = images.shape[-1]
    n_classes = int(class_index.max()) + 1
    sums = torch.zeros(2 * n_classes, n_px, n_px, device=images.device)
    power = torch.zeros(2 * n_classes, n_px // 2 + 1, device=images.device)
    slot = half * n_classes + class_index
    for index in torch.split(torch.arange(len(images), device=images.device), _BATCH):
        spectra = rfft2(images[index]) * compute_shift_phase((n_px, n_px), -shift_px[index])
        ring_power = torch.ones(len(index), n_px // 2 + 1, device=images.device)
        if ctf is not None:
            spectra = spectra * ctf[index]
            ring_power = compute_radial_mean(ctf[index].square(), (n_px, n_px))
        sums.index_add_(0, slot[index], rotate_images(irfft2(spectra, (n_px, n_px)), -angle_deg[index]))
        power.index_add_(0, slot[index], ring_power)
    spectra = rfft2(sums).reshape(2, n_classes, n_px, n_px // 2 + 1)
    return combine_halves(spectra, power.reshape(2, n_classes, -1), mask)
