"""Refinement of one map with two independent halves of the images.

Both halves start from the same map, low-passed so far that what the half maps agree on beyond it comes from the images alone
(Scheres & Chen 2012, doi:10.1038/nmeth.2115). Poses are searched over the whole asymmetric unit first and refined image by
image after that; the Fourier shell correlation of the half maps within a soft sphere sets the Wiener filter of each half's
reference and up to where images are compared.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.abinitio import compute_ring_power
from vitreous.ops.mask import compute_soft_sphere
from vitreous.ops.pose_refine import Poses, refine_poses
from vitreous.ops.pose_search import FourierImages, compute_shift_phases, make_shift_grid, search_poses
from vitreous.ops.project import compute_reference, extract_slices
from vitreous.ops.reconstruct import SliceSums, insert_slices, solve
from vitreous.ops.resolution import apply_shell_filter, compute_fsc
from vitreous.ops.symmetry import compute_orientation_grid

__all__ = ["RefineSettings", "Refinement", "insert_images", "refine_halves"]

_FINEST_GLOBAL_DEG, _COARSEST_GLOBAL_DEG = 4.5, 12.0
_MOST_ORIENTATIONS = 40_000
_MARGIN = 2


@dataclass(frozen=True)
class RefineSettings:
    """Choices.

    Attributes
    ----------
    radius_px
        Of the soft sphere that holds the particle.
    r_start
        Cycles per box to which the start is low-passed.
    r_max
        Cycles per box beyond which nothing is used.
    n_iterations, n_global
        Iterations at most, and how many of them search all orientations.
    shift_px
        Largest shift tried.
    n_candidates
        How many orientations of the search are refined.
    """

    radius_px: float
    r_start: int
    r_max: int
    n_iterations: int = 8
    n_global: int = 3
    shift_px: float = 4.0
    n_candidates: int = 8


@dataclass(frozen=True)
class Refinement:
    """What came out: maps `(n, n, n)`, poses in the order of the images and the FSC of the half maps in the sphere.

    `combined` is Wiener-filtered; the half maps are not filtered.
    """

    combined: Tensor
    half_maps: tuple[Tensor, Tensor]
    poses: Poses
    fsc: Tensor
    n_iterations: int


def insert_images(images: FourierImages, poses: Poses, noise: Tensor, r_max: int, operators: Tensor) -> SliceSums:
    """Put every image back at its pose, weighted with its CTF and the noise variance `(m,)`."""
    phases = compute_shift_phases(images.samples, poses.origins_px, images.box_px)
    inverse = (1 / noise).float()
    values = images.values * phases * images.ctf * inverse
    weights = images.ctf.square() * inverse
    return insert_slices(poses.matrices, values, weights, images.samples, r_max, operators)


def _measure_noise(images: FourierImages, poses: Poses, reference: Tensor, r: int, noise: Tensor) -> Tensor:
    """Return the noise with the variance of what the reference leaves unexplained up to `r`, ring by ring."""
    m = images.count_samples(r)
    slices = extract_slices(reference, poses.matrices, images.samples[:m])
    centred = images.values[:, :m] * compute_shift_phases(images.samples[:m], poses.origins_px, images.box_px)
    rest = FourierImages(images.samples[:m], centred - images.ctf[:, :m] * slices, images.ctf[:, :m], images.box_px)
    return torch.cat((compute_ring_power(rest).float(), noise[m:]))


def _find_poses(
    images: FourierImages,
    reference: Tensor,
    noise: Tensor,
    r: int,
    previous: Poses | None,
    operators: Tensor,
    settings: RefineSettings,
    device: torch.device | str,
) -> Poses:
    """Search all orientations when there are no previous poses, else refine those."""
    noise = noise[: images.count_samples(r)]
    spacing = min(_COARSEST_GLOBAL_DEG, max(_FINEST_GLOBAL_DEG, 60.0 / r))
    if previous is not None:
        return refine_poses(
            images,
            reference,
            noise,
            previous.matrices[:, None],
            previous.origins_px[:, None],
            angle_step_deg=spacing / 3,
            shift_step_px=0.5,
        )
    # All rotations have the volume 8 pi².
    spacing = max(spacing, math.degrees((8 * math.pi**2 / (_MOST_ORIENTATIONS * len(operators))) ** (1 / 3)))
    # The search goes no further than its grid is fine enough for: a quarter of a wave at the particle's edge.
    r_search = min(r, round(80.0 / spacing))
    m = images.count_samples(r_search)
    grid = compute_orientation_grid(spacing, operators)
    slices = extract_slices(reference, grid, images.samples[:m]).to(device)
    step = max(1.0, images.box_px / (4 * r_search))
    shifts = make_shift_grid(settings.shift_px, step)
    found = search_poses(images, slices, noise[:m], torch.zeros(len(images), 2), shifts, settings.n_candidates)
    coarse = refine_poses(
        images,
        reference,
        noise[: images.count_samples(min(r, 2 * r_search))],
        grid[found.orientation],
        found.origin_px,
        angle_step_deg=spacing / 2,
        shift_step_px=step / 2,
        n_levels=2,
        reach_px=step + 1,
    )
    return refine_poses(
        images,
        reference,
        noise,
        coarse.matrices[:, None],
        coarse.origins_px[:, None],
        angle_step_deg=spacing / 8,
        shift_step_px=step / 4,
        reach_px=step,
    )


def refine_halves(
    images: FourierImages,
    half: Tensor,
    start: Tensor,
    operators: Tensor,
    settings: RefineSettings,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Refinement:
    """Refine poses and maps of two halves from a common start.

    Parameters
    ----------
    images
        All images, sampled up to `settings.r_max`.
    half
        `(n,)` 1 or 2.
    start
        Map `(box, box, box)` on the images' scale.
    operators
        Symmetry imposed.
    settings
        See there.
    device
        Where the search runs.
    progress
        Told the fraction done.

    Raises
    ------
    ValueError
        If a half is empty.
    """
    box, r_max = images.box_px, settings.r_max
    members = [torch.nonzero(half == i).flatten() for i in (1, 2)]
    if min(len(index) for index in members) == 0:
        raise ValueError("each half must hold at least one image")
    parts = [images.take(index) for index in members]
    mask = compute_soft_sphere(box, settings.radius_px, 3.0)
    shells = torch.arange(box // 2 + 1)
    smooth = (0.5 + 0.5 * torch.cos(torch.pi * ((shells - settings.r_start) / 2.0).clamp(0, 1))).float()
    references = [apply_shell_filter(start, smooth) * mask] * 2
    noises = [compute_ring_power(part).float() for part in parts]
    poses: list[Poses | None] = [None, None]
    r, best_r, stalled, done = settings.r_start, 0, 0, 0
    for iteration in range(settings.n_iterations):
        whole = iteration < settings.n_global
        found: list[Poses] = []
        sums: list[SliceSums] = []
        for i, part in enumerate(parts):
            reference = compute_reference(references[i], r)
            pose = _find_poses(part, reference, noises[i], r, None if whole else poses[i], operators, settings, device)
            noises[i] = _measure_noise(part, pose, reference, r, noises[i])
            found.append(pose)
            sums.append(insert_images(part, pose, noises[i], r_max, operators))
            if progress is not None:
                progress((iteration + (i + 1) / 2) / settings.n_iterations)
        poses = [*found]
        raw = [solve(part, box, r_max) for part in sums]
        fsc = compute_fsc(raw[0] * mask, raw[1] * mask)
        # Past the first crossing of 0.143 nothing is trusted.
        crossing = next((shell for shell in range(1, r_max + 1) if float(fsc[shell]) < 0.143), r_max + 1)
        trusted = torch.where(shells < crossing + 1, fsc.clamp(1e-3, 0.999), 1e-3)
        ssnr = trusted / (1 - trusted)
        references = [solve(part, box, r_max, ssnr) * mask for part in sums]
        done = iteration + 1
        stalled = 0 if crossing > best_r else stalled + 1
        best_r = max(best_r, crossing)
        if not whole and stalled >= 2:
            break
        r = max(settings.r_start, min(crossing + _MARGIN, r_max))
    combined = solve(sums[0] + sums[1], box, r_max, 2 * ssnr)
    order = torch.argsort(torch.cat(members))
    merged = Poses(
        torch.cat([pose.matrices for pose in found])[order],
        torch.cat([pose.origins_px for pose in found])[order],
        torch.cat([pose.scores for pose in found])[order],
    )
    return Refinement(combined, (raw[0], raw[1]), merged, fsc, done)
