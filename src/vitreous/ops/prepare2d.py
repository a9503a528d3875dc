"""What a 2D classification starts from: images on polar grids, and first references."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.average2d import ImageSource, compute_power
from vitreous.ops.fourier import compute_radial_mean, rfft2
from vitreous.ops.harmonic2d import PolarImages
from vitreous.ops.polar2d import PolarGrid, PolarSampler, compute_harmonics

__all__ = ["ClassificationSettings", "choose_grid", "prepare_images", "start_references"]

_CHUNK = 128
_N_SEEDS = 12


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


def prepare_images(
    images: ImageSource,
    ctf: Callable[[Tensor], Tensor] | None,
    grid: PolarGrid,
    settings: ClassificationSettings,
    device: torch.device | str,
) -> tuple[PolarImages, Tensor, float]:
    """Return the images on the polar grid, their radial profiles, and what part of white noise the mask lets through.

    The samples, four bytes each, are on the device; what they are made of is read some at a time.
    """
    n, n_px = len(images), grid.n_px
    outer = settings.mask_radius_px + settings.mask_edge_px + settings.max_shift_px
    sampler = PolarSampler(grid, outer)
    values = torch.empty(n, grid.n_rings, grid.n_half, 2, dtype=torch.float16)
    ctf_power, image_power = torch.ones(n, grid.n_rings), torch.empty(n, grid.n_rings)
    offset = torch.arange(n_px) - n_px // 2
    ring = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float()).round().long().flatten()
    inside = ring <= settings.mask_radius_px
    profile = torch.zeros(n, int(ring[inside].max()) + 1)
    for index in torch.split(torch.arange(n), _CHUNK):
        chunk = images[index].float().cpu()
        factor = None if ctf is None else ctf(index).cpu()
        values[index] = torch.view_as_real(sampler.sample(chunk, factor) / n_px).half()
        power = compute_power(rfft2(chunk * sampler.mask))
        image_power[index] = compute_radial_mean(power, (n_px, n_px), grid.n_rings + 1)[:, 1:] / n_px**2
        if factor is not None:
            ctf_power[index] = compute_radial_mean(factor.square(), (n_px, n_px), grid.n_rings + 1)[:, 1:]
        profile[index] = profile[index].index_add_(1, ring[inside], chunk.flatten(1)[:, inside])
    profile /= torch.bincount(ring[inside]).clamp_min(1)
    return PolarImages(values.to(device), ctf_power, image_power), profile, float(sampler.mask.square().mean())


def start_references(
    data: PolarImages, profile: Tensor, grid: PolarGrid, first_ring: int, n_classes: int, generator: torch.Generator
) -> Tensor:
    """Return the first references: groups of images alike in their radial profiles, a few members of each summed unaligned.

    Grouping by what turning does not change parts particles from junk at once; summing few members breaks the symmetry of
    angles.
    """
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
