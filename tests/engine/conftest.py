import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitreous.engine.project import Project, create_project
from vitreous.model.documents import Facts
from vitreous.model.provenance import Recipe, RecipeStep

HERE = Path(__file__).parent
# Workers import the toy stages by name.
sys.path.insert(0, str(HERE))
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])

RECIPE = Recipe(steps=tuple(RecipeStep(stage=f"toy_stages:{name}") for name in ("READ", "SQUARE", "SUM")))


@pytest.fixture
def make_project(tmp_path: Path) -> Callable[[list[str]], Project]:
    def make(numbers: list[str]) -> Project:
        root = tmp_path / "project"
        (root / "input").mkdir(parents=True)
        for i, number in enumerate(numbers):
            (root / "input" / f"m{i:02d}.txt").write_text(number, encoding="utf-8")
        return create_project(root, Facts(movies=str(root / "input" / "*.txt"), pixel_size_angstrom=1.0), RECIPE)

    return make
