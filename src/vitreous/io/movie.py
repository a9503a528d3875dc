"""Movies and gain references."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.images import find_format, probe_image
from vitreous.io.mrc import read_mrc
from vitreous.io.tiff import read_tiff

__all__ = ["read_frames", "read_gain", "read_movie"]


def _read_stack(path: Path) -> NDArray[Any]:
    """Read all sections or pages as `(n, ny, nx)`."""
    match find_format(path):
        case "MRC":
            array = read_mrc(path)[0]
            return array[None] if array.ndim == 2 else array
        case "TIFF":
            return read_tiff(path)
        case "picture":
            raise InputFileError(
                path,
                found="a PNG or JPEG file",
                expected="a movie or gain reference in MRC or TIFF",
                remedy="Give finished micrographs with --micrographs.",
            )


def read_movie(path: Path) -> NDArray[Any]:
    """Read a movie, `(n_frames, ny, nx)`, in the file's type. Rows of TIFF are flipped, those of MRC are not.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, or no movie in MRC or TIFF.
    """
    return _read_stack(path)


def read_frames(path: Path, frames: Sequence[int]) -> NDArray[Any]:
    """Read some frames of a movie, `(len(frames), ny, nx)`, without the rest; negative numbers count from the end.

    Raises
    ------
    InputFileError
        As `read_movie`.
    """
    if find_format(path) == "TIFF":
        return read_tiff(path, frames)
    if find_format(path) != "MRC" or path.suffix.lower() in {".bz2", ".gz"}:
        return _read_stack(path)[list(frames)]
    n_frames = probe_image(path).n_frames
    try:
        with mrcfile.mmap(path, mode="r", permissive=False) as mrc:
            sections = mrc.data.reshape(n_frames, *mrc.data.shape[-2:])
            return np.stack([np.array(sections[frame]) for frame in frames])
    except (OSError, ValueError) as error:
        raise InputFileError(
            path,
            found=f"a file that cannot be read ({error})",
            expected="a complete movie in MRC",
            remedy="Check that the file was copied whole (compare its size with the original) or leave it out.",
        ) from error


def read_gain(path: Path) -> NDArray[np.float32]:
    """Read a multiplicative gain reference, float32 `(ny, nx)`, from MRC or TIFF; rows of TIFF are flipped.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, not one image, or holds values that no gain has.
    """
    stack = _read_stack(path)
    if len(stack) != 1:
        raise InputFileError(
            path,
            found=f"{len(stack)} images",
            expected="one gain reference",
            remedy="Check the file given with --gain.",
        )
    gain = np.ascontiguousarray(stack[0], dtype=np.float32)
    if not np.isfinite(gain).all() or gain.min() < 0 or gain.max() == 0:
        raise InputFileError(
            path,
            found=f"values from {gain.min()} to {gain.max()}",
            expected="finite factors, none of them negative and not all zero",
            remedy="Check that the file given with --gain is the gain reference that multiplies the movies.",
        )
    return gain
