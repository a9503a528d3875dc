"""Exposure weighting: what radiation damage leaves of each spatial frequency."""

import torch
from torch import Tensor

__all__ = ["compute_critical_exposure", "compute_dose_weights"]


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
