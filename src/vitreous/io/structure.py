"""Atomic models, PDB or mmCIF (also gzip-compressed), as arrays."""

from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError

__all__ = ["AtomicStructure", "read_structure"]

_REMEDY = "Check that the file was copied whole and is what it is named, or give another model."


@dataclass(frozen=True)
class AtomicStructure:
    """Atoms: positions `(n, 3)` as (x, y, z) in Å, atomic numbers `(n,)` and B factors `(n,)` in Å²."""

    positions_angstrom: NDArray[np.float64]
    atomic_numbers: NDArray[np.int64]
    b_factors_angstrom2: NDArray[np.float64]


def read_structure(path: Path, *, assembly: str | None = "1") -> AtomicStructure:
    """Read the first model of a file, without waters and with one of each alternative conformation.

    Parameters
    ----------
    path
        PDB (`.pdb`, `.ent`) or mmCIF (`.cif`), perhaps followed by `.gz`.
    assembly
        Name of the biological assembly to build; a file that declares no assembly at all gives its atoms as they are. None:
        always the atoms as they are.

    Raises
    ------
    InputFileError
        If the file is missing, cannot be read, has no atoms or atoms of no known element, or declares assemblies but not
        this one.
    """
    try:
        structure = gemmi.read_structure(str(path))
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        found = f"a file that cannot be read ({error})" if path.exists() else "no such file"
        raise InputFileError(path, found=found, expected="an atomic model, PDB or mmCIF", remedy=_REMEDY) from error
    structure.setup_entities()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise InputFileError(path, found="no atoms", expected="an atomic model, PDB or mmCIF", remedy=_REMEDY)
    model = structure[0]
    if assembly is not None and structure.assemblies:
        declared = {item.name: item for item in structure.assemblies}
        if assembly not in declared:
            raise InputFileError(
                path,
                found=f"the assemblies {', '.join(declared)}",
                expected=f"an assembly {assembly}",
                remedy="Ask for one of those, or for none.",
            )
        model = gemmi.make_assembly(declared[assembly], model, gemmi.HowToNameCopiedChain.Short)
    model.remove_waters()
    model.remove_alternative_conformations()
    atoms = [site.atom for site in model.all()]
    if unknown := sum(atom.element.atomic_number == 0 for atom in atoms):
        raise InputFileError(
            path,
            found=f"{unknown} atoms of no known element",
            expected="the element of every atom",
            remedy="Fill in the element column or remove those atoms.",
        )
    return AtomicStructure(
        positions_angstrom=np.array([atom.pos.tolist() for atom in atoms], dtype=np.float64),
        atomic_numbers=np.array([atom.element.atomic_number for atom in atoms], dtype=np.int64),
        b_factors_angstrom2=np.array([atom.b_iso for atom in atoms], dtype=np.float64),
    )
