"""Pixels without a header."""

from pathlib import Path

import numpy as np
import pytest

from vitreous.errors import InputFileError, SettingError
from vitreous.io.raw import read_raw


@pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "<f4", ">f8"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7)])
def test_arrays_as_they_lie_in_the_file(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    array.tofile(tmp_path / "a.dat")
    read = read_raw(tmp_path / "a.dat", shape, dtype)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def test_another_size(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes(bytes(100))
    with pytest.raises(InputFileError, match="found 100 bytes; expected 140 bytes for 7x5 pixels of float32"):
        read_raw(tmp_path / "a.dat", (5, 7), "float32")
    with pytest.raises(InputFileError, match="no such file"):
        read_raw(tmp_path / "none.dat", (5, 7), "float32")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((5, 7), "nonsense"), ((5, 7), "complex64"), ((5,), "uint8"), ((0, 5), "uint8"), ((5, 7), "U3")],
)
def test_shapes_and_types_that_are_none(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    with pytest.raises(SettingError, match="expected"):
        read_raw(tmp_path / "a.dat", shape, dtype)
