"""Gain references of every format, as factors that multiply the movie."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.dm import open_dm
from vitreous.io.images import find_format
from vitreous.io.mrc import read_mrc
from vitreous.io.raw import RAW_SUFFIXES
from vitreous.io.tiff import read_tiff

__all__ = ["invert_divisors", "read_gain", "read_gain_image"]

_EER_GAIN_SUFFIX = ".gain"


def read_gain_image(path: Path) -> NDArray[Any]:
    """Read a gain reference as it is in the file, `(n, ny, nx)`: no value is changed.

    Rows of TIFF and DM are flipped, those of MRC and of `.gain` (TIFF of an EER camera) are not: RELION reads them so.

    Raises
    ------
    InputFileError
        If the file is missing, damaged or of a format that we do not read.
    """
    suffix = path.suffix.lower()
    if suffix == _EER_GAIN_SUFFIX:
        return read_tiff(path, [0])[:, ::-1]
    if suffix in RAW_SUFFIXES:
        raise InputFileError(
            path,
            found="pixels without a header",
            expected="a gain reference in MRC, TIFF, DM or .gain",
            remedy=f"Convert it: vitreous formats convert {path.name} gain.mrc --shape NY,NX --dtype float32",
        )
    match find_format(path):
        case "MRC":
            array = read_mrc(path)[0]
            return array.reshape(-1, *array.shape[-2:])
        case "TIFF":
            return read_tiff(path)
        case "DM":
            stack = open_dm(path)
            return np.stack(list(stack.iterate(range(stack.shape[0]))))
        case other:
            raise InputFileError(
                path,
                found=f"a file named as {other}",
                expected="a gain reference in MRC, TIFF, DM or .gain",
                remedy="Check the file given with --gain.",
            )


def invert_divisors(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn divisors into factors that average about 1; 0 marks a defect and stays 0."""
    good = factors != 0
    mean = factors[good].mean(dtype=np.float64) if good.any() else 1.0
    return np.divide(np.float32(mean), factors, out=np.zeros_like(factors), where=good)


def _fit(gain: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Bring a gain reference to a grid twice as fine or twice as coarse; others are returned as they are.

    Of the four pixels that become one, each counted in proportion to 1 / gain: their harmonic mean corrects the sum. One defect
    among them makes a defect.
    """
    ny, nx = gain.shape
    if shape == (2 * ny, 2 * nx):
        return gain.repeat(2, axis=0).repeat(2, axis=1)
    if (ny, nx) != (2 * shape[0], 2 * shape[1]):
        return gain
    blocks = gain.reshape(shape[0], 2, shape[1], 2).astype(np.float64)
    good = (blocks > 0).all(axis=(1, 3))
    sums = np.divide(1.0, blocks, out=np.ones_like(blocks), where=blocks > 0).sum(axis=(1, 3))
    return np.where(good, 4 / sums, 0).astype(np.float32)


def read_gain(path: Path, *, movie: Path | None = None, shape: tuple[int, int] | None = None) -> NDArray[np.float32]:
    """Read a gain reference, float32 `(ny, nx)`, as factors that multiply; 0 marks a defect.

    Parameters
    ----------
    path
        MRC, TIFF, DM3, DM4 or `.gain`.
    movie
        A movie that it belongs to. For EER, a reference in anything but `.gain` holds divisors and is inverted.
    shape
        Rows and columns of an EER movie as rendered; a reference of twice or half that size is brought to it.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, not one image, or holds values that no gain has.
    """
    stack = read_gain_image(path)
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
    if movie is None or find_format(movie) != "EER":
        return gain
    factors = gain if path.suffix.lower() == _EER_GAIN_SUFFIX else invert_divisors(gain)
    return factors if shape is None else _fit(factors, shape)
