"""How the exported tables came to be: the runs and people's decisions, as the project's folder holds them."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vitreous.errors import InputFileError
from vitreous.model.documents import Decision
from vitreous.model.provenance import RunRecord

__all__ = ["describe_provenance", "read_runs"]

T = TypeVar("T", bound=BaseModel)

_OF_RUN = {
    "folder",
    "stage",
    "stage_version",
    "vitreous_version",
    "key",
    "params",
    "inputs",
    "outputs",
    "finished",
    "warnings",
}


def _read(path: Path, model: type[T]) -> T:
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise InputFileError(
            path,
            found=f"a record that cannot be read ({error})",
            expected="a run or a decision of the project",
            remedy="Correct it by hand, or delete the run's folder and run the project again.",
        ) from error


def read_runs(root: Path) -> list[RunRecord]:
    """Return the records of the runs that were done in the project in `root`, in the order of their folders.

    Raises
    ------
    InputFileError
        If one cannot be read.
    """
    return [_read(path, RunRecord) for path in sorted((root / "runs").glob("*/run.json"))]


def describe_provenance(root: Path) -> dict[str, Any]:
    """Return the runs that were done in the project in `root` (without what they say of the machine) and all decisions.

    Raises
    ------
    InputFileError
        If one cannot be read.
    """
    decisions = [_read(path, Decision) for path in sorted((root / "decisions").glob("*.json"))]
    decisions.sort(key=lambda decision: (decision.when, decision.decision_id))
    return {
        "runs": [run.model_dump(mode="json", include=_OF_RUN) for run in read_runs(root)],
        "decisions": [decision.model_dump(mode="json") for decision in decisions],
    }
