"""EMAN box files."""

from pathlib import Path

import polars as pl
import pytest

from vitreous.errors import InputFileError
from vitreous.io.box import read_box, write_box


def test_corner_and_size_become_the_centre(tmp_path: Path) -> None:
    (tmp_path / "m.box").write_text("100\t200\t180\t180\t0.66\n\n10 20 30 40 -3\n1.5 2 3 4\n", encoding="utf-8")
    assert read_box(tmp_path / "m.box").rows() == [(190.0, 290.0, 0.66), (25.0, 40.0, None), (3.0, 4.0, None)]


@pytest.mark.parametrize("box_px", [180, 181])
def test_round_trip(tmp_path: Path, box_px: int) -> None:
    frame = pl.DataFrame({"x_px": [190.5, 7.0], "y_px": [290.25, 8.0], "score": [0.5, -1.5]})
    write_box(tmp_path / "m.box", frame, box_px)
    assert read_box(tmp_path / "m.box").rows() == frame.rows()


@pytest.mark.parametrize("line", ["1 2 3", "a b c d", "1 2 3 4 high"])
def test_broken_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "m.box").write_text(f"1 2 3 4\n{line}\n", encoding="utf-8")
    with pytest.raises(InputFileError, match=rf"m\.box: found '{line}' in line 2; expected lines of x, y.*correct"):
        read_box(tmp_path / "m.box")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        read_box(tmp_path / "m.box")


def test_file_without_particles(tmp_path: Path) -> None:
    (tmp_path / "m.box").touch()
    assert read_box(tmp_path / "m.box").height == 0
