"""Gain references of every format, and what they mean for EER."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from vitreous.errors import InputFileError
from vitreous.io.gain import read_gain, read_gain_image
from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff

RNG = np.random.default_rng(3)


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
    write_mrc(tmp_path / "many.mrc", RNG.uniform(0.9, 1.1, (4, 10, 13)).astype(np.float32), 1.1)
    with pytest.raises(InputFileError, match="found 4 images; expected one gain reference"):
        read_gain(tmp_path / "many.mrc")


GAIN = RNG.uniform(0.8, 1.25, (10, 14)).astype(np.float32)


def test_dm4_is_flipped_as_tiff_is(tmp_path: Path, write_dm: Callable[..., None]) -> None:
    write_dm(tmp_path / "gain.dm4", GAIN)
    tifffile.imwrite(tmp_path / "gain.tif", GAIN)
    np.testing.assert_array_equal(read_gain(tmp_path / "gain.dm4"), GAIN[::-1])
    np.testing.assert_array_equal(read_gain(tmp_path / "gain.tif"), GAIN[::-1])


@pytest.mark.parametrize("movie", [None, Path("m.eer")])
def test_the_gain_of_an_eer_camera_multiplies_and_keeps_its_rows(tmp_path: Path, movie: Path | None) -> None:
    gain = GAIN.copy()
    gain[3, 4] = 0
    with tifffile.TiffWriter(tmp_path / "c.gain") as writer:
        writer.write(gain, metadata=None)
        writer.write(np.full_like(gain, 7), metadata=None)
    np.testing.assert_array_equal(read_gain(tmp_path / "c.gain", movie=movie), gain)
    np.testing.assert_array_equal(read_gain_image(tmp_path / "c.gain"), gain[None])


def test_an_mrc_gain_divides_eer_and_multiplies_all_else(tmp_path: Path) -> None:
    divisors = GAIN.copy()
    divisors[2, 5] = 0
    write_mrc(tmp_path / "gain.mrc", divisors, 1.0)
    np.testing.assert_array_equal(read_gain(tmp_path / "gain.mrc", movie=Path("m.tif")), divisors)
    factors = read_gain(tmp_path / "gain.mrc", movie=Path("m.eer"))
    assert factors[2, 5] == 0
    good = divisors != 0
    flat = factors[good].astype(np.float64) * divisors[good]
    np.testing.assert_allclose(flat, divisors[good].mean(), rtol=1e-6)


def test_a_gain_of_another_grid_corrects_the_counts_there(tmp_path: Path) -> None:
    response = RNG.uniform(0.7, 1.3, (10, 14))
    write_mrc(tmp_path / "gain.mrc", response.astype(np.float32), 1.0)
    eer = Path("m.eer")
    same = read_gain(tmp_path / "gain.mrc", movie=eer, shape=(10, 14))
    finer = read_gain(tmp_path / "gain.mrc", movie=eer, shape=(20, 28))
    np.testing.assert_array_equal(finer[1::2, ::2], same)
    np.testing.assert_array_equal(finer[::2, 1::2], same)
    coarser = read_gain(tmp_path / "gain.mrc", movie=eer, shape=(5, 7))
    # An even beam: counts follow the response, and the sum of four pixels that of four responses.
    counts = response.reshape(5, 2, 7, 2).sum(axis=(1, 3))
    np.testing.assert_allclose(counts * coarser, 4 * response.mean(), rtol=1e-5)
    other = read_gain(tmp_path / "gain.mrc", movie=eer, shape=(11, 14))
    np.testing.assert_array_equal(other, same)


def test_one_defect_of_four_makes_a_defect(tmp_path: Path) -> None:
    response = np.ones((4, 6), np.float32)
    response[2, 3] = 0
    write_mrc(tmp_path / "gain.mrc", response, 1.0)
    coarser = read_gain(tmp_path / "gain.mrc", movie=Path("m.eer"), shape=(2, 3))
    assert np.argwhere(coarser == 0).tolist() == [[1, 1]]


def test_what_is_no_gain(tmp_path: Path) -> None:
    (tmp_path / "gain.dat").write_bytes(bytes(40))
    with pytest.raises(InputFileError, match=r"pixels without a header.*vitreous formats convert gain\.dat"):
        read_gain(tmp_path / "gain.dat")
    for name in ("gain.eer", "gain.png"):
        with pytest.raises(InputFileError, match="expected a gain reference in MRC, TIFF, DM or"):
            read_gain(tmp_path / name)


@pytest.mark.relion
@pytest.mark.parametrize(("name", "upsampling"), [("c.gain", 2), ("g.mrc", 1)])
def test_agrees_with_relion(tmp_path: Path, write_eer: Callable[..., None], name: str, upsampling: int) -> None:
    gain = RNG.uniform(0.8, 1.25, (4096, 4096)).astype(np.float32)
    gain[100, 200:210] = 0
    if name == "c.gain":
        tifffile.imwrite(tmp_path / name, gain, photometric="minisblack", metadata=None)
    else:
        write_mrc(tmp_path / name, gain, 1.0)
    write_eer(tmp_path / "m.eer", [[(1, 2, 0, 0)]], (4096, 4096))
    command = ["relion_convert_to_tiff", "--i", "m.eer", "--o", "out/", "--gain", name]
    options = ["--eer_grouping", "1", "--eer_upsampling", str(upsampling)]
    subprocess.run([*command, *options], cwd=tmp_path, check=True, capture_output=True)
    theirs = read_gain(tmp_path / "out" / "gain-reference.mrc")
    ours = read_gain(tmp_path / name, movie=Path("m.eer"), shape=theirs.shape)
    assert ours.shape == (4096 * upsampling, 4096 * upsampling)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
