"""EMAN2's JSON files of a micrograph, from EMAN2's description of them."""

import json
from pathlib import Path

import polars as pl
import pytest

from vitreous.errors import InputFileError
from vitreous.io.eman import read_eman_info, write_eman_info


def test_boxes_are_centres(tmp_path: Path) -> None:
    path = tmp_path / "m_info.json"
    path.write_text('{"boxes": [[10.5, 20, "manual"], [3, 4, "auto_local", 0.9]], "quality": 5}')
    assert read_eman_info(path).rows() == [(10.5, 20.0), (3.0, 4.0)]
    path.write_text('{"boxes_rct": [[1, 2, "untilted"]]}')
    assert read_eman_info(path).rows() == [(1.0, 2.0)]
    path.write_text('{"ctf": []}')
    assert read_eman_info(path).rows() == []


def test_what_is_written(tmp_path: Path) -> None:
    write_eman_info(tmp_path / "m_info.json", pl.DataFrame({"x_px": [10.004, 7.0], "y_px": [1.0, 2.25]}))
    assert json.loads((tmp_path / "m_info.json").read_text()) == {
        "boxes": [[10.0, 1.0, "manual"], [7.0, 2.25, "manual"]]
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "a file that cannot be read"),
        ("[1]", "JSON that is no object"),
        ('{"boxes": [[1, 2], [3]]}', r"\[3\] as box 2"),
        ('{"boxes": [["a", 2]]}', "as box 1"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "m_info.json").write_text(text)
    with pytest.raises(InputFileError, match=f"found .*{found}.*; expected EMAN2's _info.json"):
        read_eman_info(tmp_path / "m_info.json")
