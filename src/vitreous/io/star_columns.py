"""Whole columns of STAR files as text and back, without a step of Python for each value."""

import re

import numpy as np
import polars as pl

__all__ = ["format_column", "format_value", "make_column", "split_rows"]

_NULL = "a STAR file has no way to say that a value is missing"
_QUOTED = r'^$|[\s\x1c-\x1f]|^[#_"]'
"""Text that would be read as something else without quotes."""

_N_DIGITS = 10
_LEAST_PLAIN, _MOST_PLAIN = 1e-4, 1e9
"""Sizes between which ten digits are written without an exponent."""

_POWERS = np.array([float(f"1e{exponent}") for exponent in range(-4, 14)])

_TIE = 1e-5
"""Distance from a tie, in units of the last digit, within which the product's rounding may decide wrongly."""

_BLANKS = bytes.maketrans(b"\t\v\f\r\x1c\x1d\x1e\x1f", b"        ")
_CHUNK = 1 << 25


def _format_number(value: float) -> str:
    return format(value, f".{_N_DIGITS}g")


def format_value(value: object) -> str:
    """Return a value as STAR files have it: numbers with 10 digits, booleans as 0 and 1, text in quotes where it needs them.

    Raises
    ------
    ValueError
        If it is None.
    """
    match value:
        case None:
            raise ValueError(_NULL)
        case bool():
            return str(int(value))
        case float():
            return _format_number(value)
        case _:
            text = str(value)
            return f'"{text}"' if re.search(_QUOTED, text) else text


def _format_numbers(values: pl.Series) -> pl.Series:
    """Return numbers as `_format_number` writes them.

    A number becomes a whole one of ten digits and the power of ten to divide it by; the quotient is the double nearest to the
    rounded number, and the shortest text of that has these digits. Where rounding is close to a tie, or the text has an
    exponent, Python decides.
    """
    exact = values.cast(pl.Float64).to_numpy()
    size = np.abs(exact)
    is_plain = (size >= _LEAST_PLAIN) & (size < _MOST_PLAIN)
    safe = np.where(is_plain, size, 1.0)
    # Exact powers, up to 1e13: the quotient below is then rounded once.
    power = _POWERS[::-1][np.searchsorted(_POWERS, safe, side="right") - 1]
    scaled = safe * power
    is_plain &= np.abs(scaled - np.floor(scaled) - 0.5) > _TIE
    rounded = np.where(is_plain, np.copysign(np.rint(scaled) / power, exact), np.where(size == 0, exact, 0.0))
    text = pl.Series(values.name, rounded).cast(pl.String).str.strip_suffix(".0")
    others = np.flatnonzero(~is_plain & (size != 0))
    return text.scatter(others, [_format_number(value) for value in exact[others].tolist()])


def format_column(values: pl.Series) -> pl.Series:
    """Return all values of a column as `format_value` does.

    Raises
    ------
    ValueError
        If one is null.
    """
    if values.null_count():
        raise ValueError(_NULL)
    if values.dtype.is_float():
        return _format_numbers(values)
    if values.dtype == pl.Boolean:
        return values.cast(pl.Int64).cast(pl.String)
    text = values.cast(pl.String)
    quoted = pl.format('"{}"', text)
    return pl.select(pl.when(text.str.contains(_QUOTED)).then(quoted).otherwise(text)).to_series().alias(values.name)


def make_column(values: pl.Series, *, is_name: bool) -> pl.Series:
    """Return text as whole numbers or numbers where all of it is that; names stay text even where they are digits."""
    if is_name:
        return values
    for dtype in (pl.Int64, pl.Float64):
        numbers = values.cast(dtype, strict=False)
        if not numbers.null_count():
            return numbers
    return values


def _tidy(rows: str) -> bytes:
    """Return rows with one space between values, none around them, and no empty rows."""
    characters = np.frombuffer(rows.strip().encode().translate(_BLANKS), np.uint8)
    # First one blank of each run of them, then none beside a newline.
    is_value = characters != ord(" ")
    is_value[1:] |= is_value[:-1]
    characters = characters[is_value]
    is_newline = characters == ord("\n")
    is_kept = np.ones(len(characters), np.bool_)
    is_kept[1:] = ~is_newline[:-1] | (characters[1:] > ord(" "))
    is_kept[:-1] &= ~is_newline[1:] | (characters[:-1] != ord(" "))
    tidied = characters[is_kept].tobytes()
    return re.sub(rb"\n{2,}", b"\n", tidied) if b"\n\n" in tidied else tidied


def split_rows(rows: str, labels: list[str]) -> pl.DataFrame | None:
    """Return the columns of rows of plain values, as text.

    None where the rows need a closer look: quotes, comments, letters beyond ASCII, or not one value for each label.
    """
    if len(labels) < 2 or '"' in rows or "#" in rows or not rows.isascii():
        return None
    parts, start = [], 0
    while start < len(rows):
        end = rows.find("\n", start + _CHUNK) + 1 or len(rows)
        parts.append(_tidy(rows[start:end]))
        start = end
    text = b"\n".join(part for part in parts if part)
    schema = dict.fromkeys(labels, pl.String)
    if not text:
        return pl.DataFrame(schema=schema)
    try:
        frame = pl.read_csv(text, has_header=False, separator=" ", quote_char=None, schema=schema, glob=False)
    except pl.exceptions.PolarsError:
        return None
    return None if any(frame.null_count().row(0)) else frame
