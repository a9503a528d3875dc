"""Micrographs of every format that we take."""

import bz2
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitreous.errors import InputFileError
from vitreous.io.eer import EerRendering
from vitreous.io.images import ImageInfo, find_stem, probe_image, read_micrograph
from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff

RNG = np.random.default_rng(2)
GREY8 = RNG.integers(0, 255, (12, 17), dtype=np.uint8)
GREY16 = RNG.integers(0, 60000, (12, 17), dtype=np.uint16)


def test_mrc(tmp_path: Path) -> None:
    image = RNG.normal(size=(12, 17)).astype(np.float32)
    write_mrc(tmp_path / "m.mrc", image, 1.25)
    assert probe_image(tmp_path / "m.mrc") == ImageInfo(17, 12, 1, pytest.approx(1.25))
    read, pixel_size = read_micrograph(tmp_path / "m.mrc")
    np.testing.assert_array_equal(read, image)
    assert pixel_size == pytest.approx(1.25)


def test_mrc_with_one_section_and_integers(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrcs", GREY16[None], 1.25)
    read, _ = read_micrograph(tmp_path / "m.mrcs")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, GREY16)


def test_tiff_is_flipped_twice_that_is_not_at_all(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tiff", GREY16, pixel_size_angstrom=0.9)
    read, pixel_size = read_micrograph(tmp_path / "m.tiff")
    np.testing.assert_array_equal(read, GREY16)
    assert pixel_size == pytest.approx(0.9)


@pytest.mark.parametrize("image", [GREY8, GREY16], ids=["8 bit", "16 bit"])
def test_grey_png_is_kept_as_it_is(tmp_path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(tmp_path / "m.png")
    assert probe_image(tmp_path / "m.png") == ImageInfo(17, 12, 1, None)
    read, pixel_size = read_micrograph(tmp_path / "m.png")
    assert read.dtype == np.float32
    assert pixel_size is None
    np.testing.assert_array_equal(read, image)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_averaged(tmp_path: Path, mode: str) -> None:
    colours = RNG.integers(0, 255, (12, 17, len(mode)), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "m.png")
    read, _ = read_micrograph(tmp_path / "m.png")
    np.testing.assert_allclose(read, colours[..., :3].mean(axis=2), rtol=1e-6)


@pytest.mark.parametrize("mode", ["1", "LA", "P"])
def test_other_grey_pictures(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(np.where(GREY8 > 100, 255, 0).astype(np.uint8)).convert(mode)
    picture.save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "m.png")[0], np.where(GREY8 > 100, 255, 0))


def test_jpeg_is_not_flipped(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[:, None], 32, axis=1)
    Image.fromarray(ramp).save(tmp_path / "m.JPG", quality=95)
    np.testing.assert_allclose(read_micrograph(tmp_path / "m.JPG")[0], ramp, atol=3)


@pytest.mark.parametrize("pixel_size", [0.0, 1.0])
def test_pixel_sizes_that_say_nothing(tmp_path: Path, pixel_size: float) -> None:
    write_mrc(tmp_path / "m.mrc", GREY16, pixel_size)
    assert probe_image(tmp_path / "m.mrc").pixel_size_angstrom is None


@pytest.mark.parametrize("name", ["m.mrc", "m.tif", "m.png", "m.jpg"])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    image = RNG.integers(0, 255, (200, 200), dtype=np.uint8)
    path = tmp_path / name
    if path.suffix == ".mrc":
        write_mrc(path, image.astype(np.float32), 1.2)
    elif path.suffix == ".tif":
        write_tiff(path, image)
    else:
        Image.fromarray(image).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputFileError, match=r"m\.\w+: found .*; expected .*copied whole"):
        read_micrograph(path)
    if path.suffix in {".mrc", ".tif"}:
        with pytest.raises(InputFileError, match="truncated"):
            probe_image(path)


@pytest.mark.parametrize("name", ["m.mrc", "m.tif", "m.png"])
def test_missing_and_empty_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        probe_image(tmp_path / name)
    (tmp_path / name).touch()
    with pytest.raises(InputFileError, match="cannot be read"):
        probe_image(tmp_path / name)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"found a file named \.hdf; expected one of \.mrc, .*Convert it"):
        probe_image(tmp_path / "m.hdf")


def test_a_movie_is_no_micrograph(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", np.stack([GREY16, GREY16]), 1.2)
    with pytest.raises(InputFileError, match=r"found 2 frames; .*--movies"):
        read_micrograph(tmp_path / "m.mrc")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.b.mrc", "a.b"),
        ("a.mrc.bz2", "a"),
        ("a.mrcs.zst", "a"),
        ("a.b.eer", "a.b"),
        ("a.tar.gz", "a.tar"),
        ("May08_03.05.02.png", "May08_03.05.02"),
    ],
)
def test_stems(name: str, stem: str) -> None:
    assert find_stem(Path("folder") / name) == stem


def test_eer_is_probed_as_it_is_divided_by_default(tmp_path: Path, write_eer: Callable[..., None]) -> None:
    metadata = b'<metadata><item name="sensorPixelSize.width" unit="m">7.06e-11</item></metadata>'
    write_eer(tmp_path / "m.eer", [[(i % 6, 2, 0, 0)] for i in range(85)], (6, 9), metadata=metadata)
    assert probe_image(tmp_path / "m.eer") == ImageInfo(9, 6, 40, pytest.approx(0.706), pytest.approx(80 / 85))
    finer = EerRendering(frames_per_fraction=17, upsampling=2)
    assert probe_image(tmp_path / "m.eer", finer) == ImageInfo(18, 12, 5, pytest.approx(0.353), 1.0)
    with pytest.raises(InputFileError, match="found 40 frames"):
        read_micrograph(tmp_path / "m.eer")
    write_eer(tmp_path / "one.eer", [[(1, 2, 0, 0)]], (6, 9))
    image, _ = read_micrograph(tmp_path / "one.eer")
    assert np.argwhere(image).tolist() == [[1, 2]]


def test_dm4(tmp_path: Path, write_dm: Callable[..., None]) -> None:
    write_dm(tmp_path / "m.dm4", GREY16, scale=0.08)
    assert probe_image(tmp_path / "m.dm4") == ImageInfo(17, 12, 1, pytest.approx(0.8))
    np.testing.assert_array_equal(read_micrograph(tmp_path / "m.dm4")[0], GREY16[::-1])


def test_compressed_mrc(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", GREY16, 1.2)
    (tmp_path / "m.mrc.bz2").write_bytes(bz2.compress((tmp_path / "m.mrc").read_bytes()))
    np.testing.assert_array_equal(read_micrograph(tmp_path / "m.mrc.bz2")[0], GREY16)


@pytest.mark.shared_data
def test_real_files(shared_data: Path) -> None:
    apoferritin = sorted((shared_data / "apoferritin-10146" / "micrographs").glob("*.png"))[0]
    assert probe_image(apoferritin) == ImageInfo(1240, 1200, 1, None)
    assert read_micrograph(apoferritin)[0].max() > 255
    betagal = sorted((shared_data / "betagal-10017" / "micrographs").glob("*.jpg"))[0]
    assert probe_image(betagal) == ImageInfo(4096, 4096, 1, None)
    fei = shared_data / "formats" / "fei-extended.mrc.bz2"
    image, pixel_size = read_micrograph(fei)
    assert image.shape == (3838, 3710)
    assert pixel_size == pytest.approx(0.854, abs=0.001)
    assert np.isfinite(image).all()
