"""crYOLO's CBOX, from its published columns; starfile reads what we write."""

from pathlib import Path

import polars as pl
import pytest
import starfile

from vitreous.errors import InputFileError
from vitreous.io.cryolo import read_cbox, write_cbox

TEXT = """
data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
10.5 20 <NA> 30 40 1 22 24 0.75 <NA> <NA>
-5 0 <NA> 30 40 1 <NA> <NA> 0.25 <NA> <NA>

data_cryolo_include

loop_
_slice_index #1

"""


def test_corner_and_size_become_the_centre(tmp_path: Path) -> None:
    (tmp_path / "m.cbox").write_text(TEXT)
    assert read_cbox(tmp_path / "m.cbox").rows() == [(25.5, 40.0, 0.75, 23.0), (10.0, 20.0, 0.25, None)]


def test_round_trip(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"x_px": [100.25, 7.0], "y_px": [50.0, 8.5], "score": [0.5, None], "diameter_px": [60.0, None]}
    )
    write_cbox(tmp_path / "m.cbox", frame, 91)
    assert read_cbox(tmp_path / "m.cbox").rows() == [(100.25, 50.0, 0.5, 60.0), (7.0, 8.5, 1.0, 91.0)]
    other = starfile.read(tmp_path / "m.cbox", always_dict=True)
    assert float(other["global"]["cbox_format_version"]) == 1.0
    assert other["cryolo"]["CoordinateX"].tolist() == [54.75, -38.5]
    assert other["cryolo"]["Width"].tolist() == [91, 91]


def test_other_star_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.cbox").write_text("data_particles\nloop_\n_rlnCoordinateX #1\n1\n")
    with pytest.raises(InputFileError, match="found no CoordinateX in a block cryolo; blocks particles"):
        read_cbox(tmp_path / "m.cbox")
