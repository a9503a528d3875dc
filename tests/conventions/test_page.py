"""The page of conventions names every test of this folder once, and none that does not exist."""

import ast
import re
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "explanation" / "conventions.md"
ROW = re.compile(r"^\| (\d+) \| (\S.*) \| `(test_\w+)` \|$")


def read_rows() -> list[tuple[int, str, str]]:
    """Return number, statement and test of every row of the page's tables."""
    rows = [match.groups() for line in PAGE.read_text(encoding="utf-8").splitlines() if (match := ROW.match(line))]
    return [(int(number), statement, test) for number, statement, test in rows]


def list_tests() -> list[str]:
    """Return the names of the tests beside this file."""
    names = []
    for path in sorted(FOLDER.glob("test_*.py")):
        if path != Path(__file__):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            names += [node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return names


def test_every_test_has_a_statement_and_every_statement_a_test() -> None:
    named, existing = [test for _, _, test in read_rows()], list_tests()
    assert sorted(named) == sorted(existing)
    assert len(set(existing)) == len(existing) > 40


def test_statements_are_numbered() -> None:
    assert [number for number, _, _ in read_rows()] == list(range(1, len(read_rows()) + 1))


def test_every_row_of_a_table_is_a_statement() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    others = [line for line in lines if line.startswith("|") and not ROW.match(line)]
    assert set(others) == {"| | convention | test |", "|---|---|---|"}
