"""What is read of a data set to judge it: little, the same every time, and nothing that is broken."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.stages.survey import choose_sample, read_survey


def write_movies(root: Path, n: int, shape: tuple[int, int, int] = (6, 16, 20)) -> list[tuple[str, Path]]:
    """Write movies of which frame f of movie m counts 10 m + f + 1 everywhere."""
    files = []
    for m in range(n):
        path = root / f"m{m}.mrcs"
        write_mrc(path, np.broadcast_to(10 * m + np.arange(shape[0])[:, None, None] + 1, shape).astype(np.int16), 1.2)
        files.append((path.name, path))
    return files


def test_all_frames_of_a_few_movies(tmp_path: Path) -> None:
    samples = choose_sample(write_movies(tmp_path, 2))
    survey = read_survey(samples, 100)
    assert survey is not None
    assert survey.movies == ("m0.mrcs", "m1.mrcs")
    assert survey.n_frames == 12
    np.testing.assert_array_equal(survey.summed, np.full((16, 20), 21 + 81))
    assert survey.mean_per_frame == pytest.approx(102 / 12)
    assert survey.zero_frames == ()


def test_some_frames_of_some_movies(tmp_path: Path) -> None:
    samples = choose_sample(write_movies(tmp_path, 25))
    assert [sample.name for sample in samples][::9] == ["m0.mrcs", "m24.mrcs"]
    assert len(samples) == 10
    survey = read_survey(samples, 20)
    assert survey is not None
    assert survey.n_frames == 20
    first_and_last = [10 * m + f + 1 for m in (int(name[1:-5]) for name in survey.movies) for f in (0, 5)]
    np.testing.assert_array_equal(survey.summed, np.full((16, 20), sum(first_and_last)))


def test_of_compressed_movies_the_first_frames_are_read(tmp_path: Path) -> None:
    ((_, path),) = write_movies(tmp_path, 1)
    packed = tmp_path / "m0.mrc.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    survey = read_survey(choose_sample([(packed.name, packed)]), 2)
    assert survey is not None
    np.testing.assert_array_equal(survey.summed, np.full((16, 20), 1 + 2))


def test_broken_and_odd_files_are_left_out(tmp_path: Path) -> None:
    files = write_movies(tmp_path, 4)
    files[0][1].write_bytes(b"no movie")
    write_mrc(files[2][1], np.ones((6, 16, 24), np.int16), 1.2)
    assert [sample.name for sample in choose_sample(files)] == ["m1.mrcs", "m3.mrcs"]


def test_one_good_movie_among_many_is_found(tmp_path: Path) -> None:
    files = write_movies(tmp_path, 14)
    for name, path in files:
        if name != "m2.mrcs":
            path.write_bytes(b"no movie")
    assert [sample.name for sample in choose_sample(files)] == ["m2.mrcs"]


def test_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "m.tif").touch()
    assert choose_sample([("m.tif", tmp_path / "m.tif")]) == []
    assert choose_sample([]) == []
    assert read_survey([], 10) is None


def test_a_movie_whose_pixels_are_damaged_does_not_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a.tif", "b.tif"):
        write_tiff(tmp_path / name, rng.integers(0, 200, (3, 64, 64)).astype(np.uint8))
    movie = np.full((3, 64, 64), 2.0, np.float32)
    movie[1, 3, 3] = np.inf
    write_mrc(tmp_path / "a.mrcs", np.full((3, 64, 64), 2, np.int16), 1.2)
    with pytest.warns(RuntimeWarning):
        write_mrc(tmp_path / "b.mrcs", movie, 1.2)
    samples = choose_sample([(name, tmp_path / name) for name in ("a.mrcs", "b.mrcs")])
    survey = read_survey(samples, 6)
    assert survey is not None
    assert survey.movies == ("a.mrcs",)
    np.testing.assert_array_equal(survey.summed, np.full((64, 64), 6))


def test_frames_without_counts_are_named(tmp_path: Path) -> None:
    movie = np.ones((5, 16, 16), np.uint8)
    movie[2] = 0
    write_tiff(tmp_path / "m.tif", movie)
    survey = read_survey(choose_sample([("m.tif", tmp_path / "m.tif")]), 10)
    assert survey is not None
    assert survey.zero_frames == ("m.tif, frame 3",)
