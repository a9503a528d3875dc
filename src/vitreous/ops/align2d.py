"""Classify and align images by expectation-maximisation over class, in-plane angle and shift.

An image is modelled as CTF x (class average, turned and shifted) + noise of known power per ring (Scheres et al. 2005,
doi:10.1016/j.jmb.2005.02.031; regularised as in Scheres 2012, doi:10.1016/j.jmb.2011.11.010). The first iterations take a part of
the images each and remember the earlier ones ever less (Cappé & Moulines 2009, doi:10.1111/j.1467-9868.2009.00698.x); the last
take all. Angles are searched in angular harmonics, see `vitreous.ops.harmonic2d`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vitreous.ops.average2d import (
    ImageSource,
    average_images,
    find_resolution_ring,
    make_soft_circle,
    run_single_threaded,
)
from vitreous.ops.harmonic2d import Poses, Search, Sums, compare_images, make_shifts
from vitreous.ops.maximise2d import Maximiser, Model, blend_sums, move_classes, total_sums
from vitreous.ops.prepare2d import (
    ClassificationSettings,
    choose_grid,
    measure_colour,
    prepare_images,
    start_references,
)
from vitreous.ops.split2d import Split, choose_splits, find_split, split_classes

__all__ = ["Alignment", "ClassificationSettings", "classify_images"]

_N_FOLDS = 16
_BATCH_PER_CLASS = 100
_BATCH_SHARE = 0.1
_FORGETTING = 0.7
_N_FULL = 4
_ANNEALED_PART = 0.4
_DOUBTED = 7
_LOCAL_REACH = 2.0
_COARSE_FACTOR = 1.5
_FINAL_STEP_PX = 0.5
_RECENTRE_EVERY = 3
_LEAST_MOVE_PX = 0.5
_SPLIT_EVERY = 2
_SPLIT_PART = 0.8
_MOST_PARTED = 600
_FEWEST_PARTED = 8
_LEAST_SHARE, _LEAST_PART = 0.02, 0.5
_LEAST_NOISE = 0.1
_FULL_CIRCLE = 360.0


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


class _Classifier:
    """State of a classification between iterations."""

    def __init__(
        self,
        images: ImageSource,
        ctf: Callable[[Tensor], Tensor] | None,
        half: Tensor,
        settings: ClassificationSettings,
        device: torch.device | str,
    ) -> None:
        n, n_px = len(images), images.shape[-1]
        colour = measure_colour(images, settings)
        first, last = (min(ring, colour.last_ring) for ring in (settings.first_ring, settings.last_ring))
        self.settings = settings = replace(settings, first_ring=first, last_ring=last)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.grid = choose_grid(n_px, settings.last_ring, settings)
        prepared = prepare_images(images, ctf, colour, self.grid, settings, device)
        self.data, self.passed = prepared.images, prepared.passed
        self.maximiser = Maximiser(
            self.grid,
            settings.mask_radius_px,
            settings.mask_edge_px,
            settings.first_ring,
            settings.recentre_threshold,
            colour.amplitude[1 : self.grid.n_rings + 1],
        )
        start = start_references(prepared, self.grid, settings.first_ring, settings.n_classes, self.generator)
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
        self.located = torch.full((n,), -1)
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
        grid = choose_grid(self.grid.n_px, n_rings, settings, self.grid.n_half)
        return Search(grid, make_shifts(reach_px, step_px), settings.max_shift_px, uncertainty)

    def find_coarse_ring(self) -> int:
        """Return the highest ring of coarse searches."""
        return min(self.last, round(_COARSE_FACTOR * self.settings.first_ring))

    def locate(self, index: Tensor, precision: Tensor, uncertainty: float) -> None:
        """Find the offsets of images anew, coarsely, over all shifts."""
        n_px, limit = self.grid.n_px, self.settings.max_shift_px
        ring = self.find_coarse_ring()
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
        # Shifts found with the first averages are doubted once; later a coarse search would only do worse.
        doubted = _DOUBTED if online and iteration >= _DOUBTED else 0
        lost = batch[self.located[batch] < doubted]
        if len(lost):
            self.locate(lost, precision, uncertainty)
            self.located[lost] = iteration
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
            if iteration % _SPLIT_EVERY == _SPLIT_EVERY - 1 and iteration < _SPLIT_PART * n_online:
                self.exchange(batch, new, precision)
            if iteration % _RECENTRE_EVERY == _RECENTRE_EVERY - 1:
                self.recentre()
        goal = self.model.find_reached_ring(min(_LEAST_SHARE, _LEAST_PART / settings.n_classes))
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

    def exchange(self, batch: Tensor, new: list[Sums], precision: Tensor) -> None:
        """Part classes that hold images of two kinds, in place of those that the images of the batch can do without."""
        n_classes = self.settings.n_classes
        search = self.make_search(self.last, 0.0, 1.0, 1.0)
        grid = search.grid
        precision = precision[: grid.n_rings]
        members = [batch[self.number[batch] == k] for k in range(n_classes)]
        chosen = [index[:_MOST_PARTED] for index in members]
        halves = [self.fold[index] // (_N_FOLDS // 2) for index in chosen]
        generators = [
            torch.Generator().manual_seed(seed)
            for seed in torch.randint(2**31, (n_classes,), generator=self.generator).tolist()
        ]

        def part(k: int) -> Split:
            average = self.model.average[:, : grid.n_even, k, : grid.n_rings]
            offset, radius = self.offset[chosen[k]], self.settings.mask_radius_px
            return find_split(
                self.data, chosen[k], halves[k], offset, average, precision, search, radius, generators[k]
            )

        fit = [k for k in range(n_classes) if torch.bincount(halves[k], minlength=2).min() >= _FEWEST_PARTED]
        splits = dict(zip(fit, run_single_threaded(part, fit), strict=True))
        gains = {k: split.gain * len(members[k]) / len(chosen[k]) for k, split in splits.items()}
        pairs = choose_splits(gains, total_sums(new), max(1, n_classes // 4))
        if pairs:
            self.folds = split_classes(self.folds, pairs, splits)
            self.model = self.maximiser.maximise(self.folds, strict=False)

    def recentre(self) -> None:
        """Move classes to their mass centres where that brings their images nearer to the centres of their boxes.

        Noise makes mass, and images that it draws away would be lost at the limit of the shifts.
        """
        number, n_classes = self.number, self.settings.n_classes
        angle, (y, x) = torch.deg2rad(self.angle), self.offset.T
        turned_back = torch.stack([angle.cos() * y - angle.sin() * x, angle.sin() * y + angle.cos() * x], dim=1)
        seen = (self.located >= 0).float()
        total = torch.zeros(n_classes, 2).index_add_(0, number, turned_back * seen[:, None])
        mean = total / torch.zeros(n_classes).index_add_(0, number, seen).clamp_min(1)[:, None]
        shift = -self.maximiser.find_centres(self.model.average)
        nearer = 2 * (shift * mean).sum(dim=1) > shift.square().sum(dim=1)
        shift *= (nearer & (shift.norm(dim=1) > _LEAST_MOVE_PX))[:, None]
        self.folds = move_classes(self.folds, shift, self.grid)
        self.move_offsets(shift)
        length = self.offset.norm(dim=1, keepdim=True).clamp_min(1e-6)
        self.offset *= (self.settings.max_shift_px / length).clamp_max(1)
        self.model = self.maximiser.maximise(self.folds, strict=False)

    def move_offsets(self, shift_px: Tensor) -> None:
        """Let the offsets be from averages moved by shifts `(K, 2)`."""
        # An image shows the average turned, then shifted: the old average is the new one moved by minus the shift.
        angle, (y, x) = torch.deg2rad(self.angle), shift_px[self.number].T
        moved = torch.stack([angle.sin() * x + angle.cos() * y, angle.cos() * x - angle.sin() * y], dim=1)
        self.offset[self.located >= 0] -= moved[self.located >= 0]


def classify_images(
    images: ImageSource,
    ctf: Callable[[Tensor], Tensor] | None,
    half: Tensor,
    settings: ClassificationSettings,
    progress: Callable[[float, str], None] | None = None,
    device: torch.device | str = "cpu",
) -> Alignment:
    """Classify and align images.

    Parameters
    ----------
    images
        `(n, N, N)`, protein bright, centred at N // 2, background of mean 0 and deviation 1; noise of any colour is whitened.
        They are read some at a time, at the start and for the averages at the end. What is kept of each are 2 R H numbers of two
        bytes, R being the last ring and H about 4 R at most.
    ctf
        Returns the CTF `(b, N, N // 2 + 1)` of the images with indices `(b,)`, positive at low frequency (these images are
        inverted); None: as if 1.
    half
        `(n,)`, 0 or 1: the half set of each, for the resolution of averages.
    settings
        How to classify.
    progress
        Called with the fraction done.
    device
        Where images are compared with averages, which takes nearly all the time.

    Raises
    ------
    ValueError
        If there are fewer images than classes.

    Notes
    -----
    On the CPU the result does not depend on the number of threads, which is torch's.
    """
    if len(images) < settings.n_classes:
        raise ValueError(f"{len(images)} images cannot make {settings.n_classes} classes")
    state = _Classifier(images, ctf, half.cpu(), settings, device)
    history = []
    for iteration in range(settings.n_iterations):
        history.append(state.iterate(iteration))
        if progress is not None:
            progress((iteration + 1) / (settings.n_iterations + 1), f"2D classes, ring {state.last}")
    everything = torch.arange(len(images))
    precision = state.passed / state.residual.clamp_min(1e-20)
    poses = state.place(everything, _FINAL_STEP_PX, precision, 1.0, None)
    state.move_offsets(-state.maximiser.find_centres(state.model.average))
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
