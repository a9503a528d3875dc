"""Classify and align images by expectation-maximisation over class, in-plane angle and shift.

An image is modelled as CTF x (class average, turned and shifted) + noise of known power per ring (Scheres et al. 2005,
doi:10.1016/j.jmb.2005.02.031; regularised as in Scheres 2012, doi:10.1016/j.jmb.2011.11.010). Each class has an average for each
half of the images, alike only at low resolution, so that no half is aligned to the noise of the other and the correlation of
the two says what detail is real.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.average2d import (
    average_images,
    combine_halves,
    compute_mass_centre,
    compute_power,
    compute_ring_index,
    filter_halves,
    find_resolution_ring,
    make_soft_circle,
    shift_spectra,
)
from vitreous.ops.expectation2d import Expectation, Grid, ImageData, Sums, accumulate_sums, select_coefficients
from vitreous.ops.fourier import irfft2, rfft2

__all__ = ["Alignment", "ClassificationSettings", "classify_images"]

_N_GLOBAL = 3
_N_GLOBAL_EVERY = 6
_LOCAL_REACH = 2.0
_GLOBAL_STEP = 1.5
_N_QUIET = 4
_LOST_SHARE = 0.1
_FINAL_STEP = 0.5
_SMOOTH_RINGS = 6


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


@dataclass(frozen=True)
class Alignment:
    """Result of a classification. Classes without images are left out; numbers count from 0."""

    averages: Tensor
    """`(K, N, N)`, CTF-corrected, filtered by their own signal-to-noise ratio, centred at N // 2."""
    resolution_ring: Tensor
    """`(K,)`: ring at which the correlation of half averages falls below 0.143."""
    class_index: Tensor
    """`(n,)`."""
    angle_deg: Tensor
    """`(n,)`: the image shows the average turned by this from +x towards +y."""
    shift_px: Tensor
    """`(n, 2)` as (y, x): where the centre of the average lies relative to the centre of the image."""
    probability: Tensor
    """`(n,)`: of the class."""
    n_effective: Tensor
    """`(n,)`: classes that each image is divided among, one over the sum of its squared probabilities."""


def _make_shifts(max_shift_px: float, step_px: float, device: torch.device) -> Tensor:
    reach = int(max_shift_px / step_px + 1e-6)
    line = torch.arange(-reach, reach + 1, device=device) * step_px
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)
    return grid[grid.norm(dim=1) <= max_shift_px + 1e-6]


@dataclass(frozen=True)
class _Model:
    """What the maximisation returns."""

    averages: Tensor
    """`(K, N, N)`, of all images."""
    references: Tensor
    """`(2, K, N, N)`, what the images of each half are compared with."""
    correlation: Tensor
    """`(K, rings)`, of the halves."""
    weight: Tensor
    """`(K,)`: share of the summed CTF²."""


def _maximise(sums: Sums, mask: Tensor, shared_ring: int) -> _Model:
    spectra = rfft2(sums.images)
    averages, correlation = combine_halves(spectra, sums.power, mask)
    references = filter_halves(spectra, sums.power, mask, correlation, shared_ring)
    weight = sums.power.sum(dim=(0, 2))
    return _Model(averages, references, correlation, weight / weight.sum())


def _reseed(references: Tensor, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Give classes that have lost their images the averages of the largest, a little changed, to split it."""
    n_classes, n_px = references.shape[1], references.shape[-1]
    lost = torch.nonzero(weight < _LOST_SHARE / n_classes)[:, 0]
    if not len(lost):
        return references
    references = references.clone()
    largest = references[:, int(weight.argmax())]
    noise = torch.randn(len(lost), n_px, n_px, generator=generator).to(references.device)
    smooth = irfft2(rfft2(noise) * (compute_ring_index(n_px, references.device) <= _SMOOTH_RINGS), (n_px, n_px))
    smooth = smooth / smooth.std(dim=(1, 2), keepdim=True) * largest.std() * 0.5
    references[:, lost] = largest[:, None] + smooth * (largest.abs().amax(dim=0) > 0)
    return references


def _recentre(model: _Model, max_shift_px: float) -> Tensor:
    """Move the mass centre of every class towards the centre, by at most a pixel so that alignments follow."""
    centre = compute_mass_centre(model.averages)
    length = centre.norm(dim=1, keepdim=True).clamp_min(1e-6)
    shift = -centre * (length.clamp_max(min(1.0, max_shift_px)) / length)
    n_px = model.references.shape[-1]
    return irfft2(shift_spectra(rfft2(model.references), shift), (n_px, n_px))


def _estimate_noise(data: ImageData, model: _Model | None) -> Tensor:
    """Return the noise power per ring: that of the images less what the averages explain, two fifths of the images' at least."""
    n_rings = data.ring_power.shape[1]
    counts = torch.bincount(data.ring, weights=data.weight, minlength=n_rings).float().clamp_min(1)

    def ring_mean(values: Tensor) -> Tensor:
        return torch.zeros(n_rings, device=values.device).index_add_(0, data.ring, values * data.weight) / counts

    total = ring_mean(data.mean_power)
    if model is None:
        return total
    spectra = compute_power(rfft2(model.averages).flatten(1)[:, data.keep])
    explained = ring_mean((model.weight[:, None] * spectra).sum(dim=0) * data.mean_ctf_power)
    return torch.maximum(total - explained, 0.4 * total)


def _start(images: Tensor, settings: ClassificationSettings, mask: Tensor, generator: torch.Generator) -> Tensor:
    """Return the first averages: groups of images alike in their radial profiles, a few members of each summed unaligned.

    Grouping by what turning does not change parts particles from junk at once; summing few members breaks the symmetry of
    angles.
    """
    n_px = images.shape[-1]
    offset = torch.arange(n_px, device=images.device) - n_px // 2
    ring = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float()).round().long().flatten()
    inside = ring <= settings.mask_radius_px
    n_rings = int(ring[inside].max()) + 1
    profile = torch.zeros(len(images), n_rings, device=images.device)
    profile.index_add_(1, ring[inside], images.flatten(1)[:, inside])
    profile /= torch.bincount(ring[inside]).clamp_min(1)
    profile = (profile - profile.mean(dim=0)) / profile.std(dim=0).clamp_min(1e-6)
    k = settings.n_classes
    centres = profile[torch.randperm(len(profile), generator=generator)[:k].to(images.device)]
    for _ in range(15):
        nearest = torch.cdist(profile, centres).argmin(dim=1)
        for j in range(len(centres)):
            if (nearest == j).any():
                centres[j] = profile[nearest == j].mean(dim=0)
    order = torch.randperm(len(images), generator=generator).to(images.device)
    starts = []
    for j in range(k):
        members = order[nearest[order] == j][:12]
        chosen = members if len(members) >= 3 else order[12 * j : 12 * j + 12]
        starts.append(images[chosen if len(chosen) else order[:12]].mean(dim=0))
    spectra = rfft2(torch.stack(starts))
    keep = torch.exp(-((compute_ring_index(n_px, images.device) / settings.first_ring) ** 4).float())
    return irfft2(spectra * keep, (n_px, n_px)) * mask


def _make_grid(
    settings: ClassificationSettings, last_ring: int, n_px: int, reach: float, factor: float, device: torch.device
) -> Grid:
    """Return angles and shifts as fine as the resolution asks for, the shifts up to `reach` steps of `factor` times that."""
    n_angles = int(min(72, max(24, 4 * round(2 * torch.pi * settings.mask_radius_px * last_ring / n_px / 4))))
    angles = torch.arange(n_angles, device=device) * (360.0 / n_angles)
    step = max(1.0, n_px / last_ring / 4) * factor
    return Grid(angles, _make_shifts(min(settings.max_shift_px, reach * step), step, device), last_ring)


def classify_images(
    images: Tensor,
    ctf: Tensor | None,
    half: Tensor,
    settings: ClassificationSettings,
    progress: Callable[[float, str], None] | None = None,
) -> Alignment:
    """Classify and align images.

    Parameters
    ----------
    images
        `(n, N, N)`, protein bright, centred at N // 2, background of mean 0 and deviation 1; N even.
    ctf
        `(n, N, N // 2 + 1)`, positive at low frequency (these images are inverted); None: as if 1.
    half
        `(n,)`, 0 or 1: the half set of each, for the resolution of averages.
    settings
        How to classify.
    progress
        Called with the fraction done.

    Raises
    ------
    ValueError
        If there are fewer images than classes.
    """
    if len(images) < settings.n_classes:
        raise ValueError(f"{len(images)} images cannot make {settings.n_classes} classes")
    n_px, device = images.shape[-1], images.device
    generator = torch.Generator().manual_seed(settings.seed)
    data = select_coefficients(images, ctf, half, settings.last_ring)
    mask = make_soft_circle(n_px, settings.mask_radius_px, max(3.0, 0.1 * settings.mask_radius_px), device)
    references = _start(images, settings, mask, generator).expand(2, -1, -1, -1)
    noise = _estimate_noise(data, None)
    last, offset = settings.first_ring, torch.zeros(len(images), 2, device=device)
    for iteration in range(settings.n_iterations):
        # Once every image has been placed within reach of a coarse step, only its neighbourhood is searched.
        everywhere = iteration < _N_GLOBAL or iteration % _N_GLOBAL_EVERY == 0
        reach, factor = (math.inf, _GLOBAL_STEP) if everywhere else (_LOCAL_REACH, 1.0)
        grid = _make_grid(settings, last, n_px, reach, factor, device)
        # Turning the grid a little each time keeps averages from locking to it.
        turn = float(torch.rand(1, generator=generator)) * (360.0 / len(grid.angles))
        grid = Grid(grid.angles + turn, grid.shifts, last)
        start = torch.zeros_like(offset) if everywhere else offset
        sums, best = accumulate_sums(Expectation(data, references, grid, noise, start, settings.max_shift_px))
        offset = start + grid.shifts[best]
        model = _maximise(sums, mask, settings.first_ring)
        references, noise = model.references, _estimate_noise(data, model)
        if iteration < settings.n_iterations - _N_QUIET:
            references = _reseed(_recentre(model, settings.max_shift_px) * mask, model.weight, generator)
        if iteration >= _N_GLOBAL:
            reached = sorted(find_resolution_ring(curve) for curve in model.correlation[model.weight > 0.02])
            goal = reached[len(reached) * 3 // 4] if reached else settings.first_ring
            last = int(min(settings.last_ring, max(last, goal + 2), last + 4))
        if progress is not None:
            progress((iteration + 1) / (settings.n_iterations + 1), f"2D classes, ring {last}")
    grid = _make_grid(settings, last, n_px, _LOCAL_REACH, _FINAL_STEP, device)
    return _assign(images, ctf, Expectation(data, references, grid, noise, offset, settings.max_shift_px), mask)


def _refine_angle(score: Tensor, best: Tensor, n_angles: int) -> Tensor:
    """Return by what part of a step the peak over angles lies beside the best, from a parabola: `(b,)`, -0.5 to 0.5."""
    flat = score.flatten(1)
    base, angle = best - best % n_angles, best % n_angles
    before, at, after = (flat.gather(1, (base + (angle + d) % n_angles)[:, None])[:, 0] for d in (-1, 0, 1))
    curvature = (2 * at - before - after).clamp_min(1e-12)
    return (0.5 * (after - before) / curvature).clamp(-0.5, 0.5)


def _assign(images: Tensor, ctf: Tensor | None, step: Expectation, mask: Tensor) -> Alignment:
    """Give every image its best class, angle and shift, leave empty classes out and average what is left."""
    _, n_classes, n_angles = step.shape
    which = torch.zeros(len(images), dtype=torch.long, device=images.device)
    part, probability, n_effective = torch.zeros(3, len(images), device=images.device)
    for half in range(2):
        for index in step.split(half):
            score, _ = step.compare(half, index)
            best = score.flatten(1).argmax(dim=1)
            which[index], part[index] = best, _refine_angle(score, best, n_angles)
            by_class = score.reshape(*score.shape[:2], n_classes, n_angles).logsumexp(dim=(1, 3))
            chosen = (best // n_angles % n_classes)[:, None]
            shares = torch.softmax(by_class, dim=1)
            probability[index] = shares.gather(1, chosen)[:, 0]
            n_effective[index] = 1 / shares.square().sum(dim=1)
    number = torch.unique(which // n_angles % n_classes, return_inverse=True)[1]
    angle = step.grid.angles[which % n_angles] + part * (360.0 / n_angles)
    shift = step.offset + step.grid.shifts[which // (n_angles * n_classes)]
    averages, correlation = average_images(images, ctf, step.data.half, number, angle, shift, mask)
    return Alignment(
        averages=averages,
        resolution_ring=torch.tensor([find_resolution_ring(curve) for curve in correlation]),
        class_index=number,
        angle_deg=angle,
        shift_px=shift,
        probability=probability,
        n_effective=n_effective,
    )
