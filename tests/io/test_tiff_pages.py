"""The chain of pages against tifffile."""

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from vitreous.errors import InputFileError
from vitreous.io.tiff_pages import read_pages

MOVIE = np.random.default_rng(4).integers(0, 9, (3, 20, 30)).astype(np.uint8)


@pytest.mark.parametrize("bigtiff", [True, False])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
def test_pages_as_tifffile_finds_them(
    tmp_path: Path, bigtiff: bool, byteorder: str, tile: tuple[int, int] | None
) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(
        path, MOVIE, bigtiff=bigtiff, byteorder=byteorder, tile=tile, compression="lzw", photometric="minisblack"
    )
    found = read_pages(path)
    assert found.is_big == bigtiff
    with tifffile.TiffFile(path) as tiff:
        for ours, theirs in zip(found.pages, tiff.pages, strict=True):
            assert ours.shape == theirs.shape
            assert ours.compression == theirs.compression
            assert ours.extents == list(zip(theirs.dataoffsets, theirs.databytecounts, strict=True))
            assert ours.get_bytes(305).rstrip(b"\0").decode() == theirs.software
            assert ours.get_integers(305) == ours.get_integers(9999) == ()


def make_bytes(path: Path) -> bytearray:
    tifffile.imwrite(path, MOVIE[0], photometric="minisblack", metadata=None, software=False)
    return bytearray(path.read_bytes())


def find_entry(data: bytearray, tag: int) -> int:
    """Return where the entry of a tag begins in a little-endian TIFF of one page."""
    (place,) = struct.unpack_from("<I", data, 4)
    (n_entries,) = struct.unpack_from("<H", data, place)
    for i in range(n_entries):
        if struct.unpack_from("<H", data, place + 2 + 12 * i)[0] == tag:
            return place + 2 + 12 * i
    raise LookupError(tag)


def test_a_chain_that_runs_in_a_circle(tmp_path: Path) -> None:
    data = make_bytes(tmp_path / "m.tif")
    (place,) = struct.unpack_from("<I", data, 4)
    (n_entries,) = struct.unpack_from("<H", data, place)
    struct.pack_into("<I", data, place + 2 + 12 * n_entries, place)
    (tmp_path / "m.tif").write_bytes(data)
    with pytest.raises(InputFileError, match="chain of pages runs in a circle"):
        read_pages(tmp_path / "m.tif")


@pytest.mark.parametrize(
    ("tag", "value", "problem"),
    [
        (256, 300, "600 bytes of data for an image of 300x20 pixels, which takes 6000"),
        (256, 0, "an image of 0x20 pixels"),
        (257, 1 << 20, "an image of 30x1048576 pixels"),
        (279, 10, "10 bytes of data for an image of 30x20"),
    ],
)
def test_an_image_that_its_data_cannot_fill(tmp_path: Path, tag: int, value: int, problem: str) -> None:
    data = make_bytes(tmp_path / "m.tif")
    entry = find_entry(data, tag)
    struct.pack_into("<HII", data, entry + 2, 4, 1, value)
    (tmp_path / "m.tif").write_bytes(data)
    with pytest.raises(InputFileError, match=problem):
        read_pages(tmp_path / "m.tif")


def test_values_that_lie_outside_the_file(tmp_path: Path) -> None:
    data = make_bytes(tmp_path / "m.tif")
    struct.pack_into("<I", data, find_entry(data, 258) + 4, 1 << 30)
    (tmp_path / "m.tif").write_bytes(data)
    with pytest.raises(InputFileError, match=rf"found {len(data)} bytes; expected at least \d+ bytes"):
        read_pages(tmp_path / "m.tif")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "0 bytes"),
        (b"II*\x00", "4 bytes"),
        (b"II\x07\x00" + bytes(20), "version 7"),
        (b"II*\x00" + bytes(8), "no pages"),
    ],
)
def test_what_is_no_tiff(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "m.tif").write_bytes(content)
    with pytest.raises(InputFileError, match=problem):
        read_pages(tmp_path / "m.tif")
