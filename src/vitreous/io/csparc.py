"""CryoSPARC's .cs files: a table of named fields in NumPy's format; positions are fractions of columns and rows.

Row 0 is the micrograph's first in memory, as CryoSPARC's own programs count.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.foreign import make_read_error
from vitreous.io.metadata import describe_cs
from vitreous.io.named_images import find_cs_images

__all__ = ["make_uid", "read_cs", "read_cs_coordinates", "write_cs"]

_STREAM = b"\x94CSDAT"
_NEEDED = (
    "location/micrograph_path",
    "location/micrograph_shape",
    "location/center_x_frac",
    "location/center_y_frac",
)
_SCORE = "pick_stats/ncc_score"


def read_cs(path: Path) -> NDArray[np.void]:
    """Return the table, a structured array with a field for each column.

    Raises
    ------
    InputFileError
        If the file is missing or is no .cs file in NumPy's format.
    """
    try:
        with path.open("rb") as stream:
            is_stream = stream.read(len(_STREAM)) == _STREAM
        table: NDArray[np.void] | None = None if is_stream else np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise make_read_error(path, "CryoSPARC .cs", error) from error
    if table is None or table.dtype.names is None:
        raise InputFileError(
            path,
            found="CryoSPARC's stream format" if table is None else f"an array of {table.dtype}",
            expected="a table in NumPy's format",
            remedy="Export the group in CryoSPARC, or load and save it with cryosparc-tools in the NumPy format.",
        )
    return table


def _find_fields(path: Path, table: NDArray[np.void]) -> NDArray[np.void] | None:
    """Return the table that says where these particles are: itself, or the rows of a passthrough file beside it."""
    if set(_NEEDED) <= set(table.dtype.names or ()):
        return table
    for other in sorted(path.parent.glob("*passthrough*.cs")):
        beside = read_cs(other)
        if not {*_NEEDED, "uid"} <= set(beside.dtype.names or ()):
            continue
        order = np.argsort(beside["uid"])
        place = np.searchsorted(beside["uid"], table["uid"], sorter=order)
        rows = order[np.minimum(place, len(order) - 1)]
        if len(beside) and np.array_equal(beside["uid"][rows], table["uid"]):
            return np.asarray(beside[rows])
    return None


def read_cs_coordinates(path: Path) -> pl.DataFrame:
    """Return `micrograph` (the path that the file names), `x_px`, `y_px`, `score` (normalised correlation), metadata, images.

    Where the file leaves the positions to a passthrough file, as those of most jobs do, that is looked for beside it.

    Raises
    ------
    InputFileError
        If the file is missing, is no .cs file or has no positions.
    """
    table = read_cs(path)
    found = _find_fields(path, table)
    metadata = describe_cs(table)
    if found is None:
        raise InputFileError(
            path,
            found=f"no positions; fields {', '.join(table.dtype.names or ())[:80]}",
            expected=f"the fields {', '.join(_NEEDED)}, here or in a passthrough file beside it",
            remedy="Copy the job's passthrough_particles.cs beside it, or take the .cs of the picking or extraction job.",
        )
    shape = found["location/micrograph_shape"].astype(np.float64).reshape(len(found), 2)
    names = set(found.dtype.names or ())
    scores = found[_SCORE].astype(np.float64) if _SCORE in names else np.full(len(found), np.nan)
    return pl.DataFrame(
        {
            "micrograph": [_read_name(row) for row in found],
            "x_px": found["location/center_x_frac"].astype(np.float64) * shape[:, 1],
            "y_px": found["location/center_y_frac"].astype(np.float64) * shape[:, 0],
            "score": scores,
        },
        schema={"micrograph": pl.String, "x_px": pl.Float64, "y_px": pl.Float64, "score": pl.Float64},
    ).with_columns(
        pl.col("score").fill_nan(None),
        *(metadata if found is table else _merge(metadata, describe_cs(found))),
        *find_cs_images(table, path),
    )


def _merge(first: pl.DataFrame, second: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of the first, and those of the second where the first knows nothing."""
    return first.with_columns(second[name] for name in first.columns if first[name].null_count() == first.height)


def _read_name(row: Any) -> str:
    """Return the micrograph's path without the unique number that CryoSPARC puts before its name."""
    path: str = row["location/micrograph_path"].decode("utf-8", errors="replace")
    folder, slash, name = path.rpartition("/")
    if "location/micrograph_uid" in row.dtype.names:
        number, _, rest = name.partition("_")
        if number.isdecimal() and int(number) == int(row["location/micrograph_uid"]):
            name = rest
    return f"{folder}{slash}{name}"


def make_uid(*parts: object) -> int:
    """Return the unique number of something that these words and numbers name: the same for the same."""
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little")


def write_cs(path: Path, table: NDArray[np.void]) -> None:
    """Write a structured array as a .cs file, atomically."""
    with open_for_replacement(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, table, allow_pickle=False)
