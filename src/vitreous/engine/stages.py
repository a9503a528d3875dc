"""Find stages by name: ours and those of other packages, through entry points."""

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from vitreous.errors import SettingError

if TYPE_CHECKING:
    from vitreous.model.stage import Stage

__all__ = ["list_stages", "load_stage"]

_GROUP = "vitreous.stages"
_ORDER = (
    "ingest",
    "motion",
    "adopt",
    "ctf",
    "curate",
    "pick",
    "annotate",
    "review",
    "extract",
    "classify2d",
    "select2d",
    "reconstruct",
    "validate",
)


def list_stages() -> list[str]:
    """Return the names of all installed stages, ours in the order of the pipeline."""
    names = {point.name for point in entry_points(group=_GROUP)}
    return [name for name in _ORDER if name in names] + sorted(names.difference(_ORDER))


@cache
def load_stage(name: str) -> "Stage":
    """Return the stage called `name`, or the one at `package.module:ATTRIBUTE`.

    Raises
    ------
    SettingError
        If there is none.
    """
    # The list of commands needs names only.
    from vitreous.model.stage import DatasetStage, ItemStage

    if ":" in name:
        module, attribute = name.split(":", 1)
        stage = getattr(importlib.import_module(module), attribute)
    else:
        found = [point for point in entry_points(group=_GROUP) if point.name == name]
        if not found:
            raise SettingError(f"there is no stage {name!r}; there are {', '.join(list_stages())}")
        stage = found[0].load()
    if not isinstance(stage, ItemStage | DatasetStage):
        raise SettingError(f"stage {name!r}: expected an ItemStage or a DatasetStage, found {type(stage).__name__}")
    return stage
