"""Topaz's tables of coordinates: text with tabs, the micrograph named without its suffix, rows counted from the first."""

from pathlib import Path

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement

__all__ = ["is_topaz", "read_topaz", "write_topaz"]

_NAMES = {"image_name": "micrograph", "x_coord": "x_px", "y_coord": "y_px", "score": "score"}
_NEEDED = ("image_name", "x_coord", "y_coord")


def _read_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return [name.strip() for name in stream.readline().split("\t")]


def is_topaz(path: Path) -> bool:
    """Return whether a text file begins as Topaz's tables do."""
    return set(_NEEDED) <= set(_read_header(path))


def read_topaz(path: Path) -> pl.DataFrame:
    """Return `micrograph`, `x_px`, `y_px` and `score` (where the file has it), as text.

    Coordinates are those of the image that Topaz saw: of one that `topaz preprocess -s` made smaller they are to be multiplied
    by that factor, unless Topaz did so (`extract -x`).

    Raises
    ------
    InputFileError
        If the columns are missing.
    """
    header = _read_header(path)
    if not set(_NEEDED) <= set(header):
        raise InputFileError(
            path,
            found=f"columns {', '.join(header)[:60]}",
            expected=f"columns {', '.join(_NEEDED)} with tabs between them, as Topaz writes them",
            remedy="Check the path, and that the file is Topaz's table of coordinates.",
        )
    frame = pl.read_csv(path, separator="\t", infer_schema=False, quote_char=None)
    frame = frame.rename({name: name.strip() for name in frame.columns})
    return frame.select(pl.col(name).str.strip_chars().alias(ours) for name, ours in _NAMES.items() if name in header)


def write_topaz(path: Path, frame: pl.DataFrame) -> None:
    """Write `micrograph`, `x_px`, `y_px` and, where every row has one, `score`, atomically; to a hundredth of a pixel."""
    columns = {
        "image_name": pl.col("micrograph"),
        "x_coord": pl.col("x_px").round(2),
        "y_coord": pl.col("y_px").round(2),
    }
    if "score" in frame.columns and frame.height and not frame["score"].null_count():
        columns["score"] = pl.col("score")
    with open_for_replacement(path) as temporary:
        frame.select(**columns).write_csv(temporary, separator="\t", quote_style="never")
