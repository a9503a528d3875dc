"""What a 2D classification starts from: images on polar grids, and first references."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.average2d import ImageSource, compute_power
from vitreous.ops.fourier import compute_radial_mean, irfft2, rfft2
from vitreous.ops.harmonic2d import PolarImages
from vitreous.ops.polar2d import PolarGrid, PolarSampler, compute_harmonics, make_outer_mask
from vitreous.ops.whitening import expand_amplitude, limit_amplitude, whiten

__all__ = [
    "ClassificationSettings",
    "Colour",
    "Prepared",
    "choose_grid",
    "measure_colour",
    "prepare_images",
    "start_references",
]

_CHUNK = 128
_N_SEEDS = 12
_N_MEASURED = 1024
"""Images that tell how strong each ring is."""
_LEAST_OWN, _FEWEST_RINGS = 0.5, 3


@dataclass(frozen=True)
class ClassificationSettings:
    """How to classify."""

    n_classes: int
    n_iterations: int
    mask_radius_px: float
    max_shift_px: float
    first_ring: int
    """Highest ring compared in the first iterations, and the highest that the averages of both halves share."""
    last_ring: int
    """Highest ring ever compared."""
    seed: int
    mask_edge_px: float = 4.0
    """Over what the mask falls to 0 beyond its radius."""
    initial_uncertainty: float = 1.0
    """In the first iterations the logarithms of the probabilities of classes are divided by up to this."""
    annealing: float = 1.0
    """In the first iterations the noise power is multiplied by up to this."""
    recentre_threshold: float = 0.2
    """What exceeds this part of a class average's peak counts for its mass centre."""


def choose_grid(n_px: int, n_rings: int, settings: ClassificationSettings, stored_half: int | None = None) -> PolarGrid:
    """Return a grid fine enough for rings up to `n_rings`; its samples are every so many of `stored_half`."""
    around = 2 * math.pi * n_rings / n_px
    radius = settings.mask_radius_px
    n_even = math.ceil((1.2 * around * radius + 4) / 2)
    outer = min(n_px / 2, radius + settings.mask_edge_px + 2 * settings.max_shift_px)
    least = (1.1 * around * outer + 4 + 2 * n_even) / 2
    if stored_half is None:
        return PolarGrid(n_px, n_rings, 4 * math.ceil(least / 4), n_even)
    stride = next(stride for stride in (4, 2, 1) if stored_half // stride >= least or stride == 1)
    return PolarGrid(n_px, n_rings, stored_half // stride, n_even)


@dataclass(frozen=True)
class Colour:
    """How strong images are at each frequency, and how far they go."""

    amplitude: Tensor
    """Of rings 0 to N // 2; what whitening divides by."""
    last_ring: int
    """Beyond, a ring under the circle holds less of its own than what the circle's edge brings into it."""


@dataclass(frozen=True)
class Prepared:
    """Images that are ready to be compared."""

    images: PolarImages
    """Whitened, then under a circle."""
    profile: Tensor
    """`(n, radii)`: radial means of the whitened images."""
    passed: float
    """What part of white noise the circle lets through."""


def _get_outer_radius(settings: ClassificationSettings) -> float:
    return settings.mask_radius_px + settings.mask_edge_px + settings.max_shift_px


def _measure_ring_power(images: ImageSource) -> Tensor:
    """Return the mean |transform|² / N² of images at rings 0 to N // 2, free of what their edges make.

    Under a cosine window: images that are cut out are not periodic, and strong rings would show in all others.
    """
    n, n_px = images.shape[0], images.shape[-1]
    line = torch.hann_window(n_px)
    window = line[:, None] * line
    chosen = torch.linspace(0, n - 1, min(n, _N_MEASURED)).round().long()
    total = torch.zeros(n_px // 2 + 1)
    for index in torch.split(chosen, _CHUNK):
        power = compute_power(rfft2(images[index].float().cpu() * window))
        total += compute_radial_mean(power, (n_px, n_px)).sum(dim=0)
    return total / (len(chosen) * n_px**2 * window.square().mean())


def measure_colour(images: ImageSource, settings: ClassificationSettings) -> Colour:
    """Measure how strong images `(n, N, N)` are at each frequency.

    What is strong in few rings, as where images were low-passed or the ice varies, must be divided out before a circle cuts it
    off: the edge would put some of it into all rings, where it is nothing new but would count as if it were. Where images were
    low-passed so far that even then the edge's part is the greater, nothing is compared.
    """
    n_px = images.shape[-1]
    amplitude = _measure_ring_power(images).sqrt()
    # At 0 images tell nothing: their background was subtracted.
    amplitude[0] = amplitude[1]
    divided = limit_amplitude(amplitude)
    fine = (2 * n_px, 2 * n_px)
    # The spectrum of noise under a mask is the transform of its covariance times the mask's.
    covariance = irfft2(expand_amplitude(amplitude / divided, fine).square(), fine)
    mask = torch.nn.functional.pad(make_outer_mask(n_px, _get_outer_radius(settings)), (0, n_px, 0, n_px))
    shared = irfft2(compute_power(rfft2(mask)), fine)
    under = compute_radial_mean(rfft2(covariance * shared / shared[0, 0]).real, fine)[::2]
    own = (amplitude / divided).square()[1:] / under[1 : len(amplitude)].clamp_min(1e-20)
    short = torch.nonzero(own < _LEAST_OWN)[:, 0]
    last = int(short[0]) if len(short) else len(own)
    return Colour(divided, max(last, min(_FEWEST_RINGS, settings.last_ring)))


def prepare_images(
    images: ImageSource,
    ctf: Callable[[Tensor], Tensor] | None,
    colour: Colour,
    grid: PolarGrid,
    settings: ClassificationSettings,
    device: torch.device | str,
) -> Prepared:
    """Whiten images and sample them on the polar grid.

    The samples, four bytes each, are on the device; what they are made of is read some at a time.
    """
    n, n_px = len(images), grid.n_px
    sampler = PolarSampler(grid, _get_outer_radius(settings))
    values = torch.empty(n, grid.n_rings, grid.n_half, 2, dtype=torch.float16)
    ctf_power, image_power = torch.ones(n, grid.n_rings), torch.empty(n, grid.n_rings)
    offset = torch.arange(n_px) - n_px // 2
    ring = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float()).round().long().flatten()
    inside = ring <= settings.mask_radius_px
    profile = torch.zeros(n, int(ring[inside].max()) + 1)
    for index in torch.split(torch.arange(n), _CHUNK):
        chunk = whiten(images[index].float().cpu(), colour.amplitude)
        factor = None if ctf is None else ctf(index).cpu()
        values[index] = torch.view_as_real(sampler.sample(chunk, factor) / n_px).half()
        power = compute_power(rfft2(chunk * sampler.mask))
        image_power[index] = compute_radial_mean(power, (n_px, n_px), grid.n_rings + 1)[:, 1:] / n_px**2
        if factor is not None:
            ctf_power[index] = compute_radial_mean(factor.square(), (n_px, n_px), grid.n_rings + 1)[:, 1:]
        profile[index] = profile[index].index_add_(1, ring[inside], chunk.flatten(1)[:, inside])
    profile /= torch.bincount(ring[inside]).clamp_min(1)
    found = PolarImages(values.to(device), ctf_power, image_power)
    return Prepared(found, profile, float(sampler.mask.square().mean()))


def start_references(
    prepared: Prepared, grid: PolarGrid, first_ring: int, n_classes: int, generator: torch.Generator
) -> Tensor:
    """Return the first references: groups of images alike in their radial profiles, a few members of each summed unaligned.

    Grouping by what turning does not change parts particles from junk at once; summing few members breaks the symmetry of
    angles.
    """
    data, profile = prepared.images, prepared.profile
    profile = (profile - profile.mean(dim=0)) / profile.std(dim=0).clamp_min(1e-6)
    centres = profile[torch.randperm(len(profile), generator=generator)[:n_classes]]
    for _ in range(15):
        nearest = torch.cdist(profile, centres).argmin(dim=1)
        for j in range(n_classes):
            if (nearest == j).any():
                centres[j] = profile[nearest == j].mean(dim=0)
    order = torch.randperm(len(profile), generator=generator)
    starts = []
    for j in range(n_classes):
        members = order[nearest[order] == j][:_N_SEEDS]
        chosen = members if len(members) >= 3 else order[_N_SEEDS * j : _N_SEEDS * (j + 1)]
        chosen = chosen if len(chosen) else order[:_N_SEEDS]
        total = torch.view_as_complex(data.values[chosen.to(data.values.device)].float().cpu().sum(dim=0))
        starts.append(total / data.ctf_power[chosen].sum(dim=0).clamp_min(0.1)[:, None])
    keep = torch.exp(-((torch.arange(1, grid.n_rings + 1) / first_ring) ** 4).float())
    return compute_harmonics(torch.stack(starts), grid) * keep
