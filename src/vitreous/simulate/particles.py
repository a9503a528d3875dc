"""Where particles are, how they are turned, and their projections by two independent operators.

Projections of one operator tested with the same operator prove nothing: `SliceProjector` interpolates the transform of the
map, `AtomProjector` projects the atoms themselves, and they share no code.
"""

from typing import Literal, Protocol

import numpy as np
import scipy.fft
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.errors import SettingError
from vitreous.ops.potential import compute_projection_spectrum
from vitreous.simulate.volume import Specimen

__all__ = [
    "AtomProjector",
    "Projector",
    "SliceProjector",
    "compute_rotations",
    "draw_orientations",
    "make_projector",
    "place_particles",
]

_MAX_ATTEMPTS = 20_000


class Projector(Protocol):
    """Gives the half spectrum `(box, box // 2 + 1)` in V Å of the molecule's projection along z after a rotation."""

    def project(self, rotation: NDArray[np.float64]) -> Tensor:
        """Return the projection of the atoms at `rotation @ r`; the origin is pixel box // 2."""
        ...


def compute_rotations(angles_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rotation matrices `(n, 3, 3)` of (rot, tilt, psi) `(n, 3)`: Rz(psi) Ry(tilt) Rz(rot), axes turned, not the object.

    A point r of the map is projected onto the first two components of `matrix @ r` (RELION's convention).
    """
    rot, tilt, psi = np.deg2rad(angles_deg).T
    matrices = []
    for angle, (i, j) in ((rot, (0, 1)), (tilt, (2, 0)), (psi, (0, 1))):
        turn = np.zeros((len(angle), 3, 3))
        turn[:, range(3), range(3)] = 1
        turn[:, i, i] = turn[:, j, j] = np.cos(angle)
        turn[:, i, j], turn[:, j, i] = np.sin(angle), -np.sin(angle)
        matrices.append(turn)
    about_rot, about_tilt, about_psi = matrices
    return np.asarray(about_psi @ about_tilt @ about_rot)


def draw_orientations(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return `n` orientations (rot, tilt, psi) in degrees, uniform over all rotations, `(n, 3)`."""
    rot, psi = rng.uniform(-180, 180, (2, n))
    tilt = np.rad2deg(np.arccos(rng.uniform(-1, 1, n)))
    return np.stack((rot, tilt, psi), axis=1)


def place_particles(
    blocked: NDArray[np.bool_],
    window: tuple[slice, slice],
    n_inside: int,
    separation_px: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return centres (x, y) in pixels, `(n, 2)`: at random, never nearer to each other than the separation.

    Parameters
    ----------
    blocked
        Where no centre may be, `(ny, nx)`.
    window
        Rows and columns that must hold exactly `n_inside` centres; what is round it is filled just as densely.
    n_inside, separation_px
        See above.
    rng
        Where chance comes from.

    Raises
    ------
    SettingError
        If there is no room for so many.
    """
    ny, nx = blocked.shape
    rows, columns = window
    placed = np.empty((0, 2))
    inside = 0
    for _ in range(_MAX_ATTEMPTS):
        if inside == n_inside:
            return placed
        place = np.round(rng.uniform((0, 0), (nx - 1, ny - 1)), 3)
        if blocked[round(place[1]), round(place[0])]:
            continue
        if len(placed) and np.min(np.linalg.norm(placed - place, axis=1)) < separation_px:
            continue
        placed = np.vstack((placed, place))
        inside += columns.start <= place[0] <= columns.stop - 1 and rows.start <= place[1] <= rows.stop - 1
    raise SettingError(
        f"no room for particles_per_movie={n_inside} at {separation_px:.0f} px from each other: {inside} were placed in "
        f"{_MAX_ATTEMPTS} attempts; ask for fewer, for larger frames or for a smaller minimum_separation_diameters"
    )


def _compute_band(size: int) -> Tensor:
    """Return which elements of a half spectrum are below Nyquist in every direction."""
    ky, kx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    return torch.from_numpy(ky**2 + kx**2 < 0.25)


class SliceProjector:
    """Projections as central slices of the map's transform, interpolated with cubic splines.

    Parameters
    ----------
    volume
        `(n, n, n)` as (z, y, x); the origin is voxel n // 2.
    pixel_size_angstrom
        Å per voxel.
    """

    def __init__(self, volume: NDArray[np.float32], pixel_size_angstrom: float) -> None:
        self._size = len(volume)
        self._pixel_size_angstrom = pixel_size_angstrom
        before = self._size - self._size // 2
        padded = np.pad(volume, ((before, self._size - before),) * 3)
        # With the origin at element 0 the transform is smooth, so that it can be interpolated.
        spectrum = scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(padded)))
        self._coefficients = tuple(
            scipy.ndimage.spline_filter(part, order=3, output=np.float32, mode="grid-wrap")
            for part in (spectrum.real, spectrum.imag)
        )

    def project(self, rotation: NDArray[np.float64]) -> Tensor:
        """Return the slice; see `Projector`."""
        n = self._size
        ky, kx = np.meshgrid(np.fft.fftfreq(n, 1 / n), np.fft.rfftfreq(n, 1 / n), indexing="ij")
        places = np.tensordot(np.stack((kx, ky), -1), rotation[:2], axes=1)[..., ::-1] * 2 + n
        real, imaginary = (
            scipy.ndimage.map_coordinates(part, np.moveaxis(places, -1, 0), order=3, mode="grid-wrap", prefilter=False)
            for part in self._coefficients
        )
        centre = np.exp(-2j * np.pi * (n // 2) / n * (kx + ky))
        slice_ = torch.from_numpy(((real + 1j * imaginary) * centre * self._pixel_size_angstrom).astype(np.complex64))
        return slice_ * _compute_band(n)


class AtomProjector:
    """Projections of the atoms themselves, turned and projected one by one."""

    def __init__(self, specimen: Specimen) -> None:
        self._specimen = specimen

    def project(self, rotation: NDArray[np.float64]) -> Tensor:
        """Return the projection; see `Projector`."""
        specimen = self._specimen
        spectrum = compute_projection_spectrum(
            specimen.positions_angstrom @ torch.from_numpy(rotation[:2].T.copy()),
            specimen.kinds,
            specimen.amplitudes,
            specimen.widths,
            specimen.box_px,
            specimen.pixel_size_angstrom,
        )
        return spectrum * _compute_band(specimen.box_px)


def make_projector(generator: Literal["slice", "atoms"], specimen: Specimen, volume: NDArray[np.float32]) -> Projector:
    """Return the projector of that name."""
    return AtomProjector(specimen) if generator == "atoms" else SliceProjector(volume, specimen.pixel_size_angstrom)
