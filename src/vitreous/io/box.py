"""EMAN box files: one line per particle with the corner of its box, width, height and, from some programs, a score."""

import re
from pathlib import Path

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.atomic import write_text

__all__ = ["read_box", "write_box"]

_STATUS = re.compile(r"-\d+")
"""EMAN 1 wrote a status, such as -3, where other programs write a score."""


def read_box(path: Path) -> pl.DataFrame:
    """Return centres `x_px`, `y_px` and `score` (null where the file has none), as the file counts rows.

    Raises
    ------
    InputFileError
        If the file is missing or a line is not that of a box.
    """
    rows: list[tuple[float, float, float | None]] = []
    problem = "no such file"
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            fields = line.split()
            if not fields or fields[0].startswith("#"):
                continue
            problem = f"{line.strip()[:60]!r} in line {number}"
            x, y, width, height = (float(text) for text in fields[:4])
            has_score = len(fields) > 4 and not _STATUS.fullmatch(fields[4])
            rows.append((x + width / 2, y + height / 2, float(fields[4]) if has_score else None))
    except (OSError, ValueError) as error:
        raise InputFileError(
            path,
            found=problem,
            expected="lines of x, y, width, height and perhaps a score",
            remedy="Check the path and that it is an EMAN .box file; correct or delete the line.",
        ) from error
    return pl.DataFrame(rows, schema={"x_px": pl.Float64, "y_px": pl.Float64, "score": pl.Float64}, orient="row")


def write_box(path: Path, frame: pl.DataFrame, box_px: int) -> None:
    """Write the particles of one micrograph (`x_px`, `y_px`, perhaps `score`), atomically; corners to a hundredth of a pixel."""
    scores = frame["score"].to_list() if "score" in frame.columns else [None] * frame.height
    lines = [
        f"{x - box_px / 2:.2f}\t{y - box_px / 2:.2f}\t{box_px}\t{box_px}" + ("" if score is None else f"\t{score:.6g}")
        for x, y, score in zip(frame["x_px"], frame["y_px"], scores, strict=True)
    ]
    write_text(path, "".join(line + "\n" for line in lines))
