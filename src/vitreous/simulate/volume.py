"""From an atomic model to atoms with known potentials, and to the map of the truth."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.errors import InputFileError
from vitreous.io.structure import AtomicStructure, read_structure
from vitreous.ops.fourier import find_good_size
from vitreous.ops.potential import ICE_POTENTIAL_VOLTS, compute_atom_gaussians, compute_potential_map

__all__ = ["SHIPPED_MODELS", "Specimen", "compute_volume", "find_model", "load_specimen", "make_specimen"]

SHIPPED_MODELS = {"apoferritin": "4v1w.cif.gz", "glua3-ntd": "3p3w.cif.gz"}
"""Names of the models that come with the package."""

# B factors of models fitted to maps of low resolution say little; beyond these limits they would blur all detail away.
_B_RANGE_ANGSTROM2 = (30.0, 80.0)
_N_B_CLASSES = 3
_MARGIN_ANGSTROM = 12.0


@dataclass(frozen=True)
class Specimen:
    """A molecule, ready to be projected.

    Attributes
    ----------
    positions_angstrom
        `(n, 3)` float64 as (x, y, z), the origin at the mean position.
    kinds
        `(n,)` rows of the tables of Gaussians.
    amplitudes, widths
        `(n_kinds, n_gaussians)` float64 in V Å³ and Å², see `vitreous.ops.potential`.
    diameter_angstrom
        Of the sphere round the origin that holds 98 of 100 atoms.
    box_px, pixel_size_angstrom
        Of its map and projections.
    """

    positions_angstrom: Tensor
    kinds: Tensor
    amplitudes: Tensor
    widths: Tensor
    diameter_angstrom: float
    box_px: int
    pixel_size_angstrom: float


def find_model(model: str) -> Path:
    """Return the file of a shipped model or of a path.

    Raises
    ------
    InputFileError
        If it is neither.
    """
    if model in SHIPPED_MODELS:
        return Path(__file__).parent / "models" / SHIPPED_MODELS[model]
    if not Path(model).is_file():
        raise InputFileError(
            model,
            found="no such file",
            expected=f"an atomic model, or one of {', '.join(SHIPPED_MODELS)}",
            remedy="Give the path of a PDB or mmCIF file, or one of those names.",
        )
    return Path(model)


def make_specimen(structure: AtomicStructure, pixel_size_angstrom: float) -> Specimen:
    """Return the molecule in ice: its atoms sorted into kinds of one element and one of a few B factors."""
    positions = structure.positions_angstrom - structure.positions_angstrom.mean(0)
    b_factors = np.clip(structure.b_factors_angstrom2, *_B_RANGE_ANGSTROM2)
    edges = np.quantile(b_factors, np.linspace(0, 1, _N_B_CLASSES + 1)[1:-1])
    b_class = np.searchsorted(edges, b_factors)
    pairs = np.stack((structure.atomic_numbers, b_class), axis=1)
    unique, kinds = np.unique(pairs, axis=0, return_inverse=True)
    with_hydrogens = not np.any(structure.atomic_numbers == 1)
    gaussians = [
        compute_atom_gaussians(
            int(number),
            float(b_factors[b_class == level].mean()),
            with_hydrogens=with_hydrogens,
            ice_potential_volts=ICE_POTENTIAL_VOLTS,
        )
        for number, level in unique
    ]
    radii = np.linalg.norm(positions, axis=1)
    extent = 2 * (float(radii.max()) + _MARGIN_ANGSTROM)
    return Specimen(
        positions_angstrom=torch.from_numpy(positions),
        kinds=torch.from_numpy(kinds.reshape(-1).astype(np.int64)),
        amplitudes=torch.stack([amplitudes for amplitudes, _ in gaussians]),
        widths=torch.stack([widths for _, widths in gaussians]),
        diameter_angstrom=2 * float(np.quantile(radii, 0.98)),
        box_px=find_good_size(math.ceil(extent / pixel_size_angstrom)),
        pixel_size_angstrom=pixel_size_angstrom,
    )


def load_specimen(model: str, pixel_size_angstrom: float) -> Specimen:
    """Read a shipped model or a file; see `make_specimen`."""
    return make_specimen(read_structure(find_model(model)), pixel_size_angstrom)


def _crop_transform(volume: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return the volume sampled `size` times along each axis, without what lies at or beyond the new Nyquist frequency."""
    fine, half = volume.shape[0], size // 2
    spectrum = scipy.fft.rfftn(volume)
    rows = np.r_[0:half, fine - half : fine]
    cropped = spectrum[np.ix_(rows, rows, np.arange(half + 1))] * (size / fine) ** 3
    cropped[half] = 0
    cropped[:, half] = 0
    cropped[:, :, half] = 0
    return np.asarray(scipy.fft.irfftn(cropped, s=(size, size, size)), dtype=np.float32)


def compute_volume(specimen: Specimen) -> NDArray[np.float32]:
    """Return the potential over that of ice, in V, `(box, box, box)` as (z, y, x); the origin is voxel box // 2."""
    oversampling = max(2, math.ceil(specimen.pixel_size_angstrom))
    fine = compute_potential_map(
        specimen.positions_angstrom,
        specimen.kinds,
        specimen.amplitudes,
        specimen.widths,
        specimen.box_px * oversampling,
        specimen.pixel_size_angstrom / oversampling,
    )
    return _crop_transform(fine.numpy(), specimen.box_px)
