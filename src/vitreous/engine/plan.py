"""What a run reads and what it is: its inputs and its key."""

import glob
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitreous.engine.project import Project, read_decisions
from vitreous.engine.stages import load_stage
from vitreous.errors import ProjectError, SettingError
from vitreous.io.parquet import read_table
from vitreous.model.documents import Decision, Facts
from vitreous.model.params import build_params
from vitreous.model.provenance import RunRecord
from vitreous.model.stage import Inputs, Stage, StageParams

__all__ = ["Plan", "make_plan", "parse_setting", "parse_value", "read_inputs", "resolve_inputs"]


@dataclass(frozen=True)
class Plan:
    """A run that is to be: everything that its result depends on."""

    spec: str
    stage: Stage
    params: StageParams
    inputs: Mapping[str, RunRecord]
    """Table name: the run that made it."""
    decisions: tuple[Decision, ...]
    facts: Facts | None
    key: str

    @property
    def changed_params(self) -> dict[str, object]:
        """The parameters that differ from the defaults."""
        return self.params.model_dump(mode="json", exclude_defaults=True)


def resolve_inputs(stage: Stage, earlier: Sequence[RunRecord]) -> dict[str, RunRecord]:
    """Return, for each table that `stage` reads, the last run in `earlier` that made it.

    Raises
    ------
    ProjectError
        If a table that the stage needs was never made.
    """
    makers = {name: record for record in earlier for name in record.outputs}
    missing = [name for name in stage.needs if name not in makers]
    if missing:
        raise ProjectError(
            f"stage {stage.name} needs the table {missing[0]}, which no run has made yet; run the stage that makes it "
            "first, or `vitreous run` for the whole recipe"
        )
    return {name: makers[name] for name in (*stage.needs, *stage.optional) if name in makers}


def _fingerprint_files(root: Path, facts: Facts) -> list[tuple[str, int, int]]:
    """Return name, size and time of every input file, so that a changed file makes a new run."""
    names = sorted(glob.glob(str(root / (facts.movies or facts.micrographs or "")), recursive=True))  # noqa: PTH207
    extras = [str(root / name) for name in (facts.gain, facts.defects) if name is not None]
    names += [name for name in extras if Path(name).is_file()]
    return [(Path(name).name, (status := Path(name).stat()).st_size, status.st_mtime_ns) for name in names]


def make_plan(project: Project, spec: str, values: Mapping[str, object], earlier: Sequence[RunRecord]) -> Plan:
    """Return the plan of running the stage `spec` with parameters `values` after the runs `earlier`."""
    stage = load_stage(spec)
    params = build_params(stage.name, stage.params, values)
    inputs = resolve_inputs(stage, earlier)
    folders = {record.folder for record in inputs.values()}
    decisions = tuple(
        decision
        for decision in read_decisions(project)
        if (stage.reads_marks if decision.kind == "mark" else decision.run in folders)
    )
    facts = None if stage.needs else project.facts
    parts = {
        "stage": stage.name,
        "version": stage.version,
        "params": params.model_dump(mode="json"),
        "inputs": {name: record.key for name, record in inputs.items()},
        "decisions": [decision.model_dump(mode="json", exclude_none=True) for decision in decisions],
        "facts": None if facts is None else facts.model_dump(mode="json"),
        "files": None if facts is None else _fingerprint_files(project.root, facts),
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Plan(spec, stage, params, inputs, decisions, facts, key)


def read_inputs(project: Project, plan: Plan) -> Inputs:
    """Read the tables of a plan."""
    tables = {
        name: read_table(project.runs / record.folder / f"{name}.parquet", name) for name, record in plan.inputs.items()
    }
    return Inputs(tables, plan.decisions, plan.facts)


def parse_setting(word: str) -> tuple[str, str, object]:
    """Split `stage.param=value` into its parts; the value is JSON where it reads as such, otherwise text.

    Raises
    ------
    SettingError
        If the word is not of that form.
    """
    name, equals, text = word.partition("=")
    stage, dot, param = name.partition(".")
    if not (equals and dot and stage and param):
        raise SettingError(f"--set {word}: expected stage.param=value, e.g. extract.box_factor=1.5")
    return stage, param, parse_value(text)


def parse_value(text: str) -> object:
    """Return `text` read as JSON where it reads as such, otherwise as it is."""
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value
