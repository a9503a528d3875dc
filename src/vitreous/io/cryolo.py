"""crYOLO's CBOX: a STAR file of boxes by corner and size, with the size estimated for each and a confidence."""

from pathlib import Path

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.star import read_star, write_star

__all__ = ["read_cbox", "write_cbox"]

_BLOCK = "cryolo"
_NEEDED = ("CoordinateX", "CoordinateY", "Width", "Height")
_MISSING = "<NA>"
"""How crYOLO says that a value is missing."""


def _as_numbers(label: str) -> pl.Expr:
    """Return the column as numbers; what is none stays to be refused, but for crYOLO's word for a missing value."""
    text = pl.col(label).cast(pl.String)
    return pl.when(text != _MISSING).then(text).cast(pl.Float64)


def read_cbox(path: Path) -> pl.DataFrame:
    """Return `x_px`, `y_px`, `score` (the confidence) and `diameter_px` (mean of the estimated sides), null where missing.

    Raises
    ------
    InputFileError
        If the file is missing or is no CBOX of a micrograph.
    """
    blocks = read_star(path)
    frame = blocks.get(_BLOCK, pl.DataFrame())
    absent = [label for label in _NEEDED if label not in frame.columns]
    if absent:
        raise InputFileError(
            path,
            found=f"no {absent[0]} in a block {_BLOCK}; blocks {', '.join(blocks)[:60] or 'none'}",
            expected=f"a block {_BLOCK} with {', '.join(_NEEDED)}",
            remedy="Check the path, and that crYOLO wrote the file (its folder CBOX).",
        )
    has_estimate = {"EstWidth", "EstHeight"} <= set(frame.columns)
    estimate = (_as_numbers("EstWidth") + _as_numbers("EstHeight")) / 2 if has_estimate else pl.lit(None, pl.Float64)
    return frame.select(
        x_px=_as_numbers("CoordinateX") + _as_numbers("Width") / 2,
        y_px=_as_numbers("CoordinateY") + _as_numbers("Height") / 2,
        score=_as_numbers("Confidence") if "Confidence" in frame.columns else pl.lit(None, pl.Float64),
        diameter_px=estimate,
    )


def write_cbox(path: Path, frame: pl.DataFrame, box_px: int) -> None:
    """Write the particles of one micrograph (`x_px`, `y_px`, perhaps `score` and `diameter_px`), atomically.

    A particle without a score gets the confidence 1, since crYOLO filters by it.
    """
    diameter = pl.col("diameter_px") if "diameter_px" in frame.columns else pl.lit(None, pl.Float64)
    score = pl.col("score") if "score" in frame.columns else pl.lit(None, pl.Float64)
    missing, side = pl.lit(_MISSING), pl.lit(box_px)
    boxes = frame.select(
        CoordinateX=pl.col("x_px") - box_px / 2,
        CoordinateY=pl.col("y_px") - box_px / 2,
        CoordinateZ=missing,
        Width=side,
        Height=side,
        Depth=missing,
        EstWidth=diameter.fill_null(box_px),
        EstHeight=diameter.fill_null(box_px),
        Confidence=score.fill_null(1.0),
        NumBoxes=missing,
        Angle=missing,
    )
    included = pl.DataFrame(schema={"slice_index": pl.Int64})
    write_star(path, {"global": {"cbox_format_version": "1.0"}, _BLOCK: boxes, "cryolo_include": included})
