"""Fill the reference pages from the code when the documentation is built: tables, stages, command line, functions."""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

from click import Context, Group

import vitreous.ops
from vitreous.cli.main import app
from vitreous.engine.stages import list_stages, load_stage
from vitreous.model.tables import TABLES

ROOT = Path(__file__).resolve().parents[1]


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def write_tables() -> str:
    """Return every column of every table."""
    parts = []
    for table in TABLES.values():
        rows = "\n".join(
            f"| `{column.name}` | {column.dtype.__name__} | {'yes' if column.required else ''} | {_cell(column.description)} |"
            for column in table.columns
        )
        parts.append(
            f"## {table.name}\n\n{table.description}\n\n| column | type | always filled | meaning |\n|---|---|---|---|\n{rows}"
        )
    return "\n\n".join(parts)


def write_stages() -> str:
    """Return every stage with its parameters."""
    parts = []
    for name in list_stages():
        stage = load_stage(name)
        rows = "\n".join(
            f"| `{field}` | `{json.dumps(info.get_default(call_default_factory=True))}` | {_cell(info.description or '')} |"
            for field, info in stage.params.model_fields.items()
        )
        table = f"| parameter | default | meaning |\n|---|---|---|\n{rows}" if rows else "No parameters."
        reads, makes = ", ".join(stage.needs) or "the project's facts", ", ".join(stage.makes)
        reads += f", and where there are any {', '.join(stage.optional)}" if stage.optional else ""
        parts.append(f"## {name}\n\n{stage.summary}\n\nReads {reads}; makes {makes}.\n\n{table}")
    return "\n\n".join(parts)


def write_command_line() -> str:
    """Return the help of every command."""
    parts = []

    def describe(command: Any, words: str) -> None:
        context = Context(command, info_name=words)
        parts.append(f"## `{words}`\n\n```text\n{command.get_help(context)}\n```")
        if isinstance(command, Group):
            for name in command.list_commands(context):
                describe(command.resolve_command(context, [name])[1], f"{words} {name}")

    describe(app, "vitreous")
    return "\n\n".join(parts)


def write_functions() -> str:
    """Return a directive for each module of mathematics."""
    modules = sorted(module.name for module in pkgutil.iter_modules(vitreous.ops.__path__, "vitreous.ops."))
    for module in modules:
        importlib.import_module(module)
    return "\n\n".join(f"::: {module}" for module in modules)


GENERATED = {
    "reference/tables.md": write_tables,
    "reference/stages.md": write_stages,
    "reference/command-line.md": write_command_line,
    "reference/ops.md": write_functions,
    "changelog.md": lambda: (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n", 1)[1],
}


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by mkdocs for each page: append what is generated for it."""
    generate = GENERATED.get(page.file.src_uri)
    return f"{markdown}\n\n{generate()}" if generate else markdown
