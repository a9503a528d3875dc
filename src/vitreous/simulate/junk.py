"""What else is in a field beside particles: contaminating ice, crystals, a carbon film, clumps of particles; with the truth."""

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray

from vitreous.ops.potential import ICE_POTENTIAL_VOLTS, POTENTIAL_CONSTANT, compute_scattering_factor
from vitreous.simulate.settings import SimulationSettings

__all__ = ["MEAN_FREE_PATH_ANGSTROM", "Junk", "Surroundings", "make_surroundings", "place_aggregates"]

MEAN_FREE_PATH_ANGSTROM = 3000.0
"""Of electrons in ice: a thickness t lets exp(-t / path) through."""

_CARBON_PER_ANGSTROM3 = 0.09
_CARBON_ANGSTROM = 250.0
_CARBON_STRUCTURE_FACTOR = 0.5
_CARBON_HOLE_ANGSTROM = 6000.0
_CRYSTAL_CONTRAST = 0.03
"""Share of the mean potential of a crystal's ice that shows as contrast at its edges; the rest is beyond a weak object."""
_CLUMP_SPACING_DIAMETERS = 0.45


@dataclass(frozen=True)
class Junk:
    """One thing that is no particle, in pixels of the image.

    A circle holds it, except that carbon is what is outside the circle: the film around its hole.
    """

    kind: str
    """ice, crystal, carbon or aggregate."""
    x_px: float
    y_px: float
    radius_px: float


@dataclass(frozen=True)
class Surroundings:
    """Everything but particles: transmission, projected potential in V Å, where no particle is put, and the truth of it."""

    transmission: NDArray[np.float32]
    potential: NDArray[np.float32]
    blocked: NDArray[np.bool_]
    junk: tuple[Junk, ...]


def _make_blob(
    canvas: tuple[int, int], pixel_size: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Junk]:
    """Return the thickness in Å of one lump of contaminating ice, `canvas`."""
    radius_px = rng.uniform(90, 260) / pixel_size
    y, x = np.ogrid[: canvas[0], : canvas[1]]
    centre_y, centre_x = rng.uniform(0, 1, 2) * canvas
    azimuth = np.arctan2(y - centre_y, x - centre_x)
    outline = np.ones(canvas)
    for order in (2, 3, 5):
        outline += rng.uniform(0, 0.3 / order) * np.cos(order * azimuth + rng.uniform(0, 2 * np.pi))
    inside = np.clip(1 - (np.hypot(y - centre_y, x - centre_x) / (radius_px * outline)) ** 2, 0, None)
    thickness = np.asarray(rng.uniform(500, 1300) * np.sqrt(inside), dtype=np.float32)
    return thickness, Junk("ice", centre_x, centre_y, radius_px * float(outline.max()))


def _make_crystal(
    canvas: tuple[int, int], pixel_size: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Junk]:
    """Return the thickness in Å of one crystal of ice, `canvas`: a hexagonal plate with steep sides, seen obliquely."""
    radius_px = rng.uniform(120, 350) / pixel_size
    y, x = np.ogrid[: canvas[0], : canvas[1]]
    centre_y, centre_x = rng.uniform(0, 1, 2) * canvas
    turn, squash = rng.uniform(0, np.pi), rng.uniform(0.5, 1.0)
    along = (x - centre_x) * math.cos(turn) + (y - centre_y) * math.sin(turn)
    across = (-(x - centre_x) * math.sin(turn) + (y - centre_y) * math.cos(turn)) / squash
    sides = np.deg2rad(np.arange(0, 360, 60) + rng.uniform(0, 60))
    depth = np.min([radius_px - along * math.cos(side) - across * math.sin(side) for side in sides], axis=0)
    thickness = rng.uniform(300, 900) * np.clip(depth * pixel_size / 15.0, 0, 1)
    # The corners of a hexagon are 1.15 times as far as its sides.
    return np.asarray(thickness, dtype=np.float32), Junk("crystal", centre_x, centre_y, 1.16 * radius_px)


def _make_carbon(
    canvas: tuple[int, int], pixel_size: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Junk]:
    """Return the share of carbon in every pixel, `canvas`: a film whose round hole covers most of the field."""
    ny, nx = canvas
    radius_px, azimuth = _CARBON_HOLE_ANGSTROM / pixel_size, rng.uniform(0, 2 * np.pi)
    inward = rng.uniform(0.22, 0.34) * min(canvas)
    centre_y = ny / 2 + (inward - radius_px) * math.sin(azimuth)
    centre_x = nx / 2 + (inward - radius_px) * math.cos(azimuth)
    y, x = np.ogrid[:ny, :nx]
    distance = np.hypot(y - centre_y, x - centre_x) - radius_px
    share = np.asarray(1 / (1 + np.exp(-np.clip(distance / 3, -50, 50))), dtype=np.float32)
    return share, Junk("carbon", centre_x, centre_y, radius_px)


def make_surroundings(
    canvas: tuple[int, int], settings: SimulationSettings, radius_px: float, with_carbon: bool, rng: np.random.Generator
) -> Surroundings:
    """Make everything of a field but its particles.

    Parameters
    ----------
    canvas
        Rows and columns; positions of junk are in its pixels.
    settings
        What to simulate.
    radius_px
        Of a particle: nearer than this to any of it no particle is put.
    with_carbon
        Whether a carbon edge is in view.
    rng
        Where chance comes from.
    """
    ny, nx = canvas
    pixel_size = settings.pixel_size_angstrom
    y, x = np.linspace(-1, 1, ny)[:, None], np.linspace(-1, 1, nx)[None, :]
    slope_y, slope_x = rng.uniform(-0.02, 0.02, 2)
    thickness = -MEAN_FREE_PATH_ANGSTROM * np.log1p(slope_y * y + slope_x * x).astype(np.float32)
    blocked = np.zeros(canvas, dtype=bool)
    lumps = np.zeros(canvas, dtype=np.float32)
    junk: list[Junk] = []
    for _ in range(settings.n_contaminants):
        lump, one = _make_blob(canvas, pixel_size, rng)
        lumps += lump
        junk.append(one)
    blocked |= lumps > 0
    thickness = thickness + lumps
    # A lump's own grain, beyond the smooth absorption: frost scatters much more than vitreous ice.
    potential = 0.02 * lumps * scipy.ndimage.gaussian_filter(rng.standard_normal(canvas, dtype=np.float32), 1.5)
    if with_carbon:
        carbon, one = _make_carbon(canvas, pixel_size, rng)
        junk.append(one)
        blocked |= carbon > 0.01
        thickness = thickness + 1.6 * _CARBON_ANGSTROM * carbon
        strength = POTENTIAL_CONSTANT * float(compute_scattering_factor(6, torch.tensor(0.05)))
        power = _CARBON_PER_ANGSTROM3 * _CARBON_ANGSTROM * strength**2 * _CARBON_STRUCTURE_FACTOR
        grain = rng.standard_normal(canvas, dtype=np.float32) * (math.sqrt(power) / pixel_size)
        potential = potential + carbon * grain
    for _ in range(settings.n_crystals):
        crystal, one = _make_crystal(canvas, pixel_size, rng)
        junk.append(one)
        blocked |= crystal > 0
        thickness = thickness + crystal
        potential = potential + _CRYSTAL_CONTRAST * ICE_POTENTIAL_VOLTS * crystal
    if blocked.any():
        blocked = scipy.ndimage.distance_transform_edt(~blocked) < radius_px
    transmission = np.exp(-thickness / MEAN_FREE_PATH_ANGSTROM)
    return Surroundings(transmission, potential.astype(np.float32), blocked, tuple(junk))


def place_aggregates(
    blocked: NDArray[np.bool_], n: int, radius_px: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], tuple[Junk, ...]]:
    """Choose the places of particles that lie on top of each other in clumps.

    Parameters
    ----------
    blocked
        Where no centre of a particle may be, `(ny, nx)`; the clumps and a particle's radius around them are added, in place.
    n
        Number of clumps.
    radius_px
        Of a particle.
    rng
        Where chance comes from.

    Returns
    -------
    tuple
        Centres `(n_particles, 2)` as (x, y), and the clumps.
    """
    ny, nx = blocked.shape
    rows, columns = np.ogrid[:ny, :nx]
    places, clumps = [np.empty((0, 2))], []
    for _ in range(n):
        radius = rng.uniform(1.5, 3.0) * radius_px
        x, y = rng.uniform((radius, radius), (nx - radius, ny - radius))
        wanted = max(5, round((radius / (_CLUMP_SPACING_DIAMETERS * radius_px)) ** 2 / 2))
        distance, azimuth = radius * np.sqrt(rng.uniform(0, 1, wanted)), rng.uniform(0, 2 * np.pi, wanted)
        places.append(np.column_stack([x + distance * np.cos(azimuth), y + distance * np.sin(azimuth)]))
        clumps.append(Junk("aggregate", float(x), float(y), float(radius + radius_px)))
        blocked |= np.hypot(rows - y, columns - x) < radius + 2 * radius_px
    return np.concatenate(places), tuple(clumps)
