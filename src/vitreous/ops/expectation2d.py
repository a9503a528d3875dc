"""The expectation step of 2D classification: images against turned averages, over class, in-plane angle and shift.

Only Fourier coefficients below a ring are compared, as `(..., q)` lists. The transform of a turned image is read from the padded
transform of the image with a Kaiser-Bessel kernel, and the transpose of that reading turns sums of images back.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.average2d import (
    KERNEL_TAPS,
    PADDING,
    centre_spectra,
    compute_kernel_taps,
    compute_kernel_transform,
    compute_power,
    compute_ring_index,
    multiply_complex,
)
from vitreous.ops.fourier import compute_frequency_2d, compute_half_weights, compute_radial_mean, rfft2

__all__ = ["Expectation", "Grid", "ImageData", "Sums", "Turner", "accumulate_sums", "select_coefficients"]

_BATCH_FLOATS = 24_000_000
_IMAGE_BATCH = 1024
_NEGLIGIBLE = 1e-3
_SLACK_PX = 0.01
_OUTSIDE = 1e6
_TURNER_ELEMENTS = 2_000_000


@dataclass(frozen=True)
class ImageData:
    """Fourier coefficients of all images within the highest ring, by increasing ring, as `(n, Q)`; the origin is left out."""

    n_px: int
    values: Tensor
    """Complex, of images centred at N // 2."""
    ctf: Tensor
    half: Tensor
    """`(n,)`, 0 or 1."""
    ring_power: Tensor
    """`(n, rings)`: mean CTF² of each image per ring."""
    mean_power: Tensor
    """`(Q,)`: |value|², mean over the images."""
    mean_ctf_power: Tensor
    """`(Q,)`: CTF², mean over the images."""
    keep: Tensor
    """Flat indices into the half spectrum, `(Q,)`."""
    frequency: Tensor
    """`(Q, 2)` as (y, x), cycles per pixel."""
    ring: Tensor
    weight: Tensor
    """How often each coefficient stands in the full spectrum, `(Q,)`."""


@dataclass(frozen=True)
class Grid:
    """What is tried: every angle with every shift, compared up to a ring."""

    angles: Tensor
    """`(A,)`, degrees; the second half must be the first plus 180: those transforms are each other's conjugates."""
    shifts: Tensor
    """`(T, 2)` as (y, x), px."""
    last_ring: int


@dataclass(frozen=True)
class Sums:
    """What the maximisation needs, for each half of the images."""

    images: Tensor
    """`(2, K, N, N)`: sums of images times their CTF, turned and moved back."""
    power: Tensor
    """`(2, K, rings)`: sum of CTF² per ring."""


def select_coefficients(images: Tensor, ctf: Tensor | None, half: Tensor, last_ring: int) -> ImageData:
    """Return the coefficients up to a ring of images `(n, N, N)` with CTF `(n, N, N // 2 + 1)`, or None for 1."""
    n_px, device = images.shape[-1], images.device
    shape = (n_px, n_px)
    ring = compute_ring_index(n_px, device).flatten()
    keep = torch.nonzero((ring <= last_ring) & (ring > 0))[:, 0]
    keep = keep[ring[keep].argsort(stable=True)]
    values = torch.empty(len(images), len(keep), dtype=torch.complex64, device=device)
    chosen = torch.ones(len(images), len(keep), device=device)
    ring_power = torch.ones(len(images), last_ring + 1, device=device)
    for index in torch.split(torch.arange(len(images), device=device), _IMAGE_BATCH):
        values[index] = centre_spectra(rfft2(images[index]), n_px).flatten(1)[:, keep]
        if ctf is not None:
            chosen[index] = ctf[index].flatten(1)[:, keep]
            ring_power[index] = compute_radial_mean(ctf[index].square(), shape, last_ring + 1)
    ky, kx = compute_frequency_2d(shape, device=device)
    frequency = torch.stack([ky.expand(n_px, kx.shape[1]), kx.expand(n_px, kx.shape[1])], dim=-1).reshape(-1, 2)
    mean_power, mean_ctf_power = torch.zeros(2, len(keep), dtype=torch.float64, device=device)
    for index in torch.split(torch.arange(len(images), device=device), _IMAGE_BATCH):
        mean_power += compute_power(values[index]).double().sum(dim=0) / len(images)
        mean_ctf_power += chosen[index].square().double().sum(dim=0) / len(images)
    return ImageData(
        n_px=n_px,
        values=values,
        ctf=chosen,
        half=half,
        ring_power=ring_power,
        mean_power=mean_power.float(),
        mean_ctf_power=mean_ctf_power.float(),
        keep=keep,
        frequency=frequency[keep],
        ring=ring[keep],
        weight=compute_half_weights(shape, device).expand(n_px, -1).flatten()[keep],
    )


def _shift_phases(shifts: Tensor, frequency: Tensor) -> Tensor:
    """Return the factors `(T, q)` that move the content of an image by minus the shift."""
    angle = 2 * torch.pi * (shifts[:, :1] * frequency[:, 0] + shifts[:, 1:] * frequency[:, 1])
    return torch.complex(angle.cos(), angle.sin())


def _as_real(values: Tensor) -> Tensor:
    return torch.view_as_real(values).flatten(-2)


class Turner:
    """Turns images by each of some angles, from +x towards +y about N // 2, given and wanted as lists of coefficients.

    Parameters
    ----------
    n_px
        Side of the images.
    frequency
        `(q, 2)` as (y, x): the coefficients, in cycles per pixel, one of each Friedel pair.
    weight
        `(q,)`: how often each stands in the full spectrum.
    angles
        `(A,)`, degrees.
    """

    def __init__(self, n_px: int, frequency: Tensor, weight: Tensor, angles: Tensor) -> None:
        self._n_px, self._frequency, self._weight, self._angles = n_px, frequency, weight, angles
        self._fine = n_px * PADDING
        place = (torch.arange(n_px, device=angles.device) - n_px // 2).double() / self._fine
        edge = compute_kernel_transform(place).float()
        self._kernel_transform = edge[:, None] * edge

    def _read(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield matrices that read the turned coefficients from the fine grid, `(angles * q, fine²)`, some angles at a time."""
        size = max(1, _TURNER_ELEMENTS // (len(self._frequency) * KERNEL_TAPS**2))
        for start in range(0, len(self._angles), size):
            part = slice(start, min(start + size, len(self._angles)))
            angle = torch.deg2rad(self._angles[part].double())[:, None]
            y, x = self._frequency.double().T * self._fine
            (rows, weights_y), (columns, weights_x) = (
                compute_kernel_taps(angle.cos() * y - angle.sin() * x),
                compute_kernel_taps(angle.cos() * x + angle.sin() * y),
            )
            row, column = rows % self._fine, columns % self._fine
            index = (row[..., :, None] * self._fine + column[..., None, :]).reshape(-1)
            weights = (weights_y[..., :, None] * weights_x[..., None, :]).float().reshape(-1)
            lines = torch.arange(len(index) // KERNEL_TAPS**2, device=index.device).repeat_interleave(KERNEL_TAPS**2)
            shape = (len(index) // KERNEL_TAPS**2, self._fine**2)
            yield part, torch.sparse_coo_tensor(torch.stack([lines, index]), weights, shape, check_invariants=False)

    def turn(self, images: Tensor) -> Tensor:
        """Return the coefficients of turned images `(K, N, N)`: `(K, A, q)`."""
        n_px, q = self._n_px, len(self._frequency)
        padded = torch.zeros(len(images), self._fine, self._fine, device=images.device)
        padded[:, :n_px, :n_px] = images / self._kernel_transform
        padded = torch.roll(padded, (-(n_px // 2), -(n_px // 2)), dims=(1, 2))
        table = _as_real(torch.fft.fft2(padded).flatten(1).T.contiguous())
        out = torch.empty(len(images), len(self._angles), q, dtype=torch.complex64, device=images.device)
        for part, matrix in self._read():
            read = torch.sparse.mm(matrix, table).reshape(-1, q, len(images), 2)
            out[:, part] = torch.view_as_complex(read.permute(2, 0, 1, 3).contiguous())
        return out

    def turn_back(self, values: Tensor) -> Tensor:
        """Return the sum over angles of images with coefficients `(K, A, q)`, each turned back by its angle: `(K, N, N)`."""
        n_px, n_images = self._n_px, len(values)
        table = torch.zeros(self._fine**2, 2 * n_images, device=values.device)
        weighted = torch.view_as_real(values * self._weight).permute(1, 2, 0, 3)
        for part, matrix in self._read():
            table += torch.sparse.mm(matrix.t(), weighted[part].reshape(-1, 2 * n_images))
        spectra = torch.view_as_complex(table.reshape(self._fine, self._fine, n_images, 2)).permute(2, 0, 1)
        images = torch.fft.ifft2(spectra).real * PADDING**2
        half = n_px // 2
        return torch.roll(images, (half, half), dims=(1, 2))[:, :n_px, :n_px] / self._kernel_transform


class Expectation:
    """Compares images with the turned averages of their half; batch by batch, since all at once would not fit in memory.

    Parameters
    ----------
    data
        The images.
    averages
        `(2, K, N, N)`: what the images of each half are compared with.
    grid
        Angles and shifts.
    noise
        Noise power per ring, E|noise coefficient|².
    offset
        `(n, 2)` as (y, x), px: what the shifts of each image are counted from.
    max_shift_px
        Total shifts beyond are excluded; within they are normally distributed, this being two standard deviations.

    Raises
    ------
    ValueError
        If the second half of the angles is not the first plus 180 degrees.
    """

    def __init__(
        self, data: ImageData, averages: Tensor, grid: Grid, noise: Tensor, offset: Tensor, max_shift_px: float
    ) -> None:
        n_classes, n_angles = averages.shape[1], len(grid.angles)
        if n_angles % 2 or not torch.allclose(grid.angles[: n_angles // 2] + 180, grid.angles[n_angles // 2 :]):
            raise ValueError("the second half of the angles is not the first plus 180 degrees")
        q = int((data.ring <= grid.last_ring).sum())
        self.data, self.q, self.shape = data, q, (len(grid.shifts), n_classes, n_angles)
        self.grid, self.offset, self.max_shift_px = grid, offset, max_shift_px
        self.turner = Turner(data.n_px, data.frequency[:q], data.weight[:q], grid.angles[: n_angles // 2])
        turned = self.turner.turn(averages.flatten(0, 1)).reshape(2, n_classes * n_angles // 2, q)
        self.real, self.imaginary = turned.real.mT.contiguous(), turned.imag.mT.contiguous()
        self.phases = _shift_phases(grid.shifts, data.frequency[:q])
        self.precision = (data.weight / noise[data.ring].clamp_min(1e-20))[:q]

    def split(self, half: int) -> tuple[Tensor, ...]:
        """Return the indices of the images of a half in batches that fit in memory."""
        size = self.shape[0] * max(self.shape[1] * self.shape[2], 4 * self.q)
        index = torch.nonzero(self.data.half == half)[:, 0]
        return torch.split(index, max(1, _BATCH_FLOATS // size)) if len(index) else ()

    def compare(self, half: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return log likelihoods `(b, T, K * A)` up to a constant for each image, and the shifted images `(b, T, q)`."""
        values = self.data.values[index, : self.q]
        if bool(self.offset.any()):
            values = multiply_complex(values, _shift_phases(self.offset[index], self.data.frequency[: self.q]))
        shifted = multiply_complex(values[:, None], self.phases)
        ctf = self.data.ctf[index, : self.q]
        weight = (ctf * self.precision)[:, None]
        even = (shifted.real * weight).flatten(0, 1) @ self.real[half]
        odd = (shifted.imag * weight).flatten(0, 1) @ self.imaginary[half]
        power = (ctf.square() * self.precision) @ (self.real[half].square() + self.imaginary[half].square())
        distance = (self.offset[index, None] + self.grid.shifts).norm(dim=2)
        prior = -2 * (distance / max(self.max_shift_px, 1.0)).square()
        prior = torch.where(distance <= self.max_shift_px + _SLACK_PX, prior, prior - _OUTSIDE)
        n_shifts, n_classes, n_angles = self.shape
        even = even.reshape(len(index), n_shifts, -1).sub_(0.5 * power[:, None]).add_(prior[..., None])
        even, odd = (part.reshape(len(index), n_shifts, n_classes, n_angles // 2) for part in (even, odd))
        return torch.cat([even + odd, even - odd], dim=3).flatten(2), shifted


def accumulate_sums(step: Expectation) -> tuple[Sums, Tensor]:
    """Return what the maximisation needs, and the index of the best shift of every image, `(n,)`."""
    data, (n_shifts, n_classes, n_angles) = step.data, step.shape
    device = data.values.device
    signal = torch.zeros(2, n_classes * n_angles, 2 * step.q, device=device)
    power = torch.zeros(2, n_classes, data.ring_power.shape[1], device=device)
    best = torch.zeros(len(data.values), dtype=torch.long, device=device)
    for half in range(2):
        for index in step.split(half):
            score, shifted = step.compare(half, index)
            flat = score.flatten(1)
            most, where = flat.max(dim=1, keepdim=True)
            best[index] = where[:, 0] // (n_classes * n_angles)
            image, place = torch.nonzero(flat > most + math.log(_NEGLIGIBLE), as_tuple=True)
            gamma = torch.exp(flat[image, place] - most[image, 0])
            total = torch.zeros(len(index), device=device).index_add_(0, image, gamma)
            gamma = gamma / total[image]
            shift, pose = place // (n_classes * n_angles), place % (n_classes * n_angles)
            entries = torch.stack([pose, image * n_shifts + shift])
            shape = (n_classes * n_angles, len(index) * n_shifts)
            posterior = torch.sparse_coo_tensor(entries, gamma, shape, check_invariants=False)
            corrected = _as_real(shifted * data.ctf[index, None, : step.q]).flatten(0, 1)
            signal[half] += torch.sparse.mm(posterior, corrected)
            by_class = torch.zeros(len(index) * n_classes, device=device)
            by_class.index_add_(0, image * n_classes + pose // n_angles, gamma)
            power[half] += by_class.reshape(len(index), n_classes).T @ data.ring_power[index]
    spectra = torch.view_as_complex(signal.reshape(2 * n_classes, 2, n_angles // 2, step.q, 2))
    images = step.turner.turn_back(spectra[:, 0] + spectra[:, 1].conj())
    return Sums(images.reshape(2, n_classes, data.n_px, data.n_px), power), best
