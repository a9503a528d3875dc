"""Transforms of images on polar grids, and their angular harmonics.

A half circle of samples says everything of a real image, for X(r, t + pi) is the conjugate of X(r, t): the real part repeats
after half a turn and so has even harmonics only, the imaginary part changes its sign and has odd ones only. Harmonics are kept
as `(2, E, ..., R)`, E even ones 0, 2, ... of the real part and E odd ones 1, 3, ... of the imaginary part, for rings 1 to R in
cycles per box; those below zero are the conjugates. Turning an image by an angle a from +x towards +y multiplies harmonic m by
exp(-i m a).
"""

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import scipy.special
import torch
from torch import Tensor

from vitreous.ops.average2d import (
    KERNEL_TAPS,
    PADDING,
    compute_kernel_taps,
    compute_kernel_transform,
    make_soft_circle,
)
from vitreous.ops.fourier import irfft2, rfft2

__all__ = [
    "PolarGrid",
    "PolarSampler",
    "compute_bessel",
    "compute_harmonics",
    "compute_mask_operator",
    "compute_ring_weights",
    "find_mass_centre",
    "make_outer_mask",
    "shift_harmonics",
]

_GUARD = 3
_RADIAL_STEP_PX = 0.5


@dataclass(frozen=True)
class PolarGrid:
    """Where transforms are sampled, and how many harmonics are kept."""

    n_px: int
    """Side of the images."""
    n_rings: int
    n_half: int
    """Samples on the half circle from -90 degrees on."""
    n_even: int
    """Harmonics of each parity."""

    @property
    def theta(self) -> Tensor:
        """Angles of the samples from +x towards +y, radians, float64."""
        return (torch.arange(self.n_half, dtype=torch.float64) / self.n_half - 0.5) * math.pi

    @property
    def order(self) -> Tensor:
        """The harmonics, `(2, E)`."""
        return torch.arange(2)[:, None] + 2 * torch.arange(self.n_even)

    @property
    def analysis(self) -> Tensor:
        """Matrices `(2, 2 E, n_half)` from samples of real and imaginary part to (real, imaginary) of their harmonics."""
        phase = self.order[..., None].double() * self.theta
        parts = torch.stack([phase.cos(), -phase.sin()], dim=2) / self.n_half
        return parts.flatten(1, 2).float()

    @property
    def weight(self) -> Tensor:
        """What the products of harmonics are summed with to be the sum over all of Fourier space, `(2, E, R)`."""
        weight = (4 * math.pi * torch.arange(1, self.n_rings + 1)).expand(2, self.n_even, -1).clone()
        weight[0, 0] /= 2
        return weight


def compute_harmonics(samples: Tensor, grid: PolarGrid) -> Tensor:
    """Return harmonics `(2, E, n, R)` complex of complex samples `(n, R, n_half)`."""
    parts = torch.stack([samples.real, samples.imag]).flatten(1, 2)
    found = torch.bmm(grid.analysis, parts.mT)
    split = found.reshape(2, grid.n_even, 2, *samples.shape[:2])
    return torch.complex(split[:, :, 0].contiguous(), split[:, :, 1].contiguous())


def shift_harmonics(values: Tensor, shift_px: Tensor, grid: PolarGrid) -> Tensor:
    """Move the content of images with harmonics `(2, E, n, R)` by shifts `(n, 2)` as (y, x), px."""
    n = values.shape[2]
    phase = grid.order[..., None].double() * grid.theta
    doubled = torch.full((2, grid.n_even, 1), 2.0)
    doubled[0, 0] = 1
    cosine, sine = (phase.cos().float() * doubled).mT, (phase.sin().float() * doubled).mT
    flat = values.flatten(2)
    real, imaginary = torch.bmm(cosine, flat.real) - torch.bmm(sine, flat.imag)
    samples = torch.complex(real, imaginary).reshape(grid.n_half, n, -1).permute(1, 2, 0)
    along = shift_px[:, 1:].double() * grid.theta.cos() + shift_px[:, :1].double() * grid.theta.sin()
    ring = torch.arange(1, grid.n_rings + 1, dtype=torch.float64)
    turn = -2 * math.pi / grid.n_px * ring[:, None] * along[:, None]
    return compute_harmonics(samples * torch.complex(turn.cos().float(), turn.sin().float()), grid)


def compute_bessel(grid: PolarGrid, radius_px: Tensor) -> Tensor:
    """Return J_m(2 pi r x / N), `(2, E, x, R)` float64, for radii x in real space."""
    ring = np.arange(1, grid.n_rings + 1)
    argument = 2 * np.pi / grid.n_px * radius_px.double().numpy()[:, None] * ring
    return torch.from_numpy(scipy.special.jv(grid.order.numpy()[..., None, None], argument))


def _make_radii(mask_radius_px: float, edge_px: float) -> Tensor:
    n = math.ceil((mask_radius_px + edge_px) / _RADIAL_STEP_PX)
    return (torch.arange(n, dtype=torch.float64) + 0.5) * _RADIAL_STEP_PX


def _to_real_space(grid: PolarGrid, radius_px: Tensor) -> Tensor:
    """Return the weights `(2, E, x, R)` that make radial profiles of harmonics, but for factors i^m."""
    ring = torch.arange(1, grid.n_rings + 1, dtype=torch.float64)
    return compute_bessel(grid, radius_px) * (2 * math.pi / grid.n_px**2 * ring)


def compute_mask_operator(grid: PolarGrid, mask_radius_px: float, edge_px: float) -> Tensor:
    """Return matrices `(2, E, R, R)` that put images with given harmonics under a soft circle.

    A circle does not mix harmonics: for each it is a Hankel transform, a product and the transform back.
    """
    radius = _make_radii(mask_radius_px, edge_px)
    soft = 0.5 + 0.5 * torch.cos(torch.pi * ((radius - mask_radius_px) / edge_px).clamp(0, 1))
    back = compute_bessel(grid, radius) * (2 * math.pi * _RADIAL_STEP_PX * radius * soft)[:, None]
    return (back.mT @ _to_real_space(grid, radius)).float()


def find_mass_centre(values: Tensor, grid: PolarGrid, mask_radius_px: float, threshold: float) -> Tensor:
    """Return where the mass of images with harmonics `(2, E, K, R)` lies within a circle: `(K, 2)` as (y, x), px.

    Only what exceeds `threshold` times the peak counts.
    """
    radius = _make_radii(mask_radius_px, 0.0)
    profile = torch.einsum(
        "pexr,pekr->pekx", _to_real_space(grid, radius).to(torch.complex128), values.to(torch.complex128)
    )
    # The imaginary part's harmonics take a factor i to be those of the image, and i^m belongs to the transform.
    factor = torch.tensor([1, 1j], dtype=torch.complex128)[:, None] * torch.tensor(1j) ** grid.order
    factor = factor * torch.where(grid.order == 0, 1.0, 2.0)
    angle = torch.arange(4 * grid.n_even, dtype=torch.float64) * (2 * math.pi / (4 * grid.n_even))
    turn = torch.exp(1j * grid.order[..., None] * angle) * factor[..., None]
    image = torch.einsum("pekx,pea->kxa", profile, turn).real
    mass = (image - threshold * image.amax(dim=(1, 2), keepdim=True)).clamp_min(0) * radius[:, None]
    total = mass.sum(dim=(1, 2)).clamp_min(1e-12)
    y, x = ((mass * radius[:, None] * part).sum(dim=(1, 2)) / total for part in (angle.sin(), angle.cos()))
    return torch.stack([y, x], dim=1).float()


def compute_ring_weights(grid: PolarGrid) -> Tensor:
    """Return the weights `(2, E)` that make sums over harmonics ring means."""
    weight = torch.full((2, grid.n_even), 2.0)
    weight[0, 0] = 1
    return weight


@numba.njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _sample(spectra, index, weights, out):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    """Read samples from flat transforms `(n, fine)` with taps `(samples, taps)`."""
    n_taps = index.shape[1]
    for i in range(spectra.shape[0]):
        plane = spectra[i]
        for j in range(index.shape[0]):
            real, imaginary = np.float32(0), np.float32(0)
            for tap in range(n_taps):
                value = plane[index[j, tap]]
                real += weights[j, tap] * value.real
                imaginary += weights[j, tap] * value.imag
            out[i, j] = complex(real, imaginary)


def make_outer_mask(n_px: int, outer_radius_px: float) -> Tensor:
    """Return the soft circle that images are put under before they are sampled: within their edges, whatever the radius."""
    edge = max(3.0, 0.05 * n_px)
    return make_soft_circle(n_px, min(outer_radius_px, n_px / 2 - edge), edge)


class PolarSampler:
    """Samples the transforms of images on a polar grid, through a transform padded twofold.

    Parameters
    ----------
    grid
        Where.
    outer_radius_px
        Images are set to 0 beyond it.
    """

    def __init__(self, grid: PolarGrid, outer_radius_px: float) -> None:
        n_px = grid.n_px
        self.mask = make_outer_mask(n_px, outer_radius_px)
        self._grid, self._fine = grid, n_px * PADDING
        kernel = compute_kernel_transform((torch.arange(n_px) - n_px // 2).double() / self._fine).float()
        self._gridding = kernel[:, None] * kernel
        reach = PADDING * grid.n_rings + KERNEL_TAPS // 2
        if reach > n_px:
            raise ValueError(f"{grid.n_rings} rings do not fit in images of {n_px} px")
        self._rows = torch.arange(-reach, reach + 1) % self._fine
        self._n_columns = reach + _GUARD + 1
        ring = torch.arange(1, grid.n_rings + 1).double()[:, None] * PADDING
        (rows, weights_y), (columns, weights_x) = (
            compute_kernel_taps(ring * part) for part in (grid.theta.sin(), grid.theta.cos())
        )
        index = (rows[..., :, None] + reach) * self._n_columns + columns[..., None, :] + _GUARD
        taps = KERNEL_TAPS**2
        self._index = index.reshape(-1, taps).int().numpy()
        self._weights = (weights_y[..., :, None] * weights_x[..., None, :]).reshape(-1, taps).float().numpy()

    def sample(self, images: Tensor, ctf: Tensor | None) -> Tensor:
        """Return samples `(n, R, n_half)` of images `(n, N, N)` under the mask, each times its CTF `(n, N, N // 2 + 1)`."""
        n_px, fine = self._grid.n_px, self._fine
        images = images * self.mask
        if ctf is not None:
            images = irfft2(rfft2(images) * ctf, (n_px, n_px))
        padded = torch.zeros(len(images), fine, fine)
        padded[:, :n_px, :n_px] = images / self._gridding
        half = n_px // 2
        spectra = rfft2(torch.roll(padded, (-half, -half), dims=(1, 2)))
        middle = spectra[:, self._rows, : self._n_columns - _GUARD]
        # Taps left of the axis are conjugates of those right of it, rows reversed.
        left = middle[:, :, 1 : _GUARD + 1].flip(1, 2).conj()
        plane = torch.cat([left, middle], dim=2).flatten(1).contiguous()
        out = np.empty((len(images), self._index.shape[0]), np.complex64)
        arguments: tuple[Any, ...] = (plane.numpy(), self._index, self._weights, out)
        _sample(*arguments)
        return torch.from_numpy(out).reshape(len(images), self._grid.n_rings, self._grid.n_half)
