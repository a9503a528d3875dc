"""`vitreous simulate`: movies of a known structure, with the truth."""

from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress

from vitreous.cli.options import drop_unset, make_options
from vitreous.errors import SettingError
from vitreous.model.params import describe_validation_error
from vitreous.simulate.settings import SimulationSettings

__all__ = ["simulate", "simulate_watched"]


def simulate_watched(out: Path, settings: SimulationSettings) -> None:
    """Simulate, with a bar on a terminal."""
    from vitreous.simulate.entry import simulate_entry

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("simulating", total=100)
        simulate_entry(
            out, settings, lambda fraction, doing: bars.update(task, completed=100 * fraction, description=doing)
        )


def _simulate(out: Path, **values: Any) -> None:
    """Make movies of a known structure in OUT/movies, a gain reference OUT/gain.mrc, and the truth in OUT/truth."""
    try:
        settings = SimulationSettings.model_validate(drop_unset(values))
    except ValidationError as error:
        raise SettingError(f"vitreous simulate: {describe_validation_error(error)}") from error
    simulate_watched(out, settings)
    click.echo(f"{out}: {settings.n_movies} movies in movies/, their truth in truth/", err=True)


simulate = click.Command(
    "simulate",
    callback=_simulate,
    help=_simulate.__doc__,
    params=[click.Argument(["out"], type=click.Path(path_type=Path)), *make_options(SimulationSettings)],
)
