"""The loop of a recipe on small stages, in a real project: when it stops, what it goes on with, whom it waits for."""

from pathlib import Path

import polars as pl
import pytest

from vitreous.engine.course import measure_class_resolution
from vitreous.engine.listener import Recorder
from vitreous.engine.machine import Machine
from vitreous.engine.project import Project, create_project, open_project, record_decision
from vitreous.engine.records import read_current_records, read_current_tables, read_status
from vitreous.engine.run import run_recipe
from vitreous.errors import PersonNeededError, SettingError
from vitreous.model.documents import Facts
from vitreous.model.provenance import RECIPES, Recipe, RecipeLoop, RecipeStep
from vitreous.model.tables import complete_table

ALONE = Machine(workers=1, threads=1)
READ, SQUARE, SUM, SHARPEN = (RecipeStep(stage=f"toy_stages:{name}") for name in ("READ", "SQUARE", "SUM", "SHARPEN"))


def make_project(tmp_path: Path, recipe: Recipe) -> Project:
    (tmp_path / "p" / "input").mkdir(parents=True)
    (tmp_path / "p" / "input" / "m0.txt").write_text("3", encoding="utf-8")
    return create_project(tmp_path / "p", Facts(movies=str(tmp_path / "p" / "input" / "*.txt")), recipe)


def make_recipe(*resolutions: float, ask: bool = False, **loop: float) -> Recipe:
    sharpen = SHARPEN.model_copy(update={"params": {"resolutions": resolutions}, "ask": ask})
    steps = (READ, SQUARE, SHARPEN.model_copy(update={"params": {"resolutions": resolutions}}))
    return Recipe(steps=steps, loop=RecipeLoop.model_validate({"steps": (sharpen,), **loop}), after=(SUM,))


def read_round(project: Project) -> int:
    """Return the round that the current classes are of; 1 is before the loop."""
    return int(read_current_tables(project, read_current_records(project))["classes"]["class_id"][0])


@pytest.mark.parametrize(
    ("resolutions", "loop", "n_rounds", "taken"),
    [
        ((10, 8, 6, 5.9, 3, 2), {}, 3, 4),  # the third round is better by less than 5 %
        ((10, 8, 6, 5.9, 3, 2), {"min_improvement": 0.01}, 5, 6),
        ((10, 8, 6, 6.5, 3, 2), {}, 3, 3),  # it is worse: the second is taken
        ((10, 8, 6, 4, 3, 2), {"max_rounds": 2}, 2, 3),
        ((10, 12, 6, 4, 3, 2), {}, 1, 2),  # the classes before the loop are no choice
    ],
)
def test_when_the_loop_ends_and_what_is_taken(
    tmp_path: Path, resolutions: tuple[float, ...], loop: dict[str, float], n_rounds: int, taken: int
) -> None:
    project = make_project(tmp_path, make_recipe(*resolutions, **loop))
    recorder = Recorder()
    records = run_recipe(project, machine=ALONE, listener=recorder)
    assert [name.split("-")[1] for name in recorder.done] == ["read", "square", *["sharpen"] * (1 + n_rounds), "sum"]
    assert read_round(project) == taken
    assert len(records) == 3 + taken
    assert any(f"round {n_rounds}:" in note for note in recorder.notes)
    # The same again computes nothing and decides the same.
    again = Recorder()
    assert run_recipe(project, machine=ALONE, listener=again) == records
    assert again.done == []
    assert again.notes == recorder.notes
    assert read_round(project) == taken


def test_the_recipe_comes_back_from_disk(tmp_path: Path) -> None:
    recipe = make_recipe(3, 2, 1, ask=True, max_rounds=7)
    assert open_project(make_project(tmp_path, recipe).root).recipe.model_dump(mode="json") == recipe.model_dump(
        mode="json"
    )
    for name, known in RECIPES.items():
        project = create_project(tmp_path / name, Facts(movies=str(tmp_path / "p" / "input" / "*.txt")), known)
        assert open_project(project.root).recipe == known


def test_stop_after_a_run_in_the_loop(tmp_path: Path) -> None:
    project = make_project(tmp_path, make_recipe(10, 8, 6, 4, 2, 1))
    assert len(run_recipe(project, until="toy_stages:SHARPEN:3", machine=ALONE)) == 5
    assert read_round(project) == 3
    with pytest.raises(SettingError, match="no such run"):
        run_recipe(project, until="toy_stages:SHARPEN:7", machine=ALONE)
    assert len(run_recipe(project, machine=ALONE)) == 9


@pytest.mark.parametrize(
    ("until", "stages", "n_runs"),
    [
        ("SHARPEN:4", ["read", "square", "sharpen", "sharpen"], 5),  # the loop ends after its second round
        ("SHARPEN:6", ["read", "square", "sharpen", "sharpen"], 5),
        ("SHARPEN:3", ["read", "square", "sharpen", "sharpen", "sharpen"], 5),
        ("SUM", ["read", "square", "sharpen", "sharpen", "sum"], 6),
        ("SQUARE:2", ["read", "square", "sharpen", "sharpen", "sum", "square"], 6),  # that run is there already
    ],
)
def test_stop_where_the_loop_ends_before_the_run_asked_for(
    tmp_path: Path, until: str, stages: list[str], n_runs: int
) -> None:
    recipe = make_recipe(10, 8, 8, 4, 2, 1).model_copy(update={"after": (SUM, SQUARE, SUM)})
    project = make_project(tmp_path, recipe)
    recorder = Recorder()
    records = run_recipe(project, until=f"toy_stages:{until}", machine=ALONE, listener=recorder)
    assert [record.stage for record in records] == stages
    assert len(recorder.done) == n_runs
    notes = [note for note in recorder.notes if "not needed; stopped after the loop" in note]
    assert notes == [f"toy_stages:{until} is in a round that is not needed; stopped after the loop"] * (
        n_runs == 5 and len(stages) == 4
    )
    assert read_round(project) == (3 if until == "SHARPEN:3" else 2)


def test_it_waits_for_a_person_and_goes_on(tmp_path: Path) -> None:
    project = make_project(tmp_path, make_recipe(10, 5, 2, 1.99, ask=True))
    # Asking again leaves things as they are.
    for _ in range(2):
        with pytest.raises(PersonNeededError, match=r"waits for a decision on 002-square by a person.*run all accept"):
            run_recipe(project, machine=ALONE)
        status = read_status(project)
        assert "002-square" in str(status.waiting_for)
        assert [run.status for run in status.runs] == ["done", "done", "done", "waiting"]
    record_decision(project, who="ada", run="002-square", kind="class", subject="1", verdict="accept")
    run_recipe(project, machine=ALONE)
    status = read_status(project)
    assert status.waiting_for is None
    assert {run.status for run in status.runs} == {"done"}
    classes = read_current_tables(project, read_current_records(project))["classes"]
    assert classes["reason"][1] == "accept"


def test_asking_marks_every_run_of_a_stage() -> None:
    recipe = RECIPES["loop"].ask_before(["review", "select2d"])
    asked = [step.stage for step in recipe.unroll() if step.ask]
    assert asked == ["review", "select2d"] * 6
    assert [step.stage for step in RECIPES["by-hand"].steps][4] == "annotate"


def test_resolution_is_that_of_the_selected_classes_by_their_particles() -> None:
    rows = {
        "class_id": [1, 2, 3, 4],
        "n_particles": [30, 10, 500, 0],
        "resolution_angstrom": [8.0, 12.0, 40.0, 1.0],
        "selected": [True, True, False, True],
    }
    classes = complete_table("classes", pl.DataFrame(rows))
    assert measure_class_resolution(classes) == pytest.approx((30 * 8 + 10 * 12) / 40)
    undecided = classes.with_columns(selected=pl.lit(None, pl.Boolean))
    assert measure_class_resolution(undecided) == pytest.approx((30 * 8 + 10 * 12 + 500 * 40) / 540)
    assert measure_class_resolution(classes.with_columns(resolution_angstrom=pl.lit(None, pl.Float64))) is None
