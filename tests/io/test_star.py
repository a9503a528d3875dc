"""STAR files: our own, RELION's, and what starfile makes of ours."""

from pathlib import Path

import polars as pl
import pytest
import starfile
from polars.testing import assert_frame_equal

from vitreous.errors import InputFileError
from vitreous.io.star import read_star, write_star

OPTICS = pl.DataFrame({"rlnOpticsGroup": [1], "rlnOpticsGroupName": ["1"], "rlnVoltage": [300.0]})
PARTICLES = pl.DataFrame(
    {
        "rlnImageName": ["000001@a b.mrcs", "000002@a b.mrcs", "000003@c.mrcs"],
        "rlnCoordinateX": [1.5, 2e-7, 1234567.125],
        "rlnClassNumber": [1, 22, -3],
    }
)


def test_round_trip(tmp_path: Path) -> None:
    general = {"rlnImageSizeX": 4096, "rlnMicrographMovieName": "movies/my movie.tif", "rlnVoltage": 300.0}
    write_star(tmp_path / "a.star", {"optics": OPTICS, "particles": PARTICLES, "general": general})
    blocks = read_star(tmp_path / "a.star")
    assert list(blocks) == ["optics", "particles", "general"]
    assert_frame_equal(blocks["particles"], PARTICLES)
    assert blocks["optics"]["rlnOpticsGroupName"].to_list() == ["1"]
    assert blocks["general"].to_dicts() == [general]


def test_starfile_reads_what_we_write(tmp_path: Path) -> None:
    write_star(tmp_path / "a.star", {"optics": OPTICS, "particles": PARTICLES, "general": {"rlnImageSizeX": 4096}})
    blocks = starfile.read(tmp_path / "a.star", always_dict=True)
    assert blocks["particles"]["rlnImageName"].to_list() == PARTICLES["rlnImageName"].to_list()
    assert blocks["particles"]["rlnCoordinateX"].to_list() == PARTICLES["rlnCoordinateX"].to_list()
    assert blocks["general"] == {"rlnImageSizeX": 4096}


def test_an_empty_loop(tmp_path: Path) -> None:
    write_star(tmp_path / "a.star", {"particles": PARTICLES.clear()})
    frame = read_star(tmp_path / "a.star")["particles"]
    assert frame.columns == PARTICLES.columns
    assert frame.height == 0


def test_comments_quotes_and_blanks(tmp_path: Path) -> None:
    text = (
        "# made by hand\n\ndata_\n\nloop_ \n_rlnMicrographName #1 \n_rlnCoordinateX #2\n"
        '"a b.mrc" 1 # first\n\nc#d.mrc\t2.5\n  \ndata_other\n_rlnPixelSize  1.5 # Å\n'
    )
    (tmp_path / "a.star").write_text(text, encoding="utf-8")
    blocks = read_star(tmp_path / "a.star")
    assert blocks[""].to_dict(as_series=False) == {
        "rlnMicrographName": ["a b.mrc", "c#d.mrc"],
        "rlnCoordinateX": [1.0, 2.5],
    }
    assert blocks["other"].to_dicts() == [{"rlnPixelSize": 1.5}]


def test_comments_of_relion_before_the_next_block(tmp_path: Path) -> None:
    rows = "".join(f"  {i} m{i}.mrc \n" for i in range(5))
    text = f"\n# version 30001\n\ndata_a\n\nloop_\n_x #1\n_rlnMicrographName #2\n{rows} \n# version 30001\n# x\n\ndata_b\n_y 1\n"
    (tmp_path / "a.star").write_text(text, encoding="utf-8")
    blocks = read_star(tmp_path / "a.star")
    assert blocks["a"].rows() == [(i, f"m{i}.mrc") for i in range(5)]
    assert blocks["b"].rows() == [(1,)]


def test_null_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing"):
        write_star(tmp_path / "a.star", {"p": pl.DataFrame({"rlnCoordinateX": [1.0, None]})})
    assert not (tmp_path / "a.star").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("data_a\nloop_\n_x #1\n_y #2\n1 2\n3\n", "1 values for 2 labels in line 6"),
        ("_x 1\n", "before any block in line 1"),
        ("data_a\n_x\n", "where a label and its value belong in line 2"),
        ("data_a\n_x 1\n\ndata_a\n", "a second block data_a in line 4"),
        ("data_a\nloop_\n_x #1\n_x #2\n1 2\n", "the label _x twice in the block that begins in line 2"),
        ("", "no block"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "a.star").write_text(text, encoding="utf-8")
    with pytest.raises(InputFileError, match=rf"a\.star: found .*{found}; expected a STAR file.*correct the line"):
        read_star(tmp_path / "a.star")


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        read_star(tmp_path / "a.star")
    (tmp_path / "a.star").write_bytes(b"\xff\xfe\x00data")
    with pytest.raises(InputFileError, match="cannot be read"):
        read_star(tmp_path / "a.star")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name", ["aspyre_starfile", "ctf_params", "relion31", "rln_proj_64", "sample_data_model", "sample_relion_data"]
)
def test_real_files_read_as_starfile_reads_them(shared_data: Path, name: str) -> None:
    path = shared_data / "formats" / f"{name}.star"
    blocks = read_star(path)
    expected = starfile.read(path, always_dict=True)
    assert list(blocks) == list(expected)
    for block, truth in expected.items():
        rows = [truth] if isinstance(truth, dict) else truth.to_dict("records")
        assert blocks[block].to_dicts() == [pytest.approx(row) if name != "ctf_params" else row for row in rows]
