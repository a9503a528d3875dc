"""How the specimen moves under the beam: as a whole, and beside that each place in its own way."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from vitreous.simulate.settings import SimulationSettings

__all__ = ["LocalDrift", "make_local_drift", "make_trajectory"]

_EARLY_RATE = 3.0


def make_trajectory(settings: SimulationSettings, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return where the specimen of every frame is, (y, x) in pixels, `(n_frames, 2)`; the first frame is at (0, 0).

    Fast at first and slowing down, slightly curved, with a jitter of a fortieth of the drift.
    """
    n = settings.n_frames
    progress = 1 - np.exp(-4 * np.arange(n) / n)
    progress /= progress[-1] if n > 1 else 1.0
    azimuth = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.6, 0.6) * progress
    path = progress[:, None] * np.stack((np.sin(azimuth), np.cos(azimuth)), axis=1)
    path[1:-1] += rng.normal(0, 1 / 40, path[1:-1].shape)
    return np.asarray(path * (settings.drift_angstrom / settings.pixel_size_angstrom) + 0.0)


@dataclass(frozen=True)
class LocalDrift:
    """Displacement of each place beside that of the whole: a bowl and a twist that grow with the exposure.

    Attributes
    ----------
    coefficients_px
        `(5, 2)` as (y, x): of x, y, x y, x² and y² at the last frame, x and y running from -1 to 1 over the frame.
    n_frames, ny_px, nx_px
        Of the movie.
    """

    coefficients_px: NDArray[np.float64]
    n_frames: int
    ny_px: int
    nx_px: int

    def evaluate(self, frame: int, y_px: NDArray[np.float64], x_px: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the displacement at positions of the first frame, `(..., 2)` as (y, x), px; 0 in the first frame."""
        last = max(self.n_frames - 1, 1)
        growth = (1 - np.exp(-_EARLY_RATE * frame / last)) / (1 - np.exp(-_EARLY_RATE))
        y, x = 2 * y_px / (self.ny_px - 1) - 1, 2 * x_px / (self.nx_px - 1) - 1
        return np.asarray(np.stack([x, y, x * y, x * x, y * y], axis=-1) @ self.coefficients_px * growth)

    def apply(self, image: NDArray[np.float32], frame: int, origin_px: tuple[int, int]) -> NDArray[np.float32]:
        """Return `image` with its content displaced as in that frame; `origin_px` is where the frame's first pixel is in it."""
        if not self.coefficients_px.any() or frame == 0:
            return image
        y, x = np.indices(image.shape, dtype=np.float64)
        # What is seen at p came from q with q + u(q) = p; u varies so slowly that u(p) is u(q).
        from_y, from_x = np.asarray(y) - origin_px[0], np.asarray(x) - origin_px[1]
        moved = self.evaluate(frame, from_y, from_x)
        source = np.stack([y - moved[..., 0], x - moved[..., 1]])
        return np.asarray(
            scipy.ndimage.map_coordinates(image, source, order=5, mode="mirror", output=np.float32), dtype=np.float32
        )


def make_local_drift(settings: SimulationSettings, rng: np.random.Generator) -> LocalDrift:
    """Return a local drift whose largest displacement in the frame, at the end, is as the settings say."""
    shape = settings.ny_px, settings.nx_px
    drift = LocalDrift(rng.normal(size=(5, 2)) * np.array([1, 1, 0.6, 0.8, 0.8])[:, None], settings.n_frames, *shape)
    y, x = np.meshgrid(np.linspace(0, shape[0] - 1, 21), np.linspace(0, shape[1] - 1, 21), indexing="ij")
    largest = np.linalg.norm(drift.evaluate(settings.n_frames - 1, y, x), axis=-1).max()
    scale = settings.local_drift_angstrom / settings.pixel_size_angstrom / max(largest, 1e-9)
    return LocalDrift(drift.coefficients_px * scale, settings.n_frames, *shape)
