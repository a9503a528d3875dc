"""The command `vitreous`: translates words into calls and errors into exit codes.

Exit codes: 0 done, 2 the user can mend it, 3 something failed, 130 interrupted. Commands are imported when they are used,
so that asking for help does not wait for the array engine.
"""

import importlib
import logging
import sys
from collections.abc import Sequence

import click

from vitreous import __version__
from vitreous.errors import PersonNeededError, VitreousError

__all__ = ["app", "main"]

_COMMANDS = {
    "new": ("vitreous.cli.projects:new", "Make a project from movies or finished micrographs."),
    "run": ("vitreous.cli.projects:run", "Run the whole recipe, unattended; goes on where it was."),
    "status": ("vitreous.cli.projects:status", "Show what was done, what failed and what came out."),
    "report": ("vitreous.cli.projects:report", "Write the report page and print where it is."),
    "export": ("vitreous.cli.projects:export", "Write the dataset in the layout of another program."),
    "picks": ("vitreous.cli.picks:picks", "Pick by hand: add, remove, move, import, list."),
    "decide": ("vitreous.cli.decide:decide", "Write down a person's judgement on what a run made."),
    "evaluate": ("vitreous.cli.evaluate:evaluate", "Compare picks with labels."),
    "compare": ("vitreous.cli.compare:compare", "Compare several pickers with the same labels."),
    "agree": ("vitreous.cli.agree:agree", "Measure how annotators agree, and make a consensus."),
    "import": (
        "vitreous.cli.importing:import_dataset",
        "Make a project from a published entry or other programs' picks.",
    ),
    "statistics": ("vitreous.cli.statistics:statistics", "Describe one or more datasets in a table and figures."),
    "simulate": ("vitreous.cli.simulate:simulate", "Make movies of a known structure, with the truth."),
    "demo": ("vitreous.cli.demo:demo", "Simulate, process, export and compare with the truth."),
    "formats": ("vitreous.cli.formats:formats", "Show and convert movies, gain references and coordinates."),
}


class _Commands(click.Group):
    """The commands above, and one for every stage; only the one that is used is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from vitreous.engine.stages import list_stages

        return [*_COMMANDS, *list_stages()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return what the list of commands shows of this one."""
        if cmd_name in _COMMANDS:
            return click.Command(cmd_name, short_help=_COMMANDS[cmd_name][1])
        if cmd_name in self.list_commands(ctx):
            return click.Command(cmd_name, short_help=f"Run the stage {cmd_name} on the current tables.")
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command itself."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and _import_command(str(name)), rest


def _import_command(name: str) -> click.Command:
    if name in _COMMANDS:
        module, attribute = _COMMANDS[name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command
    from vitreous.cli.stages import StageCommand

    return StageCommand(name)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="vitreous")
@click.option("--verbose", is_flag=True, help="show the trace of unexpected errors")
@click.pass_context
def app(ctx: click.Context, verbose: bool) -> None:
    """From raw cryo-EM movies to labelled, validated particle-picking datasets."""
    ctx.obj = verbose
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app.main(words, prog_name="vitreous", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except VitreousError as error:
        click.echo(f"{'waiting' if isinstance(error, PersonNeededError) else 'error'}: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command goes on where it was", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        if "--verbose" in words:
            raise
        click.echo(f"error: {type(error).__name__}: {error}\n(vitreous --verbose shows where)", err=True)
        sys.exit(3)
    sys.exit(0)
