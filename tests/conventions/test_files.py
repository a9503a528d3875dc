"""Conventions of files, against the programs' own libraries: tifffile, mrcfile, Pillow, starfile."""

import subprocess
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import polars as pl
import pytest
import starfile
import tifffile
import torch
from PIL import Image

from vitreous.io.coordinates import read_coordinates, write_coordinates
from vitreous.io.images import probe_image, read_micrograph
from vitreous.io.movie import read_gain, read_movie
from vitreous.io.mrc import read_mrc_header, write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.ops.boxes import extract_boxes
from vitreous.ops.frame_reduce import reduce_frames

SHAPE = (40, 56)


def make_image(dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(5).integers(1, 200, SHAPE).astype(dtype)


def test_rows_of_mrc_stay_as_they_are_in_the_file(tmp_path: Path) -> None:
    image = make_image()
    mrcfile.write(tmp_path / "theirs.mrc", image)
    np.testing.assert_array_equal(read_micrograph(tmp_path / "theirs.mrc")[0], image)
    write_mrc(tmp_path / "ours.mrc", image, 2.0)
    after_header = (tmp_path / "ours.mrc").read_bytes()[1024:]
    np.testing.assert_array_equal(np.frombuffer(after_header, "<f4"), image.ravel())


def test_rows_of_tiff_are_flipped_on_reading(tmp_path: Path) -> None:
    movie = np.stack([make_image("uint8"), make_image("uint8") + 1])
    tifffile.imwrite(tmp_path / "m.tif", movie, photometric="minisblack", metadata=None)
    np.testing.assert_array_equal(read_movie(tmp_path / "m.tif"), np.flip(movie, axis=1))


def test_rows_of_tiff_are_flipped_on_writing(tmp_path: Path) -> None:
    image = make_image("uint8")
    write_tiff(tmp_path / "m.tif", image)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "m.tif"), np.flipud(image))


@pytest.mark.parametrize("orientation", [1, 4])
def test_the_orientation_tag_of_tiff_is_ignored(tmp_path: Path, orientation: int) -> None:
    image, tag = make_image("uint8"), (274, "H", 1, orientation, True)
    tifffile.imwrite(tmp_path / "m.tif", image, photometric="minisblack", metadata=None, extratags=[tag])
    with tifffile.TiffFile(tmp_path / "m.tif") as tiff:
        assert tiff.pages.first.tags["Orientation"].value == orientation
    np.testing.assert_array_equal(read_movie(tmp_path / "m.tif")[0], np.flipud(image))


def test_bytes_of_mrc_are_signed_unless_the_values_say_otherwise(tmp_path: Path) -> None:
    rng = np.random.default_rng(22)
    mrcfile.write(tmp_path / "m.mrc", np.zeros((64, 80), dtype=np.int8))
    header = (tmp_path / "m.mrc").read_bytes()[:1024]
    for image in (rng.normal(0, 20, (64, 80)).astype(np.int8), rng.normal(120, 15, (64, 80)).astype(np.uint8)):
        (tmp_path / "m.mrc").write_bytes(header + image.tobytes())
        np.testing.assert_array_equal(read_micrograph(tmp_path / "m.mrc")[0], image)


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_rows_of_png_stay_as_they_are_in_the_file(tmp_path: Path, mode: str) -> None:
    image = make_image("uint8" if mode == "L" else "uint16")
    Image.fromarray(image).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "m.png")[0], image)


def test_rows_of_jpeg_stay_as_they_are_in_the_file(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 200, 64).astype(np.uint8)[:, None], 48, axis=1)
    Image.fromarray(ramp).save(tmp_path / "m.jpg", quality=95)
    np.testing.assert_allclose(read_micrograph(tmp_path / "m.jpg")[0], ramp, atol=8)


def test_a_gain_in_mrc_fits_a_movie_in_tiff_without_flipping(tmp_path: Path) -> None:
    gain = make_image() / 100
    mrcfile.write(tmp_path / "gain.mrc", gain)
    # The camera's software writes the TIFF from the other side.
    raw = np.flipud(6 / gain)[None].astype(np.float32)
    tifffile.imwrite(tmp_path / "m.tif", raw, photometric="minisblack", metadata=None)
    movie, factor = read_movie(tmp_path / "m.tif"), read_gain(tmp_path / "gain.mrc")
    corrected = reduce_frames(torch.from_numpy(movie), torch.from_numpy(factor), 1)
    np.testing.assert_allclose(corrected, 6.0, rtol=1e-6)


def test_the_gain_multiplies_the_counts() -> None:
    counts, gain = make_image("uint8"), make_image() / 100
    corrected = reduce_frames(torch.from_numpy(counts)[None], torch.from_numpy(gain), 1)
    np.testing.assert_allclose(corrected[0], counts.astype(np.float64) * gain, rtol=1e-6)


def test_a_stack_of_images_is_no_volume(tmp_path: Path) -> None:
    cube = np.zeros((4, 6, 8), dtype=np.float32)
    write_mrc(tmp_path / "stack.mrcs", cube, 1.5)
    write_mrc(tmp_path / "map.mrc", cube, 1.5, volume=True)
    with mrcfile.open(tmp_path / "stack.mrcs") as stack, mrcfile.open(tmp_path / "map.mrc") as volume:
        assert (stack.is_image_stack(), stack.is_volume()) == (True, False)
        assert (volume.is_image_stack(), volume.is_volume()) == (False, True)


def test_volumes_are_indexed_z_then_y_then_x(tmp_path: Path) -> None:
    cube = np.zeros((4, 6, 8), dtype=np.float32)
    cube[1, 2, 3] = 1
    write_mrc(tmp_path / "map.mrc", cube, 1.5, volume=True)
    with mrcfile.open(tmp_path / "map.mrc") as volume:
        assert (int(volume.header.nx), int(volume.header.ny), int(volume.header.nz)) == (8, 6, 4)
        assert [int(volume.header[axis]) for axis in ("mapc", "mapr", "maps")] == [1, 2, 3]
    # The file runs along x first, then y, then z.
    values = np.frombuffer((tmp_path / "map.mrc").read_bytes()[1024:], "<f4")
    assert values.nonzero()[0].tolist() == [3 + 8 * (2 + 6 * 1)]


def test_the_pixel_size_is_the_cell_over_the_columns(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(make_image())
        mrc.voxel_size = 1.25
    with mrcfile.open(tmp_path / "m.mrc", permissive=True) as mrc:
        assert float(mrc.header.cella.x) == pytest.approx(1.25 * SHAPE[1])
    assert read_mrc_header(tmp_path / "m.mrc").pixel_size_angstrom == pytest.approx(1.25)


@pytest.mark.parametrize(("written", "expected"), [(0.0, None), (1.0, None), (1.01, 1.01)])
def test_a_pixel_size_of_zero_or_one_counts_as_unknown(tmp_path: Path, written: float, expected: float | None) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(make_image())
        mrc.voxel_size = written
    found = probe_image(tmp_path / "m.mrc").pixel_size_angstrom
    assert found == (None if expected is None else pytest.approx(expected))


def test_coordinates_of_relion_are_ours(tmp_path: Path) -> None:
    particles = pd.DataFrame({"rlnMicrographName": ["m.mrc"], "rlnCoordinateX": [30.25], "rlnCoordinateY": [61.5]})
    starfile.write({"particles": particles}, tmp_path / "m.star")
    assert read_coordinates(tmp_path / "m.star").select("micrograph", "x_px", "y_px").rows() == [("m", 30.25, 61.5)]
    write_coordinates(tmp_path / "ours.star", read_coordinates(tmp_path / "m.star"))
    again = starfile.read(tmp_path / "ours.star")
    assert (float(again["rlnCoordinateX"][0]), float(again["rlnCoordinateY"][0])) == (30.25, 61.5)


@pytest.mark.relion
def test_relion_cuts_at_our_coordinates(tmp_path: Path) -> None:
    image = np.random.default_rng(3).normal(size=(120, 90)).astype(np.float32)
    write_mrc(tmp_path / "m.mrc", image, 1.5)
    write_coordinates(
        tmp_path / "m_autopick.star",
        pl.DataFrame({"micrograph": ["m"], "x_px": [31.0], "y_px": [62.0], "score": [1.0]}),
    )
    optics = {"rlnOpticsGroupName": "a", "rlnOpticsGroup": 1, "rlnMicrographPixelSize": 1.5, "rlnVoltage": 300.0}
    optics |= {"rlnMicrographOriginalPixelSize": 1.5, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    micrographs = pd.DataFrame({"rlnMicrographName": ["m.mrc"], "rlnOpticsGroup": [1]})
    starfile.write({"optics": pd.DataFrame([optics]), "micrographs": micrographs}, tmp_path / "m.star")
    command = "relion_preprocess --i m.star --coord_dir ./ --coord_suffix _autopick.star --part_star out.star"
    words = [*command.split(), "--part_dir", "out/", "--extract", "--extract_size", "16"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [stack] = tmp_path.glob("out/**/*.mrcs")
    with mrcfile.open(stack) as theirs:
        cut = theirs.data.reshape(16, 16).copy()
    ours = extract_boxes(torch.from_numpy(image), torch.tensor([[31.0, 62.0]]), 16, 16)[0]
    np.testing.assert_allclose(ours, cut, atol=1e-4)


def test_coordinates_of_cryoppp_count_rows_from_the_other_side(tmp_path: Path) -> None:
    # A particle 61 rows from the first of 100 is 39 from the other side.
    (tmp_path / "m.csv").write_text("X-Coordinate,Y-Coordinate,Diameter\n30,39,20\n", encoding="utf-8")
    [(x, y)] = read_coordinates(tmp_path / "m.csv", y_origin="bottom", ny_px=100).select("x_px", "y_px").rows()
    image = np.zeros((100, 80), dtype=np.float32)
    image[61, 30] = 1
    assert image[round(y), round(x)] == 1
    particle = pl.DataFrame({"micrograph": ["m"], "x_px": [30.0], "y_px": [61.0]})
    write_coordinates(tmp_path / "m.star", particle, y_origin="bottom", ny_px=100)
    assert float(starfile.read(tmp_path / "m.star")["rlnCoordinateY"][0]) == 39


@pytest.mark.shared_data
def test_labels_of_published_pictures_apply_without_a_flip(shared_data: Path) -> None:
    folder = shared_data / "apoferritin-10146"
    picture = sorted((folder / "micrographs").glob("*.png"))[0]
    image = read_micrograph(picture)[0]
    labels = read_coordinates(folder / "coordinates" / f"{picture.stem}.csv").select("x_px", "y_px").to_numpy()
    inside = labels[((labels > 60) & (labels < np.array(image.shape[::-1]) - 60)).all(axis=1)]

    def measure(points: np.ndarray) -> float:
        boxes = extract_boxes(torch.from_numpy(image), torch.from_numpy(points), 96, 48).numpy()
        mean = boxes.mean(axis=0)
        y, x = np.indices(mean.shape) - 24
        radius = np.hypot(y, x) * 2 * 1.5
        return float(mean[(radius > 65)].mean() - mean[(radius > 35) & (radius < 55)].mean()) / float(image.std())

    mirrored = np.column_stack([inside[:, 0], image.shape[0] - inside[:, 1]])
    assert measure(inside) > 5 * abs(measure(mirrored))


def test_a_box_of_eman_is_its_corner_and_its_size(tmp_path: Path) -> None:
    (tmp_path / "m.box").write_text("20 51 20 20\n", encoding="utf-8")
    assert read_coordinates(tmp_path / "m.box").select("x_px", "y_px").rows() == [(30, 61)]
    write_coordinates(
        tmp_path / "o.box", pl.DataFrame({"micrograph": ["o"], "x_px": [30.0], "y_px": [61.0]}), box_px=24
    )
    assert [float(word) for word in (tmp_path / "o.box").read_text().split()] == [18, 49, 24, 24]
