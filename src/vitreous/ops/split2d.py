"""Classes that hold images of two kinds are parted, in place of those that the images can do without.

Both are judged by log likelihoods of images that had no part in what they are compared with (the moves are those of Ueda et al.
2000, doi:10.1162/089976600300015088, who judge them by other means). What a class is needed for is what its images lose if each
goes where it fits next best. What parting would gain is found by a small classification of its members: two parts drawn by lot
start it, and each half set is parted, and turned anew, by the averages that the other one makes. Images of a second kind lie in a
class at angles of no meaning, so that those must be found again before the kinds show.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vitreous.ops.harmonic2d import PolarImages, References, Search, Sums, compare_images
from vitreous.ops.maximise2d import total_sums
from vitreous.ops.polar2d import PolarGrid

__all__ = ["Split", "choose_splits", "compute_losses", "find_split", "split_classes"]

_N_ROUNDS, _N_ROUNDS_ALONE = 6, 2
_PART_POWER, _LEAST_POWER = 2.0, 1e-4
_ORDER_MARGIN = 2
_MARGIN, _NO_LOSS = 5.0, 1.0
_STAND_IN_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """How a class would be parted."""

    gain: float
    """What the log likelihood of the images that it was found with would gain."""
    share: Tensor
    """`(2,)`: of the images."""
    change: Tensor
    """`(2, 2, E, R)` complex: averages of both parts less that of the class."""


def find_split(
    images: PolarImages,
    index: Tensor,
    half: Tensor,
    offset_px: Tensor,
    average: Tensor,
    precision: Tensor,
    search: Search,
    radius_px: float,
    generator: torch.Generator,
) -> Split:
    """Find how to part a class.

    Parameters
    ----------
    images
        All images.
    index
        `(b,)`: members of the class.
    half
        `(b,)`, 0 or 1: half set of each; both must be there.
    offset_px
        `(b, 2)` as (y, x): what the shifts of each are counted from.
    average
        `(2, E, R)` complex: of the class.
    precision
        `(R,)`: 1 / E|noise|².
    search
        Angles and shifts tried; E and R are of its grid.
    radius_px
        Nothing of the particle lies further out.
    generator
        For the start.
    """
    grid = search.grid
    members = [torch.nonzero(half == h)[:, 0] for h in range(2)]
    prior = precision / _expect_power(average, precision, grid, radius_px)

    def compare(members: Tensor, references: Tensor) -> tuple[Sums, float]:
        n_kinds = references.shape[2]
        sums = Sums.make(grid, n_kinds)
        found = References(references, torch.full((n_kinds,), -math.log(n_kinds)), precision)
        poses = compare_images(images, index[members], offset_px[members], found, search, sums)
        return sums, float(poses.log_evidence.double().sum())

    def learn(sums: Sums) -> Tensor:
        signal = torch.complex(sums.signal[..., 0, :].contiguous(), sums.signal[..., 1, :].contiguous())
        return signal / (sums.power + prior[:, :, None])

    def alternate(references: Tensor, n_rounds: int) -> tuple[Sums, float]:
        """Learn from each half set in turn to compare the other one with; return the last sums and evidence of both."""
        for _ in range(n_rounds):
            second, second_evidence = compare(members[1], references)
            first, first_evidence = compare(members[0], learn(second))
            references = learn(first)
        return total_sums([first, second]), first_evidence + second_evidence

    one = average[:, :, None]
    alone = alternate(one, _N_ROUNDS_ALONE)[1]
    order = torch.randperm(len(members[0]), generator=generator)
    start = torch.cat([learn(compare(members[0][part], one)[0]) for part in order.chunk(2)], dim=2)
    sums, apart = alternate(start, _N_ROUNDS)
    share = (sums.weight + 1) / (sums.weight + 1).sum()
    return Split(apart - alone, share, (learn(sums) - one).movedim(2, 0).contiguous())


def _expect_power(average: Tensor, precision: Tensor, grid: PolarGrid, radius_px: float) -> Tensor:
    """Return the power `(2, E, R)` expected of the averages of parts, in units of noise: twice that of their mean on each ring.

    It is spread over the harmonics that can have any: at ring r those of orders up to 2 pi r / N times the radius, as far as
    Bessel functions go.
    """
    reach = 2 * math.pi / grid.n_px * radius_px * torch.arange(1, grid.n_rings + 1)
    possible = (grid.order[..., None] <= reach + _ORDER_MARGIN).float()
    power = grid.weight * precision * (average.real.square() + average.imag.square()) / 2
    mean = _PART_POWER * power.sum(dim=(0, 1)) / possible.sum(dim=(0, 1))
    return (possible * mean).clamp_min(_LEAST_POWER)


def compute_losses(sums: Sums) -> Tensor:
    """Return what the log likelihoods would lose without each class, `(K,)`, the others' priors growing by what they get."""
    grown = sums.weight + sums.transfer
    gained = grown * (grown.clamp_min(1e-6) / sums.weight.clamp_min(1e-6)).log()
    return sums.loss - gained.fill_diagonal_(0).sum(dim=1)


def choose_splits(gains: dict[int, float], sums: Sums, most: int) -> list[tuple[int, int]]:
    """Return up to `most` pairs (class to part, class to give up), no class in two, that gain more than they lose.

    A class that nothing needs is given up in any case: the gain is a low bound, for half a class shows little of its parts.
    Classes that stand in for each other are not given up together.
    """
    losses = compute_losses(sums)
    stands_in = sums.transfer > _STAND_IN_SHARE * sums.weight[:, None]
    stands_in = stands_in | stands_in.T
    cheapest: list[int] = losses.argsort(stable=True).tolist()
    pairs: list[tuple[int, int]] = []
    for parted in sorted(gains, key=lambda k: -gains[k]):
        taken = {k for pair in pairs for k in pair}
        given_up = [pair[1] for pair in pairs]
        free = [k for k in cheapest if k not in taken and k != parted and not stands_in[k, given_up].any()]
        if parted in taken or not free or len(pairs) == most:
            continue
        loss = float(losses[free[0]])
        if loss < _NO_LOSS or gains[parted] > loss + _MARGIN:
            pairs.append((parted, free[0]))
    return pairs


def split_classes(folds: list[Sums], pairs: list[tuple[int, int]], splits: dict[int, Split]) -> list[Sums]:
    """Return sums in which classes are parted, the second part in the place of a class given up."""
    changed = [Sums(*(getattr(fold, part.name).clone() for part in fields(Sums))) for fold in folds]
    for parted, given_up in pairs:
        split = splits[parted]
        n_even, n_rings = split.change.shape[2:]
        change = torch.view_as_real(split.change).movedim(-1, -2)
        for before, fold in zip(folds, changed, strict=True):
            for j, k in enumerate((parted, given_up)):
                fold.power[k] = before.power[parted] * split.share[j]
                fold.weight[k] = before.weight[parted] * split.share[j]
                fold.signal[:, :, k] = before.signal[:, :, parted] * split.share[j]
                fold.signal[:, :n_even, k, :, :n_rings] += change[j] * fold.power[k, :n_rings]
    return changed
