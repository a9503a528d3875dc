"""Micrographs with particles at known places."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.fourier import irfft2, rfft2

PIXEL = 2.5
DEFOCUS = 18_000.0


@dataclass(frozen=True)
class Planted:
    """Image, and centres (x, y) and in-plane angles (from +x towards +y) of what is in it."""

    image: Tensor
    pixel_size_angstrom: float
    defocus_angstrom: float
    xy_px: NDArray[np.float64]
    psi_deg: NDArray[np.float64]


def draw_particle(kind: str, x: NDArray[np.float64], y: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """Return the density of a ball, or of two unequal lobes along x, at places relative to the centre."""

    def ball(dx: float, size: float) -> NDArray[np.float64]:
        return np.sqrt(np.clip(size**2 - (x - dx) ** 2 - y**2, 0, None)) / radius

    if kind == "ball":
        return ball(0, radius)
    return ball(-0.45 * radius, 0.5 * radius) + 1.4 * ball(0.55 * radius, 0.4 * radius)


@pytest.fixture(scope="session")
def draw() -> Callable[..., NDArray[np.float64]]:
    return draw_particle


@pytest.fixture(scope="session")
def plant() -> Callable[..., Planted]:
    def make(
        diameter_angstrom: float,
        *,
        shape: tuple[int, int] = (400, 480),
        kind: str = "ball",
        noise: float = 2.0,
        pitch: float = 1.9,
        seed: int = 0,
        defocus: float = DEFOCUS,
        strength: float | None = None,
    ) -> Planted:
        """Plant particles; `strength` is what their contrast is multiplied by, None: so that its deviation is 1."""
        rng = np.random.default_rng(seed)
        radius = diameter_angstrom / PIXEL / 2
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        density = np.zeros(shape)
        centres, angles = [], []
        step = pitch * 2 * radius
        for cy in np.arange(1.4 * radius + 4, shape[0] - 1.3 * radius - 4, step):
            for cx in np.arange(1.4 * radius + 4, shape[1] - 1.3 * radius - 4, step):
                centre = np.array([cx, cy]) + rng.uniform(-0.3, 0.3, 2) * radius
                angle = rng.uniform(-180, 180)
                c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
                x, y = columns - centre[0], rows - centre[1]
                density += draw_particle(kind, c * x + s * y, -s * x + c * y, radius)
                centres.append(centre)
                angles.append(angle)
        ctf = compute_ctf_2d(shape, PIXEL, defocus, defocus, 0.0, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1)
        image = irfft2(rfft2(torch.from_numpy(density).float()) * ctf, shape)
        image = (
            image * (1 / image.std() if strength is None else strength)
            + noise * torch.from_numpy(rng.normal(size=shape)).float()
        )
        return Planted(image, PIXEL, defocus, np.array(centres), np.array(angles))

    return make
