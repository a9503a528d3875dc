"""Electrostatic potential of atoms.

The elastic electron scattering factor of an atom is a sum of five Gaussians, f(s) = sum a_i exp(-b_i s²) with s = k / 2 and k
in 1/Å (Peng, Ren, Dudarev & Whelan 1996, doi:10.1107/S0108767395014371; the coefficients are gemmi's c4322 table). The
transform of the atom's potential is 47.878 V Å² times f(k / 2), and a B factor multiplies it by exp(-B k² / 4). Every atom kind
is therefore kept as amplitudes A_i in V Å³ and widths w_i in Å² of

    V(k) = sum A_i exp(-w_i k² / 4)   <->   V(r) = sum A_i (4 pi / w_i)^(3/2) exp(-4 pi² r² / w_i).

An atom in ice displaces water. Its share is one more, negative Gaussian of the atom's volume and of the mean inner potential of
ice, exp(-pi k² volume^(2/3)) (Fraser, MacRae & Suzuki 1978, doi:10.1107/S0021889878014296).
"""

import math

import gemmi
import torch
from torch import Tensor

from vitreous.ops.ctf import compute_wavelength_angstrom
from vitreous.ops.fourier import apply_fourier_crop_2d, compute_frequency_2d, rfft2

__all__ = [
    "ICE_POTENTIAL_VOLTS",
    "POTENTIAL_CONSTANT",
    "compute_atom_gaussians",
    "compute_interaction_constant",
    "compute_potential_map",
    "compute_projection_spectrum",
    "compute_scattering_factor",
]

POTENTIAL_CONSTANT = 47.878
"""h² / (2 pi m e) in V Å²: from a scattering factor in Å to the transform of a potential in V Å³."""

ICE_POTENTIAL_VOLTS = 4.53
"""Mean inner potential of vitreous ice at 0.93 g/cm³ made of the same neutral atoms, V."""

# Volumes in Å³ without their hydrogens, and the mean number of hydrogens bound to the element in protein.
_VOLUME = {1: 5.15, 6: 16.44, 7: 2.49, 8: 9.13, 12: 17.16, 15: 5.73, 16: 19.86, 20: 31.89, 25: 9.2, 26: 7.99, 30: 9.85}
_HYDROGENS = {6: 1.2, 7: 1.2, 8: 0.15, 16: 0.3}
_BOND_LENGTH_ANGSTROM = 1.05


def compute_interaction_constant(voltage_kv: float) -> float:
    """Return sigma = 2 pi m e lambda / h², relativistic, in rad/(V Å): 6.526e-4 at 300 kV."""
    rest_kv = 510.99895
    relativistic = (rest_kv + voltage_kv) / (2 * rest_kv + voltage_kv)
    return 2 * math.pi * relativistic / (compute_wavelength_angstrom(voltage_kv) * voltage_kv * 1e3)


def compute_scattering_factor(atomic_number: int, k: Tensor) -> Tensor:
    """Return the electron scattering factor in Å at frequencies `k` in 1/Å."""
    coefficients = gemmi.Element(atomic_number).c4322
    a = torch.tensor(coefficients.a, dtype=k.dtype, device=k.device)
    b = torch.tensor(coefficients.b, dtype=k.dtype, device=k.device)
    return (a * torch.exp(-b * (k[..., None] / 2) ** 2)).sum(-1)


def compute_atom_gaussians(
    atomic_number: int, b_factor_angstrom2: float, *, with_hydrogens: bool, ice_potential_volts: float
) -> tuple[Tensor, Tensor]:
    """Return amplitudes in V Å³ and widths in Å², both `(11,)` float64, of an atom in ice.

    Parameters
    ----------
    atomic_number
        The element.
    b_factor_angstrom2
        B factor.
    with_hydrogens
        Add the mean number of hydrogens that the element carries in protein, for models that have none.
    ice_potential_volts
        Mean inner potential of what the atom displaces; 0 for an atom in vacuum.
    """
    element, hydrogen = gemmi.Element(atomic_number), gemmi.Element(1)
    n_hydrogens = _HYDROGENS.get(atomic_number, 0.0) if with_hydrogens else 0.0
    volume = _VOLUME.get(atomic_number, 4 / 3 * math.pi * element.vdw_r**3 * 0.74) + n_hydrogens * _VOLUME[1]
    # Hydrogens at unknown places on a sphere round the atom are smeared like an isotropic displacement.
    smear = 8 * math.pi**2 * _BOND_LENGTH_ANGSTROM**2 / 3
    amplitudes = [
        *(POTENTIAL_CONSTANT * a for a in element.c4322.a),
        *(POTENTIAL_CONSTANT * n_hydrogens * a for a in hydrogen.c4322.a),
        -ice_potential_volts * volume,
    ]
    widths = [*element.c4322.b, *(b + smear for b in hydrogen.c4322.b), 4 * math.pi * volume ** (2 / 3)]
    return (
        torch.tensor(amplitudes, dtype=torch.float64),
        torch.tensor(widths, dtype=torch.float64) + b_factor_angstrom2,
    )


def compute_potential_map(
    positions_angstrom: Tensor,
    kinds: Tensor,
    amplitudes: Tensor,
    widths: Tensor,
    size: int,
    pixel_size_angstrom: float,
    *,
    tolerance: float = 1e-5,
) -> Tensor:
    """Return the potential in V, sampled at the voxel centres: `(size, size, size)` as (z, y, x), float32.

    Summed in real space, atom by atom. Samples are not averages over voxels: the voxels must be small against the atoms
    (0.5 to 1 Å), or what lies beyond Nyquist is folded back.

    Parameters
    ----------
    positions_angstrom
        `(n, 3)` as (x, y, z); the origin is the centre of voxel size // 2.
    kinds
        `(n,)` rows of the tables of Gaussians.
    amplitudes, widths
        `(n_kinds, n_gaussians)` of `compute_atom_gaussians`.
    size, pixel_size_angstrom
        Of the map. Atoms must lie inside, with a margin of about 8 Å.
    tolerance
        Where the widest Gaussian is below this share of its height it is cut off.

    Raises
    ------
    ValueError
        If an atom is too near the border.
    """
    device = positions_angstrom.device
    reach = math.sqrt(-math.log(tolerance) * float(widths.max()) / (4 * math.pi**2))
    half = math.ceil(reach / pixel_size_angstrom)
    offsets = torch.arange(-half, half + 1, device=device)
    places = positions_angstrom.double() / pixel_size_angstrom + size // 2
    nearest = torch.round(places).long()
    if len(nearest) and (int(nearest.min()) < half or int(nearest.max()) >= size - half):
        raise ValueError(f"an atom is less than {half} voxels from the border of the map of {size} voxels")
    volume = torch.zeros(size**3, dtype=torch.float32, device=device)
    stencil = (offsets[:, None, None] * size + offsets[:, None]) * size + offsets
    for chunk in torch.split(torch.arange(len(nearest), device=device), 2000):
        heights = amplitudes[kinds[chunk]] * (4 * math.pi / widths[kinds[chunk]]) ** 1.5
        distances = (nearest[chunk, :, None] + offsets - places[chunk, :, None]) * pixel_size_angstrom
        profiles = torch.exp(-4 * math.pi**2 * distances[:, :, None, :] ** 2 / widths[kinds[chunk]][:, None, :, None])
        x, y, z = profiles.float().unbind(1)
        in_plane = (y[:, :, :, None] * x[:, :, None, :]).flatten(2)
        values = torch.bmm((z * heights[:, :, None].float()).transpose(1, 2), in_plane)
        corner = (nearest[chunk, 2] * size + nearest[chunk, 1]) * size + nearest[chunk, 0]
        volume.index_add_(0, (corner[:, None] + stencil.flatten()).flatten(), values.flatten())
    result: Tensor = volume.reshape(size, size, size)
    return result


def _compute_spline_weights(fractions: Tensor) -> Tensor:
    """Return the quintic B-spline at the six grid points round a place, `(..., 6)`; `fractions` in [0, 1) from the third."""
    steps = torch.arange(6, dtype=fractions.dtype, device=fractions.device)
    distances = (fractions[..., None] + 2 - steps).abs()
    weights = torch.zeros_like(distances)
    for j in range(3):
        rest = torch.clamp(3 - distances - j, min=0)
        square = rest * rest  # a power of 5 would take ten times as long
        weights += ((-1) ** j * math.comb(6, j) / 120) * (square * square * rest)
    return weights


def compute_projection_spectrum(
    positions_angstrom: Tensor,
    kinds: Tensor,
    amplitudes: Tensor,
    widths: Tensor,
    size: int,
    pixel_size_angstrom: float,
) -> Tensor:
    """Return the half spectrum of the projected potential in V Å, `(size, size // 2 + 1)` complex64, unnormalised.

    The atoms of each kind are spread with a quintic B-spline on a grid twice as fine, which is transformed, divided by the
    spline's transform and multiplied by the kind's own: no sampling of Gaussians and no interpolation of a transform.

    Parameters
    ----------
    positions_angstrom
        `(n, 2 or more)` as (x, y, ...), already rotated; the origin is the centre of pixel size // 2.
    kinds, amplitudes, widths
        As in `compute_potential_map`.
    size, pixel_size_angstrom
        Of the image, an even number of pixels; atoms outside wrap round.

    Raises
    ------
    ValueError
        If `size` is odd.
    """
    if size % 2:
        raise ValueError(f"the size must be even, got {size}")
    device, fine = positions_angstrom.device, 2 * size
    places = positions_angstrom[:, :2].double() * (2 / pixel_size_angstrom) + fine // 2
    floor = torch.floor(places)
    weights = _compute_spline_weights(places - floor).float()
    points = (floor.long()[..., None] + torch.arange(-2, 4, device=device)) % fine
    flat = (points[:, 1, :, None] * fine + points[:, 0, None, :]) + kinds[:, None, None] * fine**2
    spread = weights[:, 1, :, None] * weights[:, 0, None, :]
    n_kinds = len(amplitudes)
    grids = torch.zeros(n_kinds * fine**2, dtype=torch.float32, device=device)
    grids.index_add_(0, flat.flatten(), spread.flatten())
    spectra = apply_fourier_crop_2d(rfft2(grids.reshape(n_kinds, fine, fine)), (fine, fine), (size, size)) * 4
    ky, kx = compute_frequency_2d((size, size), device=device)
    k_squared = (ky**2 + kx**2) / pixel_size_angstrom**2
    kernels = torch.exp(-widths.float()[:, :, None, None] * (k_squared / 4))
    factors = (amplitudes.float()[:, :, None, None] * kernels).sum(1)
    spline = (torch.sinc(ky / 2) * torch.sinc(kx / 2)) ** 6
    result: Tensor = (spectra * factors).sum(0) / (spline * pixel_size_angstrom**2)
    return result
