"""Tables on disk."""

from pathlib import Path

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement
from vitreous.model.tables import check_table

__all__ = ["read_table", "write_table"]


def write_table(path: Path, name: str, frame: pl.DataFrame) -> None:
    """Check `frame` against the named table's declaration and write it, atomically."""
    checked = check_table(name, frame)
    with open_for_replacement(path) as temporary:
        checked.write_parquet(temporary)


def read_table(path: Path, name: str) -> pl.DataFrame:
    """Read a table written by `write_table`.

    Raises
    ------
    InputFileError
        If the file is missing or is not that table.
    """
    try:
        return check_table(name, pl.read_parquet(path))
    except (OSError, pl.exceptions.PolarsError, ValueError) as error:
        raise InputFileError(
            path,
            found=f"a file that cannot be read as the table {name} ({error})",
            expected=f"the {name} table of a run",
            remedy="If it was changed by hand, delete the run's folder and run the project again.",
        ) from error
