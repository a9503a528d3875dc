"""What a micrograph looks like before any CTF is known: how coarse its contents are, and whether there are any."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import compute_radial_mean
from vitreous.ops.spectra import compute_tile_spectrum

__all__ = ["Appearance", "measure_appearance"]

_PIXEL_ANGSTROM = 8.0
_TILE = 128
_COARSE, _PARTICLES, _NOISE = (3, 8), (10, 20), (45, 60)
"""Rings of the spectrum of a tile of 128 px: at 8 Å per pixel periods of 128 to 340 Å, 51 to 102 Å and 17 to 23 Å."""


class Appearance(NamedTuple):
    """Two ratios of power, natural logarithms."""

    coarseness: float
    """Of what is coarser than particles, over what has their size: high with contamination, crystals of ice and carbon."""
    structure: float
    """Of what has the size of particles, over noise: about 0 where nothing is in view."""


def measure_appearance(image: Tensor, pixel_size_angstrom: float) -> Appearance | None:
    """Measure what a micrograph looks like at 8 Å per pixel; None where it is smaller than 128 such pixels.

    Parameters
    ----------
    image
        `(ny, nx)`.
    pixel_size_angstrom
        Å per pixel; images with larger pixels than 8 Å are taken as they are.
    """
    factor = max(1, round(_PIXEL_ANGSTROM / pixel_size_angstrom))
    if min(image.shape) // factor < _TILE:
        return None
    small = functional.avg_pool2d(image[None, None].float(), factor)[0, 0]
    spread = small.std()
    if not torch.isfinite(spread) or spread == 0:
        return None
    power = compute_tile_spectrum((small - small.mean()) / spread, _TILE)
    rings = compute_radial_mean(power, (_TILE, _TILE)).clamp_min(1e-12).log()
    coarse, particles, noise = (float(rings[low:high].mean()) for low, high in (_COARSE, _PARTICLES, _NOISE))
    return Appearance(coarse - particles, particles - noise)
