"""What RELION and CryoSPARC say of micrographs: `micrographs_ctf.star`, the .cs of exposures."""

from pathlib import Path

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.csparc import read_cs
from vitreous.io.metadata import describe_cs, describe_relion
from vitreous.io.naming import find_micrograph_stem
from vitreous.io.star import read_star

__all__ = ["read_micrographs"]

_CS_PATH = "micrograph_blob/path"


def read_micrographs(path: Path) -> pl.DataFrame:
    """Return `micrograph` (the stem of its name), each once, and the columns of `METADATA_SCHEMA`.

    Raises
    ------
    InputFileError
        If the file is missing or lists no micrographs with their CTF.
    """
    if path.suffix.lower() == ".cs":
        table = read_cs(path)
        if {_CS_PATH, "ctf/df1_A"} <= set(table.dtype.names or ()):
            names = pl.Series(
                "micrograph", [name.decode("utf-8", errors="replace") for name in table[_CS_PATH]], pl.String
            )
            return _tidy(names, describe_cs(table))
    else:
        blocks = read_star(path)
        for rows in blocks.values():
            if {"rlnMicrographName", "rlnDefocusU"} <= set(rows.columns):
                return _tidy(rows["rlnMicrographName"].alias("micrograph"), describe_relion(rows, blocks))
    raise InputFileError(
        path,
        found="no micrographs with a defocus",
        expected="rlnMicrographName and rlnDefocusU, or micrograph_blob/path and ctf/df1_A",
        remedy="Give RELION's micrographs_ctf.star, or the .cs of CryoSPARC's exposures with their CTF.",
    )


def _tidy(names: pl.Series, metadata: pl.DataFrame) -> pl.DataFrame:
    stems = names.map_elements(find_micrograph_stem, return_dtype=pl.String)
    return metadata.insert_column(0, stems).unique("micrograph", keep="first", maintain_order=True)
