"""Power spectra of micrographs: averaged over tiles, and resampled to polar coordinates."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import rfft2

__all__ = ["compute_polar_spectrum", "compute_tile_spectrum"]


def _make_taper(n: int, fraction: float, device: torch.device) -> Tensor:
    """Return a window of `n` samples, 1 inside, falling as a cosine to 0 over `fraction` of each end."""
    width = max(1, round(fraction * n))
    edge = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(width, device=device) + 0.5) / width)
    return torch.cat([edge, torch.ones(n - 2 * width, device=device), edge.flip(0)])


def compute_tile_spectrum(image: Tensor, tile_px: int) -> Tensor:
    """Return the mean power of overlapping tiles on the half spectrum, `(tile_px, tile_px // 2 + 1)`.

    Tiles overlap by half and are tapered at the edges. A tile whose standard deviation is far from the median of all (carbon
    edge, contamination, a hole without ice) is left out.

    Raises
    ------
    ValueError
        If the image is smaller than a tile, or constant.
    """
    ny, nx = image.shape
    if min(ny, nx) < tile_px:
        raise ValueError(f"an image of {ny} x {nx} is smaller than a tile of {tile_px}")
    starts = [
        torch.linspace(0, n - tile_px, max(1, math.ceil(2 * (n - tile_px) / tile_px) + 1)).round().long().tolist()
        for n in (ny, nx)
    ]
    tiles = [image[y : y + tile_px, x : x + tile_px] for y in starts[0] for x in starts[1]]
    spread = torch.stack([tile.std() for tile in tiles]).log()
    deviation = (spread - spread.median()).abs()
    limit = max(4 * 1.4826 * float(deviation.median()), 0.05)
    taper = _make_taper(tile_px, 0.1, image.device)
    window = taper[:, None] * taper[None, :]
    power = torch.zeros(tile_px, tile_px // 2 + 1, device=image.device)
    n_used = 0
    for tile, far in zip(tiles, deviation.tolist(), strict=True):
        if far <= limit:
            power += rfft2((tile - tile.mean()) * window).abs().square()
            n_used += 1
    if n_used == 0:
        raise ValueError("expected an image with detail, found a constant one")
    return power / n_used


def compute_polar_spectrum(power: Tensor, k_px: Tensor, n_angles: int, *, pixel_ratio: float = 1.0) -> Tensor:
    """Resample a power spectrum to polar coordinates, bilinearly.

    Parameters
    ----------
    power
        Half spectrum of square tiles, `(n, n // 2 + 1)`.
    k_px
        Frequencies, cycles per pixel along y, `(n_k,)`.
    n_angles
        Angles from -90° (inclusive) to 90°, from +x towards +y: half a circle, the other half being the same.
    pixel_ratio
        Pixel size along x over that along y. Resampling to sizes that are quick to transform makes them differ a little, and
        a quarter of a percent left alone looks like 100 Å of astigmatism.

    Returns
    -------
    Tensor
        `(n_angles, n_k)`.
    """
    n = power.shape[0]
    angle = (torch.arange(n_angles, device=power.device) / n_angles - 0.5) * math.pi
    centred = torch.fft.fftshift(power, dim=0)
    x = k_px[None, :] * torch.cos(angle)[:, None] * (n * pixel_ratio)
    y = k_px[None, :] * torch.sin(angle)[:, None] * n + n // 2
    grid = torch.stack([2 * x / (power.shape[1] - 1) - 1, 2 * y / (n - 1) - 1], dim=-1)
    sampled = functional.grid_sample(centred[None, None], grid[None], mode="bilinear", align_corners=True)
    return sampled[0, 0]
