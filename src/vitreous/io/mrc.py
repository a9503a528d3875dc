"""MRC images, stacks and volumes. Arrays are `(y, x)` or `(z, y, x)` in file order: element (0, 0) is the file's first."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement

__all__ = ["MrcHeader", "read_mrc", "read_mrc_header", "write_mrc"]

_REMEDY = "Check that the file was copied whole (compare its size with the original) or leave it out."


@dataclass(frozen=True)
class MrcHeader:
    """What matters of an MRC header: shape as (sections, rows, columns) and Å per pixel, None where the header has none."""

    shape: tuple[int, int, int]
    mode: int
    pixel_size_angstrom: float | None


def _header_of(mrc: Any) -> MrcHeader:
    header = mrc.header
    columns, cell = int(header.mx), float(header.cella.x)
    pixel_size = cell / columns if columns > 0 and cell > 0 else None
    return MrcHeader((int(header.nz), int(header.ny), int(header.nx)), int(header.mode), pixel_size)


def _unreadable(path: Path, error: Exception) -> InputFileError:
    found = "no such file" if isinstance(error, FileNotFoundError) else f"a file that cannot be read ({error})"
    return InputFileError(path, found=found, expected="a complete MRC file", remedy=_REMEDY)


def read_mrc_header(path: Path) -> MrcHeader:
    """Read only the header.

    Raises
    ------
    InputFileError
        If the file is missing, is not MRC or is shorter than its header says.
    """
    try:
        with mrcfile.open(path, permissive=False, header_only=True) as mrc:
            header = _header_of(mrc)
            item_size = {0: 1, 1: 2, 2: 4, 4: 8, 6: 2, 12: 2}.get(header.mode, 0)
            needed = 1024 + int(mrc.header.nsymbt) + int(np.prod(header.shape)) * item_size
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if path.suffix not in {".gz", ".bz2"} and path.stat().st_size < needed:
        raise InputFileError(
            path,
            found=f"{path.stat().st_size} bytes",
            expected=f"at least {needed} bytes for {header.shape[2]}x{header.shape[1]}x{header.shape[0]} in mode {header.mode}",
            remedy="The file is truncated. " + _REMEDY,
        )
    return header


def read_mrc(path: Path) -> tuple[NDArray[Any], MrcHeader]:
    """Read an image, stack or volume with its header; integers stay integers.

    Raises
    ------
    InputFileError
        If the file is missing, is not MRC or is truncated.
    """
    try:
        with mrcfile.open(path, permissive=False) as mrc:
            if mrc.data is None:
                raise ValueError("no data")
            return np.array(mrc.data), _header_of(mrc)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def write_mrc(path: Path, array: NDArray[Any], pixel_size_angstrom: float, *, volume: bool = False) -> None:
    """Write a `(y, x)` image, a `(n, y, x)` stack or, with `volume`, a `(z, y, x)` map, atomically.

    float32, float16 (mode 12), int16, int8 and uint16 arrays are written as they are.
    """
    with open_for_replacement(path) as temporary, mrcfile.new(temporary, overwrite=True) as mrc:
        mrc.set_data(np.ascontiguousarray(array))
        if array.ndim == 3:
            if volume:
                mrc.set_volume()
            else:
                mrc.set_image_stack()
        mrc.voxel_size = pixel_size_angstrom
