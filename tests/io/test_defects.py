"""Defect maps and lists against masks drawn by hand."""

from pathlib import Path

import numpy as np
import pytest

from vitreous.errors import InputFileError
from vitreous.io.defects import read_defects
from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff

SHAPE = (12, 20)


@pytest.mark.parametrize("name", ["d.mrc", "d.tif"])
def test_maps(tmp_path: Path, name: str) -> None:
    bad = np.zeros(SHAPE, np.uint8)
    bad[3, 4:9] = 1
    bad[11, 0] = 255
    if name == "d.mrc":
        write_mrc(tmp_path / name, bad.astype(np.uint16), 1.0)
    else:
        write_tiff(tmp_path / name, bad)
    mask = read_defects(tmp_path / name, SHAPE)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, bad != 0)


def test_rectangles_of_motioncor2(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("# x y w h\n4 3 5 1\n\n0, 11, 1, 1\n19 0 1 12\n", encoding="utf-8")
    expected = np.zeros(SHAPE, np.bool_)
    expected[3, 4:9] = expected[11, 0] = expected[:, 19] = True
    np.testing.assert_array_equal(read_defects(tmp_path / "d.txt", SHAPE), expected)


@pytest.mark.parametrize("line", ["18 3 5 1", "-1 3 1 1", "1 2 3", "1 2 0 4", "1.5 2 3 4", "a b c d"])
def test_rectangles_that_are_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "d.txt").write_text(f"0 0 1 1\n{line}\n", encoding="utf-8")
    with pytest.raises(InputFileError, match=rf"found '{line}' in line 2; expected"):
        read_defects(tmp_path / "d.txt", SHAPE)


SERIALEM = """CameraSizeX 20
CameraSizeY 12
RotationAndFlip 0
WasScaled 0
UsableArea 1 0 11 18
BadPixels 5 2 7 3
BadColumns 8 9
BadRows 6
PartialBadColumn 12 2 4 5
PartialBadRow 10 1 14 16
"""


def test_serialem_counts_rows_from_the_top(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text(SERIALEM, encoding="utf-8")
    picture = np.zeros(SHAPE, np.bool_)
    picture[0] = picture[:, 19] = True
    picture[2, 5] = picture[3, 7] = True
    picture[:, 8:10] = picture[6] = True
    picture[4:6, 12:14] = True
    picture[10, 14:17] = True
    np.testing.assert_array_equal(read_defects(tmp_path / "d.txt", SHAPE), np.flipud(picture))


def test_serialem_scaled_to_super_resolution(tmp_path: Path) -> None:
    text = "CameraSizeX 20\nCameraSizeY 12\nWasScaled 1\nBadPixels 4 2\n"
    (tmp_path / "d.txt").write_text(text, encoding="utf-8")
    picture = np.zeros(SHAPE, np.bool_)
    picture[2:4, 4:6] = True
    np.testing.assert_array_equal(read_defects(tmp_path / "d.txt", SHAPE), np.flipud(picture))
    half = read_defects(tmp_path / "d.txt", (6, 10))
    assert np.argwhere(np.flipud(half)).tolist() == [[1, 2]]


def test_twice_the_size(tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text(SERIALEM, encoding="utf-8")
    single = read_defects(tmp_path / "d.txt", SHAPE)
    double = read_defects(tmp_path / "d.txt", (24, 40))
    np.testing.assert_array_equal(double, np.kron(single, np.ones((2, 2))) > 0)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("CameraSizeX 30\nCameraSizeY 12\n", "camera of 30x12 pixels; expected 20x12"),
        ("CameraSizeX 20\nBadRows 1\n", "camera of 20x0 pixels"),
        ("CameraSizeX 20\nCameraSizeY 12\nBadPixels 1 2 3\n", "3 numbers after BadPixels"),
        ("CameraSizeX 20\nCameraSizeY 12\nBadRows one\n", "'BadRows one' in line 3"),
        ("CameraSizeX 999999999\nCameraSizeY 12\n", "camera of 999999999x12 pixels"),
    ],
)
def test_serialem_files_that_make_no_sense(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "d.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputFileError, match=problem):
        read_defects(tmp_path / "d.txt", SHAPE)


def test_files_that_are_no_defects(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        read_defects(tmp_path / "none.txt", SHAPE)
    (tmp_path / "d.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(InputFileError, match="found no defects"):
        read_defects(tmp_path / "d.txt", SHAPE)
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match="cannot be read"):
        read_defects(tmp_path / "d.txt", SHAPE)
    write_mrc(tmp_path / "d.mrc", np.zeros((3, 12, 20), np.float32), 1.0)
    with pytest.raises(InputFileError, match="found 3 images; expected one map"):
        read_defects(tmp_path / "d.mrc", SHAPE)
