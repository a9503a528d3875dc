"""Show how a run goes: bars on a terminal, a line for each run otherwise. Always on standard error."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vitreous.engine.listener import Listener
from vitreous.model.provenance import ItemOutcome, RunRecord

__all__ = ["watch"]


class _Lines:
    """Writes a line for each run, each failed item and each warning."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, folder: str, stage: str, n_items: int | None) -> None:
        """Say nothing: the line comes at the end."""

    def advance(self, outcome: ItemOutcome) -> None:
        """Say what failed."""
        if not outcome.done:
            self.say(f"  failed: {outcome.item_id}: {outcome.message}")

    def progress(self, fraction: float, doing: str) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say it."""
        self.say(text)

    def end(self, record: RunRecord, *, reused: bool) -> None:
        """Say what a run gave."""
        if reused:
            self.say(f"{record.folder}: done before")
            return
        counts = ", ".join(f"{rows} {name}" for name, rows in record.outputs.items())
        failed = f", {len(record.failed)} of {record.n_items} failed" if record.failed else ""
        self.say(f"{record.folder}: {counts}{failed}; {record.seconds:.1f} s, {record.peak_memory_bytes / 1e9:.2f} GB")
        for warning in record.warnings:
            self.say(f"  warning: {warning}")


class _Bars(_Lines):
    """The lines, and a bar for the run in progress."""

    def __init__(self, bars: Progress) -> None:
        super().__init__(bars.console)
        self._bars = bars
        self._task: TaskID | None = None

    def begin(self, folder: str, stage: str, n_items: int | None) -> None:
        """Show a bar."""
        self._task = self._bars.add_task(folder, total=100 if n_items is None else n_items)

    def advance(self, outcome: ItemOutcome) -> None:
        """Move the bar by one item."""
        super().advance(outcome)
        if self._task is not None:
            self._bars.advance(self._task)

    def progress(self, fraction: float, doing: str) -> None:
        """Move the bar to a fraction."""
        if self._task is not None:
            self._bars.update(self._task, completed=100 * fraction, description=doing)

    def end(self, record: RunRecord, *, reused: bool) -> None:
        """Take the bar away and say what the run gave."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        super().end(record, reused=reused)


@contextmanager
def watch() -> Iterator[Listener]:
    """Yield a listener that suits standard error."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        yield _Bars(bars)
