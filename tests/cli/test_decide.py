"""`vitreous decide`: what is written down, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vitreous.cli.decide import decide
from vitreous.engine.machine import Machine
from vitreous.engine.project import create_project, read_decisions
from vitreous.engine.run import run_recipe
from vitreous.errors import SettingError
from vitreous.io.mrc import write_mrc
from vitreous.model.documents import Facts


def test_decisions_are_kept_with_run_and_person(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", np.eye(32, dtype=np.float32), 2.0)
    project = create_project(tmp_path / "p", Facts(micrographs=str(tmp_path / "m.mrc")))
    run_recipe(project, until="ingest", machine=Machine(workers=1, threads=1))

    def call(*words: str) -> None:
        words = (str(project.root), *words, "--who", "ada")
        CliRunner().invoke(decide, words, catch_exceptions=False)

    call("ingest", "micrograph", "m", "reject")
    call("001-ingest", "threshold", "score_calibrated", "0.3")
    call("ingest", "run", "all", "accept")
    found = [(made.run, made.kind, made.subject, made.verdict, made.who) for made in read_decisions(project)]
    assert found == [
        ("001-ingest", "micrograph", "m", "reject", "ada"),
        ("001-ingest", "threshold", "score_calibrated", "0.3", "ada"),
        ("001-ingest", "run", "all", "accept", "ada"),
    ]
    for words, problem in (
        (("ingest", "threshold", "score", "high"), "expected a number"),
        (("ingest", "class", "3", "maybe"), "accept or reject"),
        (("ingest", "run", "all", "reject"), "expected accept,"),
        (("nothing", "class", "3", "accept"), "no such run"),
    ):
        with pytest.raises(SettingError, match=problem):
            call(*words)
    assert len(read_decisions(project)) == 3
