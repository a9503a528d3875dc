"""STAR files as RELION 3.1 and later write them: named blocks, each a loop or a list of keys and values."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.atomic import write_text

__all__ = ["read_star", "write_star"]

_VALUE = re.compile(r'"[^"]*"|\S+')


@dataclass
class _Block:
    """A block while it is read: labels, and rows as text."""

    is_loop: bool = False
    labels: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


def _split(line: str) -> list[str]:
    """Split a line into values; double quotes hold values with spaces, a # that begins a value begins a comment."""
    values = _VALUE.findall(line) if '"' in line else line.split()
    if "#" in line:
        values = values[: next((i for i, value in enumerate(values) if value.startswith("#")), len(values))]
    return [value.strip('"') for value in values] if '"' in line else values


def _make_column(label: str, values: list[str]) -> pl.Series:
    """Return whole numbers, numbers or text; names stay text even where they are digits."""
    text = pl.Series(label, values, dtype=pl.String)
    if label.endswith("Name"):
        return text
    for dtype in (pl.Int64, pl.Float64):
        numbers = text.cast(dtype, strict=False)
        if not numbers.null_count():
            return numbers
    return text


def _add_line(block: _Block, values: list[str]) -> str | None:
    """Add the values of one line to `block`; return what is wrong with it, None where nothing is."""
    if block.is_loop and values[0].startswith("_") and not block.rows:
        block.labels.append(values[0][1:])
    elif block.is_loop:
        if len(values) != len(block.labels):
            return f"{len(values)} values for {len(block.labels)} labels"
        block.rows.append(values)
    else:
        if not values[0].startswith("_") or len(values) != 2:
            return f"{' '.join(values)[:60]!r} where a label and its value belong"
        block.labels.append(values[0][1:])
        block.rows = [[*(block.rows[0] if block.rows else []), values[1]]]
    return None


def read_star(path: Path) -> dict[str, pl.DataFrame]:
    """Read all blocks of a STAR file by name (without `data_`); columns are named as the labels, without the underscore.

    A block of keys and values becomes a table of one row. Columns hold whole numbers, numbers or text.

    Raises
    ------
    InputFileError
        If the file is missing or is not a STAR file.
    """

    def refuse(found: str) -> InputFileError:
        return InputFileError(
            path,
            found=found,
            expected="a STAR file as RELION writes it",
            remedy="Check the path and that the file is whole; correct the line or write the file again.",
        )

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise refuse("no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(f"a file that cannot be read ({error})") from error
    blocks: dict[str, _Block] = {}
    block: _Block | None = None
    for number, line in enumerate(lines, start=1):
        if not (values := _split(line)):
            continue
        if values[0].startswith("data_"):
            if (name := values[0].removeprefix("data_")) in blocks:
                raise refuse(f"a second block {values[0]} in line {number}")
            block = blocks.setdefault(name, _Block())
        elif block is None:
            raise refuse(f"{line.strip()[:60]!r} before any block in line {number}")
        elif values[0] == "loop_":
            block.is_loop = True
        elif problem := _add_line(block, values):
            raise refuse(f"{problem} in line {number}")
    if not blocks:
        raise refuse("no block")
    return {
        name: pl.DataFrame(
            [_make_column(label, [row[i] for row in block.rows]) for i, label in enumerate(block.labels)]
        )
        for name, block in blocks.items()
    }


def _format_value(value: object) -> str:
    match value:
        case None:
            raise ValueError("a STAR file has no way to say that a value is missing")
        case bool():
            return str(int(value))
        case float():
            return format(value, ".10g")
        case _:
            text = str(value)
            return f'"{text}"' if not text or any(letter.isspace() for letter in text) or text[0] in '#_"' else text


def _format_loop(frame: pl.DataFrame) -> list[str]:
    columns = [[_format_value(value) for value in column] for column in frame.iter_columns()]
    widths = [max((len(value) for value in column), default=0) for column in columns]
    labels = [f"_{label} #{number}" for number, label in enumerate(frame.columns, start=1)]
    rows = (
        " ".join(value.rjust(width) for value, width in zip(row, widths, strict=True))
        for row in zip(*columns, strict=True)
    )
    return ["loop_", *labels, *rows]


def write_star(path: Path, blocks: Mapping[str, pl.DataFrame | Mapping[str, object]]) -> None:
    """Write blocks in RELION 3.1's form, atomically: a table as a loop, a mapping as keys and values.

    Numbers are written with 10 significant digits, booleans as 0 and 1.

    Raises
    ------
    ValueError
        If a value is null.
    """
    lines = [""]
    for name, block in blocks.items():
        lines += ["# version 30001", "", f"data_{name}", ""]
        if isinstance(block, pl.DataFrame):
            lines += _format_loop(block)
        else:
            lines += [f"_{label} {_format_value(value)}" for label, value in block.items()]
        lines += ["", ""]
    write_text(path, "\n".join(lines))
