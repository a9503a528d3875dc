"""The MRC header against bytes made by hand."""

import struct

import numpy as np
import pytest

from vitreous.io.mrc_header import MrcHeader, guess_sign, parse_header


def make_head(
    size: tuple[int, int, int] = (6, 4, 2),
    mode: int = 2,
    *,
    order: str = "<",
    stamp: bytes = b"\x44\x44\x00\x00",
    extended: int = 0,
    low_high: tuple[float, float] = (0.0, -1.0),
    version: int = 0,
    imod_flags: int | None = None,
) -> bytes:
    head = bytearray(1024)
    struct.pack_into(f"{order}4i", head, 0, *size, mode)
    struct.pack_into(f"{order}3i3f", head, 28, *size, size[0] * 1.5, size[1] * 1.5, size[2] * 1.5)
    struct.pack_into(f"{order}2f", head, 76, *low_high)
    struct.pack_into(f"{order}2i", head, 88, 0, extended)
    struct.pack_into(f"{order}i", head, 108, version)
    if imod_flags is not None:
        struct.pack_into(f"{order}2i", head, 152, 1146047817, imod_flags)
    head[212:216] = stamp
    return bytes(head)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stamp", [b"\x44\x44\x00\x00", b"\x44\x41\x00\x00", b"\x11\x11\x00\x00", bytes(4)])
def test_the_order_in_which_it_makes_sense(order: str, stamp: bytes) -> None:
    layout = parse_header(make_head(order=order, stamp=stamp, extended=160))
    assert layout.header == MrcHeader((2, 4, 6), 2, 1.5)
    assert layout.dtype == np.dtype(f"{order}f4")
    assert (layout.offset, layout.section_bytes, layout.end) == (1184, 96, 1376)


@pytest.mark.parametrize(
    ("mode", "name", "row"),
    [(0, "int8", 7), (1, "int16", 14), (2, "float32", 28), (6, "uint16", 14), (12, "float16", 14)],
)
def test_modes(mode: int, name: str, row: int) -> None:
    layout = parse_header(make_head((7, 4, 2), mode))
    assert (layout.dtype.name, layout.row_bytes, layout.packed) == (name, row, False)


def test_packed_rows_begin_at_whole_bytes() -> None:
    layout = parse_header(make_head((7, 4, 2), 101))
    assert (layout.header.shape, layout.row_bytes, layout.packed) == ((2, 4, 7), 4, True)


def test_packed_bytes_of_imod_count_half_the_columns() -> None:
    layout = parse_header(make_head((7, 4, 2), 0, imod_flags=16))
    assert layout.header == MrcHeader((2, 4, 14), 101, 1.5)
    assert (layout.row_bytes, layout.packed) == (7, True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"imod_flags": 1}, "signed"),
        ({"imod_flags": 0}, "unsigned"),
        ({"imod_flags": 0, "low_high": (-5.0, 5.0)}, "unsigned"),
        ({"low_high": (0.0, 200.0)}, "unsigned"),
        ({"low_high": (-3.0, 90.0)}, "signed"),
        ({"low_high": (0.0, 100.0)}, "unknown"),
        ({"low_high": (0.0, -1.0)}, "unknown"),
        ({"low_high": (-3.0, 200.0)}, "unknown"),
        ({"low_high": (float("nan"), float("nan"))}, "unknown"),
    ],
)
def test_what_the_header_says_of_signs(words: dict[str, object], expected: str) -> None:
    assert parse_header(make_head(mode=0, **words)).sign == expected


@pytest.mark.parametrize("spread", [2.0, 10.0, 30.0])
def test_signs_from_the_values(spread: float) -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, spread, 20_000).round()
    signed = np.clip(values, -128, 127).astype(np.int8).view(np.uint8)
    assert guess_sign(signed, is_standard=False) == "signed"
    unsigned = np.clip(values + 128, 0, 255).astype(np.uint8)
    assert guess_sign(unsigned, is_standard=True) == "unsigned"


@pytest.mark.parametrize(("is_standard", "expected"), [(True, "signed"), (False, "unsigned")])
def test_counts_read_the_same_either_way(is_standard: bool, expected: str) -> None:
    counts = np.random.default_rng(2).poisson(1.0, 10_000).astype(np.uint8)
    assert guess_sign(counts, is_standard=is_standard) == expected


def test_a_saturated_pixel_makes_no_sign() -> None:
    counts = np.random.default_rng(3).poisson(40.0, 10_000).astype(np.uint8)
    counts[:50] = 255
    counts[50:60] = 140
    assert guess_sign(counts, is_standard=True) == "unsigned"


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (make_head((0, 4, 2)), "a size of 0x4x2"),
        (make_head((6, -4, 2)), "a size of 6x-4x2"),
        (make_head(mode=3), "mode 3 where 0, 1, 2"),
        (make_head(mode=4), "mode 4 where 0, 1, 2"),
        (make_head(extended=-8), "an extended header of -8 bytes"),
        (make_head()[:500], "500 bytes, less than the 1024"),
        (bytes(1024), "a size of 0x0x0"),
    ],
)
def test_headers_that_make_no_sense(head: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_header(head)


def test_no_pixel_size() -> None:
    head = bytearray(make_head())
    for value in (0.0, -1.0, float("nan"), float("inf")):
        struct.pack_into("<f", head, 40, value)
        assert parse_header(bytes(head)).header.pixel_size_angstrom is None
