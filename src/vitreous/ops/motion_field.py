"""A displacement that varies smoothly over the image and in time: cubic splines, fitted to measurements in patches.

The field is a tensor product of cubic B-splines in time, rows and columns, held smooth by penalties (P-splines, Eilers & Marx
1996, doi:10.1214/ss/1038425655). How smooth is decided by how well one half of the patches predicts the other.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

__all__ = ["FieldFit", "MotionField", "Observations", "choose_field", "make_basis"]

_DEGREE = 3
_TIME_STRENGTHS = (1e3, 1e2, 1e1, 1.0, 1e-1)
_SPACE_STRENGTHS = (1e1, 1.0, 1e-1, 1e-2)
_CONCESSION = 2.0
"""Evidence that a smoother field may lack of the best: less is chance."""
_EARLY_SHARE = 4.0


def make_basis(positions: Tensor, low: float, high: float, n_intervals: int) -> Tensor:
    """Return the clamped cubic B-splines on equal intervals between `low` and `high`, `(n, n_intervals + 3)` float64.

    Positions outside are taken to the border.
    """
    inner = np.linspace(low, high, n_intervals + 1)
    knots = np.concatenate([[low] * _DEGREE, inner, [high] * _DEGREE])
    inside = np.clip(positions.double().cpu().numpy(), low, high)
    return torch.from_numpy(BSpline.design_matrix(inside, knots, _DEGREE).toarray())


@dataclass(frozen=True)
class MotionField:
    """Local displacement, to be added to that of the whole frame: what places do not have in common.

    Attributes
    ----------
    coefficients
        `(n_t, n_y, n_x, 2)` float64, displacement as (y, x).
    n_frames
        Frames of the movie.
    height, width
        Of the image, in the unit of the positions; displacements are in the same unit.
    """

    coefficients: Tensor
    n_frames: int
    height: float
    width: float

    def _make_bases(self, y: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        in_time, in_y, in_x = (size - _DEGREE for size in self.coefficients.shape[:3])
        frames = torch.arange(self.n_frames, dtype=torch.float64)
        return (
            make_basis(frames, 0, max(self.n_frames - 1, 1), in_time),
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


def _make_penalties(n_t: int, n_y: int, n_x: int) -> tuple[Tensor, Tensor]:
    """Return the matrices of roughness in time and in space; the first quarter of the time may be rougher."""
    second = torch.diff(torch.eye(n_t, dtype=torch.float64), n=2, dim=0)
    rise = ((torch.arange(n_t - 2) + 0.5) * (_EARLY_SHARE / n_t)).clamp_max(1)
    second = second * rise[:, None]
    along_y, along_x = (torch.diff(torch.eye(n, dtype=torch.float64), n=1, dim=0) for n in (n_y, n_x))
    one_t, one_y, one_x = (torch.eye(n, dtype=torch.float64) for n in (n_t, n_y, n_x))
    in_time = torch.kron(second.T @ second, torch.kron(one_y, one_x))
    in_space = torch.kron(one_t, torch.kron(along_y.T @ along_y, one_x) + torch.kron(one_y, along_x.T @ along_x))
    return in_time, in_space


def _solve(normal: Tensor, pull: Tensor, penalty: Tensor) -> Tensor:
    """Return the coefficients `(2, n)` of normal matrices `(2, n, n)` and pulls `(2, n)`."""
    ridge = 1e-9 * normal.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None] + 1e-30
    factor = torch.linalg.cholesky(normal + penalty + ridge * torch.eye(normal.shape[-1]))
    return torch.cholesky_solve(pull[..., None], factor)[..., 0]


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


def choose_field(
    observed: Observations, n_frames: int, size: tuple[float, float], intervals: tuple[int, int, int]
) -> FieldFit:
    """Fit a field to what was measured in patches, as smooth as held-out patches say.

    Parameters
    ----------
    observed
        In the patches.
    n_frames
        Frames of the movie.
    size
        Height and width of the image, in the unit of the positions.
    intervals
        Of the splines in time, rows and columns.

    Notes
    -----
    With d the measured displacement, L its precision and u the field, the evidence of a patch is the sum of d L u - u L u / 2;
    it is 0 without local motion. d and u are taken relative to their mean over the patches of the half, weighted by L: that is
    the motion of the whole frame, whose errors all patches share. Fields fitted to one half of the patches are judged by the
    evidence of the other half. Where nothing moves, d is independent of the u of the other half, and the sum of d L u has the
    variance u L u; exchanging the halves gives nearly the same sum again.
    """
    n_t, n_y, n_x = (count + _DEGREE for count in intervals)
    in_time = make_basis(torch.arange(n_frames, dtype=torch.float64), 0, max(n_frames - 1, 1), intervals[0])
    along_y = make_basis(observed.y, 0, size[0], intervals[1])
    along_x = make_basis(observed.x, 0, size[1], intervals[2])
    in_space = torch.einsum("py,px->pyx", along_y, along_x).flatten(1)
    everyone = torch.ones_like(observed.fold, dtype=torch.bool)
    halves = (observed.fold == 0, observed.fold == 1, everyone)
    normals, pulls = zip(*(_sum_up(observed, half, in_time, in_space) for half in halves), strict=True)
    rough_time, rough_space = _make_penalties(n_t, n_y, n_x)
    scale = normals[2].diagonal(dim1=-2, dim2=-1).mean()
    tried = list[tuple[float, float, Tensor]]()
    for time_strength in _TIME_STRENGTHS:
        for space_strength in _SPACE_STRENGTHS:
            penalty = scale * (time_strength * rough_time + space_strength * rough_space)
            agreement, expected = 0.0, 0.0
            for fold in range(2):
                moved = _solve(normals[fold], pulls[fold], penalty / 2)
                agreement += float((pulls[1 - fold] * moved).sum())
                expected += float(torch.einsum("cn,cnm,cm->", moved, normals[1 - fold], moved))
            significance = agreement / (2 * expected) ** 0.5 if expected > 0 else 0.0
            tried.append((agreement - expected / 2, significance, penalty))
    most = max(evidence for evidence, _, _ in tried)
    # The strengths come smoothest first.
    _, significance, chosen = next(trial for trial in tried if trial[0] >= most - _CONCESSION)
    coefficients = _solve(normals[2], pulls[2], chosen)
    return FieldFit(MotionField(coefficients.T.reshape(n_t, n_y, n_x, 2), n_frames, *size), significance)
