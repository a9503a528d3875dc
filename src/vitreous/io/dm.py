"""DigitalMicrograph files, DM3 and DM4: images and stacks of Gatan's cameras, gain references above all.

Rows are flipped on reading, as those of TIFF are and as EMAN2 does: a gain reference then fits movies that the same camera wrote.
Both versions are one tree of named tags; DM4 only has wider numbers.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.foreign import make_read_error

__all__ = ["DmStack", "open_dm"]

_SCALARS = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "B", 9: "b", 10: "B", 11: "q", 12: "Q"}
_STRUCT, _STRING, _ARRAY = 15, 18, 20
_DIRECTORY, _DATA = 20, 21
_PIXELS = {1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 14: "u1"}
"""numpy's name of the pixels, by ImageData.DataType."""
_MAX_DEPTH = 64
_MAX_NUMBERS = 1 << 16
_ANGSTROM = {"nm": 10.0, "µm": 1e4, "um": 1e4, "å": 1.0, "a": 1.0, "pm": 0.01}


@dataclass(frozen=True)
class _Block:
    """An array in the file: offset and number of bytes."""

    offset: int
    n_bytes: int


@dataclass(frozen=True)
class DmStack:
    """A DM file whose images are read when they are asked for."""

    path: Path
    shape: tuple[int, int, int]
    file_dtype: np.dtype[Any]
    offset: int
    pixel_size_angstrom: float | None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the arrays, in native byte order."""
        return self.file_dtype.newbyteorder("=")

    def iterate(self, images: Sequence[int]) -> Iterator[NDArray[Any]]:
        """Yield the images numbered `images`, each `(ny, nx)`, rows flipped."""
        _, ny, nx = self.shape
        try:
            with self.path.open("rb") as stream:
                for image in images:
                    stream.seek(self.offset + image * ny * nx * self.file_dtype.itemsize)
                    data = np.fromfile(stream, self.file_dtype, ny * nx).reshape(ny, nx)
                    yield data[::-1].astype(self.dtype)
        except (OSError, ValueError) as error:
            raise make_read_error(self.path, "DM3 or DM4", error) from error


class _Reader:
    """Walks the tree; raises ValueError where the file contradicts itself."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream = stream
        self.size = size
        (self.version,) = struct.unpack(">I", self.read(4))
        if self.version not in {3, 4}:
            raise ValueError(f"version {self.version} where 3 or 4 can be read")
        self.wide = "Q" if self.version == 4 else "I"
        self.number()
        (order,) = struct.unpack(">I", self.read(4))
        self.order = "<" if order == 1 else ">"

    def read(self, n_bytes: int) -> bytes:
        if self.stream.tell() + n_bytes > self.size:
            raise ValueError("it ends in the middle of its tags")
        return self.stream.read(n_bytes)

    def skip(self, n_bytes: int) -> None:
        if self.stream.tell() + n_bytes > self.size:
            raise ValueError(f"{self.size} bytes, at least {self.stream.tell() + n_bytes} expected")
        self.stream.seek(n_bytes, 1)

    def number(self) -> int:
        """Read a count or a length; these are always big-endian."""
        value: int = struct.unpack(f">{self.wide}", self.read(struct.calcsize(self.wide)))[0]
        return value

    def walk(self) -> Iterator[tuple[str, Any]]:
        """Yield every value with its path, such as ``ImageList.1.ImageData.DataType``; arrays as `_Block`."""
        yield from self.walk_directory("", 0)

    def walk_directory(self, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        if depth > _MAX_DEPTH:
            raise ValueError(f"tags nested more than {_MAX_DEPTH} deep")
        self.read(2)
        for index in range(self.number()):
            kind = self.read(1)[0]
            if kind == 0:
                return
            (length,) = struct.unpack(">H", self.read(2))
            name = self.read(length).decode("latin-1") or str(index)
            if self.version == 4:
                self.read(8)
            if kind == _DIRECTORY:
                yield from self.walk_directory(f"{prefix}{name}.", depth + 1)
            elif kind == _DATA:
                yield f"{prefix}{name}", self.value()
            else:
                raise ValueError(f"a tag of kind {kind}")

    def value(self) -> Any:
        if self.read(4) != b"%%%%":
            raise ValueError("a tag without its mark")
        n_numbers = self.number()
        if n_numbers > _MAX_NUMBERS:
            raise ValueError(f"a tag of {n_numbers} numbers")
        kinds = struct.unpack(f">{n_numbers}{self.wide}", self.read(n_numbers * struct.calcsize(self.wide)))
        match kinds:
            case [kind] if kind in _SCALARS:
                return struct.unpack(f"{self.order}{_SCALARS[kind]}", self.read(struct.calcsize(_SCALARS[kind])))[0]
            case [first, *_] if first == _STRUCT:
                self.skip(self.measure_struct(kinds[1:]))
                return None
            case [first, length] if first == _STRING:
                self.skip(2 * length)
                return None
            case [first, *element, length] if first == _ARRAY and element:
                item = self.measure_struct(element[1:]) if element[0] == _STRUCT else self.measure_scalar(element[0])
                block = _Block(self.stream.tell(), item * length)
                self.skip(block.n_bytes)
                return block
        raise ValueError(f"a tag of type {kinds[:3]}")

    @staticmethod
    def measure_scalar(kind: int) -> int:
        if kind not in _SCALARS:
            raise ValueError(f"values of type {kind}")
        return struct.calcsize(f"={_SCALARS[kind]}")

    def measure_struct(self, kinds: Sequence[int]) -> int:
        """Return the bytes of a structure: length of its name, number of fields, then (length of the name, type) of each."""
        if len(kinds) < 2 or len(kinds) != 2 + 2 * kinds[1]:
            raise ValueError("a structure that does not add up")
        return sum(self.measure_scalar(kind) for kind in kinds[3::2])


def _read_text(stream: IO[bytes], block: Any) -> str:
    if not isinstance(block, _Block) or block.n_bytes > 64:
        return ""
    stream.seek(block.offset)
    return stream.read(block.n_bytes).decode("utf-16-le", errors="ignore").strip()


def _make_stack(path: Path, stream: IO[bytes], reader: _Reader, tags: dict[str, Any]) -> DmStack:
    """Find the image, which is the largest: a thumbnail usually comes before it."""
    blocks = {
        name.removesuffix("Data"): value
        for name, value in tags.items()
        if name.startswith("ImageList.") and name.endswith(".ImageData.Data") and isinstance(value, _Block)
    }
    if not blocks:
        raise ValueError("no image in it")
    place = max(blocks, key=lambda name: blocks[name].n_bytes)
    block, kind = blocks[place], tags.get(f"{place}DataType")
    if kind not in _PIXELS:
        raise ValueError(f"pixels of type {kind}")
    dtype = np.dtype(_PIXELS[kind]).newbyteorder("<" if reader.order == "<" else ">")
    sides = [tags.get(f"{place}Dimensions.{axis}", 1) for axis in range(4)]
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"an image of {'x'.join(map(str, sides))}")
    nx, ny, n_images, further = sides
    if further != 1 or f"{place}Dimensions.1" not in tags or math.prod(sides) * dtype.itemsize != block.n_bytes:
        raise ValueError(f"{block.n_bytes} bytes for {'x'.join(map(str, sides))} pixels of {dtype}")
    scale = tags.get(f"{place}Calibrations.Dimension.0.Scale")
    unit = _ANGSTROM.get(_read_text(stream, tags.get(f"{place}Calibrations.Dimension.0.Units")).lower())
    known = unit is not None and isinstance(scale, float) and math.isfinite(scale) and scale > 0
    pixel_size = scale * unit if known and unit is not None and isinstance(scale, float) else None
    return DmStack(path, (n_images, ny, nx), dtype, block.offset, pixel_size)


def open_dm(path: Path) -> DmStack:
    """Open a DM3 or DM4 file.

    Raises
    ------
    InputFileError
        If the file is missing, is neither, is truncated, or holds no image or stack of real numbers.
    """
    try:
        with path.open("rb") as stream:
            reader = _Reader(stream, path.stat().st_size)
            return _make_stack(path, stream, reader, dict(reader.walk()))
    except InputFileError:
        raise
    except (OSError, ValueError, struct.error, OverflowError) as error:
        raise make_read_error(path, "DM3 or DM4", error) from error
