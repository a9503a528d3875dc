"""Half averages of classes, made from images that are sorted and aligned, and what detail in them is real.

Each class has an average of each half set of its images, corrected for the CTF but neither masked nor filtered: the correlation
of the two says what is signal, and what lies beside the particle says what the class is of.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.average2d import (
    compute_power,
    compute_ring_correlation,
    compute_ring_index,
    divide_by_ctf,
    find_resolution_ring,
    make_soft_circle,
    run_single_threaded,
    sum_turned_back,
)
from vitreous.ops.fourier import compute_radial_mean, irfft2, rfft2
from vitreous.ops.resolution import compute_corrected_fsc

__all__ = [
    "ClassResolution",
    "HalfSums",
    "add_images",
    "average_halves",
    "make_class_mask",
    "make_empty_sums",
    "measure_resolution",
    "split_power",
]

_BATCH = 256
_RANDOM_FROM = 0.8
_N_RANDOM = 4
_LIMIT = 0.143
_FEW_IMAGES = 200
_SMOOTH_RINGS = 3
_FIRST_RING = 3
_MASK_EDGE = 0.4


@dataclass(frozen=True)
class HalfSums:
    """Sums over the aligned images of each half and class."""

    spectra: Tensor
    """`(2, K, N, N // 2 + 1)`: half spectra of the images times their CTF."""
    ctf_power: Tensor
    """`(2, K, rings)`: CTF², mean over each ring."""
    image_power: Tensor
    """`(2, K, rings)`: power of the images, mean over each ring."""
    n_images: Tensor
    """`(2, K)`."""

    @property
    def n_px(self) -> int:
        """Side of the images."""
        return self.spectra.shape[-2]


def make_empty_sums(n_classes: int, n_px: int, device: torch.device | str = "cpu") -> HalfSums:
    """Return sums over no images."""
    rings = torch.zeros(2, n_classes, n_px // 2 + 1, device=device)
    return HalfSums(
        spectra=torch.zeros(2, n_classes, n_px, n_px // 2 + 1, dtype=torch.complex64, device=device),
        ctf_power=rings,
        image_power=rings.clone(),
        n_images=torch.zeros(2, n_classes, device=device),
    )


def add_images(
    sums: HalfSums,
    images: Tensor,
    ctf: Tensor | None,
    half: Tensor,
    class_index: Tensor,
    angle_deg: Tensor,
    shift_px: Tensor,
) -> HalfSums:
    """Return the sums with more images in them.

    Parameters
    ----------
    sums
        So far.
    images
        `(n, N, N)`, protein bright.
    ctf
        `(n, N, N // 2 + 1)`, or None for 1.
    half, class_index
        `(n,)`, 0 or 1, and from 0.
    angle_deg, shift_px
        `(n,)`, and `(n, 2)` as (y, x): the image shows the average turned by the angle from +x towards +y, then shifted.
    """
    n_px, n_classes = sums.n_px, sums.n_images.shape[1]
    slot = half * n_classes + class_index
    there = torch.unique(slot).tolist()
    power = torch.cat(
        [compute_radial_mean(compute_power(rfft2(part)), (n_px, n_px)) for part in torch.split(images, _BATCH)]
    )

    def work(number: int) -> tuple[Tensor, Tensor]:
        index = torch.nonzero(slot == number)[:, 0]
        return sum_turned_back(images, None if ctf is None else lambda chosen: ctf[chosen], index, angle_deg, shift_px)

    found = run_single_threaded(work, there)
    spectra, ctf_power, image_power, n_images = (
        part.flatten(0, 1).clone() for part in (sums.spectra, sums.ctf_power, sums.image_power, sums.n_images)
    )
    for number, (image, part) in zip(there, found, strict=True):
        spectra[number] += rfft2(image.to(spectra.device))
        ctf_power[number] += part.to(spectra.device)
        image_power[number] += power[slot == number].sum(dim=0)
        n_images[number] += (slot == number).sum()
    return HalfSums(
        spectra=spectra.reshape(sums.spectra.shape),
        ctf_power=ctf_power.reshape(sums.ctf_power.shape),
        image_power=image_power.reshape(sums.image_power.shape),
        n_images=n_images.reshape(2, n_classes),
    )


def average_halves(sums: HalfSums) -> tuple[Tensor, Tensor]:
    """Return the average of each half, `(2, K, N, N)`, and of all images, `(K, N, N)`: not masked, not filtered."""
    shape = (sums.n_px, sums.n_px)
    halves = irfft2(divide_by_ctf(sums.spectra, sums.ctf_power, sums.n_px), shape)
    total = divide_by_ctf(sums.spectra.sum(dim=0), sums.ctf_power.sum(dim=0), sums.n_px)
    return halves, irfft2(total, shape)


def make_class_mask(n_px: int, radius_px: float, device: torch.device | str = "cpu") -> Tensor:
    """Return the mask under which averages of particles within the radius are measured, `(N, N)`.

    Its edge is wide, 0.4 of the radius: random phases leak through a narrow one far more than detail does, and correcting for
    them would take real detail away.
    """
    return make_soft_circle(n_px, radius_px, _MASK_EDGE * radius_px, device)


@dataclass(frozen=True)
class ClassResolution:
    """What detail of each class is real."""

    correlation: Tensor
    """`(K, rings)`: ring correlation of the masked halves, less what the mask itself correlates."""
    ssnr: Tensor
    """`(K, rings)`: signal over noise of the average of all images, under the mask, mean over three rings; may be negative."""
    ring: Tensor
    """`(K,)`: where signal ends, interpolated; 1 to the last ring."""


def _correlate(halves: Tensor) -> Tensor:
    first, second = rfft2(halves)
    return compute_ring_correlation(first, second, halves.shape[-1])


def _randomise_phases(halves: Tensor, first_ring: Tensor, generator: torch.Generator) -> Tensor:
    """Return images `(2, K, N, N)` with phases of real white noise from ring `first_ring` `(K,)` on."""
    n_px = halves.shape[-1]
    spectra = rfft2(halves)
    noise = rfft2(torch.randn(halves.shape, generator=generator).to(halves.device))
    random = spectra.abs() * noise / noise.abs().clamp_min(1e-20)
    beyond = compute_ring_index(n_px, halves.device) >= first_ring[:, None, None]
    return irfft2(torch.where(beyond, random, spectra), (n_px, n_px))


def _correct_for_mask(halves: Tensor, mask: Tensor, seed: int) -> Tensor:
    """Return the ring correlation of masked halves, corrected by randomised phases (Chen et al. 2013)."""
    plain = _correlate(halves)
    first = torch.tensor([int(find_resolution_ring(curve, _RANDOM_FROM)) + 1 for curve in plain], device=halves.device)
    masked = _correlate(halves * mask)
    generator = torch.Generator().manual_seed(seed)
    random = torch.zeros_like(masked)
    for _ in range(_N_RANDOM):
        drawn = _randomise_phases(halves, first, generator) * mask
        random += _correlate(drawn) / _N_RANDOM
    # Chance makes the correlation of a few coefficients negative as often as positive; a mask only ever adds to it.
    random.clamp_min_(0)
    return torch.stack(
        [
            compute_corrected_fsc(one, other, int(start))
            for one, other, start in zip(masked, random, first.tolist(), strict=True)
        ]
    )


def _smooth_rings(values: Tensor) -> Tensor:
    kernel = torch.full((1, 1, _SMOOTH_RINGS), 1 / _SMOOTH_RINGS, dtype=values.dtype, device=values.device)
    padded = torch.nn.functional.pad(values[:, None], (1, 1), mode="replicate")
    return torch.nn.functional.conv1d(padded, kernel)[:, 0]


def split_power(sums: HalfSums) -> tuple[Tensor, Tensor]:
    """Return the power of one image that its class's average explains, and what is left of it, `(K, rings)` each.

    Of n images x_i of CTF c_i, sum |x_i|² - |sum c_i x_i|² / sum c_i² is n - 1 times what is left: noise, and what sets single
    images apart (Penczek 2002, doi:10.1006/jsbi.2002.4447, with the CTF as weight). What is explained is on average free of
    noise, and may be negative.
    """
    shape = (sums.n_px, sums.n_px)
    ctf_power = sums.ctf_power.sum(dim=0).clamp_min(1e-6)
    shared = compute_radial_mean(compute_power(sums.spectra.sum(dim=0)), shape) / ctf_power
    n_images = sums.n_images.sum(dim=0)[:, None]
    left = (sums.image_power.sum(dim=0) - shared) / (n_images - 1).clamp_min(1)
    return (shared - left) / n_images.clamp_min(1), left


def _compute_ssnr(sums: HalfSums, halves: Tensor, mask: Tensor) -> Tensor:
    """Return signal over noise: the power that the masked halves share, over the noise that the images' scatter leaves.

    The noise of the average is that of one image over sum c_i²; the mask passes its mean square of it.
    """
    first, second = rfft2(halves * mask)
    shared = compute_radial_mean(first.real * second.real + first.imag * second.imag, (sums.n_px, sums.n_px))
    left = split_power(sums)[1]
    passed = left.clamp_min(1e-12) / sums.ctf_power.sum(dim=0).clamp_min(1e-6) * mask.square().mean()
    return _smooth_rings(shared) / _smooth_rings(passed)


def measure_resolution(sums: HalfSums, halves: Tensor, mask: Tensor, seed: int = 0) -> ClassResolution:
    """Return what detail of class averages is real.

    Parameters
    ----------
    sums, halves
        Of `add_images` and `average_halves`.
    mask
        `(N, N)`: where the particle may be; of `make_class_mask` as a rule.
    seed
        Of the random phases.

    Notes
    -----
    Detail ends where the correlation of the halves falls below 0.143. The curve of a class of fewer than 200 images is too
    rough for that: there detail ends where the signal-to-noise ratio falls below 1/3, which is 2 F / (1 - F) at F = 0.143. In
    both the halves stand for what is signal, so that noise which images were aligned to counts only where the halves share
    their references.
    """
    correlation = _correct_for_mask(halves, mask, seed)
    ssnr = _compute_ssnr(sums, halves, mask)
    few = (sums.n_images.sum(dim=0) < _FEW_IMAGES).tolist()
    least = 2 * _LIMIT / (1 - _LIMIT)
    # What a plane taken from each image leaves of the first rings says nothing of detail.
    trusted = torch.arange(correlation.shape[1], device=halves.device) >= _FIRST_RING
    curves, ratios = torch.where(trusted, correlation, 1.0), torch.where(trusted, ssnr, 1.0)
    ring = torch.tensor(
        [
            find_resolution_ring(ratio, least) if is_small else find_resolution_ring(curve, _LIMIT)
            for curve, ratio, is_small in zip(curves, ratios, few, strict=True)
        ],
        device=halves.device,
    )
    empty = sums.n_images.amin(dim=0) == 0
    return ClassResolution(correlation, ssnr, torch.where(empty, 1.0, ring.clamp_min(1.0)))
