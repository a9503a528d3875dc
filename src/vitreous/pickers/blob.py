"""Pick without a template: dark discs first, then what the best of them look like on average around their centres."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vitreous.ops.blobs import (
    MASK_FRACTION,
    find_outer_diameter,
    measure_radial_profile,
    resample_for_picking,
    score_diameters,
)
from vitreous.ops.junk import find_junk, look_up_junk
from vitreous.ops.peaks import find_peaks
from vitreous.ops.templates import compute_local_correlation, make_disc, make_radial_window
from vitreous.pickers.matched import Candidates, MatchSettings, compute_window_size, match_templates

__all__ = ["PICKING_SAMPLES", "estimate_diameter", "learn_profile", "pick_blobs", "reduce_micrograph"]

PICKING_SAMPLES = 20
"""Pixels across a particle when picking."""

_HIGH_PASS_DIAMETERS = 4.0
_PROFILE_DIAMETERS = 1.2
_N_BEST = 40


def reduce_micrograph(image: Tensor, pixel_size_angstrom: float, diameter_angstrom: float) -> tuple[Tensor, Tensor]:
    """Return the micrograph at the pixel size of picking, and that pixel size as (y, x)."""
    return resample_for_picking(
        image, pixel_size_angstrom, diameter_angstrom / PICKING_SAMPLES, _HIGH_PASS_DIAMETERS * diameter_angstrom
    )


def learn_profile(images: Sequence[Tensor], pixel_size_angstrom: float, diameter_angstrom: float) -> Tensor:
    """Return what the best dark discs of some micrographs look like: mean at radii 0, 1, 2, ... / `PICKING_SAMPLES` diameters."""
    radii = np.arange(round(_PROFILE_DIAMETERS * PICKING_SAMPLES) + 1) * diameter_angstrom / PICKING_SAMPLES
    profiles = []
    for image in images:
        small, pixels = reduce_micrograph(image, pixel_size_angstrom, diameter_angstrom)
        pixel, shape = float(pixels.mean()), (small.shape[0], small.shape[1])
        disc = -make_disc(shape, diameter_angstrom / 2 / pixel, device=small.device)
        mask = make_disc(shape, MASK_FRACTION * diameter_angstrom / pixel, device=small.device)
        correlation, _ = compute_local_correlation(small, disc[None], mask)
        elements = find_peaks(correlation[0], 0.8 * diameter_angstrom / pixel, 0.0)[1]
        xy = elements[:, ::-1] * (pixels.flip(0).double().numpy() / pixel_size_angstrom)
        junk = find_junk(image, pixel_size_angstrom, diameter_angstrom, xy[: max(5, len(xy) // 4)])
        elements = elements[look_up_junk(junk, xy) == ""][:_N_BEST]
        radius = math.ceil(radii[-1] / pixel)
        profile = measure_radial_profile(small, elements, radius).cpu().numpy()
        # The reduced pixel is not exactly what was asked for, and in a coarse micrograph far from it.
        profiles.append(np.interp(radii / pixel, np.arange(radius + 1), profile))
    return torch.from_numpy(np.mean(profiles, axis=0)).float()


def estimate_diameter(
    images: Sequence[Tensor], pixel_size_angstrom: float, low_angstrom: float, high_angstrom: float
) -> float:
    """Estimate the particle diameter from micrographs, Å.

    Parameters
    ----------
    images
        Micrographs, `(ny, nx)`.
    pixel_size_angstrom
        Of the micrographs.
    low_angstrom, high_angstrom
        Range to search.

    Returns
    -------
    float
        Diameter of the disc that stands out most, corrected by the outer edge of the mean profile of what it finds.
    """
    n = max(2, 1 + round(np.log(high_angstrom / low_angstrom) / np.log(1.15)))
    diameters = np.geomspace(low_angstrom, high_angstrom, n)
    # What is junk hardly depends on the diameter, which is not known yet; lumps of ice would be taken for large particles.
    middle, nowhere = math.sqrt(low_angstrom * high_angstrom), np.empty((0, 2))
    scores = torch.zeros(n)
    for image in images:
        junk = torch.from_numpy(find_junk(image, pixel_size_angstrom, middle, nowhere).kinds > 0).to(image.device)
        scores += score_diameters(image, pixel_size_angstrom, diameters.tolist(), junk).cpu()
    disc = float(diameters[int(scores.argmax())])
    profile = learn_profile(images, pixel_size_angstrom, disc)
    outer = find_outer_diameter(profile, disc / PICKING_SAMPLES)
    # The edge of a profile can be far off where particles are rare; the disc is never wrong by more than this.
    return disc if outer is None else float(np.clip(outer, 0.75 * disc, 1.4 * disc))


def pick_blobs(image: Tensor, pixel_size_angstrom: float, profile: Tensor, settings: MatchSettings) -> Candidates:
    """Find what looks like the learned radial profile."""
    small, pixels = reduce_micrograph(image, pixel_size_angstrom, settings.diameter_angstrom)
    step = settings.diameter_angstrom / PICKING_SAMPLES / float(pixels.mean())
    template = make_radial_window(compute_window_size(settings, pixels), profile.to(small.device), step)
    return match_templates(small, pixels, pixel_size_angstrom, [(template[None], torch.zeros(1))], settings)
