"""What was done in a project: records of runs, current tables, status."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitreous.engine.ledger import Ledger, read_ledger
from vitreous.engine.project import Project, read_decisions
from vitreous.errors import InputFileError
from vitreous.io.gain_record import describe_gains
from vitreous.io.parquet import read_table
from vitreous.model.documents import Decision
from vitreous.model.provenance import FailedItem, RunRecord
from vitreous.ops.class_statistics import WeightedResolution, compute_weighted_resolution

__all__ = [
    "AnnotatorStatus",
    "ProjectStatus",
    "RunStatus",
    "read_current_records",
    "read_current_tables",
    "read_done_records",
    "read_status",
]


class RunStatus(BaseModel):
    """One run, as `vitreous status` shows it."""

    model_config = ConfigDict(frozen=True)

    folder: str
    stage: str
    status: str = Field(description="running (or interrupted), waiting for a person, done or failed")
    current: bool = Field(description="whether the current tables come from it")
    n_items: int = 0
    n_done: int = 0
    failed: tuple[FailedItem, ...] = ()
    outputs: dict[str, int] = Field(default_factory=dict, description="table name: rows")
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    warnings: tuple[str, ...] = ()
    message: str = ""


class AnnotatorStatus(BaseModel):
    """What one person marked, as `vitreous status` shows it."""

    model_config = ConfigDict(frozen=True)

    n_micrographs: int = Field(description="micrographs with marks")
    n_added: int
    n_moved: int
    n_removed: int


class ClassesStatus(BaseModel):
    """The current 2D classes, as `vitreous status` shows them."""

    model_config = ConfigDict(frozen=True)

    n_classes: int
    n_selected: int | None = Field(description="null before selection")
    n_particles: int
    n_particles_selected: int | None
    best_50: WeightedResolution | None = Field(
        description="of the 50 largest that are selected; before selection, of all"
    )
    best_10: WeightedResolution | None


class ProjectStatus(BaseModel):
    """A project, as `vitreous status` shows it."""

    model_config = ConfigDict(frozen=True)

    root: str
    title: str
    runs: tuple[RunStatus, ...]
    gains: tuple[str, ...] = Field(description="how the gain references lie on the movies, and how surely")
    labels: dict[str, int] = Field(description="label: particles that have it now")
    classes: ClassesStatus | None = Field(description="the current 2D classes")
    resolution_angstrom: float | None = Field(description="of the current map")
    annotators: dict[str, AnnotatorStatus] = Field(description="who picked by hand, and how much")
    waiting_for: str | None = Field(description="what a person has to decide before the recipe goes on")


def read_done_records(root: Path) -> list[RunRecord]:
    """Return the records of all runs that are done, by folder.

    Raises
    ------
    InputFileError
        If a record cannot be read.
    """
    records = []
    for path in sorted((root / "runs").glob("*/run.json")):
        try:
            records.append(RunRecord.model_validate_json(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise InputFileError(
                path,
                found=f"a record that cannot be read ({error})",
                expected="the record of a run",
                remedy="Delete the run's folder and run the project again.",
            ) from error
    return records


def read_current_records(project: Project, ledger: Ledger | None = None) -> list[RunRecord]:
    """Return the runs that the current tables come from, and all runs that these read, in the order of work."""
    records = {record.folder: record for record in read_done_records(project.root)}
    if ledger is None:
        with read_ledger(project.root) as reader:
            history = reader.read_history()
    else:
        history = ledger.read_history()
    ordered = [records[folder] for folder in history if folder in records] or list(records.values())
    makers = {name: record.folder for record in ordered for name in record.outputs}
    needed, waiting = set[str](), list(makers.values())
    while waiting:
        folder = waiting.pop()
        if folder not in needed and folder in records:
            needed.add(folder)
            waiting.extend(records[folder].inputs.values())
    return [record for record in ordered if record.folder in needed]


def read_current_tables(project: Project, records: Sequence[RunRecord]) -> dict[str, pl.DataFrame]:
    """Return the newest of each table."""
    makers = {name: record.folder for record in records for name in record.outputs}
    return {name: read_table(project.runs / folder / f"{name}.parquet", name) for name, folder in makers.items()}


def _measure_classes(classes: pl.DataFrame, n_best: int) -> WeightedResolution | None:
    resolution = classes["resolution_angstrom"].to_numpy()
    return compute_weighted_resolution(resolution, classes["n_particles"].to_numpy(), n_best)


def _summarise_classes(tables: Mapping[str, pl.DataFrame]) -> ClassesStatus | None:
    if "classes" not in tables or tables["classes"].is_empty():
        return None
    classes = tables["classes"]
    decided = classes["selected"].null_count() < classes.height
    chosen = classes.filter("selected") if decided else classes
    return ClassesStatus(
        n_classes=classes.height,
        n_selected=chosen.height if decided else None,
        n_particles=int(classes["n_particles"].sum()),
        n_particles_selected=int(chosen["n_particles"].sum()) if decided else None,
        best_50=_measure_classes(chosen, 50),
        best_10=_measure_classes(chosen, 10),
    )


def read_status(project: Project) -> ProjectStatus:
    """Return what was done, what failed and what came out."""
    done = {record.folder: record for record in read_done_records(project.root)}
    current_records = read_current_records(project)
    current = {record.folder for record in current_records}
    runs = {
        folder: RunStatus(
            folder=folder,
            stage=record.stage,
            status="done",
            current=folder in current,
            n_items=record.n_items,
            n_done=record.n_done,
            failed=record.failed,
            outputs=dict(record.outputs),
            seconds=record.seconds,
            peak_memory_bytes=record.peak_memory_bytes,
            warnings=record.warnings,
        )
        for folder, record in done.items()
    }
    with read_ledger(project.root) as ledger:
        begun = sorted(ledger.read_runs(), key=lambda row: row.begun)
        for row in begun:
            if row.folder in done:
                continue
            items = ledger.read_items(row.folder).values()
            runs[row.folder] = RunStatus(
                folder=row.folder,
                stage=row.stage,
                status=row.status if row.status in ("failed", "waiting") else "running",
                current=False,
                n_items=row.n_items or 0,
                n_done=sum(item.done for item in items),
                failed=tuple(FailedItem(item_id=item.item_id, message=item.message) for item in items if not item.done),
                message=row.message,
            )
    tables = read_current_tables(project, current_records)
    labels = (
        dict(tables["particles"]["label"].value_counts().sort("label").iter_rows()) if "particles" in tables else {}
    )
    resolutions = tables["volumes"]["resolution_angstrom"].drop_nulls() if "volumes" in tables else pl.Series()
    return ProjectStatus(
        root=str(project.root),
        title=project.title,
        runs=tuple(runs[folder] for folder in sorted(runs)),
        gains=describe_gains(project.root, tables["exposures"]) if "exposures" in tables else (),
        labels=labels,
        classes=_summarise_classes(tables),
        resolution_angstrom=resolutions[0] if len(resolutions) else None,
        annotators=_count_marks(read_decisions(project)),
        waiting_for=begun[-1].message if begun and begun[-1].status == "waiting" else None,
    )


def _count_marks(decisions: Sequence[Decision]) -> dict[str, AnnotatorStatus]:
    marks: dict[str, list[Decision]] = {}
    for decision in decisions:
        if decision.kind == "mark":
            marks.setdefault(decision.who, []).append(decision)

    def count(made: Sequence[Decision], act: str) -> int:
        return sum(mark.verdict == act for mark in made)

    return {
        who: AnnotatorStatus(
            n_micrographs=len({mark.subject for mark in made}),
            n_added=count(made, "add"),
            n_moved=count(made, "move"),
            n_removed=count(made, "remove"),
        )
        for who, made in sorted(marks.items())
    }
