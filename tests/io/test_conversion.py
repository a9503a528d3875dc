"""Conversions against the libraries of each format."""

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from vitreous.errors import InputFileError, SettingError
from vitreous.io.conversion import convert_image, read_any, summarize_image
from vitreous.io.eer import EerRendering
from vitreous.io.mrc import write_mrc

RNG = np.random.default_rng(6)
MOVIE = RNG.integers(0, 90, (3, 8, 11)).astype(np.uint8)


def read_target(path: Path) -> np.ndarray:
    """Read with another library, rows as in memory."""
    if path.suffix == ".tif":
        array = tifffile.imread(path)
        return array.reshape(-1, *array.shape[-2:])[:, ::-1]
    with mrcfile.open(path) as mrc:
        return np.array(mrc.data).reshape(-1, *mrc.data.shape[-2:])


@pytest.mark.parametrize("target", ["o.mrc", "o.mrcs", "o.tif"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64", "int32"])
def test_values_stay_as_they_are(tmp_path: Path, write_dm: Callable[..., None], target: str, dtype: str) -> None:
    movie = MOVIE.astype(dtype)
    write_dm(tmp_path / "m.dm4", movie, scale=0.1)
    assert convert_image(tmp_path / "m.dm4", tmp_path / target) == movie.shape
    read = read_target(tmp_path / target)
    np.testing.assert_array_equal(read, movie[:, ::-1])
    assert read.dtype.kind == ("f" if dtype.startswith("float") else "u" if target == "o.tif" else read.dtype.kind)
    assert read_any(tmp_path / target)[1] == pytest.approx(1.0)


def test_negative_and_large_whole_numbers(tmp_path: Path) -> None:
    np.array([[-5, 70000], [3, 4]], np.int32).tofile(tmp_path / "a.dat")
    convert_image(tmp_path / "a.dat", tmp_path / "o.mrc", shape=(2, 2), dtype="int32")
    np.testing.assert_array_equal(read_target(tmp_path / "o.mrc")[0], [[-5, 70000], [3, 4]])
    np.array([[-5, (1 << 24) + 1], [3, 4]], np.int32).tofile(tmp_path / "a.dat")
    with pytest.raises(InputFileError, match="found pixels of int32 from -5 to 16777217; expected values that fit"):
        convert_image(tmp_path / "a.dat", tmp_path / "o.mrc", shape=(2, 2), dtype="int32")


def test_a_compressed_movie_and_a_picture(tmp_path: Path) -> None:
    Image.fromarray(MOVIE[0]).save(tmp_path / "p.png")
    assert convert_image(tmp_path / "p.png", tmp_path / "p.tif", pixel_size_angstrom=0.9) == (1, 8, 11)
    np.testing.assert_array_equal(read_target(tmp_path / "p.tif")[0], MOVIE[0])
    assert read_any(tmp_path / "p.tif")[1] == pytest.approx(0.9)


def test_eer(tmp_path: Path, write_eer: Callable[..., None]) -> None:
    write_eer(tmp_path / "m.eer", [[(i, 1, 2, 3)] for i in range(6)], (6, 5))
    rendering = EerRendering(n_fractions=2, upsampling=2)
    assert convert_image(tmp_path / "m.eer", tmp_path / "o.tif", rendering=rendering) == (2, 12, 10)
    expected = [[0, 1, 3], [0, 3, 3], [0, 5, 3], [1, 7, 3], [1, 9, 3], [1, 11, 3]]
    assert np.argwhere(read_target(tmp_path / "o.tif")).tolist() == expected
    details = summarize_image(tmp_path / "m.eer", rendering=EerRendering(frames_per_fraction=4)).details
    assert details == {"detector_frames": 6, "frames_per_fraction": 4, "dropped_frames": 2}


def test_the_gain_of_an_eer_camera(tmp_path: Path) -> None:
    gain = RNG.uniform(0.9, 1.1, (8, 11)).astype(np.float32)
    with tifffile.TiffWriter(tmp_path / "c.gain") as writer:
        writer.write(gain, metadata=None)
    convert_image(tmp_path / "c.gain", tmp_path / "o.mrc")
    np.testing.assert_array_equal(read_target(tmp_path / "o.mrc")[0], gain)
    assert summarize_image(tmp_path / "c.gain").format == "EER gain"
    write_mrc(tmp_path / "divisors.mrc", gain, 1.0)
    convert_image(tmp_path / "divisors.mrc", tmp_path / "o.mrc", invert=True)
    np.testing.assert_allclose(read_target(tmp_path / "o.mrc")[0] * gain, gain.mean(), rtol=1e-6)


@pytest.mark.parametrize("rotate_deg", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", [None, "up-down", "left-right"])
def test_turns_are_clockwise_with_the_first_row_on_top(tmp_path: Path, rotate_deg: int, flip: str | None) -> None:
    write_mrc(tmp_path / "m.mrc", MOVIE.astype(np.int16), 1.5)
    convert_image(tmp_path / "m.mrc", tmp_path / "o.mrc", rotate_deg=rotate_deg, flip=flip)
    # Pillow draws the first row on top, and turns the other way.
    expected = Image.fromarray(MOVIE[1]).rotate(-rotate_deg, expand=True)
    if flip is not None:
        how = Image.Transpose.FLIP_TOP_BOTTOM if flip == "up-down" else Image.Transpose.FLIP_LEFT_RIGHT
        expected = expected.transpose(how)
    np.testing.assert_array_equal(read_target(tmp_path / "o.mrc")[1], np.asarray(expected))


def test_summary(tmp_path: Path) -> None:
    movie = RNG.normal(size=(3, 8, 11)).astype(np.float32)
    write_mrc(tmp_path / "m.mrc", movie, 1.5)
    found = summarize_image(tmp_path / "m.mrc")
    assert (found.format, found.n_frames, found.ny_px, found.nx_px, found.dtype) == ("MRC", 3, 8, 11, "float32")
    assert found.pixel_size_angstrom == pytest.approx(1.5)
    values = (found.minimum, found.maximum, found.mean)
    assert values == pytest.approx((movie.min(), movie.max(), movie.astype(np.float64).mean()))
    assert found.details == {"mode": 2, "byte_order": "little-endian"}


@pytest.mark.filterwarnings("ignore:Data array contains", "ignore:invalid value")
def test_summary_of_what_is_no_number(tmp_path: Path) -> None:
    image = np.ones((4, 4), np.float32)
    image[1, 1] = np.nan
    write_mrc(tmp_path / "m.mrc", image, 1.5)
    assert summarize_image(tmp_path / "m.mrc").mean is None


def test_words_that_are_missing_or_wrong(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", MOVIE.astype(np.int16), 1.5)
    with pytest.raises(SettingError, match=r"found suffix \.png; expected \.mrc"):
        convert_image(tmp_path / "m.mrc", tmp_path / "o.png")
    (tmp_path / "a.dat").write_bytes(bytes(8))
    with pytest.raises(SettingError, match="need their --shape and --dtype"):
        convert_image(tmp_path / "a.dat", tmp_path / "o.mrc", shape=(2, 4))
    assert not (tmp_path / "o.mrc").exists()
