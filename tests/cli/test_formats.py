"""`vitreous formats` as other programs see it."""

import json
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result

from vitreous.cli.formats import formats
from vitreous.errors import UserError
from vitreous.io.mrc import write_mrc

MOVIE = np.random.default_rng(7).integers(0, 90, (3, 8, 11)).astype(np.uint8)


def call(*words: str | Path) -> Result:
    result = CliRunner().invoke(formats, [str(word) for word in words])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


def write_eer(path: Path, n_frames: int) -> None:
    """Write frames of 4x4 pixels with one event each, at (1, 1)."""
    strip = (5 | (0 << 7) | (10 << 11)).to_bytes(8, "little")
    body = bytearray(struct.pack("<2sHI", b"II", 42, 0))
    link = 4
    for _ in range(n_frames):
        place = len(body)
        body += strip
        struct.pack_into("<I", body, link, len(body))
        tags = {256: 4, 257: 4, 259: 65001, 273: place, 279: len(strip)}
        body += struct.pack("<H", len(tags)) + b"".join(struct.pack("<2H2I", tag, 4, 1, tags[tag]) for tag in tags)
        link = len(body)
        body += bytes(4)
    path.write_bytes(bytes(body))


def test_a_movie_from_tiff_to_mrc(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", MOVIE, photometric="minisblack", metadata=None, compression="lzw")
    done = call("convert", tmp_path / "m.tif", tmp_path / "o.mrcs", "--pixel-size", "0.83")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "3 frames of 11x8 pixels" in done.stderr
    with mrcfile.open(tmp_path / "o.mrcs") as mrc:
        np.testing.assert_array_equal(mrc.data, MOVIE[:, ::-1])
        assert float(mrc.voxel_size.x) == pytest.approx(0.83)


def test_raw_pixels(tmp_path: Path) -> None:
    gain = np.random.default_rng(1).uniform(0.9, 1.1, (8, 11)).astype(">f4")
    gain.tofile(tmp_path / "g.dat")
    words = ("convert", tmp_path / "g.dat", tmp_path / "g.mrc", "--shape", "8,11", "--dtype", ">f4")
    assert call(*words, "--rotate", "90", "--flip", "left-right").exit_code == 0
    with mrcfile.open(tmp_path / "g.mrc") as mrc:
        np.testing.assert_array_equal(mrc.data, gain.T)
    assert call("convert", tmp_path / "g.dat", tmp_path / "g.mrc", "--shape", "8x11").exit_code == 2


def test_eer_options(tmp_path: Path) -> None:
    write_eer(tmp_path / "m.eer", 7)
    for words, shape in (
        ((), (7, 4, 4)),
        (("--eer-fractions", "3", "--eer-upsampling", "2"), (3, 8, 8)),
        (("--eer-frames", "3"), (2, 4, 4)),
        (("--eer-dose", "1.1", "--total-dose", "3.5"), (3, 4, 4)),
    ):
        shown = json.loads(call("show", "--json", tmp_path / "m.eer", *words).stdout)
        assert (shown["n_frames"], shown["ny_px"], shown["nx_px"]) == shape
    assert call("convert", tmp_path / "m.eer", tmp_path / "o.tif", "--eer-fractions", "1").exit_code == 0
    assert np.argwhere(tifffile.imread(tmp_path / "o.tif")[::-1] == 7).tolist() == [[1, 1]]
    with pytest.raises(UserError, match="EER: give the number of fractions, their frames or their dose"):
        call("show", tmp_path / "m.eer", "--eer-fractions", "1", "--eer-frames", "2")


def test_show(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", MOVIE.astype(np.int16), 1.25)
    shown = json.loads(call("show", tmp_path / "m.mrc", "--json").stdout)
    assert shown == {
        "path": str(tmp_path / "m.mrc"),
        "format": "MRC",
        "n_frames": 3,
        "ny_px": 8,
        "nx_px": 11,
        "dtype": "int16",
        "pixel_size_angstrom": pytest.approx(1.25),
        "minimum": MOVIE.min(),
        "maximum": MOVIE.max(),
        "mean": pytest.approx(MOVIE.mean()),
        "details": {"mode": 1, "byte_order": "little-endian"},
    }
    text = call("show", tmp_path / "m.mrc").stdout
    assert "MRC, 3 frames of 11x8 pixels, int16" in text
    assert "pixel size 1.25 Å" in text


def test_coordinates_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("micrograph,x_px,y_px\nm1,10,20\nm1,30,5\n", encoding="utf-8")
    done = call("convert", tmp_path / "a.csv", tmp_path / "a.star", "--out-y-origin", "bottom", "--height", "100")
    assert done.exit_code == 0
    assert "2 coordinates in 1 micrographs" in done.stderr
    assert (tmp_path / "a.star").exists()


@pytest.mark.parametrize("command", [("show",), ("convert",)])
def test_files_that_cannot_be_read(tmp_path: Path, command: tuple[str]) -> None:
    out = [tmp_path / "o.mrc"] if command == ("convert",) else []
    with pytest.raises(UserError, match=r"m\.mrc: found no such file; expected a complete MRC file"):
        call(*command, tmp_path / "m.mrc", *out)
    with pytest.raises(UserError, match=r"found a file named \.hdf; expected one of"):
        call(*command, tmp_path / "m.hdf", *out)
