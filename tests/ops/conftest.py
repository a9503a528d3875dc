"""A molecule of Gaussian blobs, whose map, projections and transform are known in closed form."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vitreous.ops.rotations import draw_rotations


@dataclass(frozen=True)
class Blobs:
    """Blobs of height `amplitudes` and one width at `centres` `(k, 3)` as (x, y, z) in pixels from element n // 2."""

    centres: Tensor
    amplitudes: Tensor
    sigma: float

    def make_volume(self, n: int) -> Tensor:
        axis = torch.arange(n).double() - n // 2
        x, y, z = (torch.exp(-((axis - self.centres[:, i : i + 1]) ** 2) / (2 * self.sigma**2)) for i in range(3))
        return torch.einsum("k,kz,ky,kx->zyx", self.amplitudes, z, y, x).float()

    def project(self, matrices: Tensor, n: int, displacements: Tensor | None = None) -> Tensor:
        """Return images `(m, n, n)`: the sums along z of blobs at `A r`, in real space, then moved by (x, y)."""
        places = self.centres @ matrices[:, :2].transpose(1, 2)
        if displacements is not None:
            places = places + displacements[:, None]
        axis = torch.arange(n).double() - n // 2
        x, y = (torch.exp(-((axis - places[..., i : i + 1]) ** 2) / (2 * self.sigma**2)) for i in range(2))
        height = self.amplitudes * math.sqrt(2 * math.pi) * self.sigma
        return torch.einsum("k,mky,mkx->myx", height, y, x).float()

    def transform(self, k: Tensor, n: int) -> Tensor:
        """Return the transform at frequencies `(..., 3)` in cycles per box of n, with the origin at voxel n // 2."""
        decay = torch.exp(-2 * (math.pi * self.sigma / n) ** 2 * k.square().sum(-1))
        phases = torch.exp(-2j * math.pi / n * (k @ self.centres.T))
        return (2 * math.pi) ** 1.5 * self.sigma**3 * decay * (phases @ self.amplitudes.to(phases.dtype))


def draw_blobs(radius_px: float, sigma: float = 1.2, operators: Tensor | None = None, seed: int = 0) -> Blobs:
    """Return 14 blobs at random places within the radius, without symmetry, or those and all their images."""
    generator = torch.Generator().manual_seed(seed)
    reach = torch.rand(14, generator=generator, dtype=torch.float64) ** (1 / 3) * radius_px
    centres = draw_rotations(14, generator)[:, 0] * reach[:, None]
    amplitudes = 0.5 + torch.rand(14, generator=generator, dtype=torch.float64)
    if operators is not None:
        centres = torch.einsum("gij,kj->gki", operators, centres).flatten(0, 1)
        amplitudes = amplitudes.repeat(len(operators))
    return Blobs(centres, amplitudes, sigma)


@pytest.fixture
def blobs() -> Blobs:
    """Blobs without symmetry for boxes of 32 px."""
    return draw_blobs(9.0)


@pytest.fixture
def make_blobs() -> Callable[..., Blobs]:
    """Return `draw_blobs`."""
    return draw_blobs


@pytest.fixture
def measure_angle_deg() -> Callable[..., Tensor]:
    """Return what measures the angle, 0 to 180 degrees, from rotations to others, or to the nearest equivalents of these."""

    def measure(first: Tensor, second: Tensor, operators: Tensor | None = None) -> Tensor:
        symmetry = torch.eye(3, dtype=second.dtype)[None] if operators is None else operators
        # From the chord: the trace alone loses small angles to rounding.
        chord = (first[..., None, :, :] - second[..., None, :, :] @ symmetry).flatten(-2).norm(dim=-1) / 8**0.5
        return torch.rad2deg(2 * torch.asin(chord.min(dim=-1).values.clamp(max=1.0)))

    return measure
