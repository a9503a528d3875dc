"""Pixels without a header, such as the `.dat` files of some cameras: shape and type must be given."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError, SettingError
from vitreous.io.foreign import COPY_REMEDY

__all__ = ["RAW_SUFFIXES", "read_raw"]

RAW_SUFFIXES = frozenset({".dat", ".raw"})


def read_raw(path: Path, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Read an array `(ny, nx)` or `(n, ny, nx)` in file order, in native byte order.

    Parameters
    ----------
    path
        The file: pixels and nothing else.
    shape
        Rows and columns, or images, rows and columns.
    dtype
        numpy's name of the type, such as ``float32``; ``>u2`` for big-endian.

    Raises
    ------
    SettingError
        If the shape or the type is none.
    InputFileError
        If the file is missing or of another size.
    """
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise SettingError(f"type {dtype!r}: expected one of numpy's names, such as uint8, >u2 or float32") from error
    if kind.kind not in "iuf" or len(shape) not in {2, 3} or min(shape) < 1:
        raise SettingError(
            f"found shape {shape} and type {dtype!r}; expected rows,columns or images,rows,columns of real numbers"
        )
    expected = math.prod(shape) * kind.itemsize
    if not path.is_file() or path.stat().st_size != expected:
        raise InputFileError(
            path,
            found=f"{path.stat().st_size} bytes" if path.is_file() else "no such file",
            expected=f"{expected} bytes for {'x'.join(map(str, shape[::-1]))} pixels of {kind.name}",
            remedy="Check the shape and the type. " + COPY_REMEDY,
        )
    return np.fromfile(path, kind).reshape(shape).astype(kind.newbyteorder("="), copy=False)
