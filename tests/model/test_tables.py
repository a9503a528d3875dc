"""The tables: what is checked, completed and refused."""

import polars as pl
import pytest

from vitreous.model.tables import TABLES, check_table, complete_table, empty_table

ENTRY = {"entry_id": ["e"], "symmetry": ["C1"]}


@pytest.mark.parametrize("name", list(TABLES))
def test_declarations(name: str) -> None:
    table = TABLES[name]
    columns = [column.name for column in table.columns]
    assert len(set(columns)) == len(columns)
    assert table.columns[0].required
    assert all(column.description for column in table.columns)
    for column in table.columns:
        for unit in ("angstrom", "deg", "px", "mm", "kv"):
            if column.name.endswith(f"_{unit}"):
                assert column.dtype in {pl.Float64, pl.Int64}


@pytest.mark.parametrize("name", list(TABLES))
def test_empty_tables_pass(name: str) -> None:
    frame = check_table(name, empty_table(name))
    assert frame.schema == TABLES[name].schema
    assert frame.height == 0


def test_completion_adds_nulls_casts_and_orders() -> None:
    frame = complete_table("entries", pl.DataFrame({"symmetry": ["D2"], "entry_id": ["e"], "diameter_angstrom": [120]}))
    assert frame.schema == TABLES["entries"].schema
    filled = {name: value for name, value in frame.row(0, named=True).items() if value is not None}
    assert filled == {"entry_id": "e", "diameter_angstrom": 120.0, "symmetry": "D2"}


def test_unknown_column() -> None:
    with pytest.raises(ValueError, match=r"table entries: unknown columns \['colour'\]; declared are \['entry_id'"):
        complete_table("entries", pl.DataFrame(ENTRY | {"colour": ["blue"]}))


def test_value_of_the_wrong_type() -> None:
    with pytest.raises(ValueError, match=r"table entries: .*wide"):
        complete_table("entries", pl.DataFrame(ENTRY | {"diameter_angstrom": ["wide"]}))


def test_null_where_a_value_is_required() -> None:
    with pytest.raises(ValueError, match="column symmetry is required, found 1 nulls"):
        check_table("entries", pl.DataFrame({"entry_id": ["e"]}))


def test_doubled_key() -> None:
    with pytest.raises(ValueError, match="entry_id must be unique, found 'e' more than once"):
        check_table("entries", pl.DataFrame({"entry_id": ["d", "e", "e"], "symmetry": ["C1"] * 3}))
