"""Options that are made from models, and those that several commands share."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vitreous.engine.machine import Machine, count_cores
from vitreous.engine.plan import parse_value

__all__ = [
    "choose_machine",
    "description_options",
    "drop_unset",
    "image_size_option",
    "json_option",
    "machine_options",
    "make_options",
    "named_options",
    "project_argument",
    "radius_options",
    "scoring_options",
    "y_origin_option",
]


def _describe_type(info: FieldInfo) -> click.ParamType[Any] | str:
    annotation = info.annotation
    choices = [get_args(part) for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal]
    if choices:
        return click.Choice([str(choice) for choice in choices[0]])
    kinds = [part for part in (annotation, *get_args(annotation)) if isinstance(part, type) and part is not type(None)]
    return kinds[0].__name__.upper() if kinds else "VALUE"


class _Value(click.ParamType[Any]):
    """Any value that a model checks later."""

    name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return parse_value(value) if isinstance(value, str) else value


def make_options(model: type[BaseModel]) -> list[click.Parameter]:
    """Return an option for every field of `model`; fields that are not given are None."""
    options: list[click.Parameter] = []
    for name, info in model.model_fields.items():
        kind = _describe_type(info)
        default = info.get_default(call_default_factory=True)
        shown = "required" if info.is_required() else f"default: {json.dumps(default, default=str)}"
        options.append(
            click.Option(
                [f"--{name.replace('_', '-')}", name],
                type=kind if isinstance(kind, click.ParamType) else _Value(),
                metavar=None if isinstance(kind, click.ParamType) else kind,
                default=None,
                help=f"{info.description or ''} [{shown}]",
            )
        )
    return options


def drop_unset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in values.items() if value is not None}


project_argument = click.argument("project", type=click.Path(path_type=Path))

_MACHINE = (
    click.option("--workers", type=click.IntRange(1), help="processes that work on items [default: one per core]"),
    click.option("--device", default="cpu", show_default=True, help="where tensors go: cpu, cuda, cuda:1, ..."),
    click.option("--scheduler", help="address of a Dask scheduler, e.g. tcp://head-node:8786"),
)


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options on the machine to a command."""
    for option in reversed(_MACHINE):
        command = option(command)
    return command


_DESCRIPTION = (
    click.option("--title", help="what the data set is"),
    click.option("--entry", "entry_id", metavar="ID", help="short name, e.g. the EMPIAR number [default: entry]"),
    click.option("--molecular-weight", "molecular_weight_kda", type=float, metavar="KDA", help="of the particle, kDa"),
    click.option("--source", help="where the data come from, e.g. EMPIAR-10017 or a DOI"),
    click.option("--licence", help="terms under which the dataset may be used, e.g. CC0-1.0"),
)


def description_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what the data are, for the card of a release."""
    for option in reversed(_DESCRIPTION):
        command = option(command)
    return command


_RADIUS = (
    click.option("--diameter", type=click.FloatRange(0, min_open=True), metavar="PX", help="particle diameter, px"),
    click.option("--radius-fraction", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True),
    click.option("--radius", type=click.FloatRange(0, min_open=True), metavar="PX", help="matching radius, px"),
)

_SCORING = (
    *_RADIUS,
    click.option(
        "--border", type=click.FloatRange(0), default=0.0, metavar="PX", help="leave out what is so near the edge"
    ),
    click.option("--picks-y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True),
    click.option("--truth-y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True),
)


def radius_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the two ways to give the radius within which positions are one."""
    for option in reversed(_RADIUS):
        command = option(command)
    return command


def scoring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options on how picks are compared with labels, those of `radius_options` among them."""
    for option in reversed(_SCORING):
        command = option(command)
    return command


_NAMED = (
    click.option(
        "--bottom", multiple=True, metavar="NAME", help="one whose files count rows from the last; repeatable"
    ),
    click.option(
        "--scaled", multiple=True, metavar="NAME=FACTOR", help="factor to full pixels of one's files; repeatable"
    ),
)


def named_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what can be said of single ones of several sets of positions."""
    for option in reversed(_NAMED):
        command = option(command)
    return command


y_origin_option = click.option("--y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True)

image_size_option = click.option(
    "--image-size", type=(float, float), metavar="NX NY", help="columns and rows, where no project knows them"
)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="one JSON object on standard output and nothing else"
)


def choose_machine(workers: int | None, device: str, scheduler: str | None) -> Machine:
    """Return the machine that these options ask for."""
    return Machine(workers=workers or count_cores(), device=device, scheduler=scheduler)
