"""What needs no template: discs, the radial profile of what they find, and the particle's diameter from both."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import apply_fourier_crop_2d, compute_frequency_2d, find_good_size, irfft2, rfft2
from vitreous.ops.peaks import find_peaks
from vitreous.ops.templates import compute_local_correlation, make_disc

__all__ = [
    "MASK_FRACTION",
    "correlate_disc",
    "find_outer_diameter",
    "list_diameters",
    "measure_radial_profile",
    "resample_for_picking",
    "score_diameters",
]

MASK_FRACTION = 0.7
"""Radius of the mask of a matched filter, in diameters: the particle and a ring of what is around it."""

_CLIP_SIGMA = 6.0
_STEP = 1.15
_LEAST_PLACES = 15
_MOST_COVERED = 0.2
"""Share of the square around a disc that may be junk."""


def _reduce(
    spectrum: Tensor,
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    target_pixel_size_angstrom: float,
    high_pass_angstrom: float,
) -> tuple[Tensor, Tensor]:
    """Do what `resample_for_picking` does with an image of `shape` whose half spectrum is known."""
    factor = min(1.0, pixel_size_angstrom / target_pixel_size_angstrom)
    small = tuple(min(find_good_size(round(n * factor)), n // 2 * 2) for n in shape)
    reduced = (small[0], small[1])
    if reduced != shape:
        spectrum = apply_fourier_crop_2d(spectrum, shape, reduced)
    pixels = torch.tensor([pixel_size_angstrom * n / m for n, m in zip(shape, reduced, strict=True)])
    ky, kx = compute_frequency_2d(reduced, device=spectrum.device)
    k_squared = (ky / float(pixels[0])).square() + (kx / float(pixels[1])).square()
    result = irfft2(spectrum * (1 - torch.exp(-k_squared * high_pass_angstrom**2 / 2)), reduced)
    result = (result / result.std().clamp_min(1e-30)).clamp(-_CLIP_SIGMA, _CLIP_SIGMA)
    return result, pixels


def resample_for_picking(
    image: Tensor, pixel_size_angstrom: float, target_pixel_size_angstrom: float, high_pass_angstrom: float
) -> tuple[Tensor, Tensor]:
    """Reduce a micrograph for picking and take out slow variations of the ice.

    Parameters
    ----------
    image
        `(ny, nx)`.
    pixel_size_angstrom, target_pixel_size_angstrom
        Of the image, and wanted (a finer image is never made).
    high_pass_angstrom
        Length above which variations are taken out.

    Returns
    -------
    tuple
        The reduced image with zero mean and unit deviation, outliers clipped, and its pixel sizes in Å as (y, x).
    """
    shape = (image.shape[0], image.shape[1])
    spectrum = rfft2(image - image.mean())
    return _reduce(spectrum, shape, pixel_size_angstrom, target_pixel_size_angstrom, high_pass_angstrom)


def list_diameters(low_angstrom: float, high_angstrom: float) -> list[float]:
    """Return the diameters to try between two, Å, each about 15 % above the one before."""
    n = max(2, 1 + round(np.log(high_angstrom / low_angstrom) / np.log(_STEP)))
    diameters: list[float] = np.geomspace(low_angstrom, high_angstrom, n).tolist()
    return diameters


def correlate_disc(image: Tensor, diameter_px: float) -> Tensor:
    """Return the local correlation of an image `(ny, nx)` with a dark disc centred at each pixel, -1 to 1."""
    shape = (image.shape[0], image.shape[1])
    disc = -make_disc(shape, diameter_px / 2, device=image.device)
    mask = make_disc(shape, MASK_FRACTION * diameter_px, device=image.device)
    return compute_local_correlation(image, disc[None], mask)[0][0]


def score_diameters(
    image: Tensor, pixel_size_angstrom: float, diameters_angstrom: Sequence[float], junk: Tensor | None = None
) -> Tensor:
    """Return how much more clearly dark discs of each diameter stand out of a micrograph than bright ones, `(n,)`.

    Noise and ice are bright as often as dark, at any length; particles are dark, and many. The measure is the median correlation
    with dark discs at the best places (as many as would cover a tenth of the image; where that is few, more, so that some lumps
    of ice are not the half of them) less that with bright discs at their best places.
    Where `junk` `(my, mx)`, which covers the image, is true, or is so for much of what is around, nothing is looked for.
    """
    shape = (image.shape[0], image.shape[1])
    spectrum = rfft2(image - image.mean())
    scores = []
    for diameter in diameters_angstrom:
        small, pixels = _reduce(spectrum, shape, pixel_size_angstrom, diameter / 12, 4 * diameter)
        pixel = float(pixels.mean())
        correlation = correlate_disc(small, diameter / pixel)
        room = small.numel() * (pixel / diameter) ** 2
        if junk is not None:
            covered = functional.interpolate(junk[None, None].float(), small.shape, mode="nearest")
            around = 2 * round(diameter / pixel / 2) + 1
            share = functional.avg_pool2d(covered, around, stride=1, padding=around // 2)[0, 0]
            covered = (covered[0, 0] > 0) | (share > _MOST_COVERED)
            correlation = torch.where(covered, 0.0, correlation)
            room *= 1 - float(covered.float().mean())
        n_best = max(5, int(0.1 * room), int(min(_LEAST_PLACES, 0.3 * room)))
        dark, bright = (
            signed[elements[:, 0], elements[:, 1]].median() if len(elements) else signed.new_zeros(())
            for signed in (correlation, -correlation)
            for elements in (find_peaks(signed, 0.8 * diameter / pixel, -1.0, n_best)[1],)
        )
        scores.append(dark - bright)
    return torch.stack(scores)


def measure_radial_profile(image: Tensor, elements: np.ndarray, radius_px: int) -> Tensor:
    """Return the mean of an image at radii 0 to `radius_px` around elements `(n, 2)` as (y, x), where all of that is inside."""
    ny, nx = image.shape
    inside = ((elements >= radius_px) & (elements < np.array([ny, nx]) - radius_px)).all(axis=1)
    offset = torch.arange(-radius_px, radius_px + 1, device=image.device)
    ring = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float()).round().long().flatten()
    total = torch.zeros(len(ring), device=image.device)
    for y, x in elements[inside]:
        total += image[y - radius_px : y + radius_px + 1, x - radius_px : x + radius_px + 1].flatten()
    sums = torch.zeros(int(ring.max()) + 1, device=image.device).index_add_(0, ring, total)
    counts = torch.bincount(ring).float() * max(int(inside.sum()), 1)
    return (sums / counts)[: radius_px + 1]


def find_outer_diameter(profile: Tensor, step_angstrom: float) -> float | None:
    """Return the diameter at which a dark particle ends, Å; None where the profile shows no dark particle.

    The edge is taken half-way between where the outermost dark part turns bright and the top of the bright fringe around it,
    which defocus makes. Without a fringe (contrast without defocus, in simulations) this is up to a fifth too much.
    """
    values = profile.cpu().numpy()
    darkest = int(values.argmin())
    if values[darkest] >= 0 or darkest >= len(values) - 2:
        return None
    bright = np.nonzero(values[darkest:] > 0)[0]
    if len(bright) == 0:
        return None
    after = darkest + int(bright[0])
    crossing = after - values[after] / (values[after] - values[after - 1])
    top = after
    while top + 1 < len(values) and values[top + 1] > values[top]:
        top += 1
    return float((crossing + top) * step_angstrom)
