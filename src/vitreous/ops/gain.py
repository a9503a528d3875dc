"""Pixels of the camera that count wrongly."""

import torch
from torch import Tensor

from vitreous.ops.median import filter_median

__all__ = ["find_defects", "replace_defects"]

_SAMPLE_PIXELS = 200_000
_NEAR_PX = 4


def find_defects(mean_frame: Tensor, gain: Tensor | None, n_sigma: float) -> Tensor:
    """Return a mask `(ny, nx)` of pixels to replace: without gain, dead, or far from what their neighbours count.

    Parameters
    ----------
    mean_frame
        Gain-corrected mean of the frames before alignment, `(ny, nx)`.
    gain
        Gain reference; 0 marks a pixel as bad.
    n_sigma
        How many standard deviations from the median of the 3 x 3 neighbourhood is too far; half as many are where less than a
        fifth of the median is counted, since a dead pixel cannot be farther off than the mean.
    """
    median = filter_median(mean_frame)
    residual = mean_frame - median
    # A sample of the pixels is enough for the scale. Where counts are few, most pixels equal the median: the spread without the
    # outermost thousandth then tells more than the median deviation.
    sample = residual.flatten()[:: max(1, residual.numel() // _SAMPLE_PIXELS)]
    deviation = (sample - sample.median()).abs()
    core = deviation[deviation <= deviation.quantile(0.999)]
    sigma = max(1.4826 * float(deviation.median()), float(core.square().mean().sqrt()), 1e-6)
    dead = (mean_frame < 0.2 * median) & (residual < -0.5 * n_sigma * sigma)
    defects = (residual.abs() > n_sigma * sigma) | dead
    return defects if gain is None else defects | (gain <= 0)


def replace_defects(frame: Tensor, defects: Tensor) -> Tensor:
    """Return `frame` with each defect replaced by a near pixel that is none; within large defects, by a far one.

    Another pixel's own count, not an average of neighbours, keeps the variance of the noise. Which pixel it is depends on
    the mask only.

    Raises
    ------
    ValueError
        If every pixel is a defect.
    """
    rows, columns = torch.nonzero(defects, as_tuple=True)
    if len(rows) == 0:
        return frame
    if len(rows) == defects.numel():
        raise ValueError("every pixel is a defect")
    ny, nx = frame.shape
    source_y, source_x = rows.clone(), columns.clone()
    waiting = torch.ones_like(rows, dtype=torch.bool)
    for reach in range(1, _NEAR_PX + 1):
        for dy, dx in ((0, reach), (reach, 0), (0, -reach), (-reach, 0), (reach, reach), (-reach, -reach)):
            y, x = (rows + dy).clamp(0, ny - 1), (columns + dx).clamp(0, nx - 1)
            take = waiting & ~defects[y, x]
            source_y[take], source_x[take] = y[take], x[take]
            waiting &= ~take
        if not waiting.any():
            break
    else:
        good = torch.nonzero(~defects)
        n = int(waiting.sum())
        # A large odd stride scatters the sources over the frame without repeating them soon.
        chosen = good[(torch.arange(n, device=frame.device) * 2_654_435_761 + 12_345) % len(good)]
        source_y[waiting], source_x[waiting] = chosen[:, 0], chosen[:, 1]
    result = frame.clone()
    result[rows, columns] = frame[source_y, source_x]
    return result
