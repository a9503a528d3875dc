"""Run stages: the same way for every stage, resumable at any instant.

A run is done when its `run.json` is there, which is written last. An item is done when its rows are renamed into place and
the ledger says so. The run with the same key is never computed twice.
"""

import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from vitreous import __version__
from vitreous.engine.course import find_step, follow_recipe, measure_class_resolution
from vitreous.engine.executors import Crew, open_crew
from vitreous.engine.ledger import Ledger, open_ledger
from vitreous.engine.listener import Listener, Silence
from vitreous.engine.machine import Machine, limit_threads, measure_peak_memory, reset_peak_memory
from vitreous.engine.plan import Plan, make_plan, read_inputs
from vitreous.engine.project import Project
from vitreous.engine.records import read_current_records, read_done_records
from vitreous.engine.work import ItemTask, locate_item, read_item_rows
from vitreous.errors import PersonNeededError, SettingError, StageError, UserError, VitreousError
from vitreous.io.atomic import write_text
from vitreous.io.parquet import read_table, write_table
from vitreous.model.provenance import FailedItem, ItemOutcome, RecipeStep, RunRecord
from vitreous.model.stage import Context, DatasetStage, Inputs, ItemStage, RunFolder, Saved
from vitreous.model.tables import empty_table

__all__ = ["run_recipe", "run_stage"]


@dataclass(frozen=True)
class _Desk:
    """What the driver has at hand while it runs a project."""

    project: Project
    ledger: Ledger
    crew: Crew
    machine: Machine
    listener: Listener


@dataclass(frozen=True)
class _Work:
    """What a run gave, before it is written down."""

    saved: Saved
    outcomes: tuple[ItemOutcome, ...] = ()


def run_stage(
    project: Project,
    stage: str,
    values: Mapping[str, object],
    machine: Machine | None = None,
    listener: Listener | None = None,
) -> RunRecord:
    """Run one stage on the project's current tables, and return its record; nothing is done where it was done before.

    Raises
    ------
    UserError
        If the user can mend what is wrong.
    StageError
        If the stage fails as a whole.
    """
    machine = machine or Machine()
    with open_ledger(project.root) as ledger, open_crew(machine, at_once=_has_new(project, [stage])) as crew:
        desk = _Desk(project, ledger, crew, machine, listener or Silence())
        return _run(desk, make_plan(project, stage, values, read_current_records(project, ledger)))


def run_recipe(
    project: Project,
    until: str | None = None,
    overrides: Sequence[tuple[str, str, object]] = (),
    machine: Machine | None = None,
    listener: Listener | None = None,
) -> list[RunRecord]:
    """Run the project's recipe and return the records of its runs, those of rounds that were not taken left out.

    Parameters
    ----------
    project
        The project.
    until
        Stop after the first run of this stage; after its second with `stage:2`, and so on.
    overrides
        `(stage, parameter, value)`, for every run of that stage.
    machine
        Where and how wide to run.
    listener
        Is told what happens.

    Raises
    ------
    PersonNeededError
        If a step waits for what a person has to decide.
    UserError
        If the user can mend what is wrong.
    StageError
        If a stage fails as a whole.
    """
    machine = machine or Machine()
    names = [step.stage for step in project.recipe.unroll()]
    last = None if until is None else _parse_until(until, names)
    for stage, param, _ in overrides:
        if stage not in names:
            raise SettingError(
                f"--set {stage}.{param}: the recipe has no stage {stage!r}; it is {', '.join(dict.fromkeys(names))}"
            )
    with open_ledger(project.root) as ledger, open_crew(machine, at_once=_has_new(project, names, last)) as crew:
        desk = _Desk(project, ledger, crew, machine, listener or Silence())

        def run_step(step: RecipeStep, records: Sequence[RunRecord]) -> RunRecord:
            changes = {param: value for stage, param, value in overrides if stage == step.stage}
            return _run(desk, make_plan(project, step.stage, {**step.params, **changes}, records), ask=step.ask)

        return follow_recipe(project.recipe, last, run_step, _Backstage(desk))


@dataclass(frozen=True)
class _Backstage:
    """What the loop of a recipe needs beside running steps."""

    desk: _Desk

    def measure(self, record: RunRecord) -> float | None:
        """Return the resolution of the classes that a run made, None where it made none."""
        if "classes" not in record.outputs:
            return None
        return measure_class_resolution(
            read_table(self.desk.project.runs / record.folder / "classes.parquet", "classes")
        )

    def note(self, text: str) -> None:
        """Say it."""
        self.desk.listener.note(text)

    def return_to(self, records: Sequence[RunRecord]) -> None:
        """Make the tables of these runs the current ones again."""
        for record in records:
            self.desk.ledger.append_history(record.folder)


def _parse_until(until: str, names: Sequence[str]) -> tuple[str, int]:
    """Return the stage after which to stop, and after which of its runs."""
    name, _, which = (until, "", "") if until in names else until.rpartition(":")
    if which not in {str(i + 1) for i in range(names.count(name))} | ({""} if name in names else set()):
        raise SettingError(f"--until {until}: the recipe has no such run; it is {', '.join(names)}")
    return name, int(which or 1)


def _has_new(project: Project, names: Sequence[str], last: tuple[str, int] | None = None) -> bool:
    """Return whether the project has no run yet of one of these stages, up to the last one."""
    if last is not None:
        names = names[: find_step(names, last) + 1]
    return not {record.stage for record in read_done_records(project.root)}.issuperset(names)


def _check_decided(plan: Plan) -> None:
    """Refuse to go on before a person has decided on what the plan reads first."""
    asked = plan.inputs[plan.stage.needs[0]].folder
    decided = any(
        decision.kind == "mark" if plan.stage.reads_marks else decision.run == asked for decision in plan.decisions
    )
    if not decided:
        what = "picks" if plan.stage.reads_marks else f"a decision on {asked}"
        how = (
            "`vitreous picks`" if plan.stage.reads_marks else f"`vitreous decide PROJECT {asked} KIND SUBJECT VERDICT`"
        )
        raise PersonNeededError(
            f"{plan.stage.name}: waits for {what} by a person. Decide with {how}, or take what is proposed with `vitreous decide "
            f"PROJECT {asked} run all accept`; then run the project again."
        )


def _run(desk: _Desk, plan: Plan, *, ask: bool = False) -> RunRecord:
    if ask:
        try:
            _check_decided(plan)
        except PersonNeededError as error:
            folder = _choose_folder(desk, plan)
            desk.ledger.begin_run(folder, plan.stage.name, "")
            desk.ledger.end_run(folder, "waiting", str(error))
            raise
    done = {record.key: record for record in read_done_records(desk.project.root)}
    record = done.get(plan.key)
    if reused := record is not None:
        assert record is not None
    else:
        folder = _choose_folder(desk, plan)
        desk.ledger.begin_run(folder, plan.stage.name, plan.key)
        try:
            record = _compute(desk, plan, folder)
        except PersonNeededError as error:
            desk.ledger.end_run(folder, "waiting", str(error))
            raise
        except Exception as error:
            desk.ledger.end_run(folder, "failed", str(error))
            if isinstance(error, VitreousError | OSError):
                raise
            raise StageError(f"stage {plan.stage.name} ({folder}): {type(error).__name__}: {error}") from error
        desk.ledger.end_run(folder, "done")
        shutil.rmtree(desk.project.runs / folder / "items", ignore_errors=True)
    desk.ledger.append_history(record.folder)
    desk.listener.end(record, reused=reused)
    return record


def _choose_folder(desk: _Desk, plan: Plan) -> str:
    """Return the folder of the unfinished run with this key, that of one of this stage that only waited, or a new one."""
    begun = desk.ledger.read_runs()
    done = {record.folder for record in read_done_records(desk.project.root)}
    for row in begun:
        if row.key == plan.key and row.folder not in done and (desk.project.runs / row.folder).is_dir():
            return row.folder
        if row.status == "waiting" and row.stage == plan.stage.name:
            return row.folder
    names = [row.folder for row in begun] + [path.name for path in desk.project.runs.glob("[0-9]*-*")]
    number = max((int(name.split("-")[0]) for name in names), default=0) + 1
    return f"{number:03d}-{plan.stage.name}"


def _compute(desk: _Desk, plan: Plan, folder: str) -> RunRecord:
    started, clock, cpu = datetime.now(UTC), time.perf_counter(), time.process_time()
    inputs = read_inputs(desk.project, plan)
    run = desk.project.runs / folder
    write_text(run / "params.json", plan.params.model_dump_json(indent=1) + "\n")
    if isinstance(plan.stage, ItemStage):
        work = _map_items(desk, plan, plan.stage, inputs, folder)
    else:
        work = _work_on_dataset(desk, plan, plan.stage, inputs, folder)
    for name in plan.stage.makes:
        write_table(run / f"{name}.parquet", name, work.saved.tables[name])
    in_workers = desk.machine.workers > 1 or desk.machine.scheduler is not None
    record = RunRecord(
        folder=folder,
        stage=plan.stage.name,
        stage_version=plan.stage.version,
        vitreous_version=__version__,
        key=plan.key,
        params=plan.params.model_dump(mode="json"),
        changed_params=plan.changed_params,
        inputs={name: record.folder for name, record in plan.inputs.items()},
        outputs={name: work.saved.tables[name].height for name in plan.stage.makes},
        rows_in={name: frame.height for name, frame in inputs.tables.items()},
        started=started,
        finished=datetime.now(UTC),
        seconds=time.perf_counter() - clock,
        cpu_seconds=time.process_time() - cpu + in_workers * sum(outcome.cpu_seconds for outcome in work.outcomes),
        peak_memory_bytes=max((outcome.peak_memory_bytes for outcome in work.outcomes), default=measure_peak_memory()),
        n_items=len(work.outcomes),
        n_done=sum(outcome.done for outcome in work.outcomes),
        failed=tuple(
            FailedItem(item_id=outcome.item_id, message=outcome.message)
            for outcome in work.outcomes
            if not outcome.done
        ),
        warnings=tuple(dict.fromkeys(work.saved.warnings)),
        host=platform.node(),
        device=desk.machine.device,
    )
    write_text(run / "run.json", record.model_dump_json(indent=1) + "\n")
    return record


def _work_on_dataset(desk: _Desk, plan: Plan, stage: DatasetStage[Any, Any, Any], inputs: Inputs, folder: str) -> _Work:
    root = desk.project.root
    desk.listener.begin(folder, stage.name, None)
    limit_threads(desk.machine.threads)
    reset_peak_memory()
    loaded = stage.load(inputs, plan.params, Context(root, desk.machine.device))
    result = stage.compute(loaded, plan.params, desk.listener.progress)
    return _Work(stage.save(result, inputs, plan.params, RunFolder(root, root / "runs" / folder)))


def _map_items(desk: _Desk, plan: Plan, stage: ItemStage[Any, Any, Any, Any], inputs: Inputs, folder: str) -> _Work:
    root, run = desk.project.root, desk.project.runs / folder
    limit_threads(desk.machine.threads)
    items = stage.plan(inputs, plan.params, Context(root, desk.machine.device))
    ids = [item.item_id for item in items]
    if not ids:
        raise StageError(f"stage {stage.name}: there is nothing left to work on")
    if len(set(ids)) != len(ids):
        raise StageError(f"stage {stage.name}: two items have the same identifier {max(ids, key=ids.count)!r}")
    outcomes = {
        item_id: outcome
        for item_id, outcome in desk.ledger.read_items(folder).items()
        if item_id in set(ids) and outcome.done and _has_rows(run, item_id, stage)
    }
    desk.ledger.set_item_count(folder, len(ids))
    waiting = [item for item in items if item.item_id not in outcomes]
    tasks = [
        ItemTask(
            stage=plan.spec,
            item_json=item.model_dump_json(),
            params_json=plan.params.model_dump_json(),
            root=root,
            folder=folder,
            device=desk.machine.device,
        )
        for item in waiting
    ]
    desk.listener.begin(folder, stage.name, len(waiting))
    for outcome in desk.crew.run([item.item_id for item in waiting], tasks):
        desk.ledger.record_item(folder, outcome)
        outcomes[outcome.item_id] = outcome
        desk.listener.advance(outcome)
    ordered = tuple(outcomes[item_id] for item_id in ids)
    _check_failures(stage, folder, ordered)
    done = [outcome for outcome in ordered if outcome.done]
    tables = {
        name: pl.concat([empty_table(name), *(read_item_rows(run, outcome.item_id, name) for outcome in done)])
        for name in stage.makes
    }
    warnings = tuple(warning for outcome in done for warning in outcome.warnings)
    return _Work(stage.collect(inputs, Saved(tables, warnings), plan.params), ordered)


def _has_rows(run: Path, item_id: str, stage: ItemStage[Any, Any, Any, Any]) -> bool:
    return all((locate_item(run, item_id) / f"{name}.parquet").is_file() for name in stage.makes)


def _check_failures(stage: ItemStage[Any, Any, Any, Any], folder: str, outcomes: Sequence[ItemOutcome]) -> None:
    failed = [outcome for outcome in outcomes if not outcome.done]
    if not failed or (len(failed) < len(outcomes) and len(failed) <= stage.max_failed_fraction * len(outcomes)):
        return
    lines = "\n".join(f"  {outcome.item_id}: {outcome.message}" for outcome in failed[:5])
    more = f"\n  ... and {len(failed) - 5} more" if len(failed) > 5 else ""
    error = UserError if all(outcome.user_can_mend for outcome in failed) else StageError
    raise error(f"stage {stage.name} ({folder}): {len(failed)} of {len(outcomes)} items failed:\n{lines}{more}")
