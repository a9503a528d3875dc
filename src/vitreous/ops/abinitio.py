"""A first map from images alone: stochastic expectation-maximisation from random orientations.

Batches of images are compared with the projections of the current map over all of the asymmetric unit; each is put back at
its most probable orientations with their probabilities; the sums over batches fade, and the resolution rises step by step
(Punjani et al. 2017, doi:10.1038/nmeth.4169, with expectation-maximisation for the gradient). Several starts compete by
likelihood. The hand of the map is not determined.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.mask import compute_soft_sphere
from vitreous.ops.pose_search import FourierImages, compute_shift_phases, make_shift_grid, search_poses
from vitreous.ops.project import compute_reference, extract_slices
from vitreous.ops.reconstruct import SliceSums, insert_slices, solve
from vitreous.ops.resolution import compute_fsc
from vitreous.ops.rotations import draw_rotations
from vitreous.ops.symmetry import compute_orientation_grid

__all__ = ["AbInitioSettings", "compute_initial_map", "compute_ring_power"]

_N_BEST = 3
_FADE = 0.6
_MAX_ORIENTATIONS_SPACING = 15.0


@dataclass(frozen=True)
class AbInitioSettings:
    """Choices.

    Attributes
    ----------
    radius_px
        Of the sphere that holds the particle.
    r_start, r_end
        Cycles per box used first and last.
    n_starts, n_iterations, batch
        Random starts, iterations of each and images per iteration.
    shift_px
        Largest shift tried.
    """

    radius_px: float
    r_start: int
    r_end: int
    n_starts: int = 5
    n_iterations: int = 16
    batch: int = 200
    shift_px: float = 3.0


def compute_ring_power(images: FourierImages) -> Tensor:
    """Return the mean of |X|² over the samples of each ring and all images, for every sample, `(m,)`."""
    ring = images.compute_shells()
    power = images.values.abs().square().double().mean(0)
    sums = torch.zeros(int(ring.max()) + 1, dtype=torch.float64).index_add_(0, ring, power)
    counts = torch.bincount(ring, minlength=len(sums)).clamp(min=1)
    return (sums / counts)[ring]


def _insert_two(
    images: FourierImages, matrices: Tensor, origins: Tensor, weights: Tensor, noise: Tensor, r: int, operators: Tensor
) -> tuple[SliceSums, SliceSums]:
    """Insert even and odd images apart, each at its `(n, k)` poses with their weights."""
    m = len(noise)
    sums = []
    for first in range(2):
        part = images.take(torch.arange(first, len(images), 2))
        share, turns = weights[first::2].flatten(), matrices[first::2].flatten(0, 1)
        keep = share > 1e-3
        phases = compute_shift_phases(part.samples[:m], origins[first::2].flatten(0, 1), part.box_px)
        which = torch.arange(len(part)).repeat_interleave(weights.shape[1])[keep]
        ctf = part.ctf[which, :m]
        scale = share[keep, None] / noise
        values = part.values[which, :m] * phases[keep] * ctf * scale
        weight = ctf.square() * scale
        sums.append(
            insert_slices(turns[keep], values.to(torch.complex64), weight.float(), part.samples[:m], r, operators)
        )
    return sums[0], sums[1]


def _solve_two(sums: tuple[SliceSums, SliceSums], n: int, r: int, mask: Tensor) -> Tensor:
    halves = [solve(part, n, r) * mask for part in sums]
    fsc = compute_fsc(halves[0], halves[1]).clamp(0.02, 0.99)
    return solve(sums[0] + sums[1], n, r, 2 * fsc / (1 - fsc)) * mask


def compute_initial_map(
    images: FourierImages,
    operators: Tensor,
    settings: AbInitioSettings,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Return a map `(box, box, box)` at about the resolution of `r_end`.

    Parameters
    ----------
    images
        All particles.
    operators
        Symmetry that is imposed throughout.
    settings
        See there.
    generator
        Where chance comes from.
    device
        Where projections are compared.
    progress
        Told the fraction done.
    """
    box = images.box_px
    small = min(box, 2 * (settings.r_end + 3))
    mask = compute_soft_sphere(small, settings.radius_px * small / box, 2.0)
    power = compute_ring_power(images).float()
    judged = torch.randperm(len(images), generator=generator)[: 2 * settings.batch]
    best_score, best_map = -torch.inf, None
    shift_grid = make_shift_grid(settings.shift_px, max(1.0, settings.shift_px / 2))
    steps = settings.n_starts * (settings.n_iterations + 1)
    for start in range(settings.n_starts):
        sums: tuple[SliceSums, SliceSums] | None = None
        for iteration in range(settings.n_iterations + 1):
            last = iteration == settings.n_iterations
            fraction = min(1.0, iteration / (0.8 * settings.n_iterations))
            r = round(settings.r_start + (settings.r_end - settings.r_start) * fraction)
            m = images.count_samples(r)
            noise = power[:m]
            chosen = judged if last else torch.randperm(len(images), generator=generator)[: settings.batch]
            batch = images.take(chosen)
            origins = torch.zeros(len(batch), 2)
            if sums is None:
                turns = draw_rotations(len(batch), generator)[:, None]
                weights, shifts = torch.ones(len(batch), 1), origins[:, None]
            else:
                volume = _solve_two(sums, small, settings.r_end, mask)
                grid = compute_orientation_grid(min(_MAX_ORIENTATIONS_SPACING, 100.0 / r), operators)
                grid = grid @ draw_rotations(1, generator)[0] if len(operators) == 1 else grid
                reference = compute_reference(volume, r)
                slices = extract_slices(reference, grid, batch.samples[:m]).to(device)
                found = search_poses(batch, slices, noise, origins, shift_grid, _N_BEST)
                if last:
                    score = float(found.score[:, 0].mean())
                    if score > best_score:
                        best_score, best_map = score, sums
                    break
                weights = torch.softmax(found.score.float(), dim=1)
                turns, shifts = grid[found.orientation], found.origin_px
            # Noise of one variance up to r_end, so that sums of different iterations add.
            new = _insert_two(batch, turns, shifts, weights, noise, settings.r_end, operators)
            sums = new if sums is None else (sums[0] * _FADE + new[0], sums[1] * _FADE + new[1])
            if progress is not None:
                progress((start * (settings.n_iterations + 1) + iteration + 1) / steps)
    if best_map is None:
        raise ValueError("no start gave a finite likelihood")
    return _solve_two(best_map, box, settings.r_end, compute_soft_sphere(box, settings.radius_px, 2.0))
