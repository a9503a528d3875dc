from pathlib import Path

import numpy as np
import pytest

from vitreous.errors import InputFileError
from vitreous.io.trees import read_trees, write_trees
from vitreous.ops.boosting import BoostedTrees


def test_what_is_written_is_read(tmp_path: Path) -> None:
    trees = BoostedTrees(np.array([[1]]), np.array([[0.25]]), np.array([[0.0, -1.5, 2.0]]), -0.125)
    write_trees(tmp_path / "trees.json", trees, ("a", "b"), "a test")
    found = read_trees(tmp_path / "trees.json", ("a", "b"))
    assert found.base == -0.125
    for name in ("feature", "threshold", "value"):
        assert np.array_equal(getattr(found, name), getattr(trees, name))
    with pytest.raises(InputFileError, match="trees for the features a, b"):
        read_trees(tmp_path / "trees.json", ("b", "a"))


def test_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "trees.json").write_text("{}")
    with pytest.raises(InputFileError, match="cannot be read"):
        read_trees(tmp_path / "trees.json", ("a",))
    with pytest.raises(InputFileError, match="cannot be read"):
        read_trees(tmp_path / "none.json", ("a",))
