"""The extracted images that RELION's and CryoSPARC's particle files name: which file, which place in it, how large its pixels."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["IMAGES_SCHEMA", "find_cs_images", "find_star_images"]

IMAGES_SCHEMA = pl.Schema(
    {
        "stack_path": pl.String(),
        "stack_index": pl.Int64(),
        "stack_pixel_size_angstrom": pl.Float64(),
        "is_premultiplied": pl.Boolean(),
    }
)
"""Absolute path of the stack (null: there is no such file), place from 0, Å per pixel, whether multiplied by the CTF."""

_IN_STACK = re.compile(r"^(?:(?P<place>\d+)@)?(?P<path>.+)$")


def _resolve(names: Iterable[str], beside: Path) -> dict[str, str | None]:
    """Return where files are that are named relative to the folder of a project, which is one of those around `beside`."""
    folders = list(beside.absolute().parents)
    found: dict[str, str | None] = {}
    for name in sorted(set(names)):
        for folder in folders:
            if (folder / name).is_file():
                # The others are most likely there too.
                folders.remove(folder)
                folders.insert(0, folder)
                found[name] = str(folder / name)
                break
        else:
            found[name] = None
    return found


def _tabulate(
    names: pl.Series, places: pl.Series, pixels: pl.Series, premultiplied: pl.Series, beside: Path
) -> pl.DataFrame:
    where = _resolve(names.drop_nulls().unique().to_list(), beside)
    paths = names.replace_strict(where, default=None, return_dtype=pl.String)
    columns = {
        "stack_path": paths,
        "stack_index": places,
        "stack_pixel_size_angstrom": pixels,
        "is_premultiplied": premultiplied,
    }
    return pl.DataFrame({name: columns[name].cast(dtype) for name, dtype in IMAGES_SCHEMA.items()})


def find_star_images(rows: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return the columns of `IMAGES_SCHEMA` of the particles of a STAR file.

    Parameters
    ----------
    rows
        With `rlnImageName` and, as far as they are known, `rlnImagePixelSize` and `rlnCtfDataAreCtfPremultiplied`.
    path
        The file: names are relative to its folder or to one around it, the folder that RELION was run in.
    """
    parts = rows["rlnImageName"].cast(pl.String).str.extract_groups(_IN_STACK.pattern).struct.unnest()
    places = parts["place"].cast(pl.Int64).fill_null(1) - 1
    pixels, premultiplied = (
        rows[name] if name in rows.columns else pl.repeat(None, rows.height, dtype=pl.Null, eager=True)
        for name in ("rlnImagePixelSize", "rlnCtfDataAreCtfPremultiplied")
    )
    return _tabulate(parts["path"], places, pixels, (premultiplied.cast(pl.Int64) == 1).fill_null(value=False), path)


def find_cs_images(table: NDArray[np.void], path: Path) -> pl.DataFrame:
    """Return the columns of `IMAGES_SCHEMA` of a .cs table; nulls where it names no images."""
    n, names = len(table), set(table.dtype.names or ())
    if not {"blob/path", "blob/idx", "blob/psize_A"} <= names:
        return pl.DataFrame(
            {name: pl.repeat(None, n, dtype=dtype, eager=True) for name, dtype in IMAGES_SCHEMA.items()}
        )
    # In the tables of exported groups `>` stands for the folder of the file.
    texts = [name.decode("utf-8", errors="replace").removeprefix(">") for name in table["blob/path"]]
    return _tabulate(
        pl.Series(texts, dtype=pl.String),
        pl.Series(table["blob/idx"].astype(np.int64)),
        pl.Series(np.array(table["blob/psize_A"].astype(str), np.float64)),
        pl.repeat(False, n, dtype=pl.Boolean, eager=True),
        path,
    )
