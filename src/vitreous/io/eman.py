"""EMAN2's `<micrograph>_info.json`: the centres of a micrograph's boxes beside whatever else EMAN2 knows of it."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.atomic import write_json

__all__ = ["INFO_SUFFIX", "read_eman_info", "write_eman_info"]

INFO_SUFFIX = "_info.json"

_KEYS = ("boxes", "boxes_rct")
"""Boxes of one image, and of a pair with tilt."""


def read_eman_info(path: Path) -> pl.DataFrame:
    """Return the centres `x_px`, `y_px`; none where EMAN2 has no boxes for the micrograph.

    Raises
    ------
    InputFileError
        If the file is missing or is no such JSON file.
    """
    problem = "no such file"
    try:
        problem = "a file that cannot be read"
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            problem = "JSON that is no object"
            raise TypeError(problem)
        boxes: list[Any] = next((document[key] for key in _KEYS if key in document), [])
        rows = []
        for number, box in enumerate(boxes, start=1):
            problem = f"{str(box)[:60]} as box {number}"
            rows.append((float(box[0]), float(box[1])))
    except FileNotFoundError:
        problem = "no such file"
    except (OSError, ValueError, TypeError, LookupError):
        pass
    else:
        return pl.DataFrame(rows, schema={"x_px": pl.Float64, "y_px": pl.Float64}, orient="row")
    raise InputFileError(
        path,
        found=problem,
        expected=f"EMAN2's {INFO_SUFFIX} with boxes as [x, y, how it was picked]",
        remedy="Check the path and that EMAN2 wrote the file; correct it or leave it out.",
    )


def write_eman_info(path: Path, frame: pl.DataFrame) -> None:
    """Write the centres of one micrograph (`x_px`, `y_px`), atomically; what EMAN2 kept there before is replaced."""
    boxes = [[round(x, 2), round(y, 2), "manual"] for x, y in frame.select("x_px", "y_px").iter_rows()]
    write_json(path, {"boxes": boxes})
