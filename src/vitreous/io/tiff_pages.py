"""The chain of pages of a TIFF or BigTIFF file, walked by hand and checked against the file's size.

tifffile takes a chain that leads out of the file for its end and believes any count, so that it would read a truncated movie as
a shorter one and a damaged one for ever. An EER movie, with a thousand pages or more, is also opened faster this way.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from vitreous.errors import InputFileError
from vitreous.io.foreign import COPY_REMEDY, make_read_error

__all__ = ["TiffPage", "TiffPages", "read_pages"]

_TYPES: Mapping[int, str] = {
    1: "B",
    2: "c",
    3: "H",
    4: "I",
    6: "b",
    7: "c",
    8: "h",
    9: "i",
    13: "I",
    16: "Q",
    17: "q",
    18: "Q",
}
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_STRIPS, _TILES = (273, 279), (324, 325)
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES = 256, 257, 258, 259, 277
_MAX_SIDE = 1 << 18
_EER = frozenset({65000, 65001, 65002})
_MAX_EXPANSION = {1: 1, 5: 1500, 8: 1100, 32946: 1100, 32773: 64}
"""How many bytes one byte can become at most, by compression: stored, LZW, deflate, PackBits."""
_MAX_EXPANSION_OTHERWISE = 50_000


@dataclass(frozen=True)
class TiffPage:
    """One page: its tags as (type, count, bytes of the value)."""

    tags: Mapping[int, tuple[int, int, bytes]]
    byte_order: Literal["<", ">"]

    def get_integers(self, tag: int) -> tuple[int, ...]:
        """Return the integers of a tag, none where the page lacks it or it holds something else."""
        kind, count, data = self.tags.get(tag, (0, 0, b""))
        if _TYPES.get(kind, "c") == "c":
            return ()
        return struct.unpack(f"{self.byte_order}{count}{_TYPES[kind]}", data)

    def get_integer(self, tag: int, default: int) -> int:
        """Return the first integer of a tag."""
        return next(iter(self.get_integers(tag)), default)

    def get_bytes(self, tag: int) -> bytes:
        """Return a tag's value as it is in the file."""
        return self.tags.get(tag, (0, 0, b""))[2]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.get_integer(_LENGTH, 0), self.get_integer(_WIDTH, 0)

    @property
    def compression(self) -> int:
        """Number of the compression."""
        return self.get_integer(_COMPRESSION, 1)

    @property
    def extents(self) -> list[tuple[int, int]]:
        """Offset and number of bytes of every strip or tile."""
        for offsets, counts in (_STRIPS, _TILES):
            if offsets in self.tags:
                return list(zip(self.get_integers(offsets), self.get_integers(counts), strict=False))
        return []


@dataclass(frozen=True)
class TiffPages:
    """All pages of a file."""

    path: Path
    pages: tuple[TiffPage, ...]
    is_big: bool


@dataclass(frozen=True)
class _Form:
    """Sizes and formats of TIFF or BigTIFF."""

    order: Literal["<", ">"]
    is_big: bool

    @property
    def offset(self) -> str:
        return f"{self.order}{'Q' if self.is_big else 'I'}"

    @property
    def offset_bytes(self) -> int:
        return 8 if self.is_big else 4

    @property
    def number(self) -> str:
        return f"{self.order}{'Q' if self.is_big else 'H'}"

    @property
    def entry_bytes(self) -> int:
        return 20 if self.is_big else 12


class _Walker:
    def __init__(self, path: Path, stream: IO[bytes], size: int) -> None:
        self.path = path
        self.stream = stream
        self.size = size

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Read what the file announces; where it does not hold that, it is truncated."""
        if offset + n_bytes > self.size:
            raise InputFileError(
                self.path,
                found=f"{self.size} bytes",
                expected=f"at least {offset + n_bytes} bytes, where the header says that data lie",
                remedy="The file is truncated. " + COPY_REMEDY,
            )
        self.stream.seek(offset)
        return self.stream.read(n_bytes)

    def read_form(self) -> tuple[_Form, int]:
        """Return the form and where the offset of the first page lies."""
        head = self.read(0, 8) if self.size >= 8 else b""
        orders: dict[bytes, Literal["<", ">"]] = {b"II": "<", b"MM": ">"}
        order = orders.get(head[:2])
        if order is None:
            raise make_read_error(self.path, "TIFF", "it does not begin as one" if head else f"{self.size} bytes")
        (version,) = struct.unpack_from(f"{order}H", head, 2)
        if version not in {42, 43}:
            raise make_read_error(self.path, "TIFF", f"version {version} where 42 or 43 can be read")
        return _Form(order, version == 43), 8 if version == 43 else 4

    def read_page(self, form: _Form, offset: int) -> tuple[TiffPage, int]:
        """Return the page at `offset` and the offset of the next one."""
        number_bytes = struct.calcsize(form.number)
        (n_entries,) = struct.unpack(form.number, self.read(offset, number_bytes))
        table = self.read(offset + number_bytes, n_entries * form.entry_bytes + form.offset_bytes)
        tags: dict[int, tuple[int, int, bytes]] = {}
        for start in range(0, n_entries * form.entry_bytes, form.entry_bytes):
            tag, kind = struct.unpack_from(f"{form.order}2H", table, start)
            (count,) = struct.unpack_from(form.offset, table, start + 4)
            inline = table[start + 4 + form.offset_bytes : start + form.entry_bytes]
            length = count * _TYPE_BYTES.get(kind, 0)
            if length > len(inline):
                (place,) = struct.unpack(form.offset, inline)
                tags[tag] = (kind, count, self.read(place, length))
            else:
                tags[tag] = (kind, count, inline[:length])
        (following,) = struct.unpack_from(form.offset, table, n_entries * form.entry_bytes)
        return TiffPage(tags, form.order), following

    def check_page(self, page: TiffPage) -> None:
        """Compare the size of the image with the data that are there for it."""
        ny, nx = page.shape
        bits = max(page.get_integers(_BITS), default=1)
        if not (0 < nx <= _MAX_SIDE and 0 < ny <= _MAX_SIDE):
            raise make_read_error(self.path, "TIFF", f"an image of {nx}x{ny} pixels")
        for offset, n_bytes in page.extents:
            self.read(offset + n_bytes, 0)
        needed = ny * ((nx * bits * page.get_integer(_SAMPLES, 1) + 7) // 8)
        stored = sum(n_bytes for _, n_bytes in page.extents)
        expansion = _MAX_EXPANSION.get(page.compression, _MAX_EXPANSION_OTHERWISE)
        if page.compression not in _EER and stored * expansion < needed:
            raise make_read_error(
                self.path, "TIFF", f"{stored} bytes of data for an image of {nx}x{ny} pixels, which takes {needed}"
            )


def read_pages(path: Path) -> TiffPages:
    """Walk the chain of pages and check that all they announce lies in the file.

    Raises
    ------
    InputFileError
        If the file is missing, is not TIFF, is truncated, or contradicts itself.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            walker = _Walker(path, stream, size)
            form, place = walker.read_form()
            (offset,) = struct.unpack(form.offset, walker.read(place, form.offset_bytes))
            pages: list[TiffPage] = []
            seen: set[int] = set()
            while offset:
                if offset in seen:
                    raise make_read_error(path, "TIFF", "its chain of pages runs in a circle")
                seen.add(offset)
                page, offset = walker.read_page(form, offset)
                walker.check_page(page)
                pages.append(page)
    except OSError as error:
        raise make_read_error(path, "TIFF", error) from error
    if not pages:
        raise make_read_error(path, "TIFF", "no pages")
    return TiffPages(path, tuple(pages), form.is_big)
