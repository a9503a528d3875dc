"""TIFF images and movies. Rows are flipped on reading and writing, so that row 0 in memory is the file's last.

RELION, IMOD and MotionCor2 do the same: a TIFF movie then fits a gain reference in MRC.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement

__all__ = ["read_tiff", "read_tiff_header", "write_tiff"]

_REMEDY = "Check that the file was copied whole (compare its size with the original) or leave it out."
_ANGSTROM_PER_UNIT = {2: 2.54e8, 3: 1e8}
"""Å per resolution unit of TIFF: inch and centimetre."""
_MAX_PIXEL_SIZE_ANGSTROM = 100.0
"""Coarser than this is a screen's or a printer's resolution, not a microscope's."""


@contextmanager
def _open_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF file after checking that it is whole; whatever fails inside is reported with the file's name."""
    try:
        with tifffile.TiffFile(path) as tiff:
            if (size := path.stat().st_size) < (needed := _find_end(tiff)):
                raise InputFileError(
                    path,
                    found=f"{size} bytes",
                    expected=f"at least {needed} bytes, where the header says that data lie",
                    remedy="The file is truncated. " + _REMEDY,
                )
            yield tiff
    except InputFileError:
        raise
    # Codecs raise their own kinds of RuntimeError on damaged data.
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, struct.error, tifffile.TiffFileError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"a file that cannot be read ({error})"
        raise InputFileError(path, found=found, expected="a complete TIFF file", remedy=_REMEDY) from error


def _find_end(tiff: tifffile.TiffFile) -> int:
    """Return how long the file must be for all the pages that it announces.

    The chain of pages is walked here: tifffile takes a chain that leads out of the file for its end.
    """
    form, stream = tiff.tiff, tiff.filehandle
    end = 0
    stream.seek(4 + 4 * form.is_bigtiff)
    offset = int(struct.unpack(form.offsetformat, stream.read(form.offsetsize))[0])
    seen: set[int] = set()
    while offset and offset not in seen:
        seen.add(offset)
        stream.seek(offset)
        count = stream.read(form.tagnosize)
        if len(count) < form.tagnosize:
            return offset + form.tagnosize
        after = offset + form.tagnosize + form.tagsize * int(struct.unpack(form.tagnoformat, count)[0])
        stream.seek(after)
        following = stream.read(form.offsetsize)
        if len(following) < form.offsetsize:
            return after + form.offsetsize
        end = max(end, after + form.offsetsize)
        offset = int(struct.unpack(form.offsetformat, following)[0])
    for page in tiff.pages:
        extents = zip(page.dataoffsets, page.databytecounts, strict=True)
        end = max(end, *(start + length for start, length in extents))
    return end


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


def read_tiff_header(path: Path) -> tuple[int, int, int, float | None]:
    """Return (pages, rows, columns, Å per pixel or None) without reading pixels.

    Raises
    ------
    InputFileError
        If the file is missing, is not TIFF, is truncated, or its pages are not grey images of one size.
    """
    with _open_tiff(path) as tiff:
        return *_find_shape(path, tiff), _find_pixel_size(tiff)


def read_tiff(path: Path, pages: Sequence[int] | None = None) -> NDArray[Any]:
    """Read all pages (or the ones numbered `pages`) as `(n, ny, nx)` in the file's type, rows flipped.

    Raises
    ------
    InputFileError
        As `read_tiff_header`, or if the data are damaged.
    """
    with _open_tiff(path) as tiff:
        n_pages, ny, nx = _find_shape(path, tiff)
        wanted = range(n_pages) if pages is None else [range(n_pages)[page] for page in pages]
        stack = np.empty((len(wanted), ny, nx), tiff.pages.first.dtype)
        for frame, page in zip(stack, wanted, strict=True):
            frame[:] = tiff.pages[page].asarray()[::-1]
        return stack


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
