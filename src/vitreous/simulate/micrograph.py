"""One exposed field: particles in ice, contamination and carbon, imaged with a known CTF."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.fourier import compute_frequency_2d, compute_shift_phase, find_good_size, irfft2, rfft2
from vitreous.ops.potential import POTENTIAL_CONSTANT, compute_interaction_constant, compute_scattering_factor
from vitreous.simulate.junk import Junk, make_surroundings, place_aggregates
from vitreous.simulate.particles import Projector, compute_rotations, draw_orientations, place_particles
from vitreous.simulate.settings import SimulationSettings

__all__ = ["Micrograph", "compute_ice_spectrum", "make_micrograph"]

_SLAB_ANGSTROM = 100.0
_ENVELOPE_B_ANGSTROM2 = 60.0
"""Partial coherence and the detector's transfer, as one Gaussian fall-off of the amplitude."""

_WATER_PER_ANGSTROM3 = 0.0311


@dataclass(frozen=True)
class Micrograph:
    """What the electrons meet, before motion, damage and counting.

    Attributes
    ----------
    canvas
        Rows and columns simulated: more than the frame shows, so that drift brings new specimen in.
    window
        The part that the first frame shows.
    particle_spectrum, support_spectrum
        Half spectra of the image contrast, CTF applied: what radiation damages, and what it does not.
    ice_amplitude
        Half spectrum of the standard deviation of the ice's contrast, CTF applied, signed, per unit white noise.
    transmission
        Share of the electrons that reach the detector, `(ny, nx)`; 1 in plain ice.
    centres_px
        `(n, 2)` as (x, y) in the first frame, only those inside it.
    angles_deg, defocus_angstrom
        Of these particles: (rot, tilt, psi), and mean defocus.
    junk
        What else is in view, in pixels of the first frame.
    defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg
        Of the middle of the ice.
    """

    canvas: tuple[int, int]
    window: tuple[slice, slice]
    particle_spectrum: Tensor
    support_spectrum: Tensor
    ice_amplitude: Tensor
    transmission: NDArray[np.float32]
    centres_px: NDArray[np.float64]
    angles_deg: NDArray[np.float64]
    defocus_angstrom: NDArray[np.float64]
    junk: tuple[Junk, ...]
    defocus_u_angstrom: float
    defocus_v_angstrom: float
    defocus_angle_deg: float


def compute_ice_spectrum(k: Tensor, thickness_angstrom: float) -> Tensor:
    """Return the power spectrum of the projected potential of amorphous ice, (V Å)² Å², at frequencies `k` in 1/Å.

    Independent molecules times a structure factor: 0.06 at low frequency, where water is nearly incompressible, and a peak
    at 1/3.7 Å.
    """
    molecule = compute_scattering_factor(8, k) + 2 * compute_scattering_factor(1, k)
    structure_factor = 0.06 + 0.94 * (1 - torch.exp(-((k / 0.24) ** 6))) + 0.8 * torch.exp(-(((k - 0.27) / 0.03) ** 2))
    return _WATER_PER_ANGSTROM3 * thickness_angstrom * (POTENTIAL_CONSTANT * molecule) ** 2 * structure_factor


def _add_projections(
    slabs: Tensor, layers: NDArray[np.int64], centres_px: NDArray[np.float64], spectra: Tensor, box: int
) -> None:
    """Add every projection to its slab `(n_slabs, ny, nx)`, in place, its origin at the centre given; wraps round."""
    ny, nx = slabs.shape[-2:]
    whole = np.round(centres_px).astype(np.int64)
    fractions = torch.from_numpy((centres_px - whole)[:, ::-1].copy()).float()
    images = irfft2(spectra * compute_shift_phase((box, box), fractions), (box, box))
    for image, layer, (x, y) in zip(images, layers, whole, strict=True):
        rows = torch.arange(y - box // 2, y - box // 2 + box) % ny
        columns = torch.arange(x - box // 2, x - box // 2 + box) % nx
        slabs[int(layer), rows[:, None], columns[None, :]] += image


def make_micrograph(
    settings: SimulationSettings,
    projector: Projector,
    box: int,
    diameter_angstrom: float,
    defocus_angstrom: float,
    with_carbon: bool,
    rng: np.random.Generator,
) -> Micrograph:
    """Place particles at random in a field and image it.

    The object is weak: contrast = 2 sigma V (times `settings.contrast`) convolved with the CTF, in slabs of 100 Å, each with
    its own defocus, so that the defocus of every particle is known.

    Parameters
    ----------
    settings
        What to simulate.
    projector, box
        Gives projections on `box` pixels.
    diameter_angstrom
        Of the particle, for distances between particles and from contamination.
    defocus_angstrom
        Mean defocus of the middle of the ice.
    with_carbon
        Whether a carbon edge is in view.
    rng
        Where chance comes from.

    Raises
    ------
    SettingError
        If there is no room for the particles.
    """
    pixel_size = settings.pixel_size_angstrom
    radius_px = diameter_angstrom / pixel_size / 2
    margin = math.ceil(radius_px + 1.5 * settings.drift_angstrom / pixel_size) + 16
    canvas = (find_good_size(settings.ny_px + 2 * margin), find_good_size(settings.nx_px + 2 * margin))
    window = (slice(margin, margin + settings.ny_px), slice(margin, margin + settings.nx_px))
    surroundings = make_surroundings(canvas, settings, radius_px, with_carbon, rng)
    clumped, clumps = place_aggregates(surroundings.blocked, settings.n_aggregates, radius_px, rng)
    separation_px = settings.minimum_separation_diameters * 2 * radius_px
    centres = place_particles(surroundings.blocked, window, settings.particles_per_movie, separation_px, rng)
    angles = draw_orientations(len(centres), rng)
    everything, all_angles = np.concatenate([centres, clumped]), angles
    if len(clumped):
        all_angles = np.concatenate([angles, draw_orientations(len(clumped), rng)])
    room = max(0.0, settings.ice_thickness_angstrom - diameter_angstrom)
    n_slabs = max(1, round(room / _SLAB_ANGSTROM))
    layers = rng.integers(0, n_slabs, len(everything))
    heights = (np.arange(n_slabs) - (n_slabs - 1) / 2) * (room / n_slabs)
    slabs = torch.zeros((n_slabs, *canvas))
    if len(everything):
        spectra = torch.stack([projector.project(rotation) for rotation in compute_rotations(all_angles)])
        _add_projections(slabs, layers, everything, spectra, box)

    half_astigmatism = rng.uniform(0, settings.astigmatism_angstrom) / 2
    angle = float(rng.uniform(0, 180))
    ctfs = compute_ctf_2d(
        canvas,
        pixel_size,
        torch.from_numpy(defocus_angstrom + half_astigmatism + np.append(heights, 0.0)),
        torch.from_numpy(defocus_angstrom - half_astigmatism + np.append(heights, 0.0)),
        angle,
        voltage_kv=settings.voltage_kv,
        cs_mm=settings.cs_mm,
        amplitude_contrast=settings.amplitude_contrast,
    )
    ky, kx = compute_frequency_2d(canvas, pixel_size)
    k_squared = ky**2 + kx**2
    strength = 2 * settings.contrast * compute_interaction_constant(settings.voltage_kv)
    transfer = ctfs * (strength * torch.exp(-_ENVELOPE_B_ANGSTROM2 / 4 * k_squared))
    ice = torch.sqrt(compute_ice_spectrum(torch.sqrt(k_squared), settings.ice_thickness_angstrom)) / pixel_size
    ice[0, 0] = 0
    rows, columns = window
    seen = (
        (centres[:, 0] >= columns.start)
        & (centres[:, 0] <= columns.stop - 1)
        & (centres[:, 1] >= rows.start)
        & (centres[:, 1] <= rows.stop - 1)
    )
    return Micrograph(
        canvas=canvas,
        window=window,
        particle_spectrum=(rfft2(slabs) * transfer[:-1]).sum(0),
        support_spectrum=rfft2(torch.from_numpy(surroundings.potential)) * transfer[-1],
        ice_amplitude=ice * transfer[-1],
        transmission=surroundings.transmission,
        centres_px=np.round(centres[seen] - margin, 3),
        angles_deg=angles[seen],
        defocus_angstrom=np.asarray(defocus_angstrom + heights[layers[: len(centres)][seen]], dtype=np.float64),
        junk=tuple(
            Junk(one.kind, one.x_px - margin, one.y_px - margin, one.radius_px) for one in (*surroundings.junk, *clumps)
        ),
        defocus_u_angstrom=float(defocus_angstrom + half_astigmatism),
        defocus_v_angstrom=float(defocus_angstrom - half_astigmatism),
        defocus_angle_deg=angle,
    )
