"""Classify and align images by expectation-maximisation over class, in-plane angle and shift.

An image is modelled as CTF x (class average, turned and shifted) + noise of known power per ring (Scheres et al. 2005,
doi:10.1016/j.jmb.2005.02.031; regularised as in Scheres 2012, doi:10.1016/j.jmb.2011.11.010). The first iterations take a part of
the images each and remember the earlier ones ever less (Cappé & Moulines 2009, doi:10.1111/j.1467-9868.2009.00698.x); the last
take all. Angles are searched in angular harmonics, see `vitreous.ops.harmonic2d`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitreous.ops.average2d import (
    average_images,
    compute_power,
    find_resolution_ring,
    make_soft_circle,
    run_single_threaded,
)
from vitreous.ops.fourier import compute_radial_mean, rfft2
from vitreous.ops.harmonic2d import PolarImages, Poses, Search, Sums, compare_images, make_shifts
from vitreous.ops.maximise2d import Maximiser, Model, blend_sums, move_classes, split_largest
from vitreous.ops.polar2d import PolarGrid, PolarSampler, compute_harmonics

__all__ = ["Alignment", "ClassificationSettings", "classify_images"]

_N_FOLDS = 16
_CHUNK = 128
_BATCH_PER_CLASS = 100
_BATCH_SHARE = 0.1
_FORGETTING = 0.7
_N_FULL = 4
_ANNEALED_PART = 0.4
_GLOBAL_EVERY = 8
_LOCAL_REACH = 2.0
_COARSE_FACTOR = 1.5
_FINAL_STEP_PX = 0.5
_RECENTRE_EVERY = 3
_LEAST_SHARE = 0.02
_LEAST_NOISE = 0.1
_N_SEEDS = 12
_FULL_CIRCLE = 360.0


@dataclass(frozen=True)
class ClassificationSettings:
    """How to classify."""

    n_classes: int
    n_iterations: int
    mask_radius_px: float
    max_shift_px: float
    first_ring: int
    """Highest ring compared in the first iterations, and the highest that the averages of both halves share."""
    last_ring: int
    """Highest ring ever compared."""
    seed: int
    mask_edge_px: float = 4.0
    """Over what the mask falls to 0 beyond its radius."""
    initial_uncertainty: float = 2.0
    """In the first iterations the logarithms of the probabilities of classes are divided by up to this."""
    annealing: float = 4.0
    """In the first iterations the noise power is multiplied by up to this."""
    recentre_threshold: float = 0.2
    """What exceeds this part of a class average's peak counts for its mass centre."""


@dataclass(frozen=True)
class Alignment:
    """Result of a classification. Classes without images are left out; numbers count from 0."""

    averages: Tensor
    """`(K, N, N)`, CTF-corrected, filtered by their own signal-to-noise ratio, centred at N // 2."""
    resolution_ring: Tensor
    """`(K,)`: ring at which the correlation of half averages falls below 0.143."""
    class_index: Tensor
    """`(n,)`."""
    angle_deg: Tensor
    """`(n,)`: the image shows the average turned by this from +x towards +y."""
    shift_px: Tensor
    """`(n, 2)` as (y, x): where the centre of the average lies relative to the centre of the image."""
    probability: Tensor
    """`(n,)`: of the class."""
    n_effective: Tensor
    """`(n,)`: classes that the image is divided among, one over the sum of their squared probabilities."""
    log_likelihood: Tensor
    """Mean over the images of the log of the likelihood, up to a constant, in each of the last iterations, which take all."""


def _choose_grid(
    n_px: int, n_rings: int, settings: ClassificationSettings, stored_half: int | None = None
) -> PolarGrid:
    """Return a grid fine enough for rings up to `n_rings`; its samples are every so many of `stored_half`."""
    around = 2 * math.pi * n_rings / n_px
    radius = settings.mask_radius_px
    n_even = math.ceil((1.2 * around * radius + 4) / 2)
    outer = min(n_px / 2, radius + settings.mask_edge_px + 2 * settings.max_shift_px)
    least = (1.1 * around * outer + 4 + 2 * n_even) / 2
    if stored_half is None:
        return PolarGrid(n_px, n_rings, 4 * math.ceil(least / 4), n_even)
    stride = next(stride for stride in (4, 2, 1) if stored_half // stride >= least or stride == 1)
    return PolarGrid(n_px, n_rings, stored_half // stride, n_even)


def _prepare(
    images: Tensor, ctf: Callable[[Tensor], Tensor] | None, grid: PolarGrid, settings: ClassificationSettings
) -> tuple[PolarImages, Tensor, float]:
    """Return the images on the polar grid, their radial profiles, and what part of white noise the mask lets through."""
    n, n_px = len(images), grid.n_px
    outer = settings.mask_radius_px + settings.mask_edge_px + settings.max_shift_px
    sampler = PolarSampler(grid, outer)
    values = torch.empty(n, grid.n_rings, grid.n_half, 2, dtype=torch.float16)
    ctf_power, image_power = torch.ones(n, grid.n_rings), torch.empty(n, grid.n_rings)
    offset = torch.arange(n_px) - n_px // 2
    ring = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float()).round().long().flatten()
    inside = ring <= settings.mask_radius_px
    profile = torch.zeros(n, int(ring[inside].max()) + 1)
    for index in torch.split(torch.arange(n), _CHUNK):
        chunk = images[index].float().cpu()
        factor = None if ctf is None else ctf(index).cpu()
        values[index] = torch.view_as_real(sampler.sample(chunk, factor) / n_px).half()
        power = compute_power(rfft2(chunk * sampler.mask))
        image_power[index] = compute_radial_mean(power, (n_px, n_px), grid.n_rings + 1)[:, 1:] / n_px**2
        if factor is not None:
            ctf_power[index] = compute_radial_mean(factor.square(), (n_px, n_px), grid.n_rings + 1)[:, 1:]
        profile[index] = profile[index].index_add_(1, ring[inside], chunk.flatten(1)[:, inside])
    profile /= torch.bincount(ring[inside]).clamp_min(1)
    return PolarImages(values, ctf_power, image_power), profile, float(sampler.mask.square().mean())


def _start(
    data: PolarImages, profile: Tensor, grid: PolarGrid, first_ring: int, n_classes: int, generator: torch.Generator
) -> Tensor:
    """Return the first references: groups of images alike in their radial profiles, a few members of each summed unaligned.

    Grouping by what turning does not change parts particles from junk at once; summing few members breaks the symmetry of
    angles.
    """
    profile = (profile - profile.mean(dim=0)) / profile.std(dim=0).clamp_min(1e-6)
    centres = profile[torch.randperm(len(profile), generator=generator)[:n_classes]]
    for _ in range(15):
        nearest = torch.cdist(profile, centres).argmin(dim=1)
        for j in range(n_classes):
            if (nearest == j).any():
                centres[j] = profile[nearest == j].mean(dim=0)
    order = torch.randperm(len(profile), generator=generator)
    starts = []
    for j in range(n_classes):
        members = order[nearest[order] == j][:_N_SEEDS]
        chosen = members if len(members) >= 3 else order[_N_SEEDS * j : _N_SEEDS * (j + 1)]
        chosen = chosen if len(chosen) else order[:_N_SEEDS]
        total = torch.view_as_complex(data.values[chosen].float().sum(dim=0))
        starts.append(total / data.ctf_power[chosen].sum(dim=0).clamp_min(0.1)[:, None])
    keep = torch.exp(-((torch.arange(1, grid.n_rings + 1) / first_ring) ** 4).float())
    return compute_harmonics(torch.stack(starts), grid) * keep


class _Classifier:
    """State of a classification between iterations."""

    def __init__(
        self,
        images: Tensor,
        ctf: Callable[[Tensor], Tensor] | None,
        half: Tensor,
        settings: ClassificationSettings,
    ) -> None:
        n, n_px = len(images), images.shape[-1]
        self.settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.grid = _choose_grid(n_px, settings.last_ring, settings)
        self.data, profile, self.passed = _prepare(images, ctf, self.grid, settings)
        self.maximiser = Maximiser(
            self.grid, settings.mask_radius_px, settings.mask_edge_px, settings.first_ring, settings.recentre_threshold
        )
        start = _start(self.data, profile, self.grid, settings.first_ring, settings.n_classes, self.generator)
        start = self.maximiser.apply_mask(start)
        share = torch.full((settings.n_classes,), 1 / settings.n_classes)
        self.model = Model(
            start.expand(_N_FOLDS, *start.shape), start, torch.zeros(len(share), self.grid.n_rings), share
        )
        self.folds = [Sums.make(self.grid, settings.n_classes) for _ in range(_N_FOLDS)]
        # Folds take the images of their half in turn.
        rank = torch.zeros(n, dtype=torch.long)
        for h in range(2):
            members = torch.nonzero(half == h)[:, 0]
            rank[members] = torch.arange(len(members)) % (_N_FOLDS // 2)
        self.fold = half * (_N_FOLDS // 2) + rank
        self.residual = self.data.image_power.double().mean(dim=0).float()
        self.last = settings.first_ring
        self.offset = torch.zeros(n, 2)
        self.angle = torch.zeros(n)
        self.number = torch.zeros(n, dtype=torch.long)
        self.visited = torch.zeros(n, dtype=torch.bool)
        self.queue = torch.zeros(0, dtype=torch.long)

    def take_batch(self, size: int) -> Tensor:
        """Return the next images of a random order, which is drawn anew when it ends."""
        n = len(self.fold)
        if size >= n:
            return torch.arange(n)
        if len(self.queue) < size:
            self.queue = torch.randperm(n, generator=self.generator)
        batch, self.queue = self.queue[:size], self.queue[size:]
        return batch.sort().values

    def run_folds(
        self, index: Tensor, search: Search, precision: Tensor, into: list[Sums] | None
    ) -> tuple[Tensor, Poses]:
        """Compare images with the references of their folds; return them in the order of the poses.

        Each fold is the work of one thread, so that the result does not depend on how many there are.
        """
        parts = [index[self.fold[index] == f] for f in range(_N_FOLDS)]
        filled = [f for f in range(_N_FOLDS) if len(parts[f])]

        def work(f: int) -> Poses:
            references = self.model.make_references(f, precision)
            offset = self.offset[parts[f]]
            return compare_images(self.data, parts[f], offset, references, search, None if into is None else into[f])

        found = run_single_threaded(work, filled)
        poses = Poses(
            *(
                torch.cat([getattr(part, name) for part in found])
                for name in ("class_index", "probability", "n_effective", "angle_deg", "shift_index", "log_evidence")
            )
        )
        return torch.cat([parts[f] for f in filled]), poses

    def make_search(self, n_rings: int, reach_px: float, step_px: float, uncertainty: float) -> Search:
        """Return the search up to a ring over shifts."""
        settings = self.settings
        grid = _choose_grid(self.grid.n_px, n_rings, settings, self.grid.n_half)
        return Search(grid, make_shifts(reach_px, step_px), settings.max_shift_px, uncertainty)

    def locate(self, index: Tensor, precision: Tensor, uncertainty: float) -> None:
        """Find the offsets of images anew, coarsely, over all shifts."""
        n_px, limit = self.grid.n_px, self.settings.max_shift_px
        ring = min(self.last, round(_COARSE_FACTOR * self.settings.first_ring))
        search = self.make_search(ring, limit, max(1.0, n_px / ring / 4) * _COARSE_FACTOR, uncertainty)
        self.offset[index] = 0
        order, poses = self.run_folds(index, search, precision, None)
        self.offset[order] = search.shifts[poses.shift_index]

    def place(
        self, index: Tensor, step_px: float, precision: Tensor, uncertainty: float, into: list[Sums] | None
    ) -> Poses:
        """Find the poses of images near their last offsets."""
        search = self.make_search(self.last, _LOCAL_REACH * step_px, step_px, uncertainty)
        order, poses = self.run_folds(index, search, precision, into)
        self.offset[order] += search.shifts[poses.shift_index]
        self.angle[order], self.number[order] = poses.angle_deg, poses.class_index
        self.visited[order] = True
        return replace(poses, class_index=order)

    def iterate(self, iteration: int) -> float:
        """Do one iteration; return the mean log likelihood of its images."""
        settings, n = self.settings, len(self.fold)
        n_full = min(_N_FULL, settings.n_iterations // 3)
        n_online = settings.n_iterations - n_full
        online = iteration < n_online
        size = max(_BATCH_PER_CLASS * settings.n_classes, round(_BATCH_SHARE * n)) if online else n
        batch = self.take_batch(size)
        rest = max(0.0, 1 - iteration / max(1, _ANNEALED_PART * n_online))
        uncertainty = 1 + (settings.initial_uncertainty - 1) * rest
        heat = 1 + (settings.annealing - 1) * rest
        precision = self.passed / self.residual.clamp_min(1e-20) / heat
        everywhere = online and iteration % _GLOBAL_EVERY == _GLOBAL_EVERY - 1
        lost = batch if everywhere else batch[~self.visited[batch]]
        if len(lost):
            self.locate(lost, precision, uncertainty)
        new = [Sums.make(self.grid, settings.n_classes) for _ in range(_N_FOLDS)]
        poses = self.place(batch, max(1.0, self.grid.n_px / self.last / 4), precision, uncertainty, new)
        kept = 0.0
        if online and iteration:
            kept = 1 - max((iteration + 2) ** -_FORGETTING, len(batch) / n)
        self.update_noise(batch, new, precision, kept)
        for sums in new:
            # Annealing flattens the posterior, but the noise in the averages is what it is.
            sums.signal *= heat
            sums.power *= heat
        self.folds = blend_sums(self.folds, new, kept, (1 - kept) * n / len(batch))
        self.model = self.maximiser.maximise(self.folds, strict=not online)
        if iteration < n_online - 1:
            self.tidy(iteration)
        goal = self.model.find_reached_ring(_LEAST_SHARE)
        self.last = int(min(settings.last_ring, max(self.last, goal + 2), self.last + 2))
        return float(poses.log_evidence.mean())

    def update_noise(self, batch: Tensor, new: list[Sums], precision: Tensor, kept: float) -> None:
        """Take the noise power from what the references leave of the images."""
        left = torch.zeros(self.grid.n_rings)
        for f, sums in enumerate(new):
            members = batch[self.fold[batch] == f]
            power = self.data.image_power[members].sum(dim=0)
            left += self.maximiser.compute_residual(sums, self.model.references[f], precision, power)
        # Strong signal in few images can leave less than nothing of a ring.
        left = torch.maximum(left / len(batch), _LEAST_NOISE * self.data.image_power[batch].mean(dim=0))
        self.residual = kept * self.residual + (1 - kept) * left

    def tidy(self, iteration: int) -> None:
        """Centre the classes and refill empty ones."""
        if iteration % _RECENTRE_EVERY == _RECENTRE_EVERY - 1:
            shift = -self.maximiser.find_centres(self.model.average)
            shift *= (self.settings.max_shift_px / shift.norm(dim=1, keepdim=True).clamp_min(1e-6)).clamp_max(1)
            self.folds = move_classes(self.folds, shift, self.grid)
            # An image shows the average turned, then shifted: the old average is the new one moved by minus the shift.
            angle, (y, x) = torch.deg2rad(self.angle), shift[self.number].T
            moved = torch.stack([angle.sin() * x + angle.cos() * y, angle.cos() * x - angle.sin() * y], dim=1)
            self.offset[self.visited] -= moved[self.visited]
            length = self.offset.norm(dim=1, keepdim=True).clamp_min(1e-6)
            self.offset *= (self.settings.max_shift_px / length).clamp_max(1)
            self.model = self.maximiser.maximise(self.folds, strict=False)
        folds = split_largest(self.folds, self.model, self.generator)
        if folds is not self.folds:
            self.folds = folds
            self.model = self.maximiser.maximise(folds, strict=False)


def classify_images(
    images: Tensor,
    ctf: Callable[[Tensor], Tensor] | None,
    half: Tensor,
    settings: ClassificationSettings,
    progress: Callable[[float, str], None] | None = None,
) -> Alignment:
    """Classify and align images.

    Parameters
    ----------
    images
        `(n, N, N)`, protein bright, centred at N // 2, background of mean 0 and deviation 1. They are read some at a time, and
        may be a file mapped into memory.
    ctf
        Returns the CTF `(b, N, N // 2 + 1)` of the images with indices `(b,)`, positive at low frequency (these images are
        inverted); None: as if 1.
    half
        `(n,)`, 0 or 1: the half set of each, for the resolution of averages.
    settings
        How to classify.
    progress
        Called with the fraction done.

    Raises
    ------
    ValueError
        If there are fewer images than classes.

    Notes
    -----
    The work is done on the CPU, whatever device the images are on, by as many threads as torch has; the result does not depend
    on their number.
    """
    if len(images) < settings.n_classes:
        raise ValueError(f"{len(images)} images cannot make {settings.n_classes} classes")
    state = _Classifier(images, ctf, half.cpu(), settings)
    history = []
    for iteration in range(settings.n_iterations):
        history.append(state.iterate(iteration))
        if progress is not None:
            progress((iteration + 1) / (settings.n_iterations + 1), f"2D classes, ring {state.last}")
    everything = torch.arange(len(images))
    precision = state.passed / state.residual.clamp_min(1e-20)
    poses = state.place(everything, _FINAL_STEP_PX, precision, 1.0, None)
    probability, n_effective = torch.empty(2, len(images))
    probability[poses.class_index], n_effective[poses.class_index] = poses.probability, poses.n_effective
    number = torch.unique(state.number, return_inverse=True)[1]
    mask = make_soft_circle(images.shape[-1], settings.mask_radius_px, settings.mask_edge_px)
    averages, correlation = average_images(images, ctf, half.cpu(), number, state.angle, state.offset, mask)
    n_full = min(_N_FULL, settings.n_iterations // 3)
    return Alignment(
        averages=averages,
        resolution_ring=torch.tensor([find_resolution_ring(curve) for curve in correlation]),
        class_index=number,
        angle_deg=torch.remainder(state.angle, _FULL_CIRCLE),
        shift_px=state.offset,
        probability=probability,
        n_effective=n_effective,
        log_likelihood=torch.tensor(history[len(history) - n_full :]),
    )
