"""Gain references of every format."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from vitreous.errors import InputFileError
from vitreous.io.gain import invert_divisors, read_gain, read_gain_image
from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.ops.gain_orientation import fit_gain

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


def test_the_gain_of_an_eer_camera_keeps_its_rows(tmp_path: Path) -> None:
    gain = GAIN.copy()
    gain[3, 4] = 0
    with tifffile.TiffWriter(tmp_path / "c.gain") as writer:
        writer.write(gain, metadata=None)
        writer.write(np.full_like(gain, 7), metadata=None)
    np.testing.assert_array_equal(read_gain(tmp_path / "c.gain"), gain)
    np.testing.assert_array_equal(read_gain_image(tmp_path / "c.gain"), gain[None])


def test_divisors_become_factors_that_average_about_one() -> None:
    divisors = GAIN.copy()
    divisors[2, 5] = 0
    factors = invert_divisors(divisors)
    assert factors[2, 5] == 0
    good = divisors != 0
    flat = factors[good].astype(np.float64) * divisors[good]
    np.testing.assert_allclose(flat, divisors[good].mean(), rtol=1e-6)


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
    ours = read_gain(tmp_path / name)
    factors = torch.from_numpy(ours if name == "c.gain" else invert_divisors(ours))
    ours = fit_gain(factors, (theirs.shape[0], theirs.shape[1])).numpy()
    assert ours.shape == (4096 * upsampling, 4096 * upsampling)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
