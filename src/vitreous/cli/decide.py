"""`vitreous decide`: write down one judgement of a person on what a run made."""

import getpass
from pathlib import Path
from typing import get_args

import click

from vitreous.cli.options import project_argument
from vitreous.engine.project import open_project, record_decision
from vitreous.engine.records import read_current_records
from vitreous.errors import SettingError
from vitreous.model.documents import DecisionKind

__all__ = ["decide"]

_KINDS = tuple(kind for kind in get_args(DecisionKind) if kind != "mark")


def _check_verdict(kind: str, verdict: str) -> None:
    if kind == "threshold":
        try:
            float(verdict)
        except ValueError:
            raise SettingError(f"decide threshold: expected a number, found {verdict!r}") from None
    elif verdict not in ("accept", "reject") or (kind, verdict) == ("run", "reject"):
        expected = "accept" if kind == "run" else "accept or reject"
        raise SettingError(f"decide {kind}: expected {expected}, found {verdict!r}")


@click.command()
@project_argument
@click.argument("run")
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("subject")
@click.argument("verdict")
@click.option("--who", default=getpass.getuser, metavar="NAME", help="annotator [default: your login name]")
@click.option("--note", default="", help="a remark that is kept")
def decide(project: Path, run: str, kind: DecisionKind, subject: str, verdict: str, who: str, note: str) -> None:
    """Write down a judgement on what RUN made: a folder of runs/, or a stage for its current run.

    KIND SUBJECT VERDICT is one of: class NUMBER accept|reject; pick PARTICLE accept|reject; micrograph NAME accept|reject;
    threshold COLUMN VALUE; or run all accept, which takes all that was proposed. `vitreous run` takes it up. Picks are added,
    moved and removed with `vitreous picks`.
    """
    opened = open_project(project)
    _check_verdict(kind, verdict)
    current = {record.stage: record.folder for record in read_current_records(opened)}
    folder = current.get(run, run)
    record_decision(opened, who=who, run=folder, kind=kind, subject=subject, verdict=verdict, note=note)
    click.echo(f"{who}: {kind} {subject} of {folder}: {verdict}; `vitreous run` takes it up", err=True)
