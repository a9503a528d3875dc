"""Gain correction, and pixels of the camera that count wrongly."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["apply_gain", "compute_gain_misfits", "find_defects", "list_gain_orientations", "replace_defects"]


def apply_gain(frame: Tensor, gain: Tensor | None) -> Tensor:
    """Return `frame` `(ny, nx)` as float32, multiplied by the gain reference where there is one."""
    counts = frame.float()
    return counts if gain is None else counts * gain


def find_defects(mean_frame: Tensor, gain: Tensor | None, n_sigma: float) -> Tensor:
    """Return a mask `(ny, nx)` of pixels to replace: without gain, or far from what their neighbours count.

    Parameters
    ----------
    mean_frame
        Gain-corrected mean of the frames before alignment, `(ny, nx)`.
    gain
        Gain reference; 0 marks a pixel as bad.
    n_sigma
        How many standard deviations (robust) from the median of the 3 x 3 neighbourhood is too far.
    """
    padded = functional.pad(mean_frame[None, None], (1, 1, 1, 1), mode="reflect")[0, 0]
    median = padded.unfold(0, 3, 1).unfold(1, 3, 1).reshape(*mean_frame.shape, 9).median(dim=-1).values
    residual = mean_frame - median
    # A sample of the pixels is enough for the scale.
    sample = residual.flatten()[:: max(1, residual.numel() // 200_000)]
    sigma = 1.4826 * (sample - sample.median()).abs().median()
    defects = residual.abs() > n_sigma * sigma.clamp_min(1e-6)
    return defects if gain is None else defects | (gain <= 0)


def replace_defects(frame: Tensor, defects: Tensor) -> Tensor:
    """Return `frame` with each defect replaced by a near pixel of the same frame that is none.

    A neighbour's own count, not an average of neighbours, keeps the variance of the noise.
    """
    rows, columns = torch.nonzero(defects, as_tuple=True)
    if len(rows) == 0:
        return frame
    ny, nx = frame.shape
    source_y, source_x = rows.clone(), columns.clone()
    waiting = torch.ones_like(rows, dtype=torch.bool)
    for reach in range(1, 8):
        for dy, dx in ((0, reach), (reach, 0), (0, -reach), (-reach, 0), (reach, reach), (-reach, -reach)):
            y, x = (rows + dy).clamp(0, ny - 1), (columns + dx).clamp(0, nx - 1)
            take = waiting & ~defects[y, x]
            source_y[take], source_x[take] = y[take], x[take]
            waiting &= ~take
        if not waiting.any():
            break
    result = frame.clone()
    result[rows, columns] = torch.where(waiting, frame.mean(), frame[source_y, source_x])
    return result


def list_gain_orientations(gain: Tensor) -> dict[str, Tensor]:
    """Return the gain reference in every orientation that keeps its shape, by name; the first is as it is."""
    square = gain.shape[0] == gain.shape[1]
    turned = {
        "as given": gain,
        "turned by 180°": gain.flip(0, 1),
        "rows flipped": gain.flip(0),
        "columns flipped": gain.flip(1),
    }
    if square:
        turned |= {
            "transposed": gain.T,
            "turned by 90°": torch.rot90(gain, 1),
            "turned by -90°": torch.rot90(gain, -1),
            "transposed and turned by 180°": torch.rot90(gain.T, 2),
        }
    return turned


def compute_gain_misfits(mean_raw: Tensor, gain: Tensor) -> dict[str, float]:
    """Return, for each orientation of the gain and for `none`, how much pixel-to-pixel structure it leaves.

    The right reference takes out the camera's fixed pattern. The measure is the mean square of the difference between the
    corrected mean and its 3 x 3 mean, clipped at its 99th percentile for the sake of defects, relative to the mean.

    Parameters
    ----------
    mean_raw
        Mean of the raw frames, `(ny, nx)`.
    gain
        Gain reference, `(ny, nx)`.
    """

    def measure(image: Tensor) -> float:
        smooth = functional.avg_pool2d(image[None, None], 3, stride=1, padding=1, count_include_pad=False)[0, 0]
        residual = (image - smooth) / image.mean()
        limit = residual.flatten()[:: max(1, residual.numel() // 200_000)].abs().quantile(0.99)
        return float(residual.clamp(-limit, limit).square().mean())

    misfits = {"none": measure(mean_raw)}
    for name, turned in list_gain_orientations(gain).items():
        misfits[name] = measure(mean_raw * turned)
    return misfits
