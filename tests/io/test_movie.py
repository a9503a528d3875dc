"""Movies of every format behind one face."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard
from PIL import Image

from vitreous.errors import InputFileError
from vitreous.io.eer import EerRendering
from vitreous.io.movie import open_movie, read_frames, read_movie
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


@pytest.fixture(params=["m.mrc", "m.mrcs", "m.mrc.zst", "m.tif", "m.eer", "m.dm4"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, write_eer: Callable[..., None], write_dm: Callable[..., None]
) -> tuple[Path, np.ndarray]:
    """Write `MOVIE` in each format; as events for EER, with rows exchanged for DM."""
    path = tmp_path / request.param
    movie = MOVIE
    if path.suffix == ".eer":
        movie = (MOVIE > 20).astype(np.uint8)
        write_eer(path, [[(y, x, 0, 0) for y, x in np.argwhere(frame).tolist()] for frame in movie], movie.shape[1:])
    elif path.suffix == ".dm4":
        write_dm(path, movie[:, ::-1])
    else:
        plain = path.with_suffix("") if path.suffix == ".zst" else path
        write_movie(plain, movie if plain.suffix == ".tif" else movie.astype(np.uint16))
        if plain != path:
            path.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    return path, movie


def test_one_face_for_every_format(opened: tuple[Path, np.ndarray]) -> None:
    path, truth = opened
    movie = open_movie(path)
    assert (movie.shape, movie.n_frames, len(movie)) == (truth.shape, 4, 4)
    assert movie.dtype.kind == "u"
    assert (movie.n_frames_dropped, movie.exposure_used) == (0, 1.0)
    for frame, expected in zip(movie, truth, strict=True):
        assert frame.dtype == movie.dtype
        np.testing.assert_array_equal(frame, expected)
    np.testing.assert_array_equal(movie.read(), truth)
    np.testing.assert_array_equal(movie.read([-1, 0, 2, 0]), truth[[3, 0, 2, 0]])
    np.testing.assert_array_equal(read_frames(path, [1]), truth[[1]])
    with pytest.raises(IndexError):
        movie.read([4])


def test_what_an_eer_movie_drops(tmp_path: Path, write_eer: Callable[..., None]) -> None:
    write_eer(tmp_path / "m.eer", [[(i, 0, 3, 3)] for i in range(10)], (10, 4))
    movie = open_movie(tmp_path / "m.eer", EerRendering(frames_per_fraction=4, upsampling=2))
    assert movie.shape == (2, 20, 8)
    assert (movie.n_frames_dropped, movie.exposure_used) == (2, pytest.approx(0.8))
    assert np.argwhere(movie.read([1])[0]).tolist() == [[2 * i + 1, 1] for i in range(4, 8)]


@pytest.mark.parametrize("name", ["m.mrc", "m.tif", "m.eer", "m.dm4", "m.mrc.gz"])
def test_missing_movies(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        open_movie(tmp_path / name)
