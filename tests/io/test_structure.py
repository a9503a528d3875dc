"""Atomic models: known atoms in hand-written files, assemblies, and the shipped models."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from vitreous.errors import InputFileError
from vitreous.io.structure import read_structure
from vitreous.simulate.volume import find_model

REMARKS = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        5.00000
"""
ATOMS = """\
ATOM      1  N   SER A   1       1.000   2.000   3.000  1.00 20.00           N
ATOM      2  CA ASER A   1       2.500   2.000   3.000  0.50 30.00           C
ATOM      3  CA BSER A   1       2.600   2.100   3.000  0.50 30.00           C
HETATM    4  O   HOH A   2       9.000   9.000   9.000  1.00 40.00           O
END
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_model_without_assemblies_gives_its_atoms(tmp_path: Path) -> None:
    structure = read_structure(write(tmp_path / "a.pdb", ATOMS))
    np.testing.assert_allclose(structure.positions_angstrom, [[1, 2, 3], [2.5, 2, 3]])
    np.testing.assert_array_equal(structure.atomic_numbers, [7, 6])
    np.testing.assert_allclose(structure.b_factors_angstrom2, [20, 30])


def test_the_assembly_is_built(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pdb", REMARKS + ATOMS)
    np.testing.assert_allclose(
        read_structure(path).positions_angstrom, [[1, 2, 3], [2.5, 2, 3], [-1, -2, 8], [-2.5, -2, 8]], atol=1e-6
    )
    assert len(read_structure(path, assembly=None).positions_angstrom) == 2
    with pytest.raises(InputFileError, match="an assembly 7"):
        read_structure(path, assembly="7")


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pdb.gz"
    path.write_bytes(gzip.compress(ATOMS.encode()))
    assert len(read_structure(path).positions_angstrom) == 2


@pytest.mark.parametrize("text", ["", "END\n", "not a model\n"])
def test_files_without_atoms_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputFileError):
        read_structure(write(tmp_path / "a.cif", text))
    with pytest.raises(InputFileError):
        read_structure(write(tmp_path / "a.pdb", text))


def test_unknown_elements_are_refused(tmp_path: Path) -> None:
    unknown = "ATOM      1  X   UNK A   1       1.000   2.000   3.000  1.00 20.00           X\nEND\n"
    with pytest.raises(InputFileError, match="no known element"):
        read_structure(write(tmp_path / "a.pdb", unknown))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        read_structure(tmp_path / "missing.cif")


def test_the_shipped_apoferritin_is_octahedral() -> None:
    structure = read_structure(find_model("apoferritin"))
    positions = structure.positions_angstrom
    assert len(positions) == 24 * 1364
    np.testing.assert_allclose(positions.mean(0), 0, atol=1e-9)
    quarter_turn = positions[:, [1, 0, 2]] * [-1, 1, 1]
    third_turn = positions[:, [1, 2, 0]]
    for turned in (quarter_turn, third_turn):
        assert {tuple(row) for row in np.round(turned + 0.0, 3) + 0.0} == {
            tuple(row) for row in np.round(positions, 3) + 0.0
        }


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "n_atoms"), [("4v1w.cif.gz", 32736), ("5a1a.cif.gz", 32920), ("1aon.pdb.gz", 58870), ("3p3w.pdb.gz", 5696)]
)
def test_deposited_models_are_read(shared_data: Path, name: str, n_atoms: int) -> None:
    assert len(read_structure(shared_data / "models" / name).positions_angstrom) == n_atoms


@pytest.mark.shared_data
def test_the_shipped_apoferritin_is_the_deposited_one(shared_data: Path) -> None:
    deposited = read_structure(shared_data / "models" / "4v1w.cif.gz").positions_angstrom
    shipped = read_structure(find_model("apoferritin")).positions_angstrom
    difference = deposited - deposited.mean(0) - shipped
    assert np.sqrt((difference**2).sum(1).mean()) < 0.2
