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
from vitreous.ops.fourier import rfft2
from vitreous.simulate.particles import compute_rotations, draw_orientations

__all__ = ["JUNK", "Beads", "ClassSet", "draw_beads", "make_beads", "simulate_classes"]

Floats = NDArray[np.float64]

JUNK = ("noise", "ice", "crystal", "edge", "aggregate", "mixed", "aside", "dirt")
"""Kinds of junk: noise aligned to something; a blob of ice; a crystal; the edge of carbon; several particles in the mask; views
that do not belong together; a particle beside the centre; something small."""

_MOST_DRAWN = 10
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
        """Return the mean of the projections at (rot, tilt, psi) `(m, 3)`, each shifted by (x, y) `(m, 2)`."""
        sigma = self._beads.sigma * self._diameter_px
        rotations = compute_rotations(angles_deg)[:, :2]
        places = np.einsum("mij,nj->mni", rotations, self._beads.positions) * self._diameter_px + shifts_px[:, None]
        x, y = places.reshape(-1, 2).T.astype(np.float32)
        line = self._line.astype(np.float32)
        across = np.exp(-((line[:, None] - x) ** 2) / np.float32(2 * sigma**2))
        down = np.exp(-((line[:, None] - y) ** 2) / np.float32(2 * sigma**2))
        return np.asarray(down @ across.T, dtype=np.float64) / len(angles_deg)

    def draw_class(self, n: int, errors: tuple[float, float, float], centre: tuple[float, float] = (0, 0)) -> Floats:
        """Return one average of a view: spread of the view and of the angle in the plane (degrees), of the shift (px)."""
        view = draw_orientations(1, self._rng)
        return np.stack([self._draw_half(n, view, errors, centre) for _ in range(2)])

    def _draw_half(
        self, n: int, view: Floats, errors: tuple[float, float, float], centre: tuple[float, float]
    ) -> Floats:
        m = int(np.clip(n // 2, 1, _MOST_DRAWN))
        spread, turn, shift = errors
        angles = view + self._rng.normal(size=(m, 3)) * np.array([spread, spread, turn])
        return self.draw_views(angles, self._rng.normal(0, shift, (m, 2)) + np.array(centre))

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


def _draw_particle(painter: _Painter, scale: _Scale, n: int, rng: np.random.Generator) -> Floats:
    worse = rng.choice([1.0, 1.7, 2.5], p=[0.7, 0.2, 0.1])
    spread, turn, shift = (error * worse for error in scale.errors)
    aside = rng.normal(0, 0.03 * scale.diameter_px, 2)
    halves = painter.draw_class(n, (spread, turn, shift), (float(aside[0]), float(aside[1])))
    if rng.random() < 0.25:
        # Crowded: a neighbour stands out of the mask, smeared over many places.
        angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 1.25) * scale.diameter_px
        there = (float(distance * np.cos(angle)), float(distance * np.sin(angle)))
        halves = halves + rng.uniform(0.1, 0.5) * painter.draw_class(n, (60, 60, 0.15 * scale.diameter_px), there)
    return halves


def _draw_junk(kind: str, painter: _Painter, scale: _Scale, n: int, rng: np.random.Generator) -> Floats:
    """Return the signal of a class of junk for each half, `(2, N, N)`, in the units of `_draw_particle`."""
    d = scale.diameter_px
    spread, turn, shift = scale.errors
    angle = rng.uniform(0, 2 * np.pi)
    towards = np.array([np.cos(angle), np.sin(angle)])
    if kind == "mixed":
        # Views of all directions, or turned by anything: what is left has no detail.
        return painter.draw_class(max(n, 2 * _MOST_DRAWN), (120.0, 120.0, rng.uniform(0.04, 0.12) * d))
    if kind == "aside":
        x, y = towards * rng.uniform(0.42, 0.75) * d
        return painter.draw_class(n, (2 * spread, 2 * turn, 2 * shift), (x, y))
    if kind == "aggregate":
        first = rng.uniform(0.4, 0.62) * d * towards
        halves = painter.draw_class(n, (2 * spread, 2 * turn, 3 * shift), (float(first[0]), float(first[1])))
        for _ in range(int(rng.integers(1, 4))):
            angle += rng.uniform(0.3, 0.7) * np.pi
            other = rng.uniform(0.4, 0.75) * d * np.array([np.cos(angle), np.sin(angle)])
            halves = halves + painter.draw_class(
                n, (rng.choice([2.0, 10.0]) * spread, rng.choice([2.0, 10.0]) * turn, 4 * shift), (other[0], other[1])
            )
        return halves
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
    reference = painter.draw_class(8, (0, 0, 0))[0]
    inside = np.hypot(painter.x, painter.y) < d / 2
    return np.repeat((image / image[inside].std() * reference[inside].std() * strength)[None], 2, axis=0)


def _draw_reference(painter: _Painter, scale: _Scale, cycles: float, rng: np.random.Generator) -> Floats:
    """Return what noise was aligned to, of unit norm: blurred to where the halves share their references."""
    d = scale.diameter_px
    image = (
        painter.draw_class(2, (0, 0, 0))[0] if rng.random() < 0.4 else painter.draw_noise(rng.uniform(0.05, 0.2) * d)
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
    typical = np.stack([painter.draw_views(view[None], np.zeros((1, 2))) for view in draw_orientations(12, rng)])
    inside = np.hypot(painter.x, painter.y) < scale.diameter_px / 2
    unit = scale.contrast / typical[:, inside].std(axis=1).mean()
    pixel = math.exp(rng.uniform(math.log(80), math.log(350))) / scale.diameter_px
    defocus = rng.uniform(7000, 15000) + rng.uniform(0, 12000, 60)
    shared_cycles = rng.uniform(1.5, 5.0)
    ring = compute_ring_index(n_px).clamp_max(n_px // 2)
    rings = torch.arange(n_px // 2 + 1)
    colour = (1 + rng.uniform(0, 3) * torch.exp(-rings / (rng.uniform(0.5, 3) * n_px / scale.diameter_px))).double()
    count = np.exp(rng.uniform(math.log(8), math.log(most_images), len(kinds))).astype(int)
    spectra, ctf_power, image_power, n_images = [], [], [], []
    for kind, n in zip(kinds, count, strict=True):
        if kind == "particle":
            signal = unit * _draw_particle(painter, scale, int(n), rng)
        elif kind != "noise":
            signal = unit * _draw_junk(kind, painter, scale, int(n), rng)
        else:
            signal = np.zeros((2, n_px, n_px))
        # Every image is turned to where its noise looks most like the reference; only noise has nothing better to go by.
        gain = rng.uniform(2.0, 4.5) if kind == "noise" else rng.uniform(0.3, 1.5)
        signal = signal + gain * _draw_reference(painter, scale, shared_cycles, rng)
        parts = [n - n // 2, n // 2]
        clean = rfft2(torch.from_numpy(signal - signal.mean(axis=(1, 2), keepdims=True)))
        power = torch.stack([_sum_ctf_power(n_px, pixel, int(m), defocus, rng) for m in parts])
        noise = rfft2(torch.from_numpy(rng.normal(size=(2, n_px, n_px))))
        spectra.append(clean * power[:, ring] + noise * (power * colour).sqrt()[:, ring])
        ctf_power.append(power)
        signal_power = _mean_over_rings(clean.abs().square(), ring)
        # The scatter of n images is known to one part in the root of the number of their coefficients: as if it were exact.
        image_power.append(signal_power * power + n_px**2 * colour * torch.tensor(parts)[:, None])
        n_images.append(torch.tensor(parts))
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


def _mean_over_rings(values: Tensor, ring: Tensor) -> Tensor:
    n_rings = values.shape[-2] // 2 + 1
    sums = torch.zeros(len(values), n_rings, dtype=values.dtype).index_add_(1, ring.flatten(), values.flatten(1))
    return sums / torch.bincount(ring.flatten(), minlength=n_rings).clamp_min(1)
