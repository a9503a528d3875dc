"""Movies and gain references."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitreous.errors import InputFileError
from vitreous.io.movie import read_frames, read_gain, read_movie
from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff

RNG = np.random.default_rng(3)
MOVIE = RNG.integers(0, 30, (4, 10, 13)).astype(np.uint8)


def write_movie(path: Path, movie: np.ndarray) -> None:
    if path.suffix.startswith(".mrc"):
        write_mrc(path, movie, 1.1)
    else:
        write_tiff(path, movie, pixel_size_angstrom=1.1)


@pytest.mark.parametrize("name", ["m.mrc", "m.mrcs", "m.tif", "m.tiff"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_movies_keep_type_and_orientation(tmp_path: Path, name: str, dtype: str) -> None:
    movie = MOVIE.astype(dtype)
    write_movie(tmp_path / name, movie)
    read = read_movie(tmp_path / name)
    assert read.dtype == movie.dtype
    np.testing.assert_array_equal(read, movie)
    np.testing.assert_array_equal(read_frames(tmp_path / name, [0, -1]), movie[[0, 3]])


def test_bytes_in_tiff_stay_bytes(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", MOVIE)
    assert read_movie(tmp_path / "m.tif").dtype == np.uint8


def test_one_frame_has_a_frame_axis(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", MOVIE[0].astype(np.int16), 1.1)
    assert read_movie(tmp_path / "m.mrc").shape == (1, 10, 13)
    assert read_frames(tmp_path / "m.mrc", [0]).shape == (1, 10, 13)


def test_gain_in_mrc_and_tiff_agree(tmp_path: Path) -> None:
    gain = RNG.uniform(0.9, 1.1, (10, 13)).astype(np.float32)
    write_mrc(tmp_path / "gain.mrc", gain, 1.1)
    write_mrc(tmp_path / "stack.mrc", gain[None], 1.1)
    write_tiff(tmp_path / "gain.tif", gain)
    for name in ("gain.mrc", "stack.mrc", "gain.tif"):
        read = read_gain(tmp_path / name)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, gain)


@pytest.mark.filterwarnings("ignore:Data array contains", "ignore:invalid value")
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_gain_with_impossible_values(tmp_path: Path, value: float) -> None:
    gain = np.ones((10, 13), np.float32)
    gain[3, 4] = value
    write_mrc(tmp_path / "gain.mrc", gain, 1.1)
    with pytest.raises(InputFileError, match=r"gain\.mrc: found .*; expected finite factors.*--gain"):
        read_gain(tmp_path / "gain.mrc")


def test_gain_of_zeros_and_of_many_images(tmp_path: Path) -> None:
    write_mrc(tmp_path / "zero.mrc", np.zeros((10, 13), np.float32), 1.1)
    with pytest.raises(InputFileError, match="not all zero"):
        read_gain(tmp_path / "zero.mrc")
    write_mrc(tmp_path / "many.mrc", MOVIE.astype(np.float32), 1.1)
    with pytest.raises(InputFileError, match="found 4 images; expected one gain reference"):
        read_gain(tmp_path / "many.mrc")


def test_a_picture_is_no_movie(tmp_path: Path) -> None:
    Image.fromarray(MOVIE[0]).save(tmp_path / "m.png")
    with pytest.raises(InputFileError, match=r"m\.png: found a PNG or JPEG file; .*--micrographs"):
        read_movie(tmp_path / "m.png")
    with pytest.raises(InputFileError, match="--micrographs"):
        read_frames(tmp_path / "m.png", [0])


@pytest.mark.parametrize("name", ["m.mrc", "m.tif"])
def test_truncated_movie(tmp_path: Path, name: str) -> None:
    write_movie(tmp_path / name, RNG.integers(0, 200, (4, 60, 60)).astype(np.uint16))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 3 // 4])
    for read in (read_movie, lambda path: read_frames(path, [0])):
        with pytest.raises(InputFileError, match=r"found .*; expected .*copied whole"):
            read(tmp_path / name)
