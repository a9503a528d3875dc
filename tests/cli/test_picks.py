"""`vitreous picks` on a project with micrographs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from vitreous.cli.picks import picks
from vitreous.cli.projects import new
from vitreous.engine.machine import Machine
from vitreous.engine.project import Project, create_project, open_project, read_decisions
from vitreous.engine.records import read_current_records, read_current_tables, read_status
from vitreous.engine.run import run_recipe, run_stage
from vitreous.errors import ProjectError, SettingError
from vitreous.io.coordinates import read_coordinates
from vitreous.io.mrc import write_mrc
from vitreous.model.documents import Facts
from vitreous.model.provenance import Recipe

ALONE = Machine(workers=1, threads=1)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for i in range(3):
        write_mrc(
            tmp_path / "data" / f"m{i}.mrc", np.random.default_rng(i).normal(size=(90, 120)).astype(np.float32), 2.0
        )
    facts = Facts(micrographs=str(tmp_path / "data" / "*.mrc"), pixel_size_angstrom=2.0, diameter_angstrom=40.0)
    made = create_project(tmp_path / "p", facts)
    run_recipe(made, until="motion", machine=ALONE)
    return made


def call(*words: object) -> str:
    result = CliRunner().invoke(picks, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def list_picks(project: Project, *words: object) -> list[tuple[str, float, float, str]]:
    document = json.loads(call("list", project.root, "--json", *words))
    return [(row["micrograph"], row["x_px"], row["y_px"], row["annotator"]) for row in document["picks"]]


def test_add_move_and_remove(project: Project) -> None:
    root = project.root
    call("add", root, "--who", "ada", "--micrograph", "m1", "--at", 20, 30, "--at", 70, 30.5, "--note", "easy")
    call("add", root, "--who", "bob", "--micrograph", "m0", "--at", 100, 80)
    call("move", root, "--who", "bob", "--micrograph", "m1", "--from", 21, 30, "--to", 24, 33)
    call("remove", root, "--who", "ada", "--micrograph", "m1", "--at", 70, 31)
    assert list_picks(project) == [("m0", 100, 80, "bob"), ("m1", 24, 33, "bob")]
    assert list_picks(project, "--who", "bob") == [("m0", 100, 80, "bob"), ("m1", 24, 33, "bob")]
    assert list_picks(project, "--who", "ada") == [("m1", 20, 30, "ada")]
    marks = read_decisions(project)
    assert [(mark.who, mark.verdict) for mark in marks] == [
        ("ada", "add"), ("ada", "add"), ("bob", "add"), ("bob", "move"), ("ada", "remove"),
    ]  # fmt: skip
    assert marks[0].note == "easy"
    status = read_status(project)
    assert status.annotators["ada"].model_dump() == {"n_micrographs": 1, "n_added": 2, "n_moved": 0, "n_removed": 1}
    assert status.annotators["bob"].n_micrographs == 2
    assert "24" in call("list", root) or "bob" in call("list", root)


def test_marks_reach_the_particles_and_only_the_stages_that_read_them(project: Project) -> None:
    call("add", project.root, "--who", "ada", "--micrograph", "m1", "--at", 20, 30)
    records = run_recipe(project, until="motion", machine=ALONE)
    assert [record.folder for record in records] == ["001-ingest", "002-motion"]
    first = run_stage(project, "annotate", {}, ALONE)
    call("add", project.root, "--who", "ada", "--micrograph", "m1", "--at", 60, 30)
    second = run_stage(project, "annotate", {}, ALONE)
    assert (first.outputs["particles"], second.outputs["particles"]) == (1, 2)
    assert run_recipe(project, until="motion", machine=ALONE)[-1].folder == "002-motion"
    particles = read_current_tables(project, read_current_records(project))["particles"]
    assert particles["annotator"].to_list() == ["ada", "ada"]


CBOX = "data_cryolo\n\nloop_\n_CoordinateX #1\n_CoordinateY #2\n_Width #3\n_Height #4\n_Confidence #5\n"

FILES: dict[str, Any] = {
    "p.csv": "micrograph,x_px,y_px\nm0,20,30\nm2,50,60\n",
    "p.json": '{"picks": [{"micrograph": "m0", "x_px": 20, "y_px": 30}, {"micrograph": "m2", "x_px": 50, "y_px": 60}]}',
    "p.star": "data_\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\nm0.mrc 20 30\nm2.mrc 50 60\n\n",
    "box/m0.box": "15\t25\t10\t10\n",
    "box/m2.box": "45\t55\t10\t10\n",
    "cbox/m0.cbox": f"{CBOX}15 25 10 10 1\n",
    "cbox/m2.cbox": f"{CBOX}45 55 10 10 1\n",
}


@pytest.mark.parametrize("source", ["p.csv", "p.json", "p.star", "box", "cbox"])
def test_import_of_every_format_twice_gives_each_pick_once(project: Project, tmp_path: Path, source: str) -> None:
    for name, text in FILES.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for _ in range(2):
        call("import", project.root, tmp_path / "files" / source, "--who", "ada")
    assert list_picks(project) == [("m0", 20, 30, "ada"), ("m2", 50, 60, "ada")]
    assert len(read_decisions(project)) == 4
    assert len(list((project.root / "decisions").iterdir())) == 2


def test_import_counts_rows_as_told_and_leaves_out_what_lies_nowhere(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("micrograph,x_px,y_px\nm0,20,30\nm0,500,1\nother,1,1\n")
    done = CliRunner().invoke(picks, ["import", str(project.root), str(path), "--who", "ada", "--y-origin", "bottom"])
    assert "2 of 3 picks lie in no micrograph" in done.stderr
    assert list_picks(project) == [("m0", 20, 60, "ada")]
    call("list", project.root, "--to", tmp_path / "out.csv")
    assert read_coordinates(tmp_path / "out.csv").select("x_px", "y_px").row(0) == (20, 60)


def test_what_is_refused_leaves_nothing(project: Project, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such micrograph, expected a name like m0"):
        call("add", project.root, "--micrograph", "x", "--at", 1, 1)
    with pytest.raises(SettingError, match=r"outside m0, expected 0 to 119, 0 to 89"):
        call("add", project.root, "--micrograph", "m0", "--at", 5, 5, "--at", 120, 5)
    assert read_decisions(project) == ()
    new = create_project(tmp_path / "new", Facts(micrographs=str(tmp_path / "data" / "*.mrc")))
    with pytest.raises(ProjectError, match="no micrographs to pick from"):
        call("add", new.root, "--micrograph", "m0", "--at", 1, 1)


SCRIPT = """
import sys
from pathlib import Path
from vitreous.engine.project import open_project, record_marks
project = open_project(Path(sys.argv[1]))
for i in range(100_000):
    mark = {"subject": "m0", "verdict": "add", "x_px": i % 110, "y_px": i // 110 % 80}
    record_marks(project, who="ada", run="002-motion", marks=[mark] * (1 + i % 50))
    print(i, flush=True)
"""


def test_a_killed_process_loses_nothing_that_it_had_written_down(project: Project) -> None:
    words = [sys.executable, "-c", SCRIPT, str(project.root)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        said += process.stdout.readlines()
    n = len([line for line in said if line.endswith("\n")])
    found = read_decisions(open_project(project.root))
    by_time = [len([mark for mark in found if mark.when == when]) for when in sorted({mark.when for mark in found})]
    assert len(by_time) - n in (0, 1)
    assert by_time == [1 + i % 50 for i in range(len(by_time))]


def test_a_recipe_from_picks_by_hand_waits_and_goes_on(project: Project, tmp_path: Path) -> None:
    root = tmp_path / "hand"
    words = [
        "--micrographs",
        str(tmp_path / "data" / "*.mrc"),
        "--pixel-size",
        "2",
        "--diameter",
        "40",
        "--recipe",
        "by-hand",
    ]
    with pytest.raises(SettingError, match="--ask sort: the recipe has no such stage; it is ingest"):
        CliRunner().invoke(new, [str(root), *words, "--ask", "sort"], catch_exceptions=False)
    CliRunner().invoke(new, [str(root), *words, "--ask", "select2d"], catch_exceptions=False)
    recipe = open_project(root).recipe
    assert {step.stage for step in recipe.unroll() if step.ask} == {"select2d"}
    assert recipe.loop is not None
    # Noise has no CTF to speak of: the rest of the recipe begins at the picks.
    short = Recipe(steps=(*recipe.steps[:2], recipe.steps[4], recipe.steps[5]))
    facts = Facts(micrographs=str(tmp_path / "data" / "*.mrc"), pixel_size_angstrom=2.0, diameter_angstrom=40.0)
    made = create_project(tmp_path / "short", facts, short)
    run = [sys.executable, "-c", "from vitreous.cli.main import main; main()", "run", str(made.root), "--workers", "1"]
    waits = subprocess.run(run, capture_output=True, text=True, check=False)
    assert waits.returncode == 2
    assert "waiting: annotate: waits for a person's picks in 3 micrographs, found them in 0" in waits.stderr
    assert read_status(made).waiting_for is not None
    for i in range(3):
        call("add", made.root, "--who", "ada", "--micrograph", f"m{i}", "--at", 60, 45, "--at", 2, 2)
    assert subprocess.run(run, capture_output=True, check=False).returncode == 0
    particles = read_current_tables(made, read_current_records(made))["particles"]
    assert particles["label"].to_list() == ["positive"] * 6
    assert read_status(made).waiting_for is None
