"""The card: mlcroissant validates and loads it, sha256sum checks the files, counts and splits add up."""

import hashlib
import json
import subprocess
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from vitreous.exporters.cryoppp import export_cryoppp
from vitreous.exporters.topaz import export_topaz
from vitreous.io.atomic import write_json
from vitreous.model.documents import Decision
from vitreous.model.provenance import RunRecord

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlcroissant


@pytest.fixture
def release(toy_project: Any, tmp_path: Path) -> Path:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    record = RunRecord(
        folder="002-motion", stage="motion", stage_version="3", vitreous_version="0", key="k", params={"patches": 5},
        changed_params={}, inputs={}, outputs={"micrographs": 4}, rows_in={}, started=now, finished=now, seconds=1,
        cpu_seconds=1, peak_memory_bytes=1, host="here", warnings=("three movies moved far",),
    )  # fmt: skip
    write_json(toy_project.root / "runs" / "002-motion" / "run.json", record.model_dump(mode="json"))
    decision = Decision(
        decision_id="d1", when=now, who="ada", run="002-motion", kind="micrograph", subject="mic_bad", verdict="reject"
    )
    write_json(toy_project.root / "decisions" / "d1.json", decision.model_dump(mode="json"))
    export_topaz(toy_project.tables, toy_project.root, tmp_path / "to")
    return tmp_path / "to"


def test_croissant_is_valid_and_loads(release: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = mlcroissant.Dataset(jsonld=str(release / "croissant.json"))
        assert not dataset.metadata.ctx.issues.errors
        records = list(dataset.records("particles"))
    table = pl.read_csv(release / "particles.csv")
    assert len(records) == table.height == 9
    first = {key.removeprefix("particles/"): value for key, value in records[0].items()}
    assert first["particle_id"] == table["particle_id"][0].encode()
    assert (first["x_px"], first["y_px"]) == (table["x_px"][0], table["y_px"][0])


def test_checksums(release: Path, toy_project: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "checksums.sha256"], cwd=release, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    files = {str(path.relative_to(release)) for path in release.rglob("*") if path.is_file()}
    assert len(done.stdout.splitlines()) == len(files - {"checksums.sha256", "vitreous-export.json"})


def test_what_the_machine_card_lists_is_there_as_it_says(release: Path) -> None:
    listed = json.loads((release / "croissant.json").read_text())["distribution"]
    for entry in listed:
        assert hashlib.sha256((release / entry["contentUrl"]).read_bytes()).hexdigest() == entry["sha256"]
    names = {entry["contentUrl"] for entry in listed}
    files = {path.relative_to(release).as_posix() for path in release.rglob("*") if path.is_file()}
    assert files - names == {"croissant.json", "checksums.sha256", "vitreous-export.json"}


def test_counts_and_splits_add_up(release: Path) -> None:
    document = json.loads((release / "dataset.json").read_text())
    assert sum(counts["micrographs"] for counts in document["splits"].values()) == 3
    assert sum(counts["positives"] for counts in document["splits"].values()) == document["counts"]["positives"] == 7
    assert sum(counts["negatives"] for counts in document["splits"].values()) == 2
    table = pl.read_csv(release / "particles.csv")
    splits = {row["name"]: row["split"] for row in document["micrographs"]}
    assert dict(table.select("micrograph", "split").unique().iter_rows()).items() <= splits.items()


def test_provenance_and_page(release: Path) -> None:
    document = json.loads((release / "dataset.json").read_text())
    run = document["provenance"]["runs"][0]
    assert (run["stage"], run["stage_version"], run["params"]) == ("motion", "3", {"patches": 5})
    assert "host" not in run
    assert [decision["who"] for decision in document["provenance"]["decisions"]] == ["ada"]
    assert document["software"]["torch"] == torch.__version__
    page = (release / "README.md").read_text()
    for text in (
        "# Toy",
        f"polars {pl.__version__}",
        "pixel size: 1.5 Å",
        "| 002-motion | motion 3 | 4 micrographs |",
        "Decisions by people: 1",
        "- 1 candidates are labelled neither positive nor negative; run review\n- 002-motion: three movies moved far",
    ):
        assert text in page


def test_positions_are_those_of_the_table_in_every_layout(release: Path, toy_project: Any, tmp_path: Path) -> None:
    export_cryoppp(toy_project.tables, toy_project.root, tmp_path / "other")
    assert (tmp_path / "other" / "10017" / "particles.csv").read_bytes() == (release / "particles.csv").read_bytes()
    ours = toy_project.tables["particles"].filter(pl.col("label") == "positive")
    listed = pl.read_csv(release / "particles.csv").filter(pl.col("label") == "positive")
    merged = ours.join(listed, on="particle_id", suffix="_listed")
    assert merged.height == 7
    assert (merged["x_px"] == merged["x_px_listed"]).all()
    assert (merged["y_px"] == merged["y_px_listed"]).all()


def test_licence_source_and_weight_are_said_everywhere(toy_project: Any, tmp_path: Path) -> None:
    facts = {"licence": "CC0-1.0", "source": "EMPIAR-10017", "molecular_weight_kda": 465.0}
    tables = toy_project.change("entries", "10017", **facts)
    export_topaz(tables, toy_project.root, tmp_path / "to")
    document = json.loads((tmp_path / "to" / "dataset.json").read_text())
    assert {name: document[name] for name in facts} == facts
    croissant = json.loads((tmp_path / "to" / "croissant.json").read_text())
    assert (croissant["license"], croissant["isBasedOn"]) == ("CC0-1.0", "EMPIAR-10017")
    page = (tmp_path / "to" / "README.md").read_text()
    for text in ("## Licence\n\nCC0-1.0", "source: EMPIAR-10017", "molecular weight: 465 kDa"):
        assert text in page
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert not mlcroissant.Dataset(jsonld=str(tmp_path / "to" / "croissant.json")).metadata.ctx.issues.errors
