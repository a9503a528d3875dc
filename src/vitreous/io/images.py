"""Finished micrographs in any format that we take, and the size of any image or movie."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.compressed import COMPRESSED_SUFFIXES
from vitreous.io.dm import open_dm
from vitreous.io.eer import EerRendering, open_eer
from vitreous.io.mrc import read_mrc, read_mrc_header
from vitreous.io.tiff import read_tiff, read_tiff_header

__all__ = [
    "ImageFormat",
    "ImageInfo",
    "find_format",
    "find_stem",
    "probe_image",
    "read_micrograph",
    "read_picture",
    "trust_pixel_size",
    "write_picture",
]

ImageFormat = Literal["MRC", "TIFF", "EER", "DM", "picture"]

_FORMATS: dict[str, ImageFormat] = {
    ".mrc": "MRC",
    ".mrcs": "MRC",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".eer": "EER",
    ".dm3": "DM",
    ".dm4": "DM",
    ".png": "picture",
    ".jpg": "picture",
    ".jpeg": "picture",
}


@dataclass(frozen=True)
class ImageInfo:
    """Size of an image or movie; Å per pixel is None where the header has none.

    `exposure_used` is the part of an EER movie's exposure that its fractions hold; the rest fills no whole fraction.
    """

    nx_px: int
    ny_px: int
    n_frames: int
    pixel_size_angstrom: float | None
    exposure_used: float = 1.0


def _split_name(path: Path) -> tuple[str, str]:
    """Return stem and suffix; a compressed MRC file (x.mrc.bz2) has those of the file within."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED_SUFFIXES else path
    if inner is not path and _FORMATS.get(inner.suffix.lower()) != "MRC":
        inner = path
    return inner.stem, inner.suffix.lower()


def find_stem(path: Path) -> str:
    """Return the file's name without its suffix; `x.mrc.bz2` and `x.mrc` both give `x`."""
    return _split_name(path)[0]


def find_format(path: Path) -> ImageFormat:
    """Return the format that the file's name stands for.

    Raises
    ------
    InputFileError
        If it is none that we read.
    """
    suffix = _split_name(path)[1]
    if suffix not in _FORMATS:
        raise InputFileError(
            path,
            found=f"a file named {suffix or 'without a suffix'}",
            expected=f"one of {', '.join(_FORMATS)}",
            remedy="Convert it to MRC or TIFF, or make the glob match images only.",
        )
    return _FORMATS[suffix]


@contextmanager
def _open_picture(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            # A super-resolution micrograph is larger than what Pillow takes for an attack.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else f"a file that cannot be read ({error})"
        raise InputFileError(
            path,
            found=found,
            expected="a complete PNG or JPEG image",
            remedy="Check that the file was copied whole (compare its size with the original) or leave it out.",
        ) from error


def probe_image(path: Path, rendering: EerRendering | None = None) -> ImageInfo:
    """Return the size of an image or movie from its header; an EER movie's as it is divided and rendered.

    A pixel size of 0 or exactly 1 Å in a header is what programs write that know none: it counts as none.

    Raises
    ------
    InputFileError
        If the file is missing, of a format that we do not read, damaged, or shorter than its header says (PNG and JPEG do
        not say).
    """
    exposure_used = 1.0
    match find_format(path):
        case "MRC":
            header = read_mrc_header(path)
            (n_frames, ny, nx), pixel_size = header.shape, header.pixel_size_angstrom
        case "TIFF":
            n_frames, ny, nx, pixel_size = read_tiff_header(path)
        case "EER":
            eer = open_eer(path, rendering)
            (n_frames, ny, nx), pixel_size = eer.shape, eer.pixel_size_angstrom
            exposure_used = eer.exposure_used
        case "DM":
            dm = open_dm(path)
            (n_frames, ny, nx), pixel_size = dm.shape, dm.pixel_size_angstrom
        case "picture":
            with _open_picture(path) as image:
                (nx, ny), n_frames, pixel_size = image.size, 1, None
    return ImageInfo(nx, ny, n_frames, trust_pixel_size(pixel_size), exposure_used)


def trust_pixel_size(found: float | None) -> float | None:
    """Return the pixel size that a header says, Å; None where it is not positive, or 1, as programs write it that do not know."""
    return found if found is not None and found > 0 and abs(found - 1) > 1e-5 else None


def read_picture(path: Path) -> NDArray[Any]:
    """Read a PNG or JPEG picture `(ny, nx)`, row 0 at the top, in its own type.

    Raises
    ------
    InputFileError
        If it cannot be read or is in colour.
    """
    with _open_picture(path) as image:
        if image.mode in {"1", "L", "I", "I;16", "I;16B", "F"}:
            return np.asarray(image if image.mode != "1" else image.convert("L"))
        if image.mode == "LA":
            return np.asarray(image.convert("L"))
        grey: NDArray[Any] = np.asarray(image.convert("RGB"), dtype=np.float32).mean(axis=2)
        return grey


def read_micrograph(path: Path) -> tuple[NDArray[np.float32], float | None]:
    """Return a finished micrograph, float32 `(ny, nx)`, and Å per pixel, None where the header has none.

    Rows of TIFF and DM are flipped, those of MRC, PNG and JPEG are not; colours are averaged.

    Raises
    ------
    InputFileError
        If the file is not one complete image.
    """
    info = probe_image(path)
    if info.n_frames != 1:
        raise InputFileError(
            path,
            found=f"{info.n_frames} frames",
            expected="one finished micrograph",
            remedy="Give movies with --movies.",
        )
    match find_format(path):
        case "MRC":
            array = read_mrc(path)[0]
        case "TIFF":
            array = read_tiff(path)
        case "DM":
            array = next(open_dm(path).iterate([0]))
        case "EER":
            array = next(open_eer(path).iterate([0]))
        case "picture":
            array = read_picture(path)
    return np.ascontiguousarray(array.reshape(info.ny_px, info.nx_px), dtype=np.float32), info.pixel_size_angstrom


def write_picture(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an 8-bit image `(ny, nx)` as PNG, atomically; row 0 is at the top."""
    with open_for_replacement(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", optimize=True)
