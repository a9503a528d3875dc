"""Classify and align images by expectation-maximisation over class, in-plane angle and shift.

An image is modelled as CTF x (class average, turned and shifted) + noise of known power per ring (Scheres et al. 2005,
doi:10.1016/j.jmb.2005.02.031; regularised as in Scheres 2012, doi:10.1016/j.jmb.2011.11.010). All comparisons are matrix products
of Fourier coefficients below the current resolution.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.average2d import (
    average_images,
    centre_spectra,
    combine_halves,
    compute_mass_centre,
    compute_ring_index,
    find_resolution_ring,
    make_soft_circle,
    rotate_images,
)
from vitreous.ops.fourier import apply_shift_2d, compute_frequency_2d, compute_half_weights, irfft2, rfft2

__all__ = ["Alignment", "ClassificationSettings", "classify_images"]

_BATCH_FLOATS = 24_000_000
_NEGLIGIBLE = 1e-3
_SLACK_PX = 0.01
_N_GLOBAL = 3
_N_GLOBAL_EVERY = 6
_LOCAL_REACH = 2.0
_GLOBAL_STEP = 1.5
_N_QUIET = 4
_LOST_SHARE = 0.1


@dataclass(frozen=True)
class ClassificationSettings:
    """How to classify."""

    n_classes: int
    n_iterations: int
    mask_radius_px: float
    max_shift_px: float
    first_ring: int
    """Highest ring compared in the first iterations."""
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


@dataclass(frozen=True)
class _Data:
    """Fourier coefficients of all images within the highest ring, as `(n, Q)`."""

    n_px: int
    values: Tensor
    ctf: Tensor
    half: Tensor
    keep: Tensor
    """Flat indices into the half spectrum, `(Q,)`."""
    ring: Tensor
    weight: Tensor


@dataclass(frozen=True)
class _Grid:
    """What is tried: every angle with every shift, compared up to a ring."""

    angles: Tensor
    shifts: Tensor
    last_ring: int


@dataclass(frozen=True)
class _Sums:
    """What the maximisation accumulates, for each half of the images."""

    signal: Tensor
    """`(2, K, A, Q)`."""
    power: Tensor
    """`(2, K, rings)`: sum of CTF² per ring."""


def _select(images: Tensor, ctf: Tensor | None, half: Tensor, last_ring: int) -> _Data:
    n_px = images.shape[-1]
    ring = compute_ring_index(n_px, images.device).flatten()
    keep = torch.nonzero((ring <= last_ring) & (ring > 0))[:, 0]
    keep = keep[ring[keep].argsort(stable=True)]
    values = centre_spectra(rfft2(images), n_px).flatten(1)[:, keep]
    weight = compute_half_weights((n_px, n_px), images.device).expand(n_px, -1).flatten()[keep]
    chosen = torch.ones_like(values.real) if ctf is None else ctf.flatten(1)[:, keep]
    return _Data(n_px, values, chosen, half, keep, ring[keep], weight)


def _to_spectrum(values: Tensor, data: _Data) -> Tensor:
    """Put coefficients `(..., q)` of the first q kept elements into half spectra `(..., N, N // 2 + 1)`."""
    full = torch.zeros(
        *values.shape[:-1], data.n_px * (data.n_px // 2 + 1), dtype=torch.complex64, device=values.device
    )
    full[..., data.keep[: values.shape[-1]]] = values.to(torch.complex64)
    return centre_spectra(full.reshape(*values.shape[:-1], data.n_px, data.n_px // 2 + 1), data.n_px)


def _make_shifts(max_shift_px: float, step_px: float, device: torch.device) -> Tensor:
    reach = int(max_shift_px / step_px + 1e-6)
    line = torch.arange(-reach, reach + 1, device=device) * step_px
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).reshape(-1, 2)
    return grid[grid.norm(dim=1) <= max_shift_px + 1e-6]


def _shift_phases(shifts: Tensor, data: _Data, q: int) -> Tensor:
    """Return the factors `(T, q)` that move the content of an image by minus the shift."""
    ky, kx = compute_frequency_2d((data.n_px, data.n_px), device=shifts.device)
    y = ky.expand(-1, kx.shape[1]).flatten()[data.keep[:q]]
    x = kx.expand(ky.shape[0], -1).flatten()[data.keep[:q]]
    angle = 2 * torch.pi * (shifts[:, :1] * y + shifts[:, 1:] * x)
    return torch.polar(torch.ones_like(angle), angle)


def _as_real(values: Tensor) -> Tensor:
    return torch.view_as_real(values).flatten(-2)


class _Expectation:
    """Compares images with the turned averages; batch by batch, since all comparisons at once would not fit in memory."""

    def __init__(
        self, data: _Data, averages: Tensor, grid: _Grid, noise: Tensor, offset: Tensor, max_shift_px: float
    ) -> None:
        n_classes, n_angles = len(averages), len(grid.angles)
        turned = rotate_images(averages.repeat_interleave(n_angles, 0), grid.angles.repeat(n_classes))
        q = int((data.ring <= grid.last_ring).sum())
        self.references = centre_spectra(rfft2(turned), data.n_px).flatten(1)[:, data.keep[:q]]
        self.data, self.q, self.shape = data, q, (len(grid.shifts), n_classes, n_angles)
        self.shifts, self.offset, self.max_shift_px = grid.shifts, offset, max_shift_px
        self.phases = _shift_phases(grid.shifts, data, q)
        self.precision = (data.weight / noise[data.ring].clamp_min(1e-20))[:q]

    def split(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the indices in batches that fit in memory."""
        size = self.shape[0] * max(self.shape[1] * self.shape[2], 2 * self.q)
        return torch.split(index, max(1, _BATCH_FLOATS // size))

    def compare(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return log likelihoods `(b, T, K, A)` up to a constant for each image, and the shifted images `(b, T, q)`."""
        values = self.data.values[index, : self.q]
        if bool(self.offset.any()):
            values = values * _shift_phases(self.offset[index], self.data, self.q)
        shifted = values[:, None] * self.phases[None]
        ctf = self.data.ctf[index, : self.q]
        weighted = shifted * (ctf * self.precision)[:, None]
        cross = _as_real(weighted).flatten(0, 1) @ _as_real(self.references).T
        power = (ctf.square() * self.precision) @ self.references.abs().square().T
        distance = (self.offset[index, None] + self.shifts[None]).norm(dim=2)
        prior = -2 * (distance / max(self.max_shift_px, 1.0)).square()
        prior = torch.where(distance <= self.max_shift_px + _SLACK_PX, prior, prior - 1e6)
        score = cross.reshape(len(index), self.shape[0], -1) - 0.5 * power[:, None] + prior[..., None]
        return score.reshape(len(index), *self.shape), shifted


def _accumulate(step: _Expectation, data: _Data, n_rings: int) -> tuple[_Sums, Tensor]:
    """Return what the maximisation needs, and the index of the best shift of every image, `(n,)`."""
    n_shifts, n_classes, n_angles = step.shape
    signal = torch.zeros(2, n_classes * n_angles, 2 * step.q, device=data.values.device)
    power = torch.zeros(2, n_classes, n_rings, device=data.values.device)
    ring_power = torch.zeros(len(data.values), n_rings, device=data.values.device)
    ring_power.index_add_(1, data.ring, data.ctf.square() * data.weight)
    best = torch.zeros(len(data.values), dtype=torch.long, device=data.values.device)
    for half in range(2):
        for index in step.split(torch.nonzero(data.half == half)[:, 0]):
            score, shifted = step.compare(index)
            flat = score.reshape(len(index), -1)
            most, where = flat.max(dim=1, keepdim=True)
            best[index] = where[:, 0] // (n_classes * n_angles)
            gamma = torch.exp(flat - most)
            gamma = torch.where(gamma < _NEGLIGIBLE, torch.zeros_like(gamma), gamma)
            gamma = (gamma / gamma.sum(dim=1, keepdim=True)).reshape(len(index) * n_shifts, -1)
            corrected = shifted * data.ctf[index, None, : step.q]
            signal[half] += gamma.T @ _as_real(corrected).flatten(0, 1)
            by_class = gamma.reshape(len(index), n_shifts, n_classes, n_angles).sum(dim=(1, 3))
            power[half] += by_class.T @ ring_power[index]
    spectra = torch.view_as_complex(signal.reshape(2, n_classes, n_angles, step.q, 2))
    return _Sums(spectra, power), best


def _turn_back(signal: Tensor, angles: Tensor, data: _Data) -> Tensor:
    """Return the sums over angles, turned back, as half spectra of images: `(2, K, A, q)` to `(2, K, N, N // 2 + 1)`."""
    n_classes, n_angles = signal.shape[1:3]
    images = irfft2(_to_spectrum(signal.flatten(0, 2), data), (data.n_px, data.n_px))
    turned = rotate_images(images, -angles.repeat(2 * n_classes))
    total = turned.reshape(2, n_classes, n_angles, data.n_px, data.n_px).sum(dim=2)
    return rfft2(total)


def _average(sums: _Sums, angles: Tensor, data: _Data, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return averages `(K, N, N)`, ring correlations of their halves `(K, rings)`, and the summed CTF² of each class `(K,)`."""
    counts = torch.bincount(data.ring, weights=data.weight, minlength=sums.power.shape[-1]).float().clamp_min(1)
    averages, correlation = combine_halves(_turn_back(sums.signal, angles, data), sums.power / counts, mask)
    return averages, correlation, sums.power.sum(dim=(0, 2))


def _reseed(averages: Tensor, weight: Tensor, data: _Data, generator: torch.Generator) -> Tensor:
    """Give classes that have lost their images the average of the largest, turned and a little changed, to split it."""
    n_classes = len(averages)
    lost = torch.nonzero(weight < _LOST_SHARE / n_classes * weight.sum())[:, 0]
    if not len(lost):
        return averages
    averages = averages.clone()
    largest = averages[int(weight.argmax())]
    noise = torch.randn(len(lost), *largest.shape, generator=generator).to(averages.device)
    ring = compute_ring_index(data.n_px, averages.device)
    smooth = irfft2(rfft2(noise) * (ring <= 6), (data.n_px, data.n_px))
    smooth = smooth / smooth.std(dim=(1, 2), keepdim=True) * largest.std() * 0.5
    averages[lost] = largest + smooth * (largest.abs() > 0)
    return averages


def _recentre(averages: Tensor, max_shift_px: float) -> Tensor:
    """Move the mass centre of every average towards the centre, by at most a pixel so that alignments follow."""
    centre = compute_mass_centre(averages)
    length = centre.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return apply_shift_2d(averages, -centre * (length.clamp_max(min(1.0, max_shift_px)) / length))


def _estimate_noise(data: _Data, averages: Tensor | None, shares: Tensor | None, n_rings: int) -> Tensor:
    """Return the noise power per ring: that of the images less what the averages explain, half of the images' at least."""
    counts = torch.bincount(data.ring, weights=data.weight, minlength=n_rings).float().clamp_min(1)

    def ring_mean(values: Tensor) -> Tensor:
        return torch.zeros(n_rings, device=values.device).index_add_(0, data.ring, values * data.weight) / counts

    total = ring_mean(data.values.abs().square().mean(dim=0))
    if averages is None or shares is None:
        return total
    spectra = rfft2(averages).flatten(1)[:, data.keep].abs().square()
    explained = ring_mean((shares[:, None] * spectra).sum(dim=0) * data.ctf.square().mean(dim=0))
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
    settings: ClassificationSettings, last_ring: int, n_px: int, reach: float, device: torch.device
) -> _Grid:
    """Return angles and shifts as fine as the resolution asks for, the shifts up to `reach` steps."""
    n_angles = int(min(72, max(24, 4 * round(2 * torch.pi * settings.mask_radius_px * last_ring / n_px / 4))))
    angles = torch.arange(n_angles, device=device) * (360.0 / n_angles)
    step = max(1.0, n_px / last_ring / 4) * (_GLOBAL_STEP if math.isinf(reach) else 1.0)
    return _Grid(angles, _make_shifts(min(settings.max_shift_px, reach * step), step, device), last_ring)


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
    n_px, n_rings = images.shape[-1], settings.last_ring + 1
    generator = torch.Generator().manual_seed(settings.seed)
    data = _select(images, ctf, half, settings.last_ring)
    mask = make_soft_circle(n_px, settings.mask_radius_px, max(3.0, 0.1 * settings.mask_radius_px), images.device)
    averages = _start(images, settings, mask, generator)
    noise = _estimate_noise(data, None, None, n_rings)
    last, offset = settings.first_ring, torch.zeros(len(images), 2, device=images.device)
    for iteration in range(settings.n_iterations):
        # Once every image has been placed within reach of a coarse step, only its neighbourhood is searched.
        everywhere = iteration < _N_GLOBAL or iteration % _N_GLOBAL_EVERY == 0
        grid = _make_grid(settings, last, n_px, math.inf if everywhere else _LOCAL_REACH, images.device)
        # Turning the grid a little each time keeps averages from locking to it.
        turn = float(torch.rand(1, generator=generator)) * (360.0 / len(grid.angles))
        grid = _Grid(grid.angles + turn, grid.shifts, last)
        start = torch.zeros_like(offset) if everywhere else offset
        step = _Expectation(data, averages, grid, noise, start, settings.max_shift_px)
        sums, best = _accumulate(step, data, n_rings)
        offset = start + grid.shifts[best]
        averages, correlation, weight = _average(sums, grid.angles, data, mask)
        noise = _estimate_noise(data, averages, weight / weight.sum(), n_rings)
        if iteration < settings.n_iterations - _N_QUIET:
            averages = _reseed(_recentre(averages, settings.max_shift_px) * mask, weight, data, generator)
        if iteration >= _N_GLOBAL:
            reached = sorted(find_resolution_ring(curve) for curve in correlation[weight > 0.02 * weight.sum()])
            goal = reached[len(reached) * 3 // 4] if reached else settings.first_ring
            last = int(min(settings.last_ring, max(last, goal + 2), last + 4))
        if progress is not None:
            progress((iteration + 1) / (settings.n_iterations + 1), f"2D classes, ring {last}")
    grid = _make_grid(settings, last, n_px, _LOCAL_REACH, images.device)
    step = _Expectation(data, averages, grid, noise, offset, settings.max_shift_px)
    return _assign(images, ctf, data, step, grid, mask)


def _refine_angle(score: Tensor, best: Tensor) -> Tensor:
    """Return by what part of a step the peak over angles lies beside the best, from a parabola: `(b,)`, -0.5 to 0.5."""
    n_angles = score.shape[-1]
    flat = score.flatten(1)
    base, angle = best - best % n_angles, best % n_angles
    before, at, after = (flat.gather(1, (base + (angle + d) % n_angles)[:, None])[:, 0] for d in (-1, 0, 1))
    curvature = (2 * at - before - after).clamp_min(1e-12)
    return (0.5 * (after - before) / curvature).clamp(-0.5, 0.5)


def _assign(
    images: Tensor, ctf: Tensor | None, data: _Data, step: _Expectation, grid: _Grid, mask: Tensor
) -> Alignment:
    """Give every image its best class, angle and shift, leave empty classes out and average what is left."""
    _, n_classes, n_angles = step.shape
    best, part, probability = [], [], []
    for index in step.split(torch.arange(len(data.values), device=images.device)):
        score, _ = step.compare(index)
        flat = score.reshape(len(index), -1)
        best.append(flat.argmax(dim=1))
        part.append(_refine_angle(score, best[-1]))
        posterior = torch.softmax(flat.double(), dim=1).reshape(score.shape).sum(dim=(1, 3))
        probability.append(posterior.gather(1, (best[-1] // n_angles % n_classes)[:, None])[:, 0])
    which = torch.cat(best)
    number = torch.unique(which // n_angles % n_classes, return_inverse=True)[1]
    angle = grid.angles[which % n_angles] + torch.cat(part) * (360.0 / n_angles)
    shift = step.offset + grid.shifts[which // (n_angles * n_classes)]
    averages, correlation = average_images(images, ctf, data.half, number, angle, shift, mask)
    return Alignment(
        averages=averages,
        resolution_ring=torch.tensor([find_resolution_ring(curve) for curve in correlation]),
        class_index=number,
        angle_deg=angle,
        shift_px=shift,
        probability=torch.cat(probability),
    )
