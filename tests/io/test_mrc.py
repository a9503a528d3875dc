"""MRC against mrcfile and bytes made by hand."""

import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from vitreous.errors import InputFileError
from vitreous.io.mrc import read_mrc, read_mrc_header, write_mrc

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
