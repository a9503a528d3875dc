"""TIFF images and movies. Rows are flipped on reading and writing, so that row 0 in memory is the file's last.

RELION, IMOD and MotionCor2 do the same: a TIFF movie then fits a gain reference in MRC.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.foreign import make_read_error
from vitreous.io.frames import collect_frames
from vitreous.io.tiff_pages import read_pages

__all__ = ["TiffStack", "open_tiff", "read_tiff", "read_tiff_header", "write_tiff"]

_ANGSTROM_PER_UNIT = {2: 2.54e8, 3: 1e8}
"""Å per resolution unit of TIFF: inch and centimetre."""
_MAX_PIXEL_SIZE_ANGSTROM = 100.0
"""Coarser than this is a screen's or a printer's resolution, not a microscope's."""


@contextmanager
def _open_tifffile(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file after checking that it is whole; whatever fails inside is reported with the file's name."""
    read_pages(path)
    try:
        with tifffile.TiffFile(path) as tiff:
            yield tiff
    except InputFileError:
        raise
    # tifffile and its codecs raise exceptions of every kind on damaged data.
    except Exception as error:
        raise make_read_error(path, "TIFF", error) from error


def _find_shape(path: Path, tiff: tifffile.TiffFile) -> tuple[int, int, int]:
    """Return (pages, rows, columns) after checking that all pages are grey images of one size."""
    kinds = {f"{page.dtype} {'x'.join(str(length) for length in reversed(page.shape))}" for page in tiff.pages}
    first = tiff.pages.first.shape
    if len(kinds) > 1 or len(first) != 2:
        raise InputFileError(
            path,
            found=f"pages of {' and '.join(sorted(kinds))}",
            expected="grey images of one type and size, one per page",
            remedy="Convert the file to a stack of single-channel images.",
        )
    if tiff.is_imagej and len(tiff.pages) == 1 and tiff.series[0].size != first[0] * first[1]:
        raise InputFileError(
            path,
            found="an ImageJ stack that holds all of its frames in one page",
            expected="one page per frame",
            remedy="Save it as an ordinary multi-page TIFF or as MRC.",
        )
    return len(tiff.pages), first[0], first[1]


def _find_pixel_size(tiff: tifffile.TiffFile) -> float | None:
    """Return Å per pixel from the resolution tags, None where they are missing or describe a screen."""
    tags = tiff.pages.first.tags
    if "XResolution" not in tags or "ResolutionUnit" not in tags:
        return None
    numerator, denominator = tags["XResolution"].value
    unit = _ANGSTROM_PER_UNIT.get(int(tags["ResolutionUnit"].value))
    if unit is None or not numerator or not denominator:
        return None
    pixel_size = unit * denominator / numerator
    return float(pixel_size) if pixel_size < _MAX_PIXEL_SIZE_ANGSTROM else None


@dataclass(frozen=True)
class TiffStack:
    """A TIFF file whose pages are read when they are asked for."""

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    compression: str
    pixel_size_angstrom: float | None

    def iterate(self, pages: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield the pages numbered `pages`, each `(ny, nx)`, rows flipped.

        Raises
        ------
        InputFileError
            If the data are damaged.
        """
        with _open_tifffile(self.path) as tiff:
            for number in pages:
                page: NDArray[Any] = tiff.pages[number].asarray()[::-1]
                yield page.astype(self.dtype, copy=False)


def open_tiff(path: Path) -> TiffStack:
    """Open a TIFF file for reading page by page.

    Raises
    ------
    InputFileError
        If the file is missing, is not TIFF, is truncated, or its pages are not grey images of one size.
    """
    with _open_tifffile(path) as tiff:
        shape, first = _find_shape(path, tiff), tiff.pages.first
        if first.dtype is None:
            raise make_read_error(path, "TIFF", f"{first.bitspersample} bits per pixel")
        compression = getattr(first.compression, "name", str(first.compression))
        return TiffStack(path, shape, first.dtype.newbyteorder("="), compression, _find_pixel_size(tiff))


def read_tiff_header(path: Path) -> tuple[int, int, int, float | None]:
    """Return (pages, rows, columns, Å per pixel or None) without reading pixels.

    Raises
    ------
    InputFileError
        As `open_tiff`.
    """
    stack = open_tiff(path)
    return *stack.shape, stack.pixel_size_angstrom


def read_tiff(path: Path, pages: Sequence[int] | None = None) -> NDArray[Any]:
    """Read all pages (or the ones numbered `pages`) as `(n, ny, nx)` in the file's type, rows flipped.

    Raises
    ------
    InputFileError
        As `open_tiff`, or if the data are damaged.
    """
    stack = open_tiff(path)
    n_pages = stack.shape[0]
    wanted = list(range(n_pages)) if pages is None else [range(n_pages)[page] for page in pages]
    return collect_frames(stack.iterate(wanted), len(wanted))


def write_tiff(
    path: Path,
    array: NDArray[Any],
    *,
    pixel_size_angstrom: float | None = None,
    compression: Literal["lzw", "zlib", "none"] = "lzw",
) -> None:
    """Write a `(ny, nx)` image or `(n, ny, nx)` movie, one page per frame, rows flipped, atomically.

    Raises
    ------
    ValueError
        If the array has another number of dimensions or is not uint8, uint16 or float32.
    """
    if array.ndim not in {2, 3} or array.dtype.name not in {"uint8", "uint16", "float32"}:
        raise ValueError(f"expected a 2D or 3D array of uint8, uint16 or float32, found {array.ndim}D {array.dtype}")
    resolution = None if pixel_size_angstrom is None else (1e8 / pixel_size_angstrom, 1e8 / pixel_size_angstrom)
    flipped = array.reshape(-1, *array.shape[-2:])[:, ::-1]
    with open_for_replacement(path) as temporary, tifffile.TiffWriter(temporary) as writer:
        for frame in flipped:
            writer.write(
                np.ascontiguousarray(frame),
                photometric="minisblack",
                compression=None if compression == "none" else compression,
                resolution=resolution,
                resolutionunit="CENTIMETER" if resolution else None,
                metadata=None,
                software=False,
            )
