"""Classes of simulated particles and of junk, without a classification: what averaging n aligned images gives is drawn directly.

An average is the mean of the views in it, each turned and shifted by its error of alignment, and noise of the power that n images
of known CTF leave. So a thousand classes cost seconds, and a selection can be trained and tested on every kind of junk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.average2d import compute_ring_index, make_soft_circle
from vitreous.ops.class_halves import HalfSums
from vitreous.ops.ctf import compute_ctf_1d
from vitreous.ops.fourier import compute_radial_mean, rfft2
from vitreous.simulate.particles import compute_rotations, draw_orientations

__all__ = ["JUNK", "Beads", "ClassSet", "draw_beads", "make_beads", "simulate_classes"]

Floats = NDArray[np.float64]

JUNK = ("noise", "ice", "crystal", "edge", "aggregate", "mixed", "aside", "dirt")
"""Kinds of junk: noise aligned to something; a blob of ice; a crystal; the edge of carbon; several particles in the mask; views
that do not belong together; a particle beside the centre; something small."""

_MOST_DRAWN = 10
_MOST_MIXED = 40
_MOST_TRIES, _MOST_ALIKE = 4, 0.35
_N_BEADS = 500
_CTF_DRAWS = 40


@dataclass(frozen=True)
class Beads:
    """A molecule as equal Gaussians at `(n, 3)`, in units of its diameter, the origin at their mean; their standard deviation."""

    positions: Floats
    sigma: float


@dataclass(frozen=True)
class ClassSet:
    """The classes of one simulated classification."""

    sums: HalfSums
    kind: tuple[str, ...]
    """`particle`, or one of `JUNK`."""
    diameter_px: float
    mask_radius_px: float

    @property
    def is_particle(self) -> NDArray[np.bool_]:
        """Which classes show particles, `(K,)`."""
        return np.array([kind == "particle" for kind in self.kind])


def make_beads(positions_angstrom: Floats, rng: np.random.Generator) -> tuple[Beads, float]:
    """Return a molecule of some of the atoms, and its diameter in Å: that of the sphere that holds 98 of 100 of them."""
    chosen = rng.choice(len(positions_angstrom), min(_N_BEADS, len(positions_angstrom)), replace=False)
    centred = positions_angstrom[chosen] - positions_angstrom.mean(axis=0)
    diameter = 2 * float(np.quantile(np.linalg.norm(centred, axis=1), 0.98))
    return Beads(centred / diameter, 4.0 / diameter), diameter


def draw_beads(rng: np.random.Generator) -> Beads:
    """Return a made-up molecule: lumps of beads along a walk, alone, as a ring of copies, as two rings, or as a shell."""
    n_lumps = int(rng.integers(4, 14))
    steps = rng.normal(size=(n_lumps, 3))
    walk = np.cumsum(steps / np.linalg.norm(steps, axis=1, keepdims=True) * rng.uniform(0.8, 1.6), axis=0)
    lumps = walk - walk.mean(axis=0)
    beads = lumps[rng.integers(0, n_lumps, 2 * _N_BEADS)] + rng.normal(0, rng.uniform(0.35, 0.7), (2 * _N_BEADS, 3))
    form = rng.choice(["alone", "ring", "rings", "shell"], p=[0.45, 0.25, 0.2, 0.1])
    if form in ("ring", "rings"):
        n = int(rng.integers(2, 8))
        beads = beads + np.array([np.linalg.norm(beads, axis=1).mean() * rng.uniform(0.6, 0.3 * n + 0.6), 0, 0])
        turn = compute_rotations(np.stack([np.arange(n) * 360 / n, np.zeros(n), np.zeros(n)], axis=1))
        beads = np.concatenate([beads[:: max(1, n // 2)] @ one for one in turn])
        if form == "rings":
            beads = beads + np.array([0, 0, np.ptp(beads[:, 2]) * rng.uniform(0.3, 0.6)])
            beads = np.concatenate([beads, beads * np.array([1, -1, -1])])
    elif form == "shell":
        direction = beads / np.linalg.norm(beads, axis=1, keepdims=True)
        patches = compute_rotations(draw_orientations(24, rng))
        beads = np.concatenate([direction[::20] * rng.uniform(0.75, 1.0, (50, 1)) @ one for one in patches])
    beads = rng.permutation(beads)[:_N_BEADS]
    beads = beads - beads.mean(axis=0)
    diameter = 2 * np.quantile(np.linalg.norm(beads, axis=1), 0.98)
    return Beads(beads / diameter, float(rng.uniform(0.015, 0.035)))


class _Painter:
    """Draws clean pictures on the grid of one classification."""

    def __init__(self, beads: Beads, n_px: int, diameter_px: float, rng: np.random.Generator) -> None:
        self._beads, self._n_px, self._diameter_px, self._rng = beads, n_px, diameter_px, rng
        self._line = np.arange(n_px) - n_px // 2
        self.y, self.x = np.meshgrid(self._line, self._line, indexing="ij")

    def draw_views(self, angles_deg: Floats, shifts_px: Floats) -> Floats:
        """Return projections `(m, N, N)` at (rot, tilt, psi) `(m, 3)`, each shifted by (x, y) `(m, 2)`."""
        sigma = self._beads.sigma * self._diameter_px
        rotations = compute_rotations(angles_deg)[:, :2]
        places = np.einsum("mij,nj->min", rotations, self._beads.positions) * self._diameter_px + shifts_px[..., None]
        x, y = places.swapaxes(0, 1)[:, :, None].astype(np.float32)
        line = self._line.astype(np.float32)[:, None]
        across = np.exp(-((line - x) ** 2) / np.float32(2 * sigma**2))
        down = np.exp(-((line - y) ** 2) / np.float32(2 * sigma**2))
        return np.asarray(down @ across.swapaxes(1, 2), dtype=np.float64)

    def draw_class(
        self,
        n: int,
        errors: tuple[float, float, float],
        centre: tuple[float, float] = (0, 0),
        n_views: int = 1,
        most_drawn: int = _MOST_DRAWN,
    ) -> "_Signal":
        """Draw what n images show: spread of a view and of the angle in the plane (degrees), of the shift (px)."""
        views = draw_orientations(n_views, self._rng)
        m = int(np.clip(n // 2, 2, most_drawn))
        spread, turn, shift = errors
        halves, scatter = [], []
        for _ in range(2):
            chosen = views[np.arange(m) % n_views]
            angles = chosen + self._rng.normal(size=(m, 3)) * np.array([spread, spread, turn])
            drawn = self.draw_views(angles, self._rng.normal(0, shift, (m, 2)) + np.array(centre))
            halves.append(drawn.mean(axis=0))
            scatter.append(_measure_power(drawn - halves[-1]).sum(axis=0) / (m - 1))
        return _Signal(np.stack(halves), np.stack(scatter))

    def draw_blob(self, radius_px: float, edge_px: float, centre: tuple[float, float], roughness: float) -> Floats:
        """Return a disc of an uneven outline."""
        x, y = self.x - centre[0], self.y - centre[1]
        angle = np.arctan2(y, x)
        waves = sum(
            self._rng.normal(0, roughness / k) * np.cos(k * angle + self._rng.uniform(0, 2 * np.pi))
            for k in range(2, 6)
        )
        return np.asarray(0.5 - 0.5 * np.tanh((np.hypot(x, y) - radius_px * (1 + waves)) / edge_px))

    def draw_noise(self, smooth_px: float) -> Floats:
        """Return smooth noise of deviation 1."""
        return _smooth(self._rng.normal(size=(self._n_px, self._n_px)), smooth_px)


@dataclass(frozen=True)
class _Signal:
    """What the images of a class show."""

    halves: Floats
    """`(2, N, N)`: mean of the images of each half."""
    scatter: Floats
    """`(2, rings)`: mean power of what single images show beyond that."""

    def add(self, other: "_Signal", factor: float = 1.0) -> "_Signal":
        return _Signal(self.halves + factor * other.halves, self.scatter + factor**2 * other.scatter)


def _measure_power(images: Floats) -> Floats:
    """Return the mean power of the rings of images `(..., N, N)`: `(..., N // 2 + 1)`."""
    spectra = rfft2(torch.from_numpy(images))
    return compute_radial_mean(spectra.abs().square(), (images.shape[-2], images.shape[-1])).numpy()


def _measure_likeness(signal: _Signal, diameter_px: float) -> float:
    """Return the share of the images' power at 2 to 5 cycles per diameter that their mean has: most where views are alike."""
    power, n_px = _measure_power(signal.halves), signal.halves.shape[-1]
    rings = np.arange(power.shape[-1])
    weight = rings * ((rings >= 2 * n_px / diameter_px) & (rings < 5 * n_px / diameter_px))
    shown = float((power @ weight).sum())
    return shown / (shown + float((signal.scatter @ weight).sum()))


def _smooth(image: Floats, sigma_px: float) -> Floats:
    n_px = image.shape[-1]
    k = np.hypot(np.fft.fftfreq(n_px)[:, None], np.fft.rfftfreq(n_px))
    smooth = np.fft.irfft2(np.fft.rfft2(image) * np.exp(-2 * (np.pi * k * sigma_px) ** 2), s=image.shape[-2:])
    return np.asarray((smooth - smooth.mean()) / smooth.std())


@dataclass(frozen=True)
class _Scale:
    """What is common to the classes of one classification."""

    diameter_px: float
    mask_radius_px: float
    contrast: float
    """Deviation of a view inside its circle, in deviations of an image's noise."""
    errors: tuple[float, float, float]


def _draw_particle(painter: _Painter, scale: _Scale, n: int, rng: np.random.Generator) -> _Signal:
    worse = rng.choice([1.0, 1.7, 2.5], p=[0.7, 0.2, 0.1])
    spread, turn, shift = (error * worse for error in scale.errors)
    aside = rng.normal(0, 0.03 * scale.diameter_px, 2)
    signal = painter.draw_class(n, (spread, turn, shift), (float(aside[0]), float(aside[1])))
    if rng.random() < 0.25:
        # Crowded: a neighbour stands out of the mask, smeared over many places.
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 1.25) * scale.diameter_px
        there = (float(distance * np.cos(angle)), float(distance * np.sin(angle)))
        neighbour = painter.draw_class(n, (60, 60, 0.15 * scale.diameter_px), there)
        signal = signal.add(neighbour, rng.uniform(0.1, 0.5))
    return signal


def _draw_junk(kind: str, painter: _Painter, scale: _Scale, n: int, rng: np.random.Generator) -> _Signal:
    """Return what the images of a class of junk show, in the units of `_draw_particle`."""
    d = scale.diameter_px
    spread, turn, shift = scale.errors
    angle = rng.uniform(0, 2 * np.pi)
    towards = np.array([np.cos(angle), np.sin(angle)])
    if kind == "mixed":
        # Views of all directions, turned by anything; or a few that were taken for one: what is left has little detail.
        if rng.random() < 0.5:
            return painter.draw_class(n, (120.0, 120.0, rng.uniform(0.04, 0.12) * d), most_drawn=_MOST_MIXED)
        errors = (1.5 * spread, 1.5 * turn, rng.uniform(1.0, 3.0) * shift)
        for _ in range(_MOST_TRIES):
            signal = painter.draw_class(n, errors, n_views=int(rng.integers(3, 7)), most_drawn=_MOST_MIXED)
            if _measure_likeness(signal, d) < _MOST_ALIKE:
                break
        return signal
    if kind == "aside":
        x, y = towards * rng.uniform(0.42, 0.75) * d
        return painter.draw_class(n, (2 * spread, 2 * turn, 2 * shift), (x, y))
    if kind == "aggregate":
        first = rng.uniform(0.4, 0.62) * d * towards
        signal = painter.draw_class(n, (2 * spread, 2 * turn, 3 * shift), (float(first[0]), float(first[1])))
        for _ in range(int(rng.integers(1, 4))):
            angle += rng.uniform(0.3, 0.7) * np.pi
            other = rng.uniform(0.4, 0.75) * d * np.array([np.cos(angle), np.sin(angle)])
            errors = (rng.choice([2.0, 10.0]) * spread, rng.choice([2.0, 10.0]) * turn, 4 * shift)
            signal = signal.add(painter.draw_class(n, errors, (other[0], other[1])))
        return signal
    if kind == "edge":
        across = (painter.x * towards[0] + painter.y * towards[1]) - rng.uniform(-0.35, 0.35) * d
        image = (
            0.5
            + 0.5 * np.tanh(across / (rng.uniform(0.03, 0.25) * d))
            + 0.3 * (rng.random() < 0.5) * np.exp(-((across / (0.08 * d)) ** 2))
        )
    elif kind == "ice":
        x, y = towards * rng.uniform(0, 0.35) * d
        radius = rng.uniform(0.15, 0.8) * d
        image = painter.draw_blob(radius, rng.uniform(0.03, 0.2) * d, (x, y), rng.uniform(0, 0.15))
        image = image - rng.uniform(0, 0.4) * painter.draw_blob(1.3 * radius, 0.1 * d, (x, y), 0.05)
    elif kind == "crystal":
        period = rng.uniform(0.08, 0.3) * d
        waves = np.cos(2 * np.pi * (painter.x * towards[0] + painter.y * towards[1]) / period)
        image = waves * (1 + painter.draw_noise(0.3 * d)) if rng.random() < 0.5 else painter.draw_noise(0.06 * d)
    else:
        x, y = towards * rng.uniform(0, 0.3) * d
        image = painter.draw_blob(rng.uniform(0.08, 0.22) * d, rng.uniform(0.03, 0.1) * d, (x, y), 0.2)
    strength = rng.choice([rng.uniform(0.3, 1.5), rng.uniform(1.5, 6.0)])
    reference = painter.draw_class(8, (0, 0, 0)).halves[0]
    inside = np.hypot(painter.x, painter.y) < d / 2
    halves = np.repeat((image / image[inside].std() * reference[inside].std() * strength)[None], 2, axis=0)
    # No two edges or pieces of ice are alike.
    return _Signal(halves, rng.uniform(0, 1.5) * _measure_power(halves))


def _draw_reference(painter: _Painter, scale: _Scale, cycles: float, rng: np.random.Generator) -> Floats:
    """Return what noise was aligned to, of unit norm: blurred to where the halves share their references."""
    d = scale.diameter_px
    image = (
        painter.draw_class(2, (0, 0, 0)).halves[0]
        if rng.random() < 0.4
        else painter.draw_noise(rng.uniform(0.05, 0.2) * d)
    )
    circle = make_soft_circle(len(painter.x), scale.mask_radius_px, 0.1 * d).numpy()
    k = np.hypot(np.fft.fftfreq(len(painter.x))[:, None], np.fft.rfftfreq(len(painter.x))) * d
    blurred = np.fft.irfft2(np.fft.rfft2(image * circle) * np.exp(-((k / cycles) ** 8)), s=image.shape)
    return np.asarray(blurred / np.linalg.norm(blurred))


def _sum_ctf_power(n_px: int, pixel_angstrom: float, n: int, defocus: Floats, rng: np.random.Generator) -> Tensor:
    """Return the sum over n images of CTF² per ring, each of a defocus of its own."""
    m = max(1, min(n, _CTF_DRAWS))
    chosen = torch.from_numpy(rng.choice(defocus, m))[:, None]
    k = torch.arange(n_px // 2 + 1, dtype=torch.float64) / (n_px * pixel_angstrom)
    ctf = compute_ctf_1d(k[None], chosen, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1)
    return ctf.square().mean(dim=0) * n


def _draw_scale(n_px: int, rng: np.random.Generator) -> _Scale:
    diameter = n_px / rng.uniform(1.35, 2.1)
    error = math.exp(rng.uniform(math.log(1.5), math.log(7.0)))
    return _Scale(
        diameter_px=diameter,
        mask_radius_px=min(1.1 * diameter / 2, 0.47 * n_px),
        contrast=math.sqrt(math.exp(rng.uniform(math.log(0.02), math.log(0.4)))),
        errors=(1.2 * error, error, 0.006 * diameter * error / 3),
    )


def simulate_classes(
    beads: Beads, kinds: Sequence[str], rng: np.random.Generator, n_px: int = 64, most_images: int = 2000
) -> ClassSet:
    """Return the half sums of classes of the given kinds, of one molecule, pixel size, noise and quality of alignment.

    Parameters
    ----------
    beads
        The molecule.
    kinds
        `particle` or one of `JUNK` for each class.
    rng
        Where chance comes from: size, contrast, errors, spectrum of the noise, number of images.
    n_px
        Side of the images.
    most_images
        Greatest number of images of a class; the least is 8.
    """
    scale = _draw_scale(n_px, rng)
    painter = _Painter(beads, n_px, scale.diameter_px, rng)
    typical = painter.draw_views(draw_orientations(12, rng), np.zeros((12, 2)))
    inside = np.hypot(painter.x, painter.y) < scale.diameter_px / 2
    unit = scale.contrast / typical[:, inside].std(axis=1).mean()
    pixel = math.exp(rng.uniform(math.log(80), math.log(350))) / scale.diameter_px
    defocus = rng.uniform(7000, 15000) + rng.uniform(0, 12000, 60)
    shared_cycles = rng.uniform(1.5, 5.0)
    ring = compute_ring_index(n_px).clamp_max(n_px // 2)
    rings = torch.arange(n_px // 2 + 1)
    fall = torch.exp(-rings / (rng.uniform(0.5, 3) * n_px / scale.diameter_px)).double()
    colour, uneven = 1 + rng.uniform(0, 3) * fall, rng.uniform(0.01, 0.08)
    count = np.exp(rng.uniform(math.log(8), math.log(most_images), len(kinds))).astype(int)
    spectra, ctf_power, image_power, n_images = [], [], [], []
    for kind, n in zip(kinds, count, strict=True):
        signal = _draw_signal(kind, painter, scale, int(n), rng)
        # Every image is turned to where its noise looks most like the reference; only noise has nothing better to go by.
        gain = rng.uniform(2.0, 4.5) if kind == "noise" else rng.uniform(0.3, 1.5)
        mean = unit * signal.halves + gain * _draw_reference(painter, scale, shared_cycles, rng)
        parts = torch.tensor([n - n // 2, n // 2])
        clean = rfft2(torch.from_numpy(mean - mean.mean(axis=(1, 2), keepdims=True)))
        power = torch.stack([_sum_ctf_power(n_px, pixel, int(m), defocus, rng) for m in parts])
        # Ice is not everywhere as thick.
        level = colour * (1 + rng.normal(0, uneven)) * (1 + rng.normal(0, uneven) * fall)
        noise = rfft2(torch.from_numpy(rng.normal(size=(2, n_px, n_px))))
        spectra.append(clean * power[:, ring] + noise * (power * level).sqrt()[:, ring])
        ctf_power.append(power)
        explained = compute_radial_mean(spectra[-1].abs().square(), (n_px, n_px)) / power.clamp_min(1e-6)
        left = _draw_scatter(n_px**2 * level, parts - 1, ring, rng) + unit**2 * torch.from_numpy(signal.scatter) * power
        image_power.append(explained + left)
        n_images.append(parts)
    return ClassSet(
        sums=HalfSums(
            spectra=torch.stack(spectra, dim=1).to(torch.complex64),
            ctf_power=torch.stack(ctf_power, dim=1).float(),
            image_power=torch.stack(image_power, dim=1).float(),
            n_images=torch.stack(n_images, dim=1).float(),
        ),
        kind=tuple(kinds),
        diameter_px=scale.diameter_px,
        mask_radius_px=scale.mask_radius_px,
    )


def _draw_signal(kind: str, painter: _Painter, scale: _Scale, n: int, rng: np.random.Generator) -> _Signal:
    if kind == "particle":
        return _draw_particle(painter, scale, n, rng)
    if kind != "noise":
        return _draw_junk(kind, painter, scale, n, rng)
    n_px = len(painter.x)
    return _Signal(np.zeros((2, n_px, n_px)), rng.uniform(0, 0.5) * painter.draw_class(2, (90, 90, 0)).scatter)


def _draw_scatter(power: Tensor, degrees: Tensor, ring: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the sum of squares of noise of a power per ring, of some degrees of freedom per coefficient of each half."""
    n_coefficients = torch.bincount(ring.flatten(), minlength=len(power))
    shape = (degrees[:, None] * n_coefficients).clamp_min(1).numpy()
    return power * degrees[:, None] * torch.from_numpy(rng.gamma(shape) / shape)
