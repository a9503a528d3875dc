"""One image file into another, and what is in a file, for every format that we read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError, SettingError
from vitreous.io.eer import EerRendering, open_eer
from vitreous.io.gain import invert_divisors, read_gain_image
from vitreous.io.images import find_format, read_micrograph
from vitreous.io.movie import open_movie
from vitreous.io.mrc import open_mrc, write_mrc
from vitreous.io.raw import RAW_SUFFIXES, read_raw
from vitreous.io.tiff import open_tiff, write_tiff

__all__ = ["Flip", "ImageSummary", "convert_image", "read_any", "summarize_image"]

Flip = Literal["up-down", "left-right"]

_MRC_SUFFIXES, _TIFF_SUFFIXES = frozenset({".mrc", ".mrcs"}), frozenset({".tif", ".tiff"})
_MRC_TYPES = ("int8", "uint8", "int16", "uint16", "float16", "float32")
_TIFF_TYPES = ("uint8", "uint16", "float32")
_LARGEST_EXACT = 1 << 24
"""Greatest whole number up to which float32 holds all."""


@dataclass(frozen=True)
class ImageSummary:
    """What is in an image file; sizes in pixels, statistics over all frames.

    `details` holds what only this format has, such as an MRC mode or the detector frames of an EER movie.
    """

    format: str
    n_frames: int
    ny_px: int
    nx_px: int
    dtype: str
    pixel_size_angstrom: float | None
    minimum: float | None
    maximum: float | None
    mean: float | None
    details: dict[str, str | int]


def _find_raw_shape(path: Path, shape: tuple[int, ...] | None, dtype: str | None) -> tuple[tuple[int, ...], str]:
    if shape is None or dtype is None:
        raise SettingError(f"{path}: pixels without a header need their --shape and --dtype")
    return shape, dtype


def _read_few(path: Path, shape: tuple[int, ...] | None, dtype: str | None) -> NDArray[Any] | None:
    """Read what is no movie: raw pixels, a gain reference of an EER camera, a picture; None for all else."""
    suffix = path.suffix.lower()
    if suffix in RAW_SUFFIXES:
        array = read_raw(path, *_find_raw_shape(path, shape, dtype))
        return array.reshape(-1, *array.shape[-2:])
    if suffix == ".gain":
        return read_gain_image(path)
    return read_micrograph(path)[0][None] if find_format(path) == "picture" else None


def read_any(
    path: Path,
    *,
    rendering: EerRendering | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
) -> tuple[NDArray[Any], float | None]:
    """Read any image, movie or gain reference as `(n, ny, nx)`, and Å per pixel, None where the file does not say.

    Parameters
    ----------
    path
        The file.
    rendering
        How an EER movie is divided and rendered.
    shape, dtype
        Of pixels without a header, see `read_raw`.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, or of a format that we do not read.
    SettingError
        If pixels without a header lack their shape or type.
    """
    few = _read_few(path, shape, dtype)
    if few is not None:
        return few, None
    movie = open_movie(path, rendering)
    return movie.read(), movie.pixel_size_angstrom


def _fit_type(path: Path, array: NDArray[Any], names: tuple[str, ...]) -> NDArray[Any]:
    """Return the array in a type that the target can hold, every whole number unchanged."""
    if array.dtype.name in names:
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind in "iu":
        low, high = int(array.min()), int(array.max())
        for name in names:
            if np.dtype(name).kind in "iu" and np.iinfo(name).min <= low and high <= np.iinfo(name).max:
                return array.astype(name)
        if max(-low, high) <= _LARGEST_EXACT:
            return array.astype(np.float32)
    raise InputFileError(
        path,
        found=f"pixels of {array.dtype.name} from {array.min()} to {array.max()}",
        expected=f"values that fit {', '.join(names)}",
        remedy="They cannot be written in this format without loss.",
    )


def _turn(array: NDArray[Any], rotate_deg: int, flip: Flip | None) -> NDArray[Any]:
    """Rotate clockwise, the first row drawn on top, then flip."""
    turned = np.rot90(array, -(rotate_deg // 90), axes=(1, 2))
    if flip is not None:
        turned = np.flip(turned, axis=1 if flip == "up-down" else 2)
    return np.ascontiguousarray(turned)


def convert_image(
    source: Path,
    target: Path,
    *,
    rendering: EerRendering | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
    rotate_deg: int = 0,
    flip: Flip | None = None,
    invert: bool = False,
    pixel_size_angstrom: float | None = None,
) -> tuple[int, int, int]:
    """Convert an image, movie or gain reference to MRC or TIFF; return its frames, rows and columns.

    Whole numbers stay as they are, in a type that the target has.

    Parameters
    ----------
    source, target
        Files; the suffix of `target` is .mrc, .mrcs, .tif or .tiff.
    rendering
        How an EER movie is divided and rendered.
    shape, dtype
        Of pixels without a header, see `read_raw`.
    rotate_deg
        0, 90, 180 or 270, clockwise with the first row in memory drawn on top; before `flip`.
    flip
        Exchange rows (``"up-down"``) or columns.
    invert
        Turn a gain reference of divisors into one of factors.
    pixel_size_angstrom
        Å per pixel for the target's header, where the source's is missing or wrong.

    Raises
    ------
    InputFileError, SettingError
        As `read_any`, or if the target's format cannot hold the values or is none that we write.
    """
    suffix = target.suffix.lower()
    if suffix not in _MRC_SUFFIXES | _TIFF_SUFFIXES:
        raise SettingError(
            f"{target}: found suffix {suffix or 'none'}; expected .mrc, .mrcs, .tif or .tiff. Name the output so."
        )
    array, found_pixel_size = read_any(source, rendering=rendering, shape=shape, dtype=dtype)
    array = _turn(array, rotate_deg, flip)
    if invert:
        array = invert_divisors(array.astype(np.float32))
    pixel_size = found_pixel_size if pixel_size_angstrom is None else pixel_size_angstrom
    frames = _fit_type(source, array, _MRC_TYPES if suffix in _MRC_SUFFIXES else _TIFF_TYPES)
    if suffix in _TIFF_SUFFIXES:
        write_tiff(target, frames, pixel_size_angstrom=pixel_size)
    else:
        single = len(frames) == 1 and suffix == ".mrc"
        write_mrc(target, frames[0] if single else frames, pixel_size or 0.0)
    return frames.shape[0], frames.shape[1], frames.shape[2]


def _find_details(path: Path, rendering: EerRendering | None) -> dict[str, str | int]:
    if path.suffix.lower() in RAW_SUFFIXES or path.suffix.lower() == ".gain":
        return {}
    match find_format(path):
        case "MRC":
            layout = open_mrc(path).layout
            order = "big-endian" if layout.dtype.byteorder == ">" else "little-endian"
            return {"mode": layout.header.mode, "byte_order": order}
        case "TIFF":
            return {"compression": open_tiff(path).compression}
        case "EER":
            eer = open_eer(path, rendering)
            return {
                "detector_frames": eer.n_detector_frames,
                "frames_per_fraction": eer.frames_per_fraction,
                "dropped_frames": eer.n_dropped_frames,
            }
        case _:
            return {}


def summarize_image(
    path: Path,
    *,
    rendering: EerRendering | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: str | None = None,
) -> ImageSummary:
    """Read through a file, frame by frame, and say what is in it.

    Parameters
    ----------
    path, rendering, shape, dtype
        As for `read_any`.

    Raises
    ------
    InputFileError, SettingError
        As `read_any`.
    """
    few = _read_few(path, shape, dtype)
    frames: Iterator[NDArray[Any]]
    if few is not None:
        size, kind, pixel_size, frames = few.shape, few.dtype, None, iter(few)
        name = (
            "raw"
            if path.suffix.lower() in RAW_SUFFIXES
            else "EER gain"
            if path.suffix.lower() == ".gain"
            else "picture"
        )
    else:
        movie = open_movie(path, rendering)
        size, kind, pixel_size, frames = movie.shape, movie.dtype, movie.pixel_size_angstrom, iter(movie)
        name = find_format(path)
    low, high, total = [], [], 0.0
    for frame in frames:
        low.append(float(frame.min()))
        high.append(float(frame.max()))
        total += float(frame.mean(dtype=np.float64))
    values = [min(low), max(high), total / len(low)]
    minimum, maximum, mean = (value if np.isfinite(value) else None for value in values)
    return ImageSummary(
        format=name,
        n_frames=size[0],
        ny_px=size[1],
        nx_px=size[2],
        dtype=kind.name,
        pixel_size_angstrom=pixel_size,
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        details=_find_details(path, rendering),
    )
