"""EER movies of Falcon 4 and 4i: lists of electrons, one page of a TIFF file for each of the detector's own frames.

A page is a stream of bits, lowest bit first: how many pixels hold no electron, then where in its pixel the next electron fell,
as two small numbers whose highest bit is inverted. The frames of the detector are summed into fractions; what is left over at
the end is dropped, as RELION does. Rows are kept in the file's order, as RELION keeps them; gain references of EER are too.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError, SettingError
from vitreous.io.foreign import COPY_REMEDY
from vitreous.io.tiff_pages import TiffPage, read_pages

__all__ = ["DEFAULT_FRACTIONS", "EerMovie", "EerRendering", "open_eer"]

DEFAULT_FRACTIONS = 40
"""Fractions of a movie where nothing else is said."""

_COMPRESSIONS = frozenset({65000, 65001, 65002})
_SKIP_BITS, _HORIZONTAL_BITS, _VERTICAL_BITS = 65007, 65008, 65009
_METADATA = 65001
_METADATA_BYTES = 1 << 20
_PIXEL_SIZE = re.compile(rb'name="sensorPixelSize\.width"[^>]*>\s*([-+.\deE]+)\s*<')
_PADDING = bytes(8)
_ANGSTROM_PER_METRE = 1e10


@dataclass(frozen=True)
class EerRendering:
    """How events become frames.

    At most one of the first three is given; without any, the movie is divided into `DEFAULT_FRACTIONS`.

    Attributes
    ----------
    n_fractions
        Number of fractions, each of the same number of detector frames.
    frames_per_fraction
        Detector frames in a fraction.
    dose_per_fraction
        Exposure of a fraction in e/Å², rounded to whole detector frames; needs `total_dose`.
    total_dose
        Exposure of the whole file in e/Å².
    upsampling
        1 renders the detector's pixels, 2 a grid twice as fine.
    """

    n_fractions: int | None = None
    frames_per_fraction: int | None = None
    dose_per_fraction: float | None = None
    total_dose: float | None = None
    upsampling: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        given = [self.n_fractions, self.frames_per_fraction, self.dose_per_fraction]
        if sum(value is not None for value in given) > 1:
            raise SettingError("EER: give the number of fractions, their frames or their dose, not several of them")
        if any(value is not None and value <= 0 for value in [*given, self.total_dose]):
            raise SettingError("EER: fractions, frames and doses must be greater than 0")
        if self.dose_per_fraction is not None and self.total_dose is None:
            raise SettingError("EER: a dose per fraction needs the total dose of the movie; give both")
        if self.upsampling not in {1, 2}:
            raise SettingError(f"EER: found up-sampling {self.upsampling}; expected 1 or 2")

    def divide(self, n_frames: int) -> tuple[int, int]:
        """Return the number of fractions of a file of `n_frames` detector frames, and the frames of each; 0 if it has too few."""
        size = self.frames_per_fraction
        if self.dose_per_fraction is not None and self.total_dose is not None:
            size = max(1, round(self.dose_per_fraction / self.total_dose * n_frames))
        if size is not None:
            return n_frames // size, size
        n_fractions = self.n_fractions or min(n_frames, DEFAULT_FRACTIONS)
        size = n_frames // n_fractions
        return n_fractions if size else 0, size


@dataclass(frozen=True)
class _Coding:
    """Bits of a run of empty pixels and of the position within a pixel."""

    skip: int
    horizontal: int
    vertical: int
    wastes_bits: bool
    """Whether a run that goes on is followed by a position that means nothing: the oldest files."""


def _decode_events(
    data: NDArray[np.uint8], counts: NDArray[Any], skip: int, horizontal: int, vertical: int, wastes: bool, finer: int
) -> int:
    """Add a frame's events to `counts`; return the number of events, -1 if the stream does not fill the frame exactly."""
    nx = counts.shape[1] >> finer
    n_pixels = nx * (counts.shape[0] >> finer)
    n_bits = 8 * (len(data) - 8)
    longest = (1 << skip) - 1
    code = skip + horizontal + vertical
    x_mask, y_mask = (1 << horizontal) - 1, (1 << vertical) - 1
    position, pixel, events = 0, 0, 0
    while position + skip <= n_bits:
        first = position >> 3
        window = (
            np.uint64(data[first])
            | (np.uint64(data[first + 1]) << np.uint64(8))
            | (np.uint64(data[first + 2]) << np.uint64(16))
            | (np.uint64(data[first + 3]) << np.uint64(24))
        )
        bits = int(window >> np.uint64(position & 7))
        run = bits & longest
        pixel += run
        if pixel >= n_pixels:
            return events if pixel == n_pixels else -1
        if run == longest:
            position += code if wastes else skip
            continue
        position += code
        if position > n_bits:
            return -1
        y, x = pixel // nx, pixel % nx
        if finer:
            x_part, y_part = (bits >> skip) & x_mask, (bits >> (skip + horizontal)) & y_mask
            x = 2 * x + (1 - (x_part >> (horizontal - 1)))
            y = 2 * y + (1 - (y_part >> (vertical - 1)))
        counts[y, x] += 1
        events += 1
        pixel += 1
    return events if pixel == n_pixels else -1


@cache
def _compile_decoder() -> Callable[..., int]:
    # Only EER movies need it, and its import takes as long as all the rest.
    import numba

    compiled: Callable[..., int] = numba.njit(nogil=True)(_decode_events)
    return compiled


def _find_coding(path: Path, page: TiffPage) -> _Coding:
    if page.compression == 65000:
        return _Coding(8, 2, 2, wastes_bits=True)
    if page.compression == 65001:
        return _Coding(7, 2, 2, wastes_bits=False)
    skip, horizontal, vertical = (
        page.get_integer(tag, default) for tag, default in ((_SKIP_BITS, 7), (_HORIZONTAL_BITS, 2), (_VERTICAL_BITS, 2))
    )
    if not (2 <= skip <= 16 and 1 <= horizontal <= 4 and 1 <= vertical <= 4 and skip + horizontal + vertical <= 24):
        raise _refuse(path, f"events of {skip}+{horizontal}+{vertical} bits")
    return _Coding(skip, horizontal, vertical, wastes_bits=False)


def _refuse(path: Path, found: str) -> InputFileError:
    return InputFileError(path, found=found, expected="a complete EER movie", remedy=COPY_REMEDY)


def _find_pixel_size(page: TiffPage) -> float | None:
    """Return Å per detector pixel from the microscope's metadata, None where they do not say."""
    match = _PIXEL_SIZE.search(page.get_bytes(_METADATA)[:_METADATA_BYTES])
    if match is None:
        return None
    try:
        size = float(match.group(1)) * _ANGSTROM_PER_METRE
    except ValueError:
        return None
    return size if 0 < size < 100 else None


@dataclass(frozen=True)
class EerMovie:
    """An EER file as a movie of fractions, rendered when they are asked for.

    Attributes
    ----------
    shape
        Fractions, rows and columns, as rendered.
    n_detector_frames
        Frames of the detector in the file.
    frames_per_fraction
        How many of them make a fraction.
    pixel_size_angstrom
        Å per pixel as rendered, None where the file does not say.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    n_detector_frames: int
    frames_per_fraction: int
    upsampling: int
    pixel_size_angstrom: float | None
    pages: tuple[TiffPage, ...]

    @property
    def n_dropped_frames(self) -> int:
        """Detector frames at the end that fill no fraction."""
        return self.n_detector_frames - self.shape[0] * self.frames_per_fraction

    @property
    def exposure_used(self) -> float:
        """Part of the file's exposure that the fractions hold."""
        return 1 - self.n_dropped_frames / self.n_detector_frames

    def iterate(self, fractions: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield the fractions numbered `fractions`, each `(ny, nx)`: electrons counted in every pixel.

        Raises
        ------
        InputFileError
            If a frame's events do not fill it exactly.
        """
        decode, size = _compile_decoder(), self.frames_per_fraction
        try:
            with self.path.open("rb") as stream:
                for fraction in fractions:
                    counts = np.zeros(self.shape[1:], self.dtype)
                    for number in range(fraction * size, (fraction + 1) * size):
                        page = self.pages[number]
                        parts = []
                        for offset, n_bytes in page.extents:
                            stream.seek(offset)
                            parts.append(stream.read(n_bytes))
                        data = np.frombuffer(b"".join([*parts, _PADDING]), np.uint8)
                        code = _find_coding(self.path, page)
                        bits = (code.skip, code.horizontal, code.vertical, code.wastes_bits)
                        if decode(data, counts, *bits, self.upsampling - 1) < 0:
                            raise _refuse(self.path, f"events that do not fill frame {number + 1} exactly")
                    yield counts
        except OSError as error:
            raise _refuse(self.path, f"a file that cannot be read ({error})") from error


def open_eer(path: Path, rendering: EerRendering | None = None) -> EerMovie:
    """Open an EER movie.

    Raises
    ------
    InputFileError
        If the file is missing, is not EER, is truncated, or has fewer frames than one fraction takes.
    """
    rendering = EerRendering() if rendering is None else rendering
    found = read_pages(path)
    # Some programs put the sum of all frames in front, as an ordinary page.
    pages = tuple(page for page in found.pages if page.compression in _COMPRESSIONS)
    shapes = {page.shape for page in pages}
    if len(shapes) != 1:
        kinds = sorted({f"{page.shape[1]}x{page.shape[0]} in compression {page.compression}" for page in found.pages})
        raise _refuse(path, f"pages of {' and '.join(kinds[:3])}")
    (ny, nx) = shapes.pop()
    for page in pages:
        coding = _find_coding(path, page)
        n_bits = 8 * sum(n_bytes for _, n_bytes in page.extents)
        if n_bits // coding.skip * ((1 << coding.skip) - 1) + 1 < ny * nx:
            raise _refuse(path, f"{n_bits // 8} bytes for a frame of {nx}x{ny} pixels, which takes more")
    n_fractions, size = rendering.divide(len(pages))
    if n_fractions == 0:
        raise InputFileError(
            path,
            found=f"{len(pages)} detector frames",
            expected=f"at least {rendering.n_fractions or size} for the fractions asked for",
            remedy="Ask for fewer fractions, or leave the file out if its exposure was cut short.",
        )
    finer = rendering.upsampling
    pixel_size = _find_pixel_size(pages[0])
    return EerMovie(
        path=path,
        shape=(n_fractions, ny * finer, nx * finer),
        dtype=np.dtype(np.uint8 if size <= 255 else np.uint16),
        n_detector_frames=len(pages),
        frames_per_fraction=size,
        upsampling=finer,
        pixel_size_angstrom=None if pixel_size is None else pixel_size / finer,
        pages=pages,
    )
