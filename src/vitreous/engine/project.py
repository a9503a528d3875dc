"""A project on disk: facts, recipe, decisions."""

import glob
import os
import tomllib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from vitreous.errors import InputFileError, ProjectError, SettingError
from vitreous.io.atomic import write_text
from vitreous.model.documents import Decision, DecisionKind, Facts
from vitreous.model.params import describe_validation_error
from vitreous.model.provenance import DEFAULT_RECIPE, Recipe

__all__ = ["Project", "create_project", "open_project", "read_decisions", "record_decision", "record_marks"]

T = TypeVar("T", Facts, Recipe)

_SEVERAL = TypeAdapter(list[Decision])

FACTS_FILE, RECIPE_FILE, DECISIONS_FOLDER = "project.toml", "recipe.toml", "decisions"


@dataclass(frozen=True)
class Project:
    """A project that exists."""

    root: Path
    facts: Facts
    recipe: Recipe

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.root / "runs"

    @property
    def title(self) -> str:
        """What to call it."""
        return self.facts.title or self.root.name


def _make_relative(pattern: str, root: Path) -> str:
    """Return a glob or path, as typed in the current folder, relative to the project; only its fixed part is resolved."""
    parts = Path(pattern).expanduser().absolute().parts
    n_fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    fixed = Path(*parts[:n_fixed]).resolve()
    return Path(os.path.relpath(fixed.joinpath(*parts[n_fixed:]), root)).as_posix()


def create_project(root: Path, facts: Facts, recipe: Recipe = DEFAULT_RECIPE) -> Project:
    """Make the folder of a project. Paths in `facts` are as typed in the current folder.

    Raises
    ------
    ProjectError
        If there is a project already.
    InputFileError
        If a glob matches nothing, the gain or the list of defects does not exist, or the folder cannot be written.
    """
    root = root.expanduser().absolute()
    if (root / FACTS_FILE).exists():
        raise ProjectError(
            f"{root}: found a project already; expected a new or empty folder. "
            f"Run it with `vitreous run {root}`, or choose another folder."
        )
    root = root.resolve()
    changed = {
        name: _make_relative(value, root)
        for name in ("movies", "micrographs", "gain", "defects")
        if (value := getattr(facts, name)) is not None
    }
    for name, pattern in changed.items():
        if not glob.glob(os.path.normpath(root / pattern), recursive=True):  # noqa: PTH207 - the pattern may lead out of the folder
            raise InputFileError(
                getattr(facts, name),
                found="no file of that name",
                expected="at least one file",
                remedy=f"Check the path given with --{name}; put a glob in quotes so that the shell leaves it alone.",
            )
    facts = facts.model_copy(update=changed)
    write_text(root / RECIPE_FILE, tomli_w.dumps(recipe.model_dump(mode="json", exclude_defaults=True)))
    write_text(root / FACTS_FILE, tomli_w.dumps(facts.model_dump(mode="json", exclude_none=True)))
    return Project(root, facts, recipe)


def _read_toml(path: Path, model: type[T]) -> T:
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        found = str(error)
    except ValidationError as error:
        found = describe_validation_error(error)
    raise InputFileError(
        path,
        found=found,
        expected=f"the {model.__name__.lower()} of a project, in TOML",
        remedy="Correct the file by hand.",
    )


def open_project(root: Path) -> Project:
    """Open the project in `root`.

    Raises
    ------
    ProjectError
        If there is none.
    InputFileError
        If one of its files is broken.
    """
    root = root.expanduser().resolve()
    if not (root / FACTS_FILE).is_file():
        raise ProjectError(
            f"{root}: found no {FACTS_FILE}; expected the folder of a project. Make one with `vitreous new {root} ...`."
        )
    return Project(root, _read_toml(root / FACTS_FILE, Facts), _read_toml(root / RECIPE_FILE, Recipe))


def record_decision(
    project: Project,
    *,
    who: str,
    run: str,
    kind: DecisionKind,
    subject: str,
    verdict: str,
    note: str = "",
) -> Decision:
    """Write down one judgement, at once and for good, and return it.

    Raises
    ------
    SettingError
        If the run does not exist.
    """
    when = datetime.now(UTC)
    decision = Decision(
        decision_id=_make_identifier(when),
        when=when,
        who=who,
        run=run,
        kind=kind,
        subject=subject,
        verdict=verdict,
        note=note,
    )
    _write_decisions(project, [decision])
    return decision


def record_marks(project: Project, *, who: str, run: str, marks: Sequence[Mapping[str, Any]]) -> tuple[Decision, ...]:
    """Write down a person's marks on micrographs, all or none of them, at once and for good, and return them.

    Parameters
    ----------
    project
        The project.
    who
        The person.
    run
        Folder name of the run that made the micrographs.
    marks
        Of each the fields of `Decision` that tell marks apart: subject (the micrograph), verdict (add, remove or move), x_px,
        y_px, to_x_px, to_y_px, note.

    Raises
    ------
    SettingError
        If the run does not exist, or a mark is not one.
    """
    when = datetime.now(UTC)
    stem = _make_identifier(when)
    try:
        made = [
            Decision(decision_id=f"{stem}-{i:06d}", when=when, who=who, run=run, kind="mark", **mark)
            for i, mark in enumerate(marks)
        ]
    except ValidationError as error:
        raise SettingError(f"marks by {who!r}: {describe_validation_error(error)}") from error
    _write_decisions(project, made)
    return tuple(made)


def _make_identifier(when: datetime) -> str:
    return f"{when:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:8]}"


def _write_decisions(project: Project, made: Sequence[Decision]) -> None:
    """Write decisions to a file of their own, which nobody ever changes: one as an object, several as a list."""
    if not made:
        return
    if not (project.runs / made[0].run).is_dir():
        raise SettingError(f"decision on run {made[0].run!r}: there is no such run in {project.runs}")
    texts = [decision.model_dump_json(indent=1 if len(made) == 1 else None, exclude_none=True) for decision in made]
    text = texts[0] if len(made) == 1 else "[\n" + ",\n".join(texts) + "\n]"
    write_text(project.root / DECISIONS_FOLDER / f"{made[0].decision_id}.json", text + "\n")


@cache
def _parse_decisions(path: Path, time_ns: int, size: int) -> tuple[Decision, ...]:
    """Read a file once; `time_ns` and `size` make a file that someone corrected another one."""
    text = path.read_text(encoding="utf-8")
    return tuple(_SEVERAL.validate_json(text)) if text.startswith("[") else (Decision.model_validate_json(text),)


def read_decisions(project: Project) -> tuple[Decision, ...]:
    """Return all decisions, oldest first.

    Raises
    ------
    InputFileError
        If one cannot be read; judgement is never dropped silently.
    """
    decisions: list[Decision] = []
    for path in sorted((project.root / DECISIONS_FOLDER).glob("*.json")):
        try:
            status = path.stat()
            decisions.extend(_parse_decisions(path, status.st_mtime_ns, status.st_size))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise InputFileError(
                path, found=str(error), expected="decisions in JSON", remedy="Correct or remove the file by hand."
            ) from error
    return tuple(sorted(decisions, key=lambda decision: (decision.when, decision.decision_id)))
