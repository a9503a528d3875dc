"""What the frames of a movie share at each frequency: particles, which fade, and ice, which the beam stirs.

Of the power 1 of a frame, particles make S a_f a_g of its product with another, with a the decay by radiation damage (Grant &
Grigorieff 2015, doi:10.7554/eLife.06980), and ice I exp(-2 pi² D N k²) after the exposure N from one to the other, with D the
mean square displacement of water along a direction (McMullan, Vinothkumar & Henderson 2015,
doi:10.1016/j.ultramic.2015.05.017). S and I are measured in every ring, D in all together.
"""

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.dose import compute_dose_weights
from vitreous.ops.frame_pairs import Band, Pairs

__all__ = ["estimate_covariance"]

_STIRRING_ANGSTROM2 = (0.08, 0.16, 0.33, 0.66, 1.3)
"""D for every e/Å²; measured: 0.33."""
_SMOOTH_RINGS = 31
_LEAST_NOISE = 0.01


def _list_kinds(k: Tensor, n_frames: int, dose_per_frame: float, voltage_kv: float, stirring: float) -> Tensor:
    """Return how much frames have in common of particles and of ice, `(2, n_rings, n, n)`, at frequencies in 1/Å."""
    left = compute_dose_weights(k, n_frames, dose_per_frame, 0.0, voltage_kv).double().T
    frames = torch.arange(n_frames, dtype=torch.float64)
    exposure = (frames[:, None] - frames).abs() * dose_per_frame
    ice = torch.exp(-2 * torch.pi**2 * stirring * k.square()[:, None, None] * exposure)
    return torch.stack([left[:, :, None] * left[:, None, :], ice])


def _pool(values: Tensor) -> Tensor:
    """Return means over neighbouring rings of `(n_rings, ...)`."""
    flat = values.reshape(len(values), -1).T[:, None]
    pooled = functional.avg_pool1d(flat, _SMOOTH_RINGS, 1, _SMOOTH_RINGS // 2, count_include_pad=False)
    return pooled[:, 0].T.reshape(values.shape)


def _solve_positive(normal: Tensor, right: Tensor) -> Tensor:
    """Return the non-negative solutions `(n_rings, 2)` of least squares with normal matrices `(n_rings, 2, 2)`."""
    alone = (right / normal.diagonal(dim1=-2, dim2=-1).clamp_min(1e-30)).clamp_min(0)
    ridge = 1e-9 * normal.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[:, None, None].clamp_min(1e-30) * torch.eye(2)
    both: Tensor = torch.linalg.solve(normal + ridge, right)
    for kind in (0, 1):
        negative = both[:, kind] < 0
        both[negative, kind] = 0
        both[negative, 1 - kind] = alone[negative, 1 - kind]
    return both


def _fit(shared: Tensor, precision: Tensor, kinds: Tensor) -> tuple[Tensor, float]:
    """Return how strong either kind is in each ring, `(n_rings, 2)`, and the misfit.

    Notes
    -----
    A mean over many rings, times a factor for each ring: those of the contrast transfer function stand out of the mean, by as
    much as noise would not, which is the weight that least squares give them (James & Stein).
    """
    weighted = kinds * precision
    normal = torch.einsum("amr,bmr->rab", weighted, kinds)
    right = torch.einsum("amr,mr->ra", weighted, shared)
    strength = _solve_positive(_pool(normal), _pool(right))
    around = torch.einsum("amr,ra->mr", kinds, strength)
    known = (precision * around.square()).sum(dim=0)
    excess = (precision * around * shared).sum(dim=0) / known.clamp_min(1e-30) - 1
    noise = 1 / known.clamp_min(1e-30)
    real = (_pool(known * (excess.square() - noise)) / _pool(known).clamp_min(1e-30)).clamp_min(0)
    factor = (1 + excess * real / (real + noise)).clamp_min(0)
    misfit = float((precision * (shared - factor * around).square()).sum())
    return strength * factor[:, None], misfit


def estimate_covariance(
    pairs: Pairs, tallies: Tensor, band: Band, k: Tensor, dose_per_frame: float, voltage_kv: float, looks: float
) -> Tensor:
    """Return the covariance of the frames in each ring, of power 1, `(n_rings, n, n)`.

    Parameters
    ----------
    pairs
        Which frames were compared.
    tallies
        As those of `pairs`, `(P, m, n_rings, 3)`.
    band
        Where.
    k
        Frequencies of the rings, 1/Å.
    dose_per_frame, voltage_kv
        Of the exposure, e/Å² and kV.
    looks
        Share of the elements of a ring that are independent.
    """
    n, counts = int(pairs.later.max()) + 1, band.count.clamp_min(1e-9)
    shared = tallies[..., 0].mean(dim=0) / (pairs.n_earlier[:, None] * counts)
    precision = 2 * looks * len(tallies) * pairs.n_earlier[:, None] * band.count
    least, covariance = float("inf"), torch.eye(n, dtype=torch.float64)
    for stirring in _STIRRING_ANGSTROM2:
        kinds = _list_kinds(k, n, dose_per_frame, voltage_kv, stirring)
        strength, misfit = _fit(shared, precision, torch.stack([pairs.average(kind) for kind in kinds]))
        if misfit < least:
            least, covariance = misfit, torch.einsum("ra,arfg->rfg", strength, kinds)
    noise = (1 - covariance.diagonal(dim1=-2, dim2=-1)).clamp_min(_LEAST_NOISE)
    return covariance + torch.diag_embed(noise)
