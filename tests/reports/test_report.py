import base64
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vitreous.io.mrc import write_mrc
from vitreous.model.provenance import FailedItem, RunRecord
from vitreous.model.tables import check_table, empty_table
from vitreous.reports.report import write_report
from vitreous.reports.sections import count_labels

OPTICS = {
    "pixel_size_angstrom": 1.5,
    "voltage_kv": 300.0,
    "cs_mm": 2.7,
    "amplitude_contrast": 0.1,
    "optics_group": 1,
}


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(3)
    (tmp_path / "images").mkdir()
    write_mrc(tmp_path / "images/a.mrc", rng.normal(size=(301, 400)).astype(np.float32), 1.5)
    write_mrc(tmp_path / "images/classes.mrcs", rng.normal(size=(2, 32, 32)).astype(np.float32), 3.0)
    write_mrc(tmp_path / "images/map.mrc", rng.normal(size=(16, 16, 16)).astype(np.float32), 3.0, volume=True)
    motion = {"shift_x_px": [0.0, 1.0], "shift_y_px": [0.0, -2.0], "pixel_size_angstrom": 1.5}
    (tmp_path / "images/a_motion.json").write_text(json.dumps(motion))
    pl.DataFrame({"frequency_per_angstrom": [0.0, 0.1], "unmasked": [1.0, 0.1]}).write_parquet(
        tmp_path / "images/fsc.parquet"
    )
    micrograph = {
        "micrograph_id": "a",
        "exposure_id": "a",
        "micrograph_path": "images/a.mrc",
        "nx_px": 400,
        "ny_px": 301,
        "trajectory_path": "images/a_motion.json",
        "defocus_u_angstrom": 15000.0,
        "defocus_v_angstrom": 14800.0,
        **OPTICS,
    }
    particle = {"micrograph_id": "a", "diameter_angstrom": 60.0, "picker": "blob"}
    particles = [
        {"particle_id": f"a:{i}", "x_px": 50.0 * i, "y_px": 30.0 * i, "score": 0.1 * i, "power": 0.05 * i, **particle}
        | ({"label": "positive"} if i < 4 else {"label": "negative", "reason": "ice"})
        for i in range(1, 7)
    ]
    common = {"box_px": 32, "pixel_size_angstrom": 3.0}
    classes = [
        {"class_id": i + 1, "image_path": "images/classes.mrcs", "image_index": i, "n_particles": 3, "share": 0.5}
        | common
        | {"diameter_angstrom": 60.0, "selected": i == 0}
        for i in range(2)
    ]
    volume = {"volume_id": "v", "map_path": "images/map.mrc", "symmetry": "C1", "n_particles": 3, "box_px": 16}
    volume |= {"pixel_size_angstrom": 3.0, "resolution_angstrom": 12.0, "fsc_path": "images/fsc.parquet"}
    frames = {"micrographs": [micrograph], "particles": particles, "classes": classes, "volumes": [volume]}
    return {name: check_table(name, pl.DataFrame(rows)) for name, rows in frames.items()}


def record(**changes: object) -> RunRecord:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    values = {
        "folder": "004-pick",
        "stage": "pick",
        "stage_version": "1",
        "vitreous_version": "0",
        "key": "k",
        "params": {},
        "changed_params": {"method": "blob"},
        "inputs": {},
        "outputs": {"particles": 6},
        "rows_in": {"micrographs": 1},
        "started": now,
        "finished": now,
        "seconds": 1.0,
        "cpu_seconds": 1.0,
        "peak_memory_bytes": 1,
    }
    return RunRecord.model_validate(values | changes)


def test_page_holds_every_section_and_needs_no_other_file(tmp_path: Path, tables: dict[str, pl.DataFrame]) -> None:
    failed = (FailedItem(item_id="b", message="truncated <file>"),)
    path = write_report(tmp_path, "A & B", tables, [record(warnings=("estimated 60 Å",), failed=failed)])
    page = path.read_text()
    assert "<h1>A &amp; B</h1>" in page
    for heading in ("Motion", "CTF", "Micrographs with picks", "Pick scores", "2D classes", "3D map"):
        assert f">{heading}</h2>" in page
    assert "estimated 60 Å" in page
    assert "truncated &lt;file&gt;" in page
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    for source in sources:
        if source.startswith("data:"):
            Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).verify()


def test_page_of_a_project_with_nothing_done(tmp_path: Path) -> None:
    page = write_report(tmp_path, "new", {"particles": empty_table("particles")}, []).read_text()
    assert "Micrographs with picks</h2>" not in page


def test_counts_add_up(tables: dict[str, pl.DataFrame]) -> None:
    assert count_labels(tables) == [("negative", "ice", 3), ("positive", "", 3)]
