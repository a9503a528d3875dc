"""Columns of STAR files: the text of each value by Python's own formatting, rows by splitting line by line."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from vitreous.io.star_columns import format_column, format_value, make_column, split_rows


def check_numbers(values: np.ndarray) -> None:
    assert format_column(pl.Series("x", values)).to_list() == [format(float(value), ".10g") for value in values]


@given(st.lists(st.floats() | st.floats(1e-5, 1e11) | st.integers(-(10**11), 10**11).map(float), max_size=40))
@settings(deadline=None)
def test_any_numbers(values: list[float]) -> None:
    check_numbers(np.array(values, np.float64))


def test_numbers_that_rounding_decides() -> None:
    """Ties of the tenth digit, carries into another digit, single precision, and both ends of plain notation."""
    rng = np.random.default_rng(0)
    check_numbers((2 * rng.integers(0, 10**10, 5000) + 1) / 2 / 10.0 ** rng.integers(0, 13, 5000))
    check_numbers(10.0 ** rng.uniform(-8, 14, 5000) * rng.choice([-1, 1], 5000))
    check_numbers(rng.normal(0, 100, 5000).astype(np.float32))
    edges = [
        1e-4,
        1e9,
        1e10,
        9.99999999995,
        999999999.95,
        9999999999.5,
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        0.1,
        5e-324,
    ]
    check_numbers(np.array([f for edge in edges for f in (edge, np.nextafter(edge, 0), np.nextafter(edge, np.inf))]))


@pytest.mark.parametrize("value", ["", "a b", "#a", "_a", '"a', "a\x1cb", "a\u00a0b", "é", "a#b", "a_b", 'a"b', "12"])
def test_text_is_quoted_as_one_value_is(value: str) -> None:
    assert format_column(pl.Series([value])).to_list() == [format_value(value)]
    assert (format_value(value)[0] == '"') == (not value or value[0] in '#_"' or len(value.split()) > 1)


def test_whole_numbers_and_booleans() -> None:
    assert format_column(pl.Series([1, -22])).to_list() == [format_value(value) for value in (1, -22)]
    assert format_column(pl.Series([True, False])).to_list() == [format_value(value) for value in (True, False)]
    with pytest.raises(ValueError, match="missing"):
        format_column(pl.Series([1.0, None]))


BLANKS = st.text(" \t", min_size=1, max_size=3)
TOKENS = st.text("abc123.@/-", min_size=1, max_size=8)


@given(
    st.lists(st.tuples(BLANKS, TOKENS, BLANKS, TOKENS, BLANKS, st.sampled_from(["\n", "\n\n", " \n \n"])), max_size=20)
)
@settings(deadline=None)
def test_rows_with_any_blanks(lines: list[tuple[str, ...]]) -> None:
    text = "".join("".join(line) for line in lines)
    found = split_rows(text, ["a", "b"])
    assert found is not None
    assert found.rows() == [tuple(line.split()) for line in text.splitlines() if line.split()]


def test_rows_in_many_parts() -> None:
    """Longer than what is tidied at once."""
    n = 200_000
    text = "".join(f"  {i:8d}   {'x' * 160} \n" for i in range(n))
    found = split_rows(text, ["a", "b"])
    assert found is not None
    assert make_column(found["a"], is_name=False).to_list() == list(range(n))
    assert (found["b"] == "x" * 160).all()


@pytest.mark.parametrize("rows", ["1 2\n3\n4 5 6", "1 2\n3", "1 2 3", '1 "2 3"', "1 2 # no", "1 é"])
def test_rows_that_need_a_closer_look(rows: str) -> None:
    assert split_rows(rows, ["a", "b"]) is None


def test_types() -> None:
    frame = pl.DataFrame({"a": ["1", "-2"], "b": ["1", "2.5"], "c": ["1", "x"]})
    expected = pl.DataFrame({"a": [1, -2], "b": [1.0, 2.5], "c": ["1", "x"]})
    assert_frame_equal(frame.with_columns(make_column(column, is_name=False) for column in frame), expected)
    assert make_column(frame["a"], is_name=True).to_list() == ["1", "-2"]
