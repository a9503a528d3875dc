"""Exposure weighting: what radiation damage leaves of each spatial frequency."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DoseBasis", "compute_critical_exposure", "compute_dose_basis", "compute_dose_weights"]


def compute_critical_exposure(frequency_per_angstrom: Tensor, voltage_kv: float) -> Tensor:
    """Return the exposure, e/Å², after which the signal at a frequency has fallen to 1/e; infinite at zero frequency.

    Ne(k) = 0.24499 k^-1.6649 + 2.8141 at 300 kV (Grant & Grigorieff 2015, eq. 3); times 0.8 at 200 kV and 0.532 at 100 kV,
    with linear interpolation between.
    """
    if voltage_kv >= 200:
        factor = 0.8 + 0.2 * min(1.0, (voltage_kv - 200) / 100)
    else:
        factor = 0.532 + 0.268 * max(0.0, (voltage_kv - 100) / 100)
    critical: Tensor = factor * (0.24499 * frequency_per_angstrom.pow(-1.6649) + 2.8141)
    return critical


def compute_dose_weights(
    frequency_per_angstrom: Tensor, n_frames: int, dose_per_frame: float, pre_exposure: float, voltage_kv: float
) -> Tensor:
    """Return the weight of every frame at every frequency, `(n_frames, *frequency.shape)`.

    The weight is the mean of exp(-N / (2 Ne)) over the exposure N of the frame. The weighted sum of frames with white noise keeps
    white noise when it is divided by the root of the sum of squared weights (Grant & Grigorieff 2015, eq. 9).

    Raises
    ------
    ValueError
        If the dose per frame is not positive.
    """
    if not dose_per_frame > 0:
        raise ValueError(f"expected a positive dose per frame, found {dose_per_frame}")
    decay = 0.5 / compute_critical_exposure(frequency_per_angstrom.double(), voltage_kv)
    start = pre_exposure + dose_per_frame * torch.arange(n_frames, dtype=torch.float64, device=decay.device)
    start = start.reshape(-1, *([1] * decay.ndim))
    step = decay * dose_per_frame
    mean_decay = torch.where(step > 1e-9, -torch.expm1(-step) / step.clamp_min(1e-9), torch.ones_like(step))
    return (torch.exp(-start * decay) * mean_decay).float()


@dataclass(frozen=True)
class DoseBasis:
    """Exposure weights as a few sums of frames: weight(frame, ring) = factors[:, frame] . rings[:, ring].

    Attributes
    ----------
    factors
        Weight of each frame in each sum, `(rank, n_frames)`.
    weighted
        Weight of each sum in each ring of the exposure-weighted image, `(rank, n_rings)`, normalised so that white noise stays
        white and as strong as in the plain sum.
    plain
        Weight of each sum in the plain sum of all frames, `(rank,)`.
    """

    factors: Tensor
    weighted: Tensor
    plain: Tensor


def compute_dose_basis(
    frequency_per_angstrom: Tensor,
    n_frames: int,
    dose_per_frame: float,
    pre_exposure: float,
    voltage_kv: float,
    tolerance: float = 1e-4,
) -> DoseBasis:
    """Return the fewest sums of frames that give the exposure-weighted and the plain sum.

    The weights decay exponentially with the exposure at a rate that the frequency sets, so that a handful of sums holds all
    frequencies: instead of two Fourier transforms for every frame, one for every sum.

    Parameters
    ----------
    frequency_per_angstrom
        Of the rings, `(n_rings,)`.
    n_frames, dose_per_frame, pre_exposure, voltage_kv
        See `compute_dose_weights`.
    tolerance
        Relative error of the weights.
    """
    weights = compute_dose_weights(frequency_per_angstrom, n_frames, dose_per_frame, pre_exposure, voltage_kv).double()
    plain = torch.ones(n_frames, dtype=torch.float64, device=weights.device)
    norm = (weights.square().sum(dim=0) / n_frames).sqrt()
    # Of every ring as strong as it will be in the image, lest rings that have faded be told badly.
    together = torch.cat([weights / norm / weights.shape[1] ** 0.5, plain[:, None]], dim=1)
    left, strength, _ = torch.linalg.svd(together, full_matrices=False)
    missing = strength.square().flip(0).cumsum(0).flip(0).sqrt() / strength.norm()
    rank = max(1, int((missing > tolerance).sum()))
    factors = left[:, :rank].T
    return DoseBasis(factors.float(), (factors @ (weights / norm)).float(), (factors @ plain).float())
