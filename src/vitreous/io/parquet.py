"""Tables on disk."""

from pathlib import Path

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement
from vitreous.model.tables import check_table

__all__ = ["read_table", "write_table"]


_FORMER = {"particles": {"ncc": "score", "ncc_calibrated": "score_calibrated"}}
"""Names that columns had in tables without their present ones: what candidates are ranked by was called a correlation."""


def write_table(path: Path, name: str, frame: pl.DataFrame) -> None:
    """Check `frame` against the named table's declaration and write it, atomically."""
    checked = check_table(name, frame)
    with open_for_replacement(path) as temporary:
        checked.write_parquet(temporary)


def read_table(path: Path, name: str) -> pl.DataFrame:
    """Read a table written by `write_table`, now or before columns were renamed.

    Raises
    ------
    InputFileError
        If the file is missing or is not that table.
    """
    try:
        frame = pl.read_parquet(path)
        former = _FORMER.get(name, {})
        if not set(former.values()) & set(frame.columns):
            frame = frame.rename(former, strict=False)
        return check_table(name, frame)
    except (OSError, pl.exceptions.PolarsError, ValueError) as error:
        raise InputFileError(
            path,
            found=f"a file that cannot be read as the table {name} ({error})",
            expected=f"the {name} table of a run",
            remedy="If it was changed by hand, delete the run's folder and run the project again.",
        ) from error
