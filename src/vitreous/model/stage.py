"""What a stage is: a frozen record of functions. The engine runs it; it knows neither the engine nor its successor.

`load` and `save` touch the disk; `compute` takes arrays and returns arrays; the mathematics is in `vitreous.ops`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import polars as pl
from pydantic import BaseModel, ConfigDict

from vitreous.model.documents import Decision, Facts

__all__ = [
    "Context",
    "DatasetStage",
    "Inputs",
    "Item",
    "ItemStage",
    "Progress",
    "RunFolder",
    "Saved",
    "Stage",
    "StageParams",
]

Progress = Callable[[float, str], None]
"""Called with the fraction done (0 to 1) and a few words on what is being done."""


class StageParams(BaseModel):
    """Choices of method. Declared once: the command line, the documentation and the run's key come from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retired: ClassVar[Mapping[str, str]] = {}
    """Names of parameters that earlier versions had, and what to do instead."""


class Item(BaseModel):
    """What one worker needs to know of one item; plain data, sent to it as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str


@dataclass(frozen=True)
class Context:
    """Facts about the machine and the place, never part of a run's key."""

    root: Path
    """The project's folder; paths in tables are relative to it."""
    device: str = "cpu"
    """Where tensors go: cpu, cuda, cuda:1, ..."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes its files."""

    root: Path
    path: Path

    def relative(self, path: Path) -> str:
        """Return `path` relative to the project, as tables hold it."""
        return path.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class Inputs:
    """The tables that a stage reads, each complete, and people's decisions on the runs that made them.

    `facts` is given to stages that read no table, and to them only: everyone else finds the facts in the tables.
    """

    tables: Mapping[str, pl.DataFrame]
    decisions: tuple[Decision, ...] = ()
    facts: Facts | None = None

    def __getitem__(self, name: str) -> pl.DataFrame:
        return self.tables[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tables


@dataclass(frozen=True)
class Saved:
    """What came out: rows for each table, and doubts to report loudly."""

    tables: Mapping[str, pl.DataFrame]
    warnings: tuple[str, ...] = field(default=())


I = TypeVar("I", bound=Item)
P = TypeVar("P", bound=StageParams)
L = TypeVar("L")
R = TypeVar("R")


@dataclass(frozen=True)
class ItemStage(Generic[I, P, L, R]):
    """A stage that maps over items: load -> compute -> save, each item on its own, then collect.

    Attributes
    ----------
    name
        As on the command line.
    version
        Raised whenever results change; part of a run's key.
    summary
        One sentence.
    params, item
        The models of its choices and of its items.
    needs, makes
        Names of the tables read and written. A name in `optional` is given when some earlier run made it.
    plan
        The items, in a fixed order. Runs in the driver.
    load, compute, save
        Run in a worker. `save` writes under the run's folder, atomically, and returns rows.
    collect
        Turns the rows of all items that were done (in the order of `plan`) into complete tables. Runs in the driver.
    max_failed_fraction
        Past this share of failed items the stage fails as a whole.
    reads_marks
        Whether it is given people's marks, all of them, whatever run they were made on. No other stage sees them.
    """

    name: str
    version: str
    summary: str
    params: type[P]
    item: type[I]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    plan: Callable[[Inputs, P, Context], Sequence[I]]
    load: Callable[[I, P, Context], L]
    compute: Callable[[L, P], R]
    save: Callable[[R, I, RunFolder], Saved]
    collect: Callable[[Inputs, Saved, P], Saved]
    optional: tuple[str, ...] = ()
    max_failed_fraction: float = 0.5
    reads_marks: bool = False


@dataclass(frozen=True)
class DatasetStage(Generic[P, L, R]):
    """A stage that works on the whole dataset at once: load -> compute -> save. Attributes as of `ItemStage`."""

    name: str
    version: str
    summary: str
    params: type[P]
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    load: Callable[[Inputs, P, Context], L]
    compute: Callable[[L, P, Progress], R]
    save: Callable[[R, Inputs, P, RunFolder], Saved]
    optional: tuple[str, ...] = ()
    reads_marks: bool = False


Stage = ItemStage[Any, Any, Any, Any] | DatasetStage[Any, Any, Any]
