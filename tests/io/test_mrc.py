"""MRC against mrcfile and bytes made by hand."""

import bz2
import gzip
import lzma
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import zstandard

from vitreous.errors import InputFileError
from vitreous.io.mrc import open_mrc, read_mrc, read_mrc_header, write_mrc

RNG = np.random.default_rng(5)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "int8", "uint16"])
@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7)])
def test_round_trip(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 100, shape).astype(dtype)
    write_mrc(tmp_path / "m.mrc", array, 1.25)
    read, header = read_mrc(tmp_path / "m.mrc")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    assert header == read_mrc_header(tmp_path / "m.mrc")
    assert header.shape == (1, *shape)[-3:]
    assert header.pixel_size_angstrom == pytest.approx(1.25)
    # mrcfile sums float16 in float16, which overflows, when it compares the statistics.
    assert dtype == "float16" or mrcfile.validate(tmp_path / "m.mrc")


def test_first_element_is_the_files_first(tmp_path: Path) -> None:
    array = np.zeros((4, 6), np.float32)
    array[0, 1] = 1
    write_mrc(tmp_path / "m.mrc", array, 1.0)
    raw = (tmp_path / "m.mrc").read_bytes()
    assert struct.unpack("<3f", raw[1024:1036]) == (0, 1, 0)
    assert struct.unpack("<4i", raw[:16]) == (6, 4, 1, 2)


def test_stacks_and_volumes_are_told_apart(tmp_path: Path) -> None:
    array = np.ones((3, 4, 4), np.float32)
    write_mrc(tmp_path / "stack.mrcs", array, 2.0)
    write_mrc(tmp_path / "volume.mrc", array, 2.0, volume=True)
    with mrcfile.open(tmp_path / "stack.mrcs") as stack, mrcfile.open(tmp_path / "volume.mrc") as volume:
        assert stack.is_image_stack()
        assert volume.is_volume()
        assert volume.voxel_size.z == pytest.approx(2.0)


def test_header_without_a_pixel_size(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", np.ones((4, 4), np.float32), 0.0)
    assert read_mrc_header(tmp_path / "m.mrc").pixel_size_angstrom is None


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint16"])
def test_truncated(tmp_path: Path, dtype: str) -> None:
    write_mrc(tmp_path / "m.mrc", RNG.integers(0, 9, (3, 20, 20)).astype(dtype), 1.0)
    whole = (tmp_path / "m.mrc").read_bytes()
    for length in (0, 512, 1024, len(whole) // 2, len(whole) - 1):
        (tmp_path / "m.mrc").write_bytes(whole[:length])
        for read in (read_mrc, read_mrc_header):
            with pytest.raises(InputFileError, match=r"m\.mrc: found .*; expected .*copied whole"):
                read(tmp_path / "m.mrc")


def test_truncated_says_both_sizes(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", np.ones((10, 10), np.float32), 1.0)
    (tmp_path / "m.mrc").write_bytes((tmp_path / "m.mrc").read_bytes()[:-1])
    with pytest.raises(InputFileError, match="found 1423 bytes; expected at least 1424 bytes for 10x10x1"):
        read_mrc_header(tmp_path / "m.mrc")


def test_missing_and_foreign(tmp_path: Path) -> None:
    (tmp_path / "text.mrc").write_text("no image " * 200, encoding="utf-8")
    for read in (read_mrc, read_mrc_header):
        with pytest.raises(InputFileError, match="no such file"):
            read(tmp_path / "none.mrc")
        with pytest.raises(InputFileError, match="expected a complete MRC file"):
            read(tmp_path / "text.mrc")


def test_writing_leaves_nothing_half_done(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype"):
        write_mrc(tmp_path / "m.mrc", np.ones((4, 4), np.uint64), 1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.shared_data
def test_real_stack(shared_data: Path) -> None:
    stack, header = read_mrc(shared_data / "formats" / "sample.mrcs")
    assert stack.shape == header.shape == (17, 200, 200)
    assert header == read_mrc_header(shared_data / "formats" / "sample.mrcs")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "dtype"), [(1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
def test_both_byte_orders(tmp_path: Path, order: str, mode: int, dtype: str) -> None:
    array = RNG.integers(0, 100, (3, 5, 7)).astype(dtype)
    write_raw_mrc(tmp_path / "m.mrc", array.astype(f"{order}{dtype}").tobytes(), (7, 5, 3), mode, order=order)
    read, _ = read_mrc(tmp_path / "m.mrc")
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read, array)


def write_raw_mrc(
    path: Path,
    data: bytes,
    size: tuple[int, int, int],
    mode: int,
    *,
    order: str = "<",
    extended: int = 0,
    imod_flags: int | None = None,
) -> None:
    """Write a file as programs of before 2014 did: no stamp, no version, no statistics."""
    head = bytearray(1024)
    struct.pack_into(f"{order}4i", head, 0, *size, mode)
    struct.pack_into(f"{order}i", head, 92, extended)
    if imod_flags is not None:
        struct.pack_into(f"{order}2i", head, 152, 1146047817, imod_flags)
    path.write_bytes(bytes(head) + bytes(extended) + data)


@pytest.mark.parametrize("order", ["<", ">"])
def test_without_a_stamp_and_with_an_extended_header(tmp_path: Path, order: str) -> None:
    array = RNG.normal(size=(2, 5, 7)).astype(np.float32)
    write_raw_mrc(tmp_path / "m.mrc", array.astype(f"{order}f4").tobytes(), (7, 5, 2), 2, order=order, extended=320)
    with pytest.raises(ValueError, match="Map ID"):
        mrcfile.open(tmp_path / "m.mrc")
    np.testing.assert_array_equal(read_mrc(tmp_path / "m.mrc")[0], array)
    np.testing.assert_array_equal(np.stack(list(open_mrc(tmp_path / "m.mrc").iterate([1]))), array[[1]])


@pytest.mark.parametrize(("mode", "nx"), [(101, 6), (101, 7), (0, 6)])
def test_four_bits_low_half_first(tmp_path: Path, mode: int, nx: int) -> None:
    values = RNG.integers(0, 16, (2, 5, nx)).astype(np.uint8)
    padded = np.pad(values, ((0, 0), (0, 0), (0, nx % 2)))
    packed = padded[..., 0::2] + 16 * padded[..., 1::2]
    size = (nx if mode == 101 else nx // 2, 5, 2)
    write_raw_mrc(
        tmp_path / "m.mrc", packed.astype(np.uint8).tobytes(), size, mode, imod_flags=16 if mode == 0 else None
    )
    read, header = read_mrc(tmp_path / "m.mrc")
    assert header.shape == (2, 5, nx)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("name", ["int8", "uint8"])
@pytest.mark.parametrize("imod", [True, False])
def test_bytes_signed_and_unsigned(tmp_path: Path, name: str, imod: bool) -> None:
    centre = 0 if name == "int8" else 128
    values = (centre + RNG.normal(0, 20, (2, 30, 40))).astype(name)
    flags = int(name == "int8") if imod else None
    write_raw_mrc(tmp_path / "m.mrc", values.tobytes(), (40, 30, 2), 0, imod_flags=flags)
    read, _ = read_mrc(tmp_path / "m.mrc")
    assert read.dtype == np.dtype(name)
    np.testing.assert_array_equal(read, values)


COMPRESSORS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_compressed_as_a_whole(tmp_path: Path, suffix: str) -> None:
    array = RNG.integers(0, 50, (4, 30, 20)).astype(np.uint16)
    write_mrc(tmp_path / "m.mrc", array, 1.5)
    packed = COMPRESSORS[suffix]((tmp_path / "m.mrc").read_bytes())
    path = tmp_path / f"m.mrc{suffix}"
    path.write_bytes(packed)
    read, header = read_mrc(path)
    np.testing.assert_array_equal(read, array)
    assert header == read_mrc_header(path) == read_mrc_header(tmp_path / "m.mrc")
    np.testing.assert_array_equal(np.stack(list(open_mrc(path).iterate([0, 3]))), array[[0, 3]])
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputFileError, match=rf"m\.mrc\{suffix}: found .*; expected .*copied whole"):
        read_mrc(path)


def test_a_compressed_header_that_announces_too_much(tmp_path: Path) -> None:
    head = bytearray(1024)
    struct.pack_into("<4i", head, 0, 200_000, 200_000, 1_000_000, 2)
    (tmp_path / "m.mrc.gz").write_bytes(gzip.compress(bytes(head) + bytes(1000)))
    with pytest.raises(
        InputFileError, match="found 2024 bytes when decompressed; expected at least 160000000000001024"
    ):
        read_mrc(tmp_path / "m.mrc.gz")


def test_more_sections_than_the_header_says(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", np.ones((3, 4, 5), np.float32), 1.0)
    with (tmp_path / "m.mrc").open("ab") as stream:
        stream.write(bytes(2 * 4 * 5 * 4))
    with pytest.raises(InputFileError, match="found a header for 3 sections and data of 5"):
        read_mrc(tmp_path / "m.mrc")


def test_a_few_bytes_at_the_end_do_no_harm(tmp_path: Path) -> None:
    array = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    write_mrc(tmp_path / "m.mrc", array, 1.0)
    with (tmp_path / "m.mrc").open("ab") as stream:
        stream.write(b"end")
    np.testing.assert_array_equal(read_mrc(tmp_path / "m.mrc")[0], array)


def test_what_a_failed_download_leaves(tmp_path: Path) -> None:
    (tmp_path / "m.mrc").write_text("<?xml version='1.0'?><Error>NoSuchKey</Error>\n" * 100, encoding="utf-8")
    with pytest.raises(InputFileError, match=r"it holds text beginning \"<\?xml.*copied whole"):
        read_mrc(tmp_path / "m.mrc")


@pytest.mark.shared_data
def test_real_compressed_file_against_mrcfile(shared_data: Path) -> None:
    path = shared_data / "formats" / "fei-extended.mrc.bz2"
    read, header = read_mrc(path)
    with mrcfile.open(path, permissive=True) as mrc:
        np.testing.assert_array_equal(read, mrc.data)
        assert header.pixel_size_angstrom == pytest.approx(float(mrc.voxel_size.x), rel=1e-5)
