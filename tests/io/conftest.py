"""Writers of formats that no library writes: EER movies and DigitalMicrograph files, from their descriptions."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

Event = tuple[int, int, int, int]
"""Row and column of the pixel, row and column within it."""


def encode_events(
    events: Sequence[Event] | np.ndarray,
    shape: tuple[int, int],
    bits: tuple[int, int, int] = (7, 2, 2),
    *,
    wastes_bits: bool = False,
    padded: bool = True,
) -> bytes:
    """Encode one frame, at most one event in a pixel; cameras fill up to whole words of eight bytes.

    A run too long for its bits begins with as many codes of ones as fit into it.
    """
    skip, horizontal, vertical = bits
    longest = (1 << skip) - 1
    y, x, y_part, x_part = np.array(sorted(events) if isinstance(events, list) else events, np.int64).reshape(-1, 4).T
    runs = np.diff(y * shape[1] + x, prepend=-1, append=shape[0] * shape[1]) - 1
    n_long, rest = np.divmod(runs, longest)
    long_bits = skip + wastes_bits * (horizontal + vertical)
    starts = np.append(0, (n_long * long_bits + skip + horizontal + vertical).cumsum())
    stream = np.zeros(starts[-1] - horizontal - vertical, np.uint8)

    def put(places: np.ndarray, values: np.ndarray | int, n_bits: int) -> None:
        for bit in range(n_bits):
            stream[places + bit] = (values >> bit) & 1

    within = np.arange(n_long.sum()) - np.repeat(n_long.cumsum() - n_long, n_long)
    put(np.repeat(starts[:-1], n_long) + within * long_bits, longest, skip)
    ends = starts[:-1] + n_long * long_bits
    put(ends, rest, skip)
    put(ends[:-1] + skip, x_part ^ (1 << (horizontal - 1)), horizontal)
    put(ends[:-1] + skip + horizontal, y_part ^ (1 << (vertical - 1)), vertical)
    data = np.packbits(stream, bitorder="little").tobytes()
    return data + bytes(8 + -len(data) % 8) if padded else data


def write_tiff_pages(path: Path, pages: Sequence[dict[int, int | bytes]], data: Sequence[bytes], *, big: bool) -> None:
    """Write a TIFF or BigTIFF of one strip a page; tags of whole numbers (LONG) and bytes (UNDEFINED)."""
    offset_form, number_form, head = ("<Q", "<Q", 16) if big else ("<I", "<H", 8)
    body = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if big else struct.pack("<2sHI", b"II", 42, 0))
    link = head - struct.calcsize(offset_form)
    for page, strip in zip(pages, data, strict=True):
        tags = dict(page)
        tags[273] = len(body)
        tags[279] = len(strip)
        body += strip
        outside = {}
        for tag, value in tags.items():
            if isinstance(value, bytes):
                outside[tag] = len(body)
                body += value
        struct.pack_into(offset_form, body, link, len(body))
        body += struct.pack(number_form, len(tags))
        for tag, value in sorted(tags.items()):
            kind, count = (7, len(value)) if isinstance(value, bytes) else (4, 1)
            body += struct.pack("<HH", tag, kind) + struct.pack(offset_form, count)
            body += struct.pack(offset_form, outside.get(tag, value if isinstance(value, int) else 0))
        link = len(body)
        body += struct.pack(offset_form, 0)
    path.write_bytes(bytes(body))


EerWriter = Callable[..., None]


@pytest.fixture(scope="session")
def write_eer() -> EerWriter:
    def write(
        path: Path,
        frames: Sequence[Sequence[Event]],
        shape: tuple[int, int],
        *,
        compression: int = 65001,
        bits: tuple[int, int, int] = (7, 2, 2),
        metadata: bytes = b"",
        big: bool = True,
        padded: bool = True,
        front: np.ndarray | None = None,
    ) -> None:
        page: dict[int, int | bytes] = {256: shape[1], 257: shape[0], 259: compression, 278: shape[0]}
        if compression == 65002:
            page |= dict(zip((65007, 65008, 65009), bits, strict=True))
        if metadata:
            page[65001] = metadata
        data = [encode_events(frame, shape, bits, wastes_bits=compression == 65000, padded=padded) for frame in frames]
        pages = [page] * len(frames)
        if front is not None:
            pages.insert(0, page | {258: 8, 259: 1, 262: 1})
            data.insert(0, front.astype(np.uint8).tobytes())
        write_tiff_pages(path, pages, data, big=big)

    return write


@pytest.fixture(scope="session")
def draw_events() -> Callable[..., list[list[Event]]]:
    def draw(n_frames: int, shape: tuple[int, int], density: float, seed: int) -> list[list[Event]]:
        rng = np.random.default_rng(seed)
        frames = []
        for _ in range(n_frames):
            rows, columns = np.nonzero(rng.random(shape) < density)
            parts = rng.integers(0, 4, (len(rows), 2))
            frames.append([(int(y), int(x), int(a), int(b)) for y, x, (a, b) in zip(rows, columns, parts, strict=True)])
        return frames

    return draw


class _DmTree:
    """Tags of DM3 or DM4, as bytes."""

    def __init__(self, version: int, order: str) -> None:
        self.version, self.order = version, order
        self.wide = "Q" if version == 4 else "I"

    def number(self, *values: int) -> bytes:
        return struct.pack(f">{len(values)}{self.wide}", *values)

    def tag(self, kind: int, name: str, content: bytes) -> bytes:
        length = self.number(len(content)) if self.version == 4 else b""
        return struct.pack(">BH", kind, len(name)) + name.encode() + length + content

    def directory(self, name: str, *tags: bytes) -> bytes:
        return self.tag(20, name, struct.pack(">BB", 1, 0) + self.number(len(tags)) + b"".join(tags))

    def value(self, name: str, kinds: Sequence[int], data: bytes) -> bytes:
        return self.tag(21, name, b"%%%%" + self.number(len(kinds), *kinds) + data)

    def whole(self, name: str, value: int) -> bytes:
        return self.value(name, [5], struct.pack(f"{self.order}I", value))

    def single(self, name: str, value: float) -> bytes:
        return self.value(name, [6], struct.pack(f"{self.order}f", value))

    def text(self, name: str, value: str) -> bytes:
        return self.value(name, [20, 4, len(value)], value.encode("utf-16-le"))

    def image(self, array: np.ndarray, unit: str, scale: float) -> bytes:
        codes = {
            "int16": (1, 2),
            "float32": (2, 6),
            "uint8": (6, 10),
            "int32": (7, 3),
            "uint16": (10, 4),
            "float64": (12, 7),
        }
        kind, element = codes[array.dtype.name]
        data = array.astype(array.dtype.newbyteorder(self.order)).tobytes()
        sides = [self.whole("", side) for side in reversed(array.shape)]
        axis = self.directory("", self.single("Origin", 0.0), self.single("Scale", scale), self.text("Units", unit))
        return self.directory(
            "",
            self.directory(
                "ImageData",
                self.directory("Calibrations", self.directory("Dimension", axis, axis)),
                self.value("Data", [20, element, array.size], data),
                self.whole("DataType", kind),
                self.directory("Dimensions", *sides),
                self.whole("PixelDepth", array.dtype.itemsize),
            ),
            self.value("Rectangle", [15, 0, 2, 0, 3, 0, 3], struct.pack(f"{self.order}2i", 1, 2)),
        )


@pytest.fixture(scope="session")
def write_dm() -> Callable[..., None]:
    def write(
        path: Path,
        array: np.ndarray,
        *,
        version: int = 4,
        order: str = "<",
        unit: str = "nm",
        scale: float = 0.05,
    ) -> None:
        tree = _DmTree(version, order)
        thumbnail = np.zeros((2, 2), np.int32)
        images = tree.directory("ImageList", tree.image(thumbnail, "", 1.0), tree.image(array, unit, scale))
        body = struct.pack(">BB", 1, 0) + tree.number(2) + tree.text("Name", "gain") + images
        head = struct.pack(">I", version) + tree.number(len(body)) + struct.pack(">I", int(order == "<"))
        path.write_bytes(head + body + bytes(8))

    return write
