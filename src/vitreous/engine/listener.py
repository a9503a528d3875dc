"""What the engine tells whoever watches: a progress bar, a log, nobody."""

from dataclasses import dataclass, field
from typing import Protocol

from vitreous.model.provenance import ItemOutcome, RunRecord

__all__ = ["Listener", "Recorder", "Silence"]


class Listener(Protocol):
    """Is told what happens, in this order, by the driver."""

    def begin(self, folder: str, stage: str, n_items: int | None) -> None:
        """Begin a run; `n_items` are still to be done, None for a stage that works on the whole dataset."""

    def advance(self, outcome: ItemOutcome) -> None:
        """Note that an item ended."""

    def progress(self, fraction: float, doing: str) -> None:
        """Note how far a stage on the whole dataset is."""

    def end(self, record: RunRecord, *, reused: bool) -> None:
        """End a run; `reused` when there was nothing to do."""

    def note(self, text: str) -> None:
        """Say what the recipe does next, and why."""


class Silence:
    """Listens to nothing."""

    def begin(self, folder: str, stage: str, n_items: int | None) -> None:
        """Do nothing."""

    def advance(self, outcome: ItemOutcome) -> None:
        """Do nothing."""

    def progress(self, fraction: float, doing: str) -> None:
        """Do nothing."""

    def end(self, record: RunRecord, *, reused: bool) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""


@dataclass
class Recorder(Silence):
    """Remembers which runs were done, which were found done, and what was said."""

    done: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def end(self, record: RunRecord, *, reused: bool) -> None:
        """Remember the run."""
        (self.reused if reused else self.done).append(record.folder)

    def note(self, text: str) -> None:
        """Remember it."""
        self.notes.append(text)
