"""Tables on disk."""

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from vitreous.errors import InputFileError
from vitreous.io.parquet import read_table, write_table
from vitreous.model.tables import TABLES, complete_table

ENTRIES = pl.DataFrame({"entry_id": ["a", "b"], "symmetry": ["C1", "O"], "total_dose": [None, 40.0]})


def test_round_trip(tmp_path: Path) -> None:
    write_table(tmp_path / "entries.parquet", "entries", ENTRIES)
    read = read_table(tmp_path / "entries.parquet", "entries")
    assert_frame_equal(read, complete_table("entries", ENTRIES))
    assert read.schema == TABLES["entries"].schema


def test_writing_checks_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="entry_id must be unique"):
        write_table(tmp_path / "entries.parquet", "entries", pl.concat([ENTRIES, ENTRIES]))
    assert not list(tmp_path.iterdir())


def test_files_that_are_not_the_table(tmp_path: Path) -> None:
    path = tmp_path / "entries.parquet"
    with pytest.raises(InputFileError, match=r"entries\.parquet: found .*; expected the entries table of a run"):
        read_table(path, "entries")
    path.write_text("not parquet", encoding="utf-8")
    with pytest.raises(InputFileError, match="cannot be read as the table entries"):
        read_table(path, "entries")
    write_table(path, "entries", ENTRIES)
    with pytest.raises(InputFileError, match=r"cannot be read as the table exposures .*unknown columns"):
        read_table(path, "exposures")


def test_columns_of_former_tables_are_what_they_are_called_now(tmp_path: Path) -> None:
    now = complete_table(
        "particles",
        pl.DataFrame(
            {
                "particle_id": ["a", "b"],
                "micrograph_id": "m",
                "x_px": 1.0,
                "y_px": 2.0,
                "diameter_angstrom": 100.0,
                "picker": "blob",
                "score": [1.2, 0.3],
                "score_calibrated": [1.1, 0.2],
                "label": "positive",
            }
        ),
    )
    former = now.drop("ncc").rename({"score": "ncc", "score_calibrated": "ncc_calibrated"})
    former.write_parquet(tmp_path / "particles.parquet")
    assert_frame_equal(read_table(tmp_path / "particles.parquet", "particles"), now)
