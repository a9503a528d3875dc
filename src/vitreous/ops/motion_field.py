"""A displacement that varies smoothly over the image and in time: cubic splines, fitted to measurements in patches.

The field is a tensor product of cubic B-splines in time, rows and columns. What is likely before anything is measured is a
Gaussian process, as of the motion of particles in Zivanov, Nakane & Scheres (2019, doi:10.1107/S205225251801463X): the velocities
of near places are alike, and so are those of near times. How far "near" reaches and how fast places move is not known: fields are
averaged over what may be, as likely as it makes the measurements and as well as one half of the patches then predicts the other.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from torch import Tensor

__all__ = ["FieldFit", "MotionField", "Observations", "choose_field", "make_basis"]

_DEGREE = 3
_REACHES_ANGSTROM = (500.0, 1000.0, 2000.0, 4000.0)
"""Over which the motion of places is alike."""
_PERSISTENCES = (0.3, 1.0, 3.0, 10.0)
"""How long a velocity lasts, as a share of the movie."""
_AMPLITUDES_ANGSTROM = (0.3, 1.0, 3.0, 10.0)
"""Of the motion over the whole movie, were the velocity to last."""
_LIKELY = 6.0
"""Priors that make the measurements less likely than the best does, by more than this in the logarithm, do not count."""
_NUGGET = 1e-3
"""Share of the variance that has nothing to do with places and times near by."""


def _make_knots(low: float, high: float, n_intervals: int) -> NDArray[np.float64]:
    return np.concatenate([[low] * _DEGREE, np.linspace(low, high, n_intervals + 1), [high] * _DEGREE])


def make_basis(positions: Tensor, low: float, high: float, n_intervals: int) -> Tensor:
    """Return the clamped cubic B-splines on equal intervals between `low` and `high`, `(n, n_intervals + 3)` float64.

    Positions outside are taken to the border.
    """
    knots = _make_knots(low, high, n_intervals)
    inside = np.clip(positions.double().cpu().numpy(), low, high)
    return torch.from_numpy(BSpline.design_matrix(inside, knots, _DEGREE).toarray())


@dataclass(frozen=True)
class MotionField:
    """Local displacement, to be added to that of the whole frame: what places do not have in common.

    Attributes
    ----------
    coefficients
        `(n_t, n_y, n_x, 2)` float64, displacement as (y, x).
    times
        Of the frames, `(n_frames,)` from 0 to 1.
    height, width
        Of the image, in the unit of the positions; displacements are in the same unit.
    """

    coefficients: Tensor
    times: Tensor
    height: float
    width: float

    def _make_bases(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        in_time, in_y, in_x = (size - _DEGREE for size in self.coefficients.shape[:3])
        return (
            make_basis(self.times, 0, 1, in_time),
            make_basis(y, 0, self.height, in_y),
            make_basis(x, 0, self.width, in_x),
        )

    def evaluate(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the displacement of every frame at points, `(n_frames, len(y), 2)`, 0 in the first frame."""
        moved = torch.einsum("ft,py,px,tyxc->fpc", *self._make_bases(y, x), self.coefficients)
        return moved - moved[:1]

    def evaluate_grid(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the displacement of every frame on a grid of rows and columns, `(n_frames, len(y), len(x), 2)`."""
        in_time, along_y, along_x = self._make_bases(y, x)
        of_frames = torch.einsum("ft,tyxc->fyxc", in_time, self.coefficients)
        moved = torch.einsum("iy,jx,fyxc->fijc", along_y, along_x, of_frames)
        return moved - moved[:1]


@dataclass(frozen=True)
class Observations:
    """What was measured in patches, as a parabola of the evidence around the present displacement.

    Attributes
    ----------
    y, x
        Centres of the patches, `(P,)`.
    pull
        `(P, 2, n_frames)`: precision times the displacement measured. Needs no division by the precision, which is 0 in a
        patch that shows nothing.
    precision
        `(P, 2, n_frames, n_frames)`: inverse covariance of the displacement measured; singular where only differences are known.
    fold
        `(P,)`, 0 or 1: the half of the patches that a patch belongs to.
    """

    y: Tensor
    x: Tensor
    pull: Tensor
    precision: Tensor
    fold: Tensor


@dataclass(frozen=True)
class FieldFit:
    """A field, and whether it is worth having.

    Attributes
    ----------
    field
        The field.
    significance
        How well the displacement measured in patches agrees with the field fitted without them, in standard errors: of normal
        distribution about 0 where nothing moves.
    """

    field: MotionField
    significance: float


def _place_coefficients(low: float, high: float, n_intervals: int) -> Tensor:
    """Return where each coefficient of the splines acts: the mean of its inner knots (Greville)."""
    knots = torch.from_numpy(_make_knots(low, high, n_intervals))
    return knots.unfold(0, _DEGREE, 1)[1:-1].mean(dim=1)


@dataclass(frozen=True)
class _Prior:
    """What is likely before anything is measured.

    Attributes
    ----------
    precision
        Inverse covariance of the coefficients of one coordinate, `(n, n)`.
    log_determinant
        Of that.
    """

    precision: Tensor
    log_determinant: float


def _list_priors(size: tuple[float, float], intervals: tuple[int, int, int], unit_angstrom: float) -> Iterator[_Prior]:
    """Give priors of displacements in units of so many Å.

    Notes
    -----
    The covariance is the product of one in space, exp(-d² / 2 reach²), and one in time: of the integral of a velocity whose
    correlation is exp(-|t - t'| / persistence), and of a constant as large, for what is common to all frames is not known.
    """
    t = _place_coefficients(0, 1, intervals[0])
    y, x = (_place_coefficients(0, length, count) for length, count in zip(size, intervals[1:], strict=True))
    for persistence, reach in product(_PERSISTENCES, _REACHES_ANGSTROM):
        faded = torch.exp(-t / persistence)
        moved = faded[:, None] + faded - torch.exp(-(t[:, None] - t).abs() / persistence) - 1
        in_time = 1 + 2 * persistence * torch.minimum(t[:, None], t) + persistence**2 * moved
        in_time += _NUGGET * torch.eye(len(t))
        along_y, along_x = (
            torch.exp(-((axis[:, None] - axis) * unit_angstrom / reach).square() / 2) for axis in (y, x)
        )
        in_space = torch.kron(along_y, along_x)
        in_space += _NUGGET * torch.eye(len(in_space))
        precision = torch.kron(torch.linalg.inv(in_time), torch.linalg.inv(in_space))
        log_volume = float(len(in_space) * torch.logdet(in_time) + len(in_time) * torch.logdet(in_space))
        for amplitude in _AMPLITUDES_ANGSTROM:
            scale = (unit_angstrom / amplitude) ** 2
            yield _Prior(precision * scale, len(precision) * math.log(scale) - log_volume)


def _solve(normal: Tensor, pull: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coefficients `(2, n)` of normal matrices `(2, n, n)` and pulls `(2, n)`, and the factors `(2, n, n)`."""
    # What no measurement tells must not follow rounding errors.
    ridge = 1e-9 * normal.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None] * torch.eye(normal.shape[-1])
    factor = torch.linalg.cholesky(normal + precision + ridge)
    return torch.cholesky_solve(pull[..., None], factor)[..., 0], factor


def _sum_up(observed: Observations, chosen: Tensor, in_time: Tensor, in_space: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normal matrices `(2, n, n)` and pulls `(2, n)` of some of the patches, whatever they have in common."""
    precision, pull, here = observed.precision[chosen], observed.pull[chosen], in_space[chosen]
    total, all_pull = precision.sum(dim=0), pull.sum(dim=0)
    # The motion of the whole frame that fits best, whatever the field: it is what is known least of, hence the pseudo-inverse.
    inverse = torch.linalg.pinv(total, rtol=1e-9, hermitian=True)
    timed = in_time.T @ precision
    mean = torch.einsum("ps,pctg->ctsg", here, timed).flatten(1, 2)
    n_time, n_space = in_time.shape[1], in_space.shape[1]
    both = (timed @ in_time).flatten(1).T @ (here[:, :, None] * here[:, None, :]).flatten(1)
    normal = both.reshape(2, n_time, n_time, n_space, n_space).transpose(2, 3)
    pulled = torch.einsum("ps,pct->cts", here, pull @ in_time).flatten(1)
    size = n_time * n_space
    return (
        normal.reshape(2, size, size) - mean @ inverse @ mean.transpose(1, 2),
        pulled - (mean @ inverse @ all_pull[..., None])[..., 0],
    )


def _fit(normal: Tensor, pull: Tensor, prior: _Prior) -> tuple[Tensor, float]:
    """Return the coefficients `(2, n)` and the logarithm of the marginal likelihood, up to a constant."""
    coefficients, factor = _solve(normal, pull, prior.precision)
    likelihood = float((pull * coefficients).sum()) / 2 + prior.log_determinant
    return coefficients, likelihood - float(factor.diagonal(dim1=-2, dim2=-1).log().sum())


def _judge(moved: list[Tensor], normals: tuple[Tensor, ...], pulls: tuple[Tensor, ...]) -> tuple[float, float]:
    """Return how far fields fitted to either half of the patches agree with the other, and the variance of that."""
    agreement = sum(float((pulls[1 - fold] * field).sum()) for fold, field in enumerate(moved))
    expected = sum(
        float(torch.einsum("cn,cnm,cm->", field, normals[1 - fold], field)) for fold, field in enumerate(moved)
    )
    return agreement, expected


def choose_field(
    observed: Observations,
    times: Tensor,
    size: tuple[float, float],
    intervals: tuple[int, int, int],
    unit_angstrom: float,
) -> FieldFit:
    """Fit a field to what was measured in patches, as smooth as they and held-out patches say.

    Parameters
    ----------
    observed
        In the patches.
    times
        Of the frames, `(n_frames,)` from 0 to 1, such that motion is about as fast all the time.
    size
        Height and width of the image, in the unit of the positions.
    intervals
        Of the splines in time, rows and columns.
    unit_angstrom
        The unit of positions and displacements.

    Notes
    -----
    With d the measured displacement, L its precision and u the field, the evidence of a patch is the sum of d L u - u L u / 2;
    it is 0 without local motion. d and u are taken relative to their mean over the patches of the half, weighted by L: that is
    the motion of the whole frame, whose errors all patches share. Fields fitted to one half of the patches are judged by the
    evidence of the other half. Where nothing moves, d is independent of the u of the other half, and the sum of d L u has the
    variance u L u; exchanging the halves gives nearly the same sum again.

    With few patches many priors do as well in that, and which does best is chance; the marginal likelihood sees all patches at
    once, but trusts in their errors being as said. Fields are averaged with the exponential of the mean of both as weight.
    """
    n_t, n_y, n_x = (count + _DEGREE for count in intervals)
    in_time = make_basis(times, 0, 1, intervals[0])
    along_y = make_basis(observed.y, 0, size[0], intervals[1])
    along_x = make_basis(observed.x, 0, size[1], intervals[2])
    in_space = torch.einsum("py,px->pyx", along_y, along_x).flatten(1)
    everyone = torch.ones_like(observed.fold, dtype=torch.bool)
    halves = (observed.fold == 0, observed.fold == 1, everyone)
    normals, pulls = zip(*(_sum_up(observed, half, in_time, in_space) for half in halves), strict=True)
    priors = list(_list_priors(size, intervals, unit_angstrom))
    fits = [_fit(normals[2], pulls[2], prior) for prior in priors]
    least = max(likelihood for _, likelihood in fits) - _LIKELY
    likely = [number for number, (_, likelihood) in enumerate(fits) if likelihood >= least]
    scores, by_halves = [], []
    for number in likely:
        # Half of the measurements and half of the precision: as smooth as the field of all.
        moved = [_solve(normals[fold], pulls[fold], priors[number].precision / 2)[0] for fold in range(2)]
        agreement, expected = _judge(moved, normals, pulls)
        scores.append((fits[number][1] + agreement - expected / 2) / 2)
        by_halves.append(torch.stack(moved))
    weights = torch.softmax(torch.tensor(scores, dtype=torch.float64), dim=0)
    chosen = torch.einsum("k,kcn->cn", weights, torch.stack([fits[number][0] for number in likely]))
    agreement, expected = _judge(list(torch.einsum("k,khcn->hcn", weights, torch.stack(by_halves))), normals, pulls)
    significance = agreement / (2 * expected) ** 0.5 if expected > 0 else 0.0
    # What all places have in common is motion of the whole frame.
    field = chosen.T.reshape(n_t, n_y * n_x, 2)
    field = field - torch.einsum("s,tsc->tc", in_space.mean(dim=0), field)[:, None]
    return FieldFit(MotionField(field.reshape(n_t, n_y, n_x, 2), times, *size), significance)
