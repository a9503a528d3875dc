"""Noise made as strong at every frequency: its amplitude measured in a micrograph, and divided out."""

import torch
from torch import Tensor

from vitreous.ops.fourier import compute_frequency_2d, compute_radial_mean, irfft2, rfft2
from vitreous.ops.spectra import compute_tile_spectra

__all__ = ["estimate_noise_amplitude", "expand_amplitude", "limit_amplitude", "whiten"]

_QUIET_SHARE, _LEAST_TILES = 0.3, 3
"""Of the tiles, those with the least power in their coarser half are taken for noise."""
_FLOOR = 0.05
"""Least amplitude, as a share of the greatest: images that were low-passed hold nothing beyond it to be raised."""


def estimate_noise_amplitude(image: Tensor, tile_px: int) -> Tensor:
    """Estimate how strong the noise of an image is at each frequency, whatever else is in it.

    Parameters
    ----------
    image
        `(ny, nx)`.
    tile_px
        Side of the tiles that are compared, even; somewhat more than a particle, so that some show little of any.

    Returns
    -------
    Tensor
        Amplitude at 0, 1, ..., `tile_px / 2` cycles per tile, the greatest 1. At 0, where tiles tell nothing, as at 1.

    Raises
    ------
    ValueError
        If the image is smaller than a tile, or constant.
    """
    power = compute_tile_spectra(image, tile_px).power
    coarse = power[:, 1 : tile_px // 4, 1 : tile_px // 4].mean(dim=(-2, -1))
    n_quiet = max(_LEAST_TILES, round(_QUIET_SHARE * len(power)))
    quiet = power[coarse.argsort(stable=True)[:n_quiet]].mean(dim=0)
    amplitude = compute_radial_mean(quiet, (tile_px, tile_px))[: tile_px // 2 + 1].clamp_min(0).sqrt()
    amplitude[0] = amplitude[1]
    return amplitude / amplitude.max()


def limit_amplitude(amplitude: Tensor) -> Tensor:
    """Return what of an amplitude may be divided by: no less than a twentieth of its greatest value."""
    return amplitude.clamp_min(_FLOOR * float(amplitude.max()))


def expand_amplitude(amplitude: Tensor, shape: tuple[int, int], pixel_ratio: float = 1.0) -> Tensor:
    """Return an amplitude, given from frequency 0 to Nyquist, on the half spectrum of images of `shape`.

    Their pixel size is `pixel_ratio` times that of the image whose amplitude it is. Beyond its last value it stays as it is.
    """
    step_px = 0.5 / (len(amplitude) - 1) * pixel_ratio
    ky, kx = compute_frequency_2d(shape, device=amplitude.device)
    position = (torch.sqrt(ky.square() + kx.square()) / step_px).clamp_max(len(amplitude) - 1.001)
    below = position.long()
    part = position - below
    return amplitude[below] * (1 - part) + amplitude[below + 1] * part


def whiten(images: Tensor, amplitude: Tensor, pixel_ratio: float = 1.0) -> Tensor:
    """Divide an amplitude out of images.

    Parameters
    ----------
    images
        `(..., ny, nx)`.
    amplitude
        As `expand_amplitude` takes it; divided by as `limit_amplitude` says.
    pixel_ratio
        Pixel size of the images over that of the image whose amplitude it is.

    Notes
    -----
    An image and templates treated alike correlate as the best linear detector in noise of that amplitude does (the matched
    filter: North 1943, doi:10.1109/PROC.1963.2383).
    """
    shape = (images.shape[-2], images.shape[-1])
    return irfft2(rfft2(images) / expand_amplitude(limit_amplitude(amplitude), shape, pixel_ratio), shape)
