"""DM3 and DM4 against the arrays that were written, and against the dm4 package."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dm4 import DM4File

from vitreous.errors import InputFileError
from vitreous.io.dm import open_dm

Write = Callable[..., None]
RNG = np.random.default_rng(8)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_images_come_back_with_rows_flipped(
    tmp_path: Path, write_dm: Write, version: int, order: str, dtype: str
) -> None:
    image = RNG.integers(0, 200, (7, 11)).astype(dtype)
    write_dm(tmp_path / "g.dm", image, version=version, order=order)
    stack = open_dm(tmp_path / "g.dm")
    assert (stack.shape, stack.dtype) == ((1, 7, 11), image.dtype)
    np.testing.assert_array_equal(next(stack.iterate([0])), image[::-1])
    assert stack.pixel_size_angstrom == pytest.approx(0.5)


@pytest.mark.parametrize("version", [3, 4])
def test_stacks(tmp_path: Path, write_dm: Write, version: int) -> None:
    movie = RNG.integers(0, 9, (4, 6, 5)).astype(np.uint8)
    write_dm(tmp_path / "m.dm4", movie, version=version)
    stack = open_dm(tmp_path / "m.dm4")
    assert stack.shape == movie.shape
    np.testing.assert_array_equal(np.stack(list(stack.iterate([3, 0]))), movie[[3, 0], ::-1])


@pytest.mark.parametrize(
    ("unit", "expected"), [("nm", 0.5), ("µm", 500.0), ("Å", 0.05), ("pm", 0.0005), ("1/nm", None), ("", None)]
)
def test_units(tmp_path: Path, write_dm: Write, unit: str, expected: float | None) -> None:
    write_dm(tmp_path / "g.dm4", np.ones((4, 4), np.float32), unit=unit)
    assert open_dm(tmp_path / "g.dm4").pixel_size_angstrom == (expected and pytest.approx(expected))


def test_agrees_with_the_dm4_package(tmp_path: Path, write_dm: Write) -> None:
    image = RNG.normal(1, 0.1, (9, 6)).astype(np.float32)
    write_dm(tmp_path / "g.dm4", image)
    with DM4File.open(str(tmp_path / "g.dm4")) as file:
        data = file.read_directory().named_subdirs["ImageList"].unnamed_subdirs[1].named_subdirs["ImageData"]
        theirs = np.array(file.read_tag_data(data.named_tags["Data"]), np.float32).reshape(9, 6)
    np.testing.assert_array_equal(next(open_dm(tmp_path / "g.dm4").iterate([0])), theirs[::-1])


@pytest.mark.parametrize("version", [3, 4])
def test_truncated_anywhere(tmp_path: Path, write_dm: Write, version: int) -> None:
    write_dm(tmp_path / "g.dm4", RNG.normal(size=(9, 6)).astype(np.float32), version=version)
    whole = (tmp_path / "g.dm4").read_bytes()
    end_of_tags = len(whole) - 8
    for length in [*range(0, end_of_tags, 13), end_of_tags - 1]:
        (tmp_path / "cut.dm4").write_bytes(whole[:length])
        with pytest.raises(InputFileError, match=r"cut\.dm4: found .*; expected a complete DM3 or DM4 file"):
            open_dm(tmp_path / "cut.dm4")


def test_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        open_dm(tmp_path / "none.dm4")
    (tmp_path / "g.dm4").write_text("<?xml version='1.0'?><Error>NoSuchKey</Error>", encoding="utf-8")
    with pytest.raises(InputFileError, match=r"it holds text beginning \"<\?xml"):
        open_dm(tmp_path / "g.dm4")
