"""The examples of the documentation work: every block is run as it stands there, or says why not.

Each page has a folder of its own with tiny simulated data in the place of the reader's. A block is left out only where the
comment `<!-- not run: reason -->` stands right before it.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitreous.engine.stages import list_stages, load_stage
from vitreous.io.movie import read_movie
from vitreous.model.tables import TABLES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SUBSTITUTIONS = {
    "'/data/session1/*.tif'": "'{data}/movies/*.tif'",
    "'/data/*.tif'": "'{data}/movies/*.tif'",
    "'/data/sums/*.png'": "'{data}/sums/*.png'",
    "/data/session1/gain.mrc": "{data}/gain.mrc",
    "/data/gain.mrc": "{data}/gain.mrc",
    "labels/": "{data}/truth/coordinates.csv",
    ".venv/bin/vitreous": "vitreous",
    "--pixel-size 0.83": "--pixel-size 4",
    "--pixel-size 1.5": "--pixel-size 4",
    "--total-dose 50": "--total-dose 24",
    "--diameter 160": "--diameter 90",
    "--diameter 108 --border 90": "--diameter 24 --border 12",
    # The end-to-end tests run the whole recipe; starting processes takes longer than these few images.
    "vitreous run myproject --workers 2": "vitreous run myproject --workers 1 --until extract",
    "vitreous run myproject --set 'curate.limits": "vitreous run myproject --until curate --set 'curate.limits",
    "vitreous run myproject": "vitreous run myproject --workers 1 --until extract",
    "relion_preprocess --i micrographs.star": "cd release/relion && relion_preprocess --i micrographs.star",
    "--extract_size 256 --norm --bg_radius 96": "--extract_size 48 --norm --bg_radius 18",
    "--height 4096": "--height 224",
}
"""What stands in for the reader's data, and for what takes long."""

PREPARED = {
    "docs/how-to/ctf.md": "myproject",
    "docs/how-to/compare.md": "myproject",
    "docs/how-to/evaluate.md": "myproject",
    "docs/how-to/export.md": "myproject",
    "docs/how-to/pick-by-hand.md": "myproject",
    "docs/how-to/select-classes.md": "myproject",
    "docs/how-to/training.md": "myproject",
    "docs/reference/tables.md": "myproject",
    "docs/tutorials/demo.md": "demo/project",
}
"""Pages that begin with a project that has been run, and what they call it."""

PROGRAMS = ("relion_preprocess",)
"""Programs of others: a block that begins with one is left out where it is not installed."""

SHOWN = {"text", "toml", "json", "csv"}
"""Languages that show something and are no commands."""

_FENCE = re.compile(r"^```(\S*)\s*$")
_NOT_RUN = re.compile(r"^<!-- not run: \S.* -->$")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    is_left_out: bool


def find_blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    blocks: list[Block] = []
    before, language, inside = "", None, []
    for line in text.splitlines():
        fence = _FENCE.match(line.strip())
        if language is None and fence:
            language, inside = fence[1], []
        elif language is not None and fence:
            blocks.append(Block(language, "\n".join(inside) + "\n", _NOT_RUN.match(before) is not None))
            language, before = None, ""
        elif language is not None:
            inside.append(line)
        elif line.strip():
            before = line.strip()
    assert language is None, "a block does not end"
    return blocks


def substitute(text: str, data: Path) -> str:
    """Put the simulated data in the place of the reader's, the longest names first."""
    for name in sorted(SUBSTITUTIONS, key=len, reverse=True):
        text = text.replace(name, SUBSTITUTIONS[name].format(data=data))
    return text


def call(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=environment)


def run_block(block: Block, folder: Path, data: Path) -> None:
    text = substitute(textwrap.dedent(block.text), data)
    interpreter = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-W", "error", "-c"]}
    done = call([*interpreter[block.language], text], folder)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def write_model(path: Path) -> None:
    """Write a shell of carbon atoms of 80 Å: quicker to simulate than a real molecule."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3000, 3))
    places = directions / np.linalg.norm(directions, axis=1, keepdims=True) * rng.uniform(20, 40, (3000, 1))
    lines = [
        f"ATOM  {i:5d}  CA  GLY A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 40.00           C"
        for i, (x, y, z) in enumerate(places, start=1)
    ]
    path.write_text("\n".join([*lines, "END", ""]), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Movies with a gain reference, finished micrographs, and labels."""
    folder = tmp_path_factory.mktemp("data")
    write_model(folder / "model.pdb")
    words = "simulate . --model model.pdb --n-movies 2 --nx-px 256 --ny-px 224 --n-frames 4 --dose-per-frame 6"
    words += " --pixel-size-angstrom 4 --particles-per-movie 15 --n-contaminants 0"
    done = call(["vitreous", *words.split()], folder)
    assert done.returncode == 0, done.stderr
    (folder / "sums").mkdir()
    for path in sorted((folder / "movies").glob("*.tif")):
        image = read_movie(path).sum(axis=0).astype("uint16")
        Image.fromarray(image).save(folder / "sums" / f"{path.stem}.png")
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A project that has been run up to the extraction of particles."""
    folder = tmp_path_factory.mktemp("prepared")
    words = f"vitreous new project --movies '{data}/movies/*.tif' --gain {data}/gain.mrc --pixel-size 4 --diameter 90 "
    words += "--total-dose 24 && vitreous run project --until extract --workers 1"
    done = call(["bash", "-euc", words], folder)
    assert done.returncode == 0, done.stderr
    return folder / "project"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_of_a_page(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    name = page.relative_to(ROOT).as_posix()
    blocks = [block for block in find_blocks(page.read_text(encoding="utf-8")) if block.language not in SHOWN]
    unknown = {block.language for block in blocks if not block.is_left_out} - {"bash", "python"}
    assert not unknown, f"{name}: blocks of {unknown} are neither run nor marked with <!-- not run: reason -->"
    to_run = [block for block in blocks if not block.is_left_out]
    if not to_run:
        return
    data: Path = request.getfixturevalue("data")
    if name in PREPARED:
        shutil.copytree(request.getfixturevalue("prepared"), tmp_path / PREPARED[name])
    missing = tuple(program for program in PROGRAMS if shutil.which(program) is None)
    for block in to_run:
        if missing and block.text.lstrip().startswith(missing):
            continue
        run_block(block, tmp_path, data)


def test_every_substitution_is_of_use() -> None:
    text = "\n".join(block.text for page in PAGES for block in find_blocks(page.read_text(encoding="utf-8")))
    assert [name for name in SUBSTITUTIONS if name not in text] == []


def test_the_reference_covers_tables_stages_commands_and_mathematics() -> None:
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "scripts" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    assert set(pages.GENERATED) <= {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}
    tables, stages, commands = pages.write_tables(), pages.write_stages(), pages.write_command_line()
    for table in TABLES.values():
        for column in table.columns:
            assert f"| `{column.name}` |" in tables.split(f"## {table.name}\n")[1].split("\n## ")[0]
    for name in list_stages():
        part = stages.split(f"## {name}\n")[1].split("\n## ")[0]
        assert all(f"| `{field}` |" in part for field in load_stage(name).params.model_fields)
        assert f"## `vitreous {name}`" in commands
    for name in ("new", "run", "status", "report", "export", "evaluate", "simulate", "demo", "formats convert"):
        assert f"## `vitreous {name}`" in commands
    modules = {path.stem for path in (ROOT / "src" / "vitreous" / "ops").glob("[a-z]*.py")}
    assert set(re.findall(r"::: vitreous\.ops\.(\w+)", pages.write_functions())) == modules


def test_a_block_is_found_with_its_mark() -> None:
    text = (
        "Words.\n\n```bash\nfalse\n```\n\n<!-- not run: it fails -->\n\n```bash\nfalse\n```\nmore\n```text\n$ x\n```\n"
    )
    assert find_blocks(text) == [
        Block("bash", "false\n", False),
        Block("bash", "false\n", True),
        Block("text", "$ x\n", False),
    ]
    assert not find_blocks("<!-- not run: -->\n```bash\nfalse\n```\n")[0].is_left_out


def test_an_example_that_fails_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no-such-command"):
        run_block(Block("bash", "no-such-command\ntrue\n", False), tmp_path, tmp_path)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_block(Block("python", "1 / 0\n", False), tmp_path, tmp_path)
