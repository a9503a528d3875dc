"""Pick without a template: dark discs first, then what the best of them look like on average around their centres."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitreous.ops.align2d import ClassificationSettings, classify_images
from vitreous.ops.blobs import (
    correlate_disc,
    find_outer_diameter,
    list_diameters,
    measure_radial_profile,
    resample_for_picking,
    score_diameters,
)
from vitreous.ops.boxes import extract_boxes, normalise_boxes, remove_outliers
from vitreous.ops.class_halves import add_images, average_halves, make_empty_sums
from vitreous.ops.extent import choose_extent, measure_extents
from vitreous.ops.junk import find_junk, hide_junk, look_up_junk
from vitreous.ops.peaks import find_peaks
from vitreous.ops.templates import make_radial_window
from vitreous.pickers.matched import Candidates, FindHidden, MatchSettings, compute_window_size, match_templates

__all__ = [
    "PICKING_SAMPLES",
    "DiameterEstimate",
    "estimate_diameter",
    "learn_profile",
    "pick_blobs",
    "reduce_micrograph",
]

PICKING_SAMPLES = 20
"""Pixels across a particle when picking."""

_HIGH_PASS_DIAMETERS = 4.0
_PROFILE_DIAMETERS = 1.2
_N_BEST = 40

_BOX_DISCS, _DISC_PX = 3.0, 16
"""Side of the windows that show how long particles are, in diameters of the disc that finds them, and pixels across the disc."""
_N_WINDOWS, _LEAST_WINDOWS = 60, 30
"""Per micrograph at most, and of all together at least."""
_N_CERTAIN, _LEAST_OF_BEST = 10, 0.5
"""What scores less than this share of the median of so many of the best is taken for noise."""
_N_CLASSES, _LEAST_PER_CLASS, _N_ROUNDS = 6, 10, 15
_OUTLIER_SIGMA = 8.0


class DiameterEstimate(NamedTuple):
    """How large particles are, Å."""

    edge_angstrom: float
    """Outer edge of what the best dark discs look like on average: near the short side of elongated particles."""
    extent_angstrom: float | None
    """Longest extent in averages of what is alike; None where none is clear."""

    @property
    def diameter_angstrom(self) -> float:
        """The larger of the two: what circumscribes the particle."""
        return max(self.edge_angstrom, self.extent_angstrom or 0.0)


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
        pixel = float(pixels.mean())
        dark = correlate_disc(small, diameter_angstrom / pixel)
        elements = find_peaks(dark, 0.8 * diameter_angstrom / pixel, 0.0)[1]
        xy = elements[:, ::-1] * (pixels.flip(0).double().numpy() / pixel_size_angstrom)
        correlation = dark.double().cpu().numpy()[elements[:, 0], elements[:, 1]]
        junk = find_junk(image, pixel_size_angstrom, diameter_angstrom, xy, correlation)
        elements = elements[look_up_junk(junk, xy) == ""][:_N_BEST]
        radius = math.ceil(radii[-1] / pixel)
        profile = measure_radial_profile(small, elements, radius).cpu().numpy()
        # The reduced pixel is not exactly what was asked for, and in a coarse micrograph far from it.
        profiles.append(np.interp(radii / pixel, np.arange(radius + 1), profile))
    return torch.from_numpy(np.mean(profiles, axis=0)).float()


def _cut_windows(image: Tensor, pixel_size_angstrom: float, disc_angstrom: float, profile: Tensor) -> Tensor:
    """Return what the disc finds best, protein bright, with much around it."""
    found = pick_blobs(image, pixel_size_angstrom, profile, MatchSettings(disc_angstrom, 0.9, 0.0))
    junk = find_junk(image, pixel_size_angstrom, disc_angstrom, found.xy_px, found.score)
    box = 2 * round(_BOX_DISCS * disc_angstrom / pixel_size_angstrom / 2)
    room = np.array([image.shape[1], image.shape[0]]) - box / 2
    usable = (look_up_junk(junk, found.xy_px) == "") & ((found.xy_px > box / 2) & (found.xy_px < room)).all(axis=1)
    usable &= found.score >= _LEAST_OF_BEST * np.median(found.score[:_N_CERTAIN])
    out = min(box, round(_BOX_DISCS * _DISC_PX))
    centres = torch.from_numpy(found.xy_px[usable][:_N_WINDOWS]).to(image.device)
    if not len(centres):
        return torch.zeros(0, out, out, device=image.device)
    return -extract_boxes(remove_outliers(image, _OUTLIER_SIGMA), centres, box, out)


def _measure_extent(
    images: Sequence[Tensor], pixel_size_angstrom: float, disc_angstrom: float, profile: Tensor
) -> float | None:
    """Return the longest extent of what the disc finds, Å, from class averages in which like lies on like."""
    windows = torch.cat([_cut_windows(image, pixel_size_angstrom, disc_angstrom, profile) for image in images])
    if len(windows) < _LEAST_WINDOWS:
        return None
    n_px = windows.shape[-1]
    disc_px = n_px / _BOX_DISCS
    windows = normalise_boxes(windows, 0.4 * n_px)
    settings = ClassificationSettings(
        n_classes=min(_N_CLASSES, len(windows) // _LEAST_PER_CLASS),
        n_iterations=_N_ROUNDS,
        mask_radius_px=0.85 * disc_px,
        max_shift_px=0.3 * disc_px,
        first_ring=6,
        last_ring=round(0.4 * n_px),
        seed=0,
        mask_edge_px=3.0,
    )
    half = torch.arange(len(windows), device=windows.device) % 2
    found = classify_images(windows, None, half, settings)
    index = found.class_index.to(windows.device)
    sums = make_empty_sums(int(index.max()) + 1, n_px, windows.device)
    pose = found.angle_deg.to(windows.device), found.shift_px.to(windows.device)
    halves = average_halves(add_images(sums, windows, None, half, index, *pose))[0]
    extent = choose_extent(measure_extents(halves), torch.bincount(index).cpu().numpy())
    return None if extent is None else extent * disc_angstrom / disc_px


def estimate_diameter(
    images: Sequence[Tensor], pixel_size_angstrom: float, low_angstrom: float, high_angstrom: float
) -> DiameterEstimate:
    """Estimate the particle diameter from micrographs.

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
    DiameterEstimate
        From the disc that stands out most: the outer edge of the mean profile of what it finds, and the longest extent in 2D
        class averages of some of that.
    """
    diameters = list_diameters(low_angstrom, high_angstrom)
    # What is junk hardly depends on the diameter, which is not known yet; lumps of ice would be taken for large particles.
    middle, nowhere = math.sqrt(low_angstrom * high_angstrom), np.empty((0, 2))
    scores = torch.zeros(len(diameters))
    for image in images:
        junk = find_junk(image, pixel_size_angstrom, middle, nowhere)
        covered = torch.from_numpy(junk.kinds > 0).to(image.device)
        scores += score_diameters(hide_junk(image, junk), pixel_size_angstrom, diameters, covered).cpu()
    disc = diameters[int(scores.argmax())]
    profile = learn_profile(images, pixel_size_angstrom, disc)
    outer = find_outer_diameter(profile, disc / PICKING_SAMPLES)
    # The edge of a profile can be far off where particles are rare; the disc is never wrong by more than this.
    edge = disc if outer is None else float(np.clip(outer, 0.75 * disc, 1.4 * disc))
    return DiameterEstimate(edge, _measure_extent(images, pixel_size_angstrom, disc, profile))


def pick_blobs(
    image: Tensor,
    pixel_size_angstrom: float,
    profile: Tensor,
    settings: MatchSettings,
    find_hidden: FindHidden | None = None,
) -> Candidates:
    """Find what looks like the learned radial profile; beside junk, where somebody looks for it, only what is none counts."""
    small, pixels = reduce_micrograph(image, pixel_size_angstrom, settings.diameter_angstrom)
    step = settings.diameter_angstrom / PICKING_SAMPLES / float(pixels.mean())
    template = make_radial_window(compute_window_size(settings, pixels), profile.to(small.device), step)
    bank = (template[None], torch.zeros(1))
    return match_templates(small, pixels, pixel_size_angstrom, [bank], settings, find_hidden=find_hidden)
