"""The 1024 bytes at the beginning of an MRC file: MRC2014, and what its predecessors and IMOD do otherwise.

Files without the `MAP ` stamp or with a wrong machine stamp are common in old archives: the byte order is the one in which
the header makes sense.
"""

import math
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["HEADER_BYTES", "ByteSign", "MrcHeader", "MrcLayout", "guess_sign", "parse_header"]

HEADER_BYTES = 1024

ByteSign = Literal["signed", "unsigned", "unknown"]

_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2", 101: "u1"}
_IMOD_STAMP = 1146047817
_IMOD_SIGNED = 1
_IMOD_PACKED = 16
"""Flag of IMOD: bytes of mode 0 hold two 4-bit values each, the first in the low half; NX counts bytes."""
_MAX_SIDE = 1 << 18
_MAX_SECTIONS = 1 << 24
_MODES = "0, 1, 2, 6, 12 or 101"


@dataclass(frozen=True)
class MrcHeader:
    """What matters of an MRC header: shape as (sections, rows, columns) and Å per pixel, None where the header has none."""

    shape: tuple[int, int, int]
    mode: int
    pixel_size_angstrom: float | None


@dataclass(frozen=True)
class MrcLayout:
    """Where and how the sections lie in the file.

    Attributes
    ----------
    dtype
        The file's type, with its byte order; bytes of mode 0 are int8 here, see `sign`.
    packed
        Whether each byte holds two unsigned 4-bit values, the first in its low half; rows begin at whole bytes.
    offset
        Bytes before the first section.
    sign
        What the header says of the bytes of mode 0.
    is_standard
        Whether the header claims to follow MRC2014, where bytes are signed.
    is_volume
        Whether one section is a volume of one section, not an image.
    """

    header: MrcHeader
    dtype: np.dtype[np.generic]
    packed: bool
    offset: int
    sign: ByteSign
    is_standard: bool
    is_volume: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        nx = self.header.shape[2]
        return (nx + 1) // 2 if self.packed else nx * self.dtype.itemsize

    @property
    def section_bytes(self) -> int:
        """Bytes of one section."""
        return self.header.shape[1] * self.row_bytes

    @property
    def end(self) -> int:
        """Bytes that the whole file needs."""
        return self.offset + self.header.shape[0] * self.section_bytes


def _find_problem(head: bytes, order: str) -> str | None:
    """Return what makes no sense in the header when read in this byte order, None where all does."""
    nx, ny, nz, mode = struct.unpack_from(f"{order}4i", head, 0)
    (extended,) = struct.unpack_from(f"{order}i", head, 92)
    if not (0 < nx <= _MAX_SIDE and 0 < ny <= _MAX_SIDE and 0 < nz <= _MAX_SECTIONS):
        return f"a size of {nx}x{ny}x{nz}"
    if mode not in _DTYPES:
        return f"mode {mode} where {_MODES} can be read"
    if extended < 0:
        return f"an extended header of {extended} bytes"
    return None


def _find_order(head: bytes) -> str:
    """Return the byte order, ``"<"`` or ``">"``, in which the header makes sense; the machine stamp decides a tie."""
    stamped = ">" if head[212:214] == b"\x11\x11" else "<"
    other = "<" if stamped == ">" else ">"
    problem = _find_problem(head, stamped)
    if problem is None:
        return stamped
    if _find_problem(head, other) is None:
        return other
    raise ValueError(problem)


def _find_sign(head: bytes, order: str, imod_flags: int | None) -> ByteSign:
    if imod_flags is not None:
        return "signed" if imod_flags & _IMOD_SIGNED else "unsigned"
    low, high = struct.unpack_from(f"{order}2f", head, 76)
    if low <= high and high > 127 and low >= 0:
        return "unsigned"
    if -128 <= low < 0 and low <= high <= 127:
        return "signed"
    return "unknown"


def parse_header(head: bytes) -> MrcLayout:
    """Read the header.

    Parameters
    ----------
    head
        The first 1024 bytes.

    Raises
    ------
    ValueError
        If it makes sense in neither byte order.
    """
    if len(head) < HEADER_BYTES:
        raise ValueError(f"{len(head)} bytes, less than the {HEADER_BYTES} of a header")
    order = _find_order(head)
    nx, ny, nz, mode = struct.unpack_from(f"{order}4i", head, 0)
    (mx,) = struct.unpack_from(f"{order}i", head, 28)
    (cell,) = struct.unpack_from(f"{order}f", head, 40)
    space_group, extended = struct.unpack_from(f"{order}2i", head, 88)
    (version,) = struct.unpack_from(f"{order}i", head, 108)
    stamp, flags = struct.unpack_from(f"{order}2i", head, 152)
    imod_flags = flags if stamp == _IMOD_STAMP else None
    halved = mode == 0 and imod_flags is not None and bool(imod_flags & _IMOD_PACKED)
    pixel_size = cell / mx if mx > 0 and cell > 0 and math.isfinite(cell) else None
    return MrcLayout(
        header=MrcHeader((nz, ny, 2 * nx if halved else nx), 101 if halved else mode, pixel_size),
        dtype=np.dtype(_DTYPES[mode]).newbyteorder("<" if order == "<" else ">"),
        packed=halved or mode == 101,
        offset=HEADER_BYTES + extended,
        sign=_find_sign(head, order, imod_flags),
        is_standard=version >= 20140,
        is_volume=space_group != 0,
    )


def guess_sign(sample: NDArray[np.uint8], *, is_standard: bool) -> ByteSign:
    """Return whether bytes whose header does not say are signed.

    Values of an image spread without a gap. In signed bytes -1 lies beside 0 and 127 far from -128; in unsigned ones 128 lies
    beside 127. So where the upper half is used, it is the end near 255 that is full in signed bytes, and the end near 128 in
    unsigned ones. 255 itself is left out: it is also what a saturated pixel holds.
    """
    counts = np.bincount(sample.ravel(), minlength=256)
    near_zero, near_middle = int(counts[192:255].sum()), int(counts[128:192].sum())
    if near_zero == near_middle:
        return "signed" if is_standard else "unsigned"
    return "signed" if near_zero > near_middle else "unsigned"
