"""Power spectra of micrographs: of tiles, averaged, and resampled to polar coordinates."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import rfft2

__all__ = [
    "TileSpectra",
    "compute_polar_spectrum",
    "compute_tile_spectra",
    "compute_tile_spectrum",
]

_TAPER_FRACTION = 0.1
"""Of the side of a tile, at each end."""
_MOST_TILES = 500
_BATCH = 4


@dataclass(frozen=True)
class TileSpectra:
    """Power of the tiles of an image that look like most of them."""

    power: Tensor
    """Half spectra, `(n_tiles, tile, tile // 2 + 1)`."""
    centres_px: Tensor
    """Of the tiles, `(n_tiles, 2)` as (x, y)."""
    n_looks: float
    """Independent spectra that the mean of all tiles is worth.

    Tapered tiles that overlap are not independent, and neither are neighbouring frequencies of one tile. Any sum of the mean
    power over a region of frequencies that is wide against the transform of the taper has the variance that this many
    untapered separate tiles would give.
    """
    lag_weights: tuple[Tensor, Tensor]
    """Of the covariance of the mean power at two frequencies, the transform: along y and along x, `(tile // 2 + 1,)` each.

    1 at lag 0. The covariance itself is the product of the two transforms, over the difference of the frequencies. Those are
    samples a whole number apart, so lags that differ by the side of a tile fall together.
    """
    n_left_out: int
    """Tiles that differ too much from the others."""

    @cached_property
    def mean(self) -> Tensor:
        """Mean power, `(tile, tile // 2 + 1)`."""
        return self.power.mean(dim=0)


def _make_taper(n: int, fraction: float, device: torch.device) -> Tensor:
    """Return a window of `n` samples, 1 inside, falling as a cosine to 0 over `fraction` of each end."""
    width = max(1, round(fraction * n))
    edge = 0.5 - 0.5 * torch.cos(math.pi * (torch.arange(width, device=device) + 0.5) / width)
    return torch.cat([edge, torch.ones(n - 2 * width, device=device), edge.flip(0)])


def _place(n: int, tile: int, step: int) -> list[int]:
    """Return where tiles start that cover `n` pixels evenly, at most `step` apart."""
    starts: list[int] = torch.linspace(0, n - tile, math.ceil((n - tile) / step) + 1).round().long().tolist()
    return starts


def compute_tile_spectra(image: Tensor, tile_px: int) -> TileSpectra:
    """Return the power of tiles that overlap by half (by less in very large images), tapered at the edges.

    A tile whose standard deviation is far from the median of all (carbon edge, contamination, a hole without ice) is left out.

    Parameters
    ----------
    image
        `(ny, nx)`.
    tile_px
        Side of a tile, even.

    Raises
    ------
    ValueError
        If the image is smaller than a tile, or constant.
    """
    ny, nx = image.shape
    if min(ny, nx) < tile_px:
        raise ValueError(f"an image of {ny} x {nx} is smaller than a tile of {tile_px}")
    step = tile_px // 2
    while (math.ceil((ny - tile_px) / step) + 1) * (math.ceil((nx - tile_px) / step) + 1) > _MOST_TILES:
        step += tile_px // 8
    rows, columns = _place(ny, tile_px, step), _place(nx, tile_px, step)
    corners = [(y, x) for y in rows for x in columns]
    # Every fourth row is enough to tell a tile's deviation.
    spread = torch.stack([image[y : y + tile_px : 4, x : x + tile_px].std() for y, x in corners]).log()
    deviation = (spread - spread.median()).abs()
    limit = max(4 * 1.4826 * float(deviation.median()), 0.05)
    is_kept = deviation <= limit
    kept = [corner for corner, keep in zip(corners, is_kept.tolist(), strict=True) if keep]
    if not kept:
        raise ValueError("expected an image with detail, found a constant one")
    taper = _make_taper(tile_px, _TAPER_FRACTION, image.device)
    window = taper[:, None] * taper[None, :]
    power = torch.empty(len(kept), tile_px, tile_px // 2 + 1, device=image.device)
    for first in range(0, len(kept), _BATCH):
        batch = kept[first : first + _BATCH]
        tiles = torch.stack([image[y : y + tile_px, x : x + tile_px] for y, x in batch])
        spectra = rfft2((tiles - tiles.mean(dim=(-2, -1), keepdim=True)) * window)
        torch.add(spectra.real.square(), spectra.imag.square(), out=power[first : first + len(batch)])
    centre = (tile_px - 1) / 2
    return TileSpectra(
        power=power,
        centres_px=torch.tensor([(x + centre, y + centre) for y, x in kept], dtype=torch.float64, device=image.device),
        n_looks=_count_looks(rows, columns, is_kept.reshape(len(rows), len(columns)), taper),
        lag_weights=(_weigh_lags(rows, taper), _weigh_lags(columns, taper)),
        n_left_out=len(corners) - len(kept),
    )


def _count_looks(rows: list[int], columns: list[int], is_kept: Tensor, taper: Tensor) -> float:
    """Return the square of the sum over places of the squared tapers that cover them, over the sum of squares, per tile."""
    tile, squared, kept = len(taper), taper.double().square(), is_kept.double()
    lags = torch.fft.irfft(torch.fft.rfft(squared, n=2 * tile).abs().square(), n=2 * tile)
    shared = []
    for starts in (rows, columns):
        apart = torch.tensor(starts, device=taper.device)
        shared.append(lags[(apart[:, None] - apart[None, :]).abs().clamp(max=tile)])
    covered = kept.sum() * squared.sum() ** 2
    return float(covered.square() / (tile**2 * (kept * (shared[0] @ kept @ shared[1])).sum()))


def _weigh_lags(starts: list[int], taper: Tensor) -> Tensor:
    """Return the sum over places of the square of what tiles share of the products of tapers at a lag; 1 at lag 0."""
    tile = len(taper)
    shared = torch.zeros(tile, max(starts) + tile, device=taper.device)
    products = torch.stack([taper * torch.cat([taper[lag:], taper.new_zeros(lag)]) for lag in range(tile)])
    for start in starts:
        shared[:, start : start + tile] += products
    sums = shared.square().sum(dim=1)
    lags = torch.arange(1, tile // 2 + 1, device=taper.device)
    return torch.cat([sums[:1], sums[lags] + sums[tile - lags]]) / sums[0]


def compute_tile_spectrum(image: Tensor, tile_px: int) -> Tensor:
    """Return the mean power of the tiles of `compute_tile_spectra`, `(tile_px, tile_px // 2 + 1)`."""
    return compute_tile_spectra(image, tile_px).mean


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
