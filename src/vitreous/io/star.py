"""STAR files as RELION 3.1 and later write them: named blocks, each a loop or a list of keys and values."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

import polars as pl

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.star_columns import format_column, format_value, make_column, split_rows

__all__ = ["read_star", "write_star"]

_VALUE = re.compile(r'"[^"]*"|\S+')
_TITLE = re.compile("data_")
_LINE = re.compile(r"[^\n]*\n?")
_WRAPPED = re.compile(r'\s*"(.*)"\s*')
"""A row that went through a table of text: in quotes as a whole, its own quotes doubled; CryoPPP has such files."""

_ROWS_AT_ONCE = 100_000


class _ParseError(Exception):
    """What is wrong, and in which line of the text."""

    def __init__(self, found: str, offset: int) -> None:
        super().__init__(found)
        self.found, self.offset = found, offset


def _split(line: str) -> list[str]:
    """Split a line into values; double quotes hold values with spaces, a # that begins a value begins a comment."""
    values = _VALUE.findall(line) if '"' in line else line.split()
    if "#" in line:
        values = values[: next((i for i, value in enumerate(values) if value.startswith("#")), len(values))]
    return [value.strip('"') for value in values] if '"' in line else values


def _parse_header(text: str, start: int, end: int) -> tuple[list[str], list[str] | None, int]:
    """Return the labels of a block, their values (None: it is a loop) and where the rows of a loop begin."""
    is_loop = False
    labels, single = list[str](), list[str]()
    for line in _LINE.finditer(text, start, end):
        if not (values := _split(line.group())):
            continue
        if values[0] == "loop_":
            is_loop = True
        elif is_loop and not values[0].startswith("_"):
            return labels, None, line.start()
        elif is_loop:
            labels.append(values[0][1:])
        elif not values[0].startswith("_") or len(values) != 2:
            raise _ParseError(f"{' '.join(values)[:60]!r} where a label and its value belong", line.start())
        else:
            labels.append(values[0][1:])
            single.append(values[1])
    return labels, None if is_loop else single, end


def _cut_last_comments(rows: str) -> str:
    """Return the rows without the comments behind them, as RELION writes one before the next block."""
    rows = rows.rstrip()
    while rows[(last := rows.rfind("\n") + 1) :].lstrip().startswith("#"):
        rows = rows[:last].rstrip()
    return rows


def _parse_rows(text: str, start: int, end: int, labels: list[str]) -> pl.DataFrame:
    rows = []
    for line in _LINE.finditer(text, start, end):
        if not (values := _split(line.group())):
            continue
        if (wrapped := _WRAPPED.fullmatch(line.group())) and '"' not in wrapped[1].replace('""', ""):
            unwrapped = _split(wrapped[1].replace('""', '"'))
            values = unwrapped if len(unwrapped) == len(labels) else values
        if len(values) != len(labels):
            raise _ParseError(f"{len(values)} values for {len(labels)} labels", line.start())
        rows.append(values)
    return pl.DataFrame(rows, schema=dict.fromkeys(labels, pl.String), orient="row")


def _parse_block(text: str, start: int, end: int) -> pl.DataFrame:
    labels, single, first_row = _parse_header(text, start, end)
    if twice := next((label for i, label in enumerate(labels) if label in labels[:i]), None):
        raise _ParseError(f"the label _{twice} twice in the block that begins", start)
    if single is not None:
        frame = pl.DataFrame([single] if single else [], schema=dict.fromkeys(labels, pl.String), orient="row")
    else:
        plain = split_rows(_cut_last_comments(text[first_row:end]), labels)
        frame = _parse_rows(text, first_row, end, labels) if plain is None else plain
    return frame.with_columns(make_column(column, is_name=column.name.endswith("Name")) for column in frame)


def _find_blocks(text: str) -> dict[str, tuple[int, int]]:
    """Return where each block begins, after its name, and ends."""
    lines = ((text.rfind("\n", 0, match.start()) + 1, match.start()) for match in _TITLE.finditer(text))
    starts = [start for start, title in lines if not text[start:title].strip()]
    for line in _LINE.finditer(text, 0, starts[0] if starts else len(text)):
        if _split(line.group()):
            raise _ParseError(f"{line.group().strip()[:60]!r} before any block", line.start())
    found: dict[str, tuple[int, int]] = {}
    for start, end in zip(starts, [*starts, len(text)][1:], strict=True):
        line_end = text.find("\n", start, end) + 1 or end
        title = _split(text[start:line_end])[0]
        if (name := title.removeprefix("data_")) in found:
            raise _ParseError(f"a second block {title}", start)
        found[name] = (line_end, end)
    return found


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
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise refuse("no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise refuse(f"a file that cannot be read ({error})") from error
    try:
        blocks = {name: _parse_block(text, start, end) for name, (start, end) in _find_blocks(text).items()}
    except _ParseError as error:
        raise refuse(f"{error.found} in line {text.count(chr(10), 0, error.offset) + 1}") from error
    if not blocks:
        raise refuse("no block")
    return blocks


def _write_loop(frame: pl.DataFrame, stream: TextIO) -> None:
    """Write a table, each line after a newline."""
    columns = pl.DataFrame([format_column(column) for column in frame])
    labels = (f"\n_{label} #{number}" for number, label in enumerate(frame.columns, start=1))
    stream.write("\nloop_" + "".join(labels))
    if frame.is_empty():
        return
    widths = columns.select(pl.all().str.len_chars().max()).row(0)
    padded = (pl.col(label).str.pad_start(width) for label, width in zip(columns.columns, widths, strict=True))
    row = pl.concat_str(list(padded), separator=" ")
    for part in columns.iter_slices(_ROWS_AT_ONCE):
        stream.write("\n" + "\n".join(part.select(row).to_series()))


def write_star(path: Path, blocks: Mapping[str, pl.DataFrame | Mapping[str, object]]) -> None:
    """Write blocks in RELION 3.1's form, atomically: a table as a loop, a mapping as keys and values.

    Numbers are written with 10 significant digits, booleans as 0 and 1.

    Raises
    ------
    ValueError
        If a value is null.
    """
    with open_for_replacement(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for name, block in blocks.items():
            stream.write(f"\n# version 30001\n\ndata_{name}\n")
            if isinstance(block, pl.DataFrame):
                _write_loop(block, stream)
            else:
                stream.writelines(f"\n_{label} {format_value(value)}" for label, value in block.items())
            stream.write("\n\n")
