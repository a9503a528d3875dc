"""`vitreous statistics`: numbers of tables made by hand."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from vitreous.cli.statistics import statistics
from vitreous.engine.project import create_project
from vitreous.errors import ProjectError
from vitreous.io.atomic import write_json
from vitreous.io.mrc import write_mrc
from vitreous.io.parquet import write_table
from vitreous.model.documents import Facts
from vitreous.model.provenance import RunRecord


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "10017"
    rows = []
    for i, name in enumerate(("a", "b", "bad")):
        write_mrc(root / "m" / f"{name}.mrc", np.zeros((50, 60), np.float32), 2.0)
        rows.append(
            {"micrograph_id": name, "exposure_id": name, "micrograph_path": f"m/{name}.mrc", "nx_px": 60, "ny_px": 50}
            | {"pixel_size_angstrom": 2.0, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
            | {"optics_group": 1, "accepted": name != "bad", "defocus_u_angstrom": 11_000.0 + 4000 * i}
            | {"defocus_v_angstrom": 9_000.0 + 4000 * i}
        )  # fmt: skip
    labels = [("a", "positive"), ("a", "positive"), ("a", "negative"), ("bad", "positive"), ("b", "positive")]
    particles = [
        {"particle_id": str(i), "micrograph_id": name, "x_px": 20.0, "y_px": 20.0, "diameter_angstrom": 41.0}
        | {"picker": "blob", "label": label, "rot_deg": 30.0 * i, "tilt_deg": 90.0}
        for i, (name, label) in enumerate(labels)
    ]  # fmt: skip
    create_project(root, Facts(micrographs=str(root / "m" / "*.mrc"), title="Toy"))
    entry = {"entry_id": "10017", "symmetry": "D2", "molecular_weight_kda": 450.0}
    write_table(root / "runs" / "001-toy" / "entries.parquet", "entries", pl.DataFrame([entry]))
    now = datetime.now(UTC)
    write_table(root / "runs" / "001-toy" / "micrographs.parquet", "micrographs", pl.DataFrame(rows))
    write_table(root / "runs" / "001-toy" / "particles.parquet", "particles", pl.DataFrame(particles))
    record = RunRecord(
        folder="001-toy", stage="toy", stage_version="1", vitreous_version="0", key="k", params={}, changed_params={}, inputs={},
        outputs={"entries": 1, "micrographs": 3, "particles": 5}, rows_in={}, started=now, finished=now, seconds=0, cpu_seconds=0,
        peak_memory_bytes=0,
    )  # fmt: skip
    write_json(root / "runs" / "001-toy" / "run.json", record.model_dump(mode="json"))
    return root


def test_numbers_of_a_dataset(project: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        statistics, [str(project), "--to", str(tmp_path / "to"), "--json"], catch_exceptions=False
    )
    (row,) = json.loads(result.stdout)["datasets"]
    assert row == {
        "dataset": "10017",
        "title": "Toy",
        "molecular_weight_kda": 450.0,
        "n_micrographs": 2,
        "nx_px": 60,
        "ny_px": 50,
        "pixel_size_angstrom": 2.0,
        "size_gigabytes": pytest.approx(2 * (1024 + 4 * 3000) / 1e9),
        "n_particles": 3,
        "n_negatives": 1,
        "particles_per_micrograph": 1.5,
        "diameter_angstrom": 41.0,
        "diameter_px": 20,
        "defocus_low_angstrom": 10_000.0,
        "defocus_median_angstrom": 12_000.0,
        "defocus_high_angstrom": 14_000.0,
        "resolution_angstrom": None,
    }
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        "statistics.json",
        "table.csv",
        "defocus.png",
        "histograms.png",
        "orientations_10017.png",
    }
    assert pl.read_csv(tmp_path / "to" / "table.csv")["n_particles"].to_list() == [3]


def test_table_and_two_of_one_name(project: Path) -> None:
    shown = CliRunner().invoke(statistics, [str(project)], catch_exceptions=False).stdout
    assert "41 Å, 20 px" in shown
    assert "1.00 to 1.40 µm" in shown
    with pytest.raises(ProjectError, match="another project called 10017"):
        CliRunner().invoke(statistics, [str(project), str(project)], catch_exceptions=False)
