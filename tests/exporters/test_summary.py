"""Both exporters through the command line: found by their entry points, their summaries shown, their refusals mendable."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from vitreous.cli.projects import export
from vitreous.engine.project import create_project
from vitreous.errors import ProjectError
from vitreous.io.atomic import write_json
from vitreous.io.parquet import write_table
from vitreous.model.documents import Facts
from vitreous.model.provenance import RunRecord


@pytest.fixture
def project(toy_project: Any) -> Path:
    """Make the toy a project with one run, which wrote all tables."""
    root: Path = toy_project.root
    create_project(root, Facts(micrographs=str(root / "runs" / "002-motion" / "*.mrc"), pixel_size_angstrom=1.5))
    now = datetime.now(UTC)
    for name, frame in toy_project.tables.items():
        write_table(root / "runs" / "010-toy" / f"{name}.parquet", name, frame)
    record = RunRecord(
        folder="010-toy", stage="toy", stage_version="1", vitreous_version="0", key="k", params={}, changed_params={}, inputs={},
        outputs={name: frame.height for name, frame in toy_project.tables.items()}, rows_in={}, started=now, finished=now,
        seconds=0, cpu_seconds=0, peak_memory_bytes=0,
    )  # fmt: skip
    write_json(root / "runs" / "010-toy" / "run.json", record.model_dump(mode="json"))
    return root


@pytest.mark.parametrize(
    ("layout", "counts"),
    [
        ("cryoppp", "3 micrographs, 7 positives, 2 negatives"),
        ("relion", "3 micrographs, 7 positives, 3 excluded particles, 0 classes, 1 maps"),
    ],
)
def test_export(project: Path, tmp_path: Path, layout: str, counts: str) -> None:
    words = [str(project), "--format", layout, "--to", str(tmp_path / "to")]
    for _ in range(2):
        result = CliRunner().invoke(export, words, catch_exceptions=False)
        assert result.exit_code == 0
        assert result.stdout == ""
        assert result.stderr.splitlines() == [
            "warning: 1 candidates are labelled neither positive nor negative; run review",
            f"{tmp_path / 'to'}: {counts}",
        ]
    with pytest.raises(ProjectError, match=r"found .*, expected nothing, or an older"):
        CliRunner().invoke(export, [*words[:-1], str(project)], catch_exceptions=False)
