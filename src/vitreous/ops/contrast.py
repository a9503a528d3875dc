"""Contrast of micrographs: stretched to 8 bits, and measured at positions to tell whether these belong to the image."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

__all__ = ["compare_rows", "measure_darkness", "stretch_contrast"]

Floats = NDArray[np.float64]

_TAIL_PERCENT = 0.5
_N_SAMPLED = 1_000_000


def stretch_contrast(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return the image `(ny, nx)` with 0 and 255 at its 0.5 and 99.5 percentiles; zeros where it is the same everywhere."""
    values = image.astype(np.float32)
    sample = values.ravel()[:: max(1, values.size // _N_SAMPLED)]
    low, high = np.percentile(sample, [_TAIL_PERCENT, 100 - _TAIL_PERCENT])
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = np.clip((values - low) * np.float32(255 / (high - low)), 0, 255)
    return np.asarray(np.rint(scaled), dtype=np.uint8)


def measure_darkness(image: NDArray[np.floating], xy_px: Floats, diameter_px: float) -> Floats:
    """Return how much darker the image is at each position than around it, in standard deviations of that over the image.

    Parameters
    ----------
    image
        Micrograph `(ny, nx)`; protein is dark.
    xy_px
        Positions `(n, 2)` as `(x, y)` inside the image.
    diameter_px
        Particle diameter: a square of half of it is compared with one of all of it.
    """
    values = image.astype(np.float32)
    # Odd sides: those of even ones lie off the centre.
    near, far = (uniform_filter(values, 2 * round(factor * diameter_px) + 1, mode="reflect") for factor in (0.25, 0.5))
    dark = far - near
    ny, nx = image.shape
    column = np.clip(np.rint(xy_px[:, 0]).astype(int), 0, nx - 1)
    row = np.clip(np.rint(xy_px[:, 1]).astype(int), 0, ny - 1)
    return np.asarray((dark[row, column] - dark.mean()) / (dark.std() or 1.0), dtype=np.float64)


def compare_rows(image: NDArray[np.floating], xy_px: Floats, diameter_px: float) -> tuple[Floats, Floats]:
    """Return `measure_darkness` at the positions as they are, and with the rows counted from the other side."""
    turned = np.stack([xy_px[:, 0], image.shape[0] - 1 - xy_px[:, 1]], axis=1)
    both = measure_darkness(image, np.concatenate([xy_px, turned]), diameter_px)
    return both[: len(xy_px)], both[len(xy_px) :]
