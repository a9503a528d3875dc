"""Topaz's tables."""

from pathlib import Path

import polars as pl
import pytest

from vitreous.errors import InputFileError
from vitreous.io.topaz import is_topaz, read_topaz, write_topaz


def test_names_positions_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("image_name\tx_coord\ty_coord\tscore\nm 1\t10\t20\t-1.5\nm.2\t7.5\t8\t3\n")
    assert is_topaz(path)
    assert read_topaz(path).rows() == [("m 1", "10", "20", "-1.5"), ("m.2", "7.5", "8", "3")]


def test_training_tables_have_no_score(tmp_path: Path) -> None:
    frame = pl.DataFrame({"micrograph": ["m"], "x_px": [1.004], "y_px": [2.0], "score": [None]})
    write_topaz(tmp_path / "p.txt", frame)
    assert (tmp_path / "p.txt").read_text() == "image_name\tx_coord\ty_coord\nm\t1.0\t2.0\n"
    assert read_topaz(tmp_path / "p.txt").columns == ["micrograph", "x_px", "y_px"]


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("image_name,x_coord,y_coord\nm,1,2\n")
    assert not is_topaz(tmp_path / "p.txt")
    with pytest.raises(InputFileError, match=r"found columns image_name,x_coord,y_coord; expected .* with tabs"):
        read_topaz(tmp_path / "p.txt")
