"""Gain references of every format."""

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


def read_gain(path: Path) -> NDArray[np.float32]:
    """Read a gain reference, float32 `(ny, nx)`, as it is in the file: whether it multiplies or divides the counts shows there.

    Parameters
    ----------
    path
        MRC, TIFF, DM3, DM4 or `.gain`.

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
            remedy="Check that the file given with --gain is the gain reference of the movies.",
        )
    return gain
