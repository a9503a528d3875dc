"""TIFF against tifffile itself: flipping, pixel size, and damaged files."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from vitreous.errors import InputFileError
from vitreous.io.tiff import open_tiff, read_tiff, read_tiff_header, write_tiff


def make_movie(dtype: str = "uint8", shape: tuple[int, int, int] = (3, 20, 31)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 200, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", ["lzw", "zlib", "none"])
def test_round_trip(tmp_path: Path, dtype: str, compression: str) -> None:
    movie = make_movie(dtype)
    write_tiff(tmp_path / "m.tif", movie, pixel_size_angstrom=1.0615, compression=compression)
    read = read_tiff(tmp_path / "m.tif")
    assert read.dtype == movie.dtype
    np.testing.assert_array_equal(read, movie)
    n, ny, nx, pixel_size = read_tiff_header(tmp_path / "m.tif")
    assert (n, ny, nx) == movie.shape
    assert pixel_size == pytest.approx(1.0615, rel=1e-6)


def test_rows_are_flipped_on_writing_and_reading(tmp_path: Path) -> None:
    movie = make_movie()
    write_tiff(tmp_path / "ours.tif", movie)
    with tifffile.TiffFile(tmp_path / "ours.tif") as tiff:
        assert len(tiff.pages) == 3
        np.testing.assert_array_equal(tiff.pages[1].asarray(), movie[1, ::-1])
    tifffile.imwrite(tmp_path / "theirs.tif", movie, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(read_tiff(tmp_path / "theirs.tif"), movie[:, ::-1])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize(
    ("compression", "predictor"), [("zstd", None), ("packbits", None), ("lzw", 2), ("zlib", 2), ("lzma", None)]
)
def test_what_other_programs_compress_with(tmp_path: Path, dtype: str, compression: str, predictor: int | None) -> None:
    movie = make_movie(dtype)
    words = {} if predictor is None or dtype == "float32" else {"predictor": predictor}
    tifffile.imwrite(
        tmp_path / "m.tif", movie[:, ::-1], photometric="minisblack", compression=compression, rowsperstrip=7, **words
    )
    read = read_tiff(tmp_path / "m.tif")
    assert read.dtype == movie.dtype
    np.testing.assert_array_equal(read, movie)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_byte_orders_and_tiles(tmp_path: Path, byteorder: str) -> None:
    movie = make_movie("uint16", (2, 40, 50))
    words = {"byteorder": byteorder, "photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "strips.tif", movie[:, ::-1], **words)
    tifffile.imwrite(tmp_path / "tiles.tif", movie[:, ::-1], tile=(16, 32), compression="lzw", **words)
    for name in ("strips.tif", "tiles.tif"):
        read = read_tiff(tmp_path / name)
        assert read.dtype.isnative
        np.testing.assert_array_equal(read, movie)


def test_pages_one_by_one(tmp_path: Path) -> None:
    movie = make_movie()
    write_tiff(tmp_path / "m.tif", movie)
    stack = open_tiff(tmp_path / "m.tif")
    assert (stack.shape, stack.dtype, stack.compression) == (movie.shape, np.uint8, "LZW")
    for page, expected in zip(stack.iterate([2, 0]), movie[[2, 0]], strict=True):
        np.testing.assert_array_equal(page, expected)


def test_some_pages(tmp_path: Path) -> None:
    movie = make_movie()
    write_tiff(tmp_path / "m.tif", movie)
    np.testing.assert_array_equal(read_tiff(tmp_path / "m.tif", [0, -1]), movie[[0, 2]])


def test_one_image_has_a_frame_axis(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", make_movie()[0])
    assert read_tiff(tmp_path / "m.tif").shape == (1, 20, 31)


def test_bigtiff(tmp_path: Path) -> None:
    movie = make_movie("uint16")
    tifffile.imwrite(tmp_path / "m.tif", movie[:, ::-1], photometric="minisblack", bigtiff=True)
    np.testing.assert_array_equal(read_tiff(tmp_path / "m.tif"), movie)


@pytest.mark.parametrize(("unit", "resolution", "expected"), [("INCH", 2.54e8 / 0.83, 0.83), ("INCH", 300, None)])
def test_pixel_size_from_inches_but_not_from_a_screen(
    tmp_path: Path, unit: str, resolution: float, expected: float | None
) -> None:
    tifffile.imwrite(tmp_path / "m.tif", make_movie()[0], resolution=(resolution, resolution), resolutionunit=unit)
    assert read_tiff_header(tmp_path / "m.tif")[3] == (expected and pytest.approx(expected))


def test_no_pixel_size(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", make_movie())
    assert read_tiff_header(tmp_path / "m.tif")[3] is None


@pytest.mark.parametrize("compression", ["lzw", "none"])
def test_truncation_anywhere_is_noticed_from_the_header(tmp_path: Path, compression: str) -> None:
    write_tiff(tmp_path / "m.tif", make_movie(shape=(3, 64, 64)), compression=compression)
    whole = (tmp_path / "m.tif").read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        (tmp_path / "cut.tif").write_bytes(whole[:length])
        with pytest.raises(InputFileError, match=r"cut\.tif: found .*; expected .*\. .*copied whole"):
            read_tiff_header(tmp_path / "cut.tif")


def test_damaged_strip(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", make_movie(shape=(1, 64, 64)), compression="zlib")
    with tifffile.TiffFile(tmp_path / "m.tif") as tiff:
        start = tiff.pages[0].dataoffsets[0]
    whole = bytearray((tmp_path / "m.tif").read_bytes())
    whole[start : start + 40] = bytes(40)
    (tmp_path / "m.tif").write_bytes(whole)
    with pytest.raises(InputFileError, match=r"m\.tif: found a file that cannot be read"):
        read_tiff(tmp_path / "m.tif")


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        read_tiff_header(tmp_path / "none.tif")
    (tmp_path / "text.tif").write_text("not an image", encoding="utf-8")
    with pytest.raises(InputFileError, match="expected a complete TIFF file"):
        read_tiff(tmp_path / "text.tif")


def test_pages_of_two_sizes_and_colours_are_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(np.zeros((8, 9), np.uint8), metadata=None)
        writer.write(np.zeros((8, 7), np.uint8), metadata=None)
    with pytest.raises(InputFileError, match="found pages of uint8 7x8 and uint8 9x8"):
        read_tiff_header(tmp_path / "two.tif")
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((8, 9, 3), np.uint8), photometric="rgb")
    with pytest.raises(InputFileError, match="expected grey images"):
        read_tiff_header(tmp_path / "rgb.tif")


@pytest.mark.parametrize("array", [np.zeros(4, np.uint8), np.zeros((4, 4), np.int64)])
def test_writing_what_does_not_fit(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected a 2D or 3D array"):
        write_tiff(tmp_path / "m.tif", array)
    assert not list(tmp_path.iterdir())
