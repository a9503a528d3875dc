"""Frames of a movie: drift, radiation damage, ice that moves, the camera's faults and counted electrons."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.fourier import compute_frequency_2d, compute_shift_phase, irfft2
from vitreous.simulate.drift import LocalDrift
from vitreous.simulate.micrograph import Micrograph
from vitreous.simulate.settings import SimulationSettings

__all__ = ["Camera", "compute_attenuation", "make_camera", "make_clean_frames", "make_movie"]

_ICE_DISPLACEMENT_ANGSTROM2 = 0.33
"""Mean square displacement of water along one direction per e/Å² (McMullan, Vinothkumar & Henderson 2015,
doi:10.1016/j.ultramic.2015.05.017: about 1 Å for every e/Å²)."""


@dataclass(frozen=True)
class Camera:
    """Sensitivity of every pixel, 1 on average, and what hot pixels add, in multiples of the mean count; both `(ny, nx)`."""

    sensitivity: NDArray[np.float32]
    hot: NDArray[np.float32]

    @property
    def gain(self) -> NDArray[np.float32]:
        """The gain reference: corrected = raw * gain."""
        return np.asarray(1 / self.sensitivity, dtype=np.float32)


def make_camera(settings: SimulationSettings, rng: np.random.Generator) -> Camera:
    """Return a camera: 4 % smooth, 1.5 % in blocks of 256 pixels, 2.5 % from pixel to pixel; and hot pixels."""
    shape = (settings.ny_px, settings.nx_px)
    sensitivity = np.ones(shape)
    if settings.gain:
        y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None, :]
        smooth = rng.uniform(-0.04, 0.04, 3)
        blocks = rng.normal(0, 0.015, (shape[0] // 256 + 1, shape[1] // 256 + 1)).repeat(256, 0).repeat(256, 1)
        gain = 1 + smooth[0] * x + smooth[1] * y + smooth[2] * x * y + blocks[: shape[0], : shape[1]]
        gain *= 1 + np.clip(rng.normal(0, 0.025, shape), -0.1, 0.1)
        sensitivity = 1 / gain
        sensitivity /= sensitivity.mean()
    hot = np.zeros(shape, dtype=np.float32)
    places = rng.choice(hot.size, settings.n_hot_pixels, replace=False)
    hot.flat[places] = rng.uniform(4, 15, settings.n_hot_pixels)
    return Camera(sensitivity.astype(np.float32), hot)


def compute_attenuation(k: Tensor, exposure: float, voltage_kv: float) -> Tensor:
    """Return what is left of the signal's amplitude at frequencies `k` (1/Å) after `exposure` (e/Å²).

    exp(-N / (2 Ne(k))), Ne = 0.24499 k^-1.6649 + 2.8141 at 300 kV and 0.8 of it at 200 kV (Grant & Grigorieff 2015,
    doi:10.7554/eLife.06980, Eqs. 2 and 3), written anew here so that dose weighting is not tested against itself.
    """
    critical = (0.24499 * k.clamp(min=1e-4) ** -1.6649 + 2.8141) * (0.8 if voltage_kv < 250 else 1.0)
    return torch.exp(-exposure / (2 * critical))


def _show(
    micrograph: Micrograph, contrast: Tensor, shift: NDArray[np.float64], local: LocalDrift | None, frame: int
) -> NDArray[np.float32]:
    """Return the intensity that the camera's window sees of a specimen displaced by `shift` (y, x) and the local drift."""
    phase = compute_shift_phase(micrograph.canvas, torch.from_numpy(shift).float())
    image = 1 + irfft2(contrast * phase, micrograph.canvas).numpy()
    transmission = scipy.ndimage.shift(micrograph.transmission, shift, order=1, mode="nearest")
    seen = np.asarray(image * transmission, dtype=np.float32)
    if local is not None:
        seen = local.apply(seen, frame, (micrograph.window[0].start, micrograph.window[1].start))
    return seen[micrograph.window]


def make_clean_frames(
    micrograph: Micrograph,
    trajectory_px: NDArray[np.float64],
    settings: SimulationSettings,
    local: LocalDrift | None = None,
) -> NDArray[np.float32]:
    """Return the frames without counting, ice noise or the camera's faults, 1 on average, `(n_frames, ny, nx)`."""
    ky, kx = compute_frequency_2d(micrograph.canvas, settings.pixel_size_angstrom)
    k = torch.sqrt(ky**2 + kx**2)
    frames = []
    for frame, shift in enumerate(trajectory_px):
        exposure = (frame + 0.5) * settings.dose_per_frame if settings.damage else 0.0
        left = compute_attenuation(k, exposure, settings.voltage_kv)
        frames.append(
            _show(micrograph, micrograph.particle_spectrum * left + micrograph.support_spectrum, shift, local, frame)
        )
    return np.stack(frames)


class _Ice:
    """White Gaussian noise in Fourier space that the beam stirs: old noise fades as new comes in."""

    def __init__(self, canvas: tuple[int, int], memory: Tensor, rng: np.random.Generator) -> None:
        self._canvas, self._memory, self._rng = canvas, memory, rng
        self._spectrum = self._draw()

    def _draw(self) -> Tensor:
        noise = self._rng.standard_normal(self._canvas, dtype=np.float32)
        return torch.from_numpy(scipy.fft.rfft2(noise))

    def current(self) -> Tensor:
        return self._spectrum

    def stir(self) -> None:
        self._spectrum = self._memory * self._spectrum + torch.sqrt(1 - self._memory**2) * self._draw()


def make_movie(
    micrograph: Micrograph,
    trajectory_px: NDArray[np.float64],
    camera: Camera,
    settings: SimulationSettings,
    rng: np.random.Generator,
    local: LocalDrift | None = None,
) -> NDArray[np.uint8]:
    """Return counted frames `(n_frames, ny, nx)` as the camera gives them: not gain-corrected."""
    ky, kx = compute_frequency_2d(micrograph.canvas, settings.pixel_size_angstrom)
    k_squared = ky**2 + kx**2
    k = torch.sqrt(k_squared)
    decay = 2 * math.pi**2 * _ICE_DISPLACEMENT_ANGSTROM2 * settings.dose_per_frame
    ice = _Ice(micrograph.canvas, torch.exp(-decay * k_squared), rng)
    mean_count = settings.dose_per_frame * settings.pixel_size_angstrom**2
    frames = np.empty((len(trajectory_px), settings.ny_px, settings.nx_px), dtype=np.uint8)
    for frame, shift in enumerate(trajectory_px):
        exposure = (frame + 0.5) * settings.dose_per_frame if settings.damage else 0.0
        left = compute_attenuation(k, exposure, settings.voltage_kv)
        contrast = (
            micrograph.particle_spectrum * left + micrograph.support_spectrum + micrograph.ice_amplitude * ice.current()
        )
        expected = mean_count * (_show(micrograph, contrast, shift, local, frame) * camera.sensitivity + camera.hot)
        frames[frame] = np.minimum(rng.poisson(np.maximum(expected, 0)), 255)
        ice.stir()
    return frames
