"""Classes that hold images of two kinds are parted, in place of those that the images can do without.

Both are judged by log likelihoods of images that had no part in what they are compared with (the moves are those of Ueda et al.
2000, doi:10.1162/089976600300015088, who judge them by other means). What a class is needed for is what its images lose if each
goes where it fits next best. What parting would gain is found in the residuals of its aligned members: the direction that they
spread most along parts them in two, and then each half set is parted anew by the averages that the other one makes.
"""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vitreous.ops.harmonic2d import PolarImages, Sums
from vitreous.ops.polar2d import PolarGrid, compute_harmonics

__all__ = ["Split", "align_members", "choose_splits", "compute_losses", "find_split", "split_classes"]

_N_POWER_STEPS, _N_ROUNDS = 8, 4
_LEAST_PART = 0.05
_CHANGE_SHARE = 0.3
_LEAST_CHANGE = 1e-4
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


def align_members(images: PolarImages, index: Tensor, angle_deg: Tensor, offset_px: Tensor, grid: PolarGrid) -> Tensor:
    """Return harmonics `(2, E, b, R)` complex of images moved and turned back from angles `(b,)` and offsets `(b, 2)`."""
    stride = images.values.shape[2] // grid.n_half
    values = images.values[index.to(images.values.device), : grid.n_rings, ::stride].float().cpu()
    along = offset_px[:, 1:].double() * grid.theta.cos() + offset_px[:, :1].double() * grid.theta.sin()
    ring = torch.arange(1, grid.n_rings + 1, dtype=torch.float64)
    turn = 2 * math.pi / grid.n_px * ring[:, None] * along[:, None]
    moved = torch.view_as_complex(values) * torch.complex(turn.cos().float(), turn.sin().float())
    phase = grid.order[..., None] * torch.deg2rad(angle_deg)
    return compute_harmonics(moved, grid) * torch.complex(phase.cos(), phase.sin())[..., None]


def _part_on_line(place: Tensor) -> Tensor:
    """Part values `(n,)` where two groups lie furthest apart for the spread within; return `(n, 2)` of 0 and 1."""
    n = len(place)
    order = place.argsort(stable=True)
    count = torch.arange(1, n)
    apart = (place[order].cumsum(0)[:-1] - count * place.mean()).square() / (count * (n - count))
    least = max(1, round(_LEAST_PART * n))
    cut = least + int(apart[least - 1 : n - least].argmax())
    part = torch.zeros(n, 2)
    part[order[:cut], 0] = 1
    part[order[cut:], 1] = 1
    return part


def find_split(
    images: PolarImages,
    index: Tensor,
    half: Tensor,
    aligned: Tensor,
    average: Tensor,
    precision: Tensor,
    grid: PolarGrid,
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
    aligned
        `(2, E, b, R)`: the members, as of `align_members`.
    average
        `(2, E, R)` complex: of the class.
    precision
        `(R,)`: 1 / E|noise|².
    grid
        What E and R are of.
    generator
        For the start of the search for the direction.
    """
    n, n_rings = len(index), grid.n_rings
    scale = (grid.weight * precision).sqrt()
    ctf_power = images.ctf_power[index, :n_rings]
    rest = (aligned - ctf_power * average[:, :, None]) * scale[:, :, None]
    rest = torch.view_as_real(rest).permute(2, 0, 1, 4, 3).reshape(n, -1, n_rings)
    flat = rest.flatten(1)
    # What two parts differ by is expected where the average has power: elsewhere there is only noise to part by.
    power = torch.view_as_real(average * scale).square().mean(dim=(0, 1, 3))
    expected = (_CHANGE_SHARE * power).clamp_min(_LEAST_CHANGE)
    emphasis = expected.expand(rest.shape[1], -1).flatten()
    way = torch.randn(flat.shape[1], generator=generator)
    for _ in range(_N_POWER_STEPS):
        way = emphasis * (flat.T @ (flat @ way))
        way /= way.norm().clamp_min(1e-20)
    part = _part_on_line(flat @ way)

    def learn(members: Tensor) -> tuple[Tensor, Tensor]:
        weight = part[members].T
        change = torch.einsum("jb,bdr->jdr", weight, rest[members])
        change /= (weight @ ctf_power[members] + 1 / expected)[:, None]
        return change, (weight.sum(dim=1) + 1) / (len(members) + 2)

    halves = [torch.nonzero(half == h)[:, 0] for h in range(2)]
    gain = 0.0
    for i in range(2 * _N_ROUNDS):
        change, share = learn(halves[i % 2])
        other = halves[1 - i % 2]
        match = flat[other] @ change.flatten(1).T - 0.5 * ctf_power[other] @ change.square().sum(dim=1).T + share.log()
        part[other] = torch.softmax(match, dim=1)
        if i >= 2 * _N_ROUNDS - 2:
            gain += float(torch.logsumexp(match, dim=1).sum())
    change, share = learn(torch.arange(n))
    change = change.reshape(2, 2, grid.n_even, 2, n_rings).movedim(3, 4).contiguous()
    return Split(gain, share, torch.view_as_complex(change) / scale)


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
