"""MRC images, stacks and volumes. Arrays are `(y, x)` or `(z, y, x)` in file order: element (0, 0) is the file's first.

Files of any age, both byte orders, compressed as a whole or not. Bytes of mode 0 become int8 or uint8, whichever they are;
packed 4-bit values become uint8.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.compressed import COMPRESSED_SUFFIXES, STREAM_ERRORS, open_stream, read_bytes
from vitreous.io.foreign import COPY_REMEDY, make_read_error
from vitreous.io.frames import collect_frames
from vitreous.io.mrc_header import HEADER_BYTES, MrcHeader, MrcLayout, guess_sign, parse_header

__all__ = ["MrcFile", "MrcHeader", "open_mrc", "read_mrc", "read_mrc_header", "write_mrc"]

_SAMPLE_BYTES = 1 << 22


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED_SUFFIXES


def _make_size_error(path: Path, layout: MrcLayout, size: int) -> InputFileError:
    nz, ny, nx = layout.header.shape
    unpacked = " when decompressed" if _is_compressed(path) else ""
    return InputFileError(
        path,
        found=f"{size} bytes{unpacked}",
        expected=f"at least {layout.end} bytes for {nx}x{ny}x{nz} in mode {layout.header.mode}",
        remedy="The file is truncated. " + COPY_REMEDY,
    )


def _read_layout(path: Path) -> MrcLayout:
    """Read the header and compare it with the file's size, where that tells."""
    try:
        with open_stream(path) as stream:
            layout = parse_header(bytes(read_bytes(stream, HEADER_BYTES)))
        size = path.stat().st_size
    except STREAM_ERRORS as error:
        raise make_read_error(path, "MRC", error) from error
    if _is_compressed(path):
        return layout
    if size < layout.end:
        raise _make_size_error(path, layout, size)
    extra_sections, rest = divmod(size - layout.end, layout.section_bytes)
    if extra_sections and not rest:
        n_sections = layout.header.shape[0]
        raise InputFileError(
            path,
            found=f"a header for {n_sections} sections and data of {n_sections + extra_sections}",
            expected="as many sections as the header says",
            remedy="The file was probably not closed after recording: mend its header, or leave it out.",
        )
    return layout


def read_mrc_header(path: Path) -> MrcHeader:
    """Read only the header.

    Raises
    ------
    InputFileError
        If the file is missing, is not MRC or holds less or more than its header says (compressed files do not tell).
    """
    return _read_layout(path).header


@dataclass(frozen=True)
class MrcFile:
    """An MRC file whose sections are read when they are asked for; `dtype` is that of the arrays, in native byte order."""

    path: Path
    layout: MrcLayout
    dtype: np.dtype[Any]

    @property
    def header(self) -> MrcHeader:
        """Shape, mode and pixel size."""
        return self.layout.header

    def _decode(self, data: NDArray[np.uint8]) -> NDArray[Any]:
        _, ny, nx = self.header.shape
        if self.layout.packed:
            rows = data.reshape(ny, self.layout.row_bytes)
            pairs = np.stack([rows & 15, rows >> 4], axis=-1)
            return np.ascontiguousarray(pairs.reshape(ny, -1)[:, :nx])
        section = data.view(self.dtype if self.header.mode == 0 else self.layout.dtype).reshape(ny, nx)
        return section.astype(self.dtype, copy=False)

    def _read(self, stream: IO[bytes], n_bytes: int) -> NDArray[np.uint8]:
        if _is_compressed(self.path):
            return np.frombuffer(read_bytes(stream, n_bytes), np.uint8)
        return np.fromfile(stream, np.uint8, n_bytes)

    def _skip(self, stream: IO[bytes], n_sections: int) -> None:
        """Go on by whole sections; a compressed stream is read through, since it cannot jump."""
        if not _is_compressed(self.path):
            stream.seek(n_sections * self.layout.section_bytes, 1)
            return
        for _ in range(n_sections):
            read_bytes(stream, self.layout.section_bytes)

    def iterate(self, sections: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield the sections numbered `sections`, ascending, each `(ny, nx)`.

        Raises
        ------
        InputFileError
            If the file ends before the last of them, or a compressed stream is damaged.
        """
        size, n_sections = self.layout.section_bytes, self.header.shape[0]
        position = 0
        try:
            with open_stream(self.path) as stream:
                read_bytes(stream, self.layout.offset)
                for section in sections:
                    self._skip(stream, section - position)
                    data = self._read(stream, size)
                    if len(data) < size:
                        found = self.layout.offset + section * size + len(data)
                        raise _make_size_error(self.path, self.layout, found)
                    position = section + 1
                    if position == n_sections:
                        # The checksum of a compressed stream is compared only at its end.
                        stream.read(1)
                    yield self._decode(data)
        except InputFileError:
            raise
        except STREAM_ERRORS as error:
            raise make_read_error(self.path, "MRC", error) from error


def _read_sample(path: Path, layout: MrcLayout) -> NDArray[np.uint8]:
    try:
        with open_stream(path) as stream:
            read_bytes(stream, layout.offset)
            return np.frombuffer(read_bytes(stream, min(_SAMPLE_BYTES, layout.section_bytes)), np.uint8)
    except STREAM_ERRORS as error:
        raise make_read_error(path, "MRC", error) from error


def open_mrc(path: Path) -> MrcFile:
    """Open an MRC file for reading section by section.

    Raises
    ------
    InputFileError
        As `read_mrc_header`.
    """
    layout = _read_layout(path)
    dtype: np.dtype[Any] = layout.dtype.newbyteorder("=")
    if layout.packed:
        dtype = np.dtype(np.uint8)
    elif layout.header.mode == 0:
        sign = layout.sign
        if sign == "unknown":
            sign = guess_sign(_read_sample(path, layout), is_standard=layout.is_standard)
        dtype = np.dtype(np.int8 if sign == "signed" else np.uint8)
    return MrcFile(path, layout, dtype)


def read_mrc(path: Path) -> tuple[NDArray[Any], MrcHeader]:
    """Read an image, stack or volume with its header; integers stay integers, in native byte order.

    Raises
    ------
    InputFileError
        If the file is missing, is not MRC or is truncated.
    """
    file = open_mrc(path)
    n_sections = file.header.shape[0]
    array = collect_frames(file.iterate(range(n_sections)), None if _is_compressed(path) else n_sections)
    return array if file.layout.is_volume or n_sections > 1 else array[0], file.header


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
