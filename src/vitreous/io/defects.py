"""Defects of a camera, as maps and as lists, in the frame of the movie as it is in memory.

Lists of MotionCor2 (UCSF) hold `x y width height` from the first row in memory, as RELION reads them. SerialEM counts rows from
the top of the picture, which is the last row in memory: its defects are flipped here, as IMOD flips them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.gain import read_gain_image

__all__ = ["read_defects"]

_LIST_SUFFIXES = frozenset({".txt", ".dat", ".defects"})
_MAX_LIST_BYTES = 1 << 26
_Mask = NDArray[np.bool_]


def _fill(mask: _Mask, x: int, y: int, width: int, height: int) -> None:
    """Mark a rectangle; what lies outside is cut off."""
    if width > 0 and height > 0:
        mask[max(y, 0) : max(y + height, 0), max(x, 0) : max(x + width, 0)] = True


class _SerialEm:
    """A defect file of SerialEM, filled into a mask of its own camera size, rows from the top."""

    def __init__(self, mask: _Mask, pixel: int) -> None:
        self.mask = mask
        self.pixel = pixel
        self.entries: Mapping[str, tuple[int, Callable[[Sequence[int]], None]]] = {
            "BadPixels": (2, self.add_pixel),
            "BadColumns": (1, lambda values: _fill(mask, values[0], 0, 1, mask.shape[0])),
            "BadRows": (1, lambda values: _fill(mask, 0, values[0], mask.shape[1], 1)),
            "PartialBadColumn": (4, lambda v: _fill(mask, v[0], v[2], v[1], v[3] - v[2] + 1)),
            "PartialBadRow": (4, lambda v: _fill(mask, v[2], v[0], v[3] - v[2] + 1, v[1])),
            "UsableArea": (4, self.add_edges),
        }

    def add_pixel(self, values: Sequence[int]) -> None:
        """Mark one pixel of the detector, which is several where the list was scaled to super-resolution."""
        _fill(self.mask, values[0], values[1], self.pixel, self.pixel)

    def add_edges(self, values: Sequence[int]) -> None:
        """Mark what lies outside the usable area: first and last good rows and columns, 0 where all are good."""
        top, left, bottom, right = values
        ny, nx = self.mask.shape
        _fill(self.mask, 0, 0, nx, top)
        _fill(self.mask, 0, 0, left, ny)
        if bottom > 0:
            _fill(self.mask, 0, bottom + 1, nx, ny - bottom - 1)
        if right > 0:
            _fill(self.mask, right + 1, 0, nx - right - 1, ny)


def _refuse(path: Path, found: str, expected: str) -> InputFileError:
    remedy = "Check that the file lists the camera's defects; correct or delete the line."
    return InputFileError(path, found=found, expected=expected, remedy=remedy)


def _parse_serialem(path: Path, lines: Sequence[tuple[int, str]]) -> _Mask:
    rows: list[tuple[str, list[int]]] = []
    facts: dict[str, int] = {}
    for number, line in lines:
        name, *texts = line.split()
        try:
            values = [int(text) for text in texts]
        except ValueError as error:
            raise _refuse(path, f"{line[:60]!r} in line {number}", "a name and whole numbers") from error
        rows.append((name, values))
        if len(values) == 1:
            facts[name] = values[0]
    nx, ny = facts.get("CameraSizeX", 0), facts.get("CameraSizeY", 0)
    if not (0 < nx < 1 << 18 and 0 < ny < 1 << 18 and nx * ny < 1 << 31):
        raise _refuse(path, f"a camera of {nx}x{ny} pixels", "lines CameraSizeX and CameraSizeY")
    mask = np.zeros((ny, nx), np.bool_)
    scaled = facts.get("WasScaled", 0)
    camera = _SerialEm(mask, 1 if scaled <= 0 else 2 if scaled == 1 else 4)
    for name, values in rows:
        if name in camera.entries:
            group, fill = camera.entries[name]
            if not values or len(values) % group:
                raise _refuse(path, f"{len(values)} numbers after {name}", f"{group} of them, or a multiple")
            for start in range(0, len(values), group):
                fill(values[start : start + group])
    return mask[::-1]


def _scale(path: Path, mask: _Mask, shape: tuple[int, int]) -> _Mask:
    """Bring a mask to a movie of twice or half its size, as super-resolution and counting mode differ."""
    ny, nx = mask.shape
    if mask.shape == shape:
        return np.ascontiguousarray(mask)
    if shape == (2 * ny, 2 * nx):
        return mask.repeat(2, axis=0).repeat(2, axis=1)
    if (ny, nx) == (2 * shape[0], 2 * shape[1]):
        return np.asarray(mask.reshape(shape[0], 2, shape[1], 2).any(axis=(1, 3)))
    raise InputFileError(
        path,
        found=f"defects of a camera of {nx}x{ny} pixels",
        expected=f"{shape[1]}x{shape[0]} as the movies, or twice or half of it",
        remedy="Check that the defects belong to these movies, and whether they were turned by 90 degrees.",
    )


def _parse_rectangles(path: Path, lines: Sequence[tuple[int, str]], shape: tuple[int, int]) -> _Mask:
    mask = np.zeros(shape, np.bool_)
    for number, line in lines:
        try:
            x, y, width, height = (int(text) for text in line.replace(",", " ").split())
        except ValueError as error:
            raise _refuse(path, f"{line[:60]!r} in line {number}", "x, y, width and height in pixels") from error
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > shape[1] or y + height > shape[0]:
            raise _refuse(path, f"{line[:60]!r} in line {number}", f"a rectangle within {shape[1]}x{shape[0]} pixels")
        _fill(mask, x, y, width, height)
    return mask


def read_defects(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read a map or list of defects as a mask `(ny, nx)`, true where a pixel is bad.

    Parameters
    ----------
    path
        An image (MRC, TIFF, DM; not 0 is bad), or text: `x y width height` in each line, or a defect file of SerialEM.
    shape
        Rows and columns of the movies.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, holds something else, or does not fit the movies.
    """
    if path.suffix.lower() not in _LIST_SUFFIXES:
        stack = read_gain_image(path)
        if len(stack) != 1:
            raise InputFileError(
                path, found=f"{len(stack)} images", expected="one map of defects", remedy="Check the path."
            )
        return _scale(path, stack[0] != 0, shape)
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_LIST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"a file that cannot be read ({error})"
        raise InputFileError(path, found=found, expected="a list of defects", remedy="Check the path.") from error
    lines = [(i, line.strip()) for i, line in enumerate(text.splitlines(), start=1)]
    lines = [(i, line) for i, line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputFileError(
            path, found="no defects", expected="a list of defects", remedy="Leave it out, or check that it is whole."
        )
    if any(line.startswith("CameraSize") for _, line in lines):
        return _scale(path, _parse_serialem(path, lines), shape)
    return _parse_rectangles(path, lines, shape)
