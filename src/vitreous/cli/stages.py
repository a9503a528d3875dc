"""One command for every stage, made from its parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vitreous.cli.options import choose_machine, drop_unset, machine_options, make_options, project_argument
from vitreous.cli.projects import update_report
from vitreous.cli.watch import watch

__all__ = ["StageCommand"]


def _run_stage(
    stage: str, project: Path, workers: int | None, device: str, scheduler: str | None, **values: Any
) -> None:
    from vitreous.engine.project import open_project
    from vitreous.engine.run import run_stage

    opened = open_project(project)
    with watch() as listener:
        run_stage(opened, stage, drop_unset(values), choose_machine(workers, device, scheduler), listener)
    update_report(opened)


class StageCommand(click.Command):
    """`vitreous <stage> PROJECT`: the stage is imported when its options are asked for, not for the list of commands."""

    def __init__(self, stage: str) -> None:
        def run(**words: Any) -> None:
            _run_stage(stage, **words)

        command = project_argument(machine_options(run))
        super().__init__(stage, callback=run)
        self._shared: Sequence[click.Parameter] = list(reversed(getattr(command, "__click_params__", [])))
        self._complete = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the shared options and those of the stage."""
        if not self._complete:
            from vitreous.engine.stages import load_stage

            stage = load_stage(str(self.name))
            self.params = [*self._shared[:1], *make_options(stage.params), *self._shared[1:]]
            self.help = f"{stage.summary}\n\nReads the project's current tables; results become the current ones."
            self._complete = True
        return super().get_params(ctx)

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, once the stage is known."""
        self.get_params(ctx)
        return super().get_help(ctx)
