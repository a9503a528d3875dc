import math
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitreous.io.mrc import write_mrc
from vitreous.model.provenance import RunRecord
from vitreous.model.stage import Context, Inputs, RunFolder
from vitreous.model.tables import complete_table
from vitreous.reports.curation_plots import JudgedColumn, plot_limits
from vitreous.reports.curation_section import describe_curation, draw_curation
from vitreous.reports.report import write_report
from vitreous.stages.curate import STAGE, CurateParams


def judge(root: Path) -> tuple[dict[str, pl.DataFrame], list[RunRecord]]:
    """Run `curate` on ten micrographs, of which the last two have a bad fit; return the tables and the record of the run."""
    rows = []
    for i in range(10):
        write_mrc(root / f"m{i}.mrc", np.random.default_rng(i).normal(size=(60, 80)).astype(np.float32), 1.5)
        rows.append(
            {
                "micrograph_id": f"m{i}",
                "exposure_id": f"m{i}",
                "micrograph_path": f"m{i}.mrc",
                "nx_px": 80,
                "ny_px": 60,
                "pixel_size_angstrom": 1.5,
                "voltage_kv": 300.0,
                "cs_mm": 2.7,
                "amplitude_contrast": 0.1,
                "optics_group": 1,
                "defocus_u_angstrom": 15_000.0 + 100 * i,
                "ctf_score": 0.8 if i < 8 else 0.2,
                "ctf_resolution_angstrom": 4.0 + 0.1 * i if i else None,
                "accepted": True,
            }
        )
    params = CurateParams(limits="defocus_u_angstrom=..15650")
    inputs, folder = (
        Inputs({"micrographs": complete_table("micrographs", pl.DataFrame(rows))}),
        root / "runs/004-curate",
    )
    folder.mkdir(parents=True)
    judged = STAGE.compute(STAGE.load(inputs, params, Context(root)), params, lambda fraction, text: None)
    saved = STAGE.save(judged, inputs, params, RunFolder(root, folder))
    now = datetime.now(UTC)
    record = RunRecord(
        folder=folder.name,
        stage="curate",
        stage_version="1",
        vitreous_version="1",
        key="k",
        params={},
        changed_params={},
        inputs={},
        outputs={},
        rows_in={},
        started=now,
        finished=now,
        seconds=1,
        cpu_seconds=1,
        peak_memory_bytes=1,
    )
    return dict(saved.tables), [record]


def test_limits_are_those_of_the_run(tmp_path: Path) -> None:
    tables, records = judge(tmp_path)
    curation = describe_curation(tmp_path, tables, records)
    assert curation is not None
    assert (curation.n_accepted, curation.n_micrographs) == (7, 10)
    limits = {limit["column"]: limit for limit in curation.limits}
    assert limits["defocus_u_angstrom"] == {
        "column": "defocus_u_angstrom",
        "low": None,
        "high": 15_650.0,
        "reason": "defocus",
        "proposed": False,
        "rejected": 3,
    }
    assert limits["ctf_score"]["proposed"]
    assert limits["ctf_score"]["rejected"] == 2
    assert curation.values["ctf_resolution_angstrom"][:3] == [None, 4.1, 4.2]


def test_what_was_left_out_is_shown_with_its_reason(tmp_path: Path) -> None:
    tables, records = judge(tmp_path)
    captions = [caption for caption, _ in draw_curation(tmp_path, tables, describe_curation(tmp_path, tables, records))]
    assert captions == ["7 of 10 micrographs accepted; limits dashed", "Not accepted (all), with the reasons"]
    assert draw_curation(tmp_path, tables, describe_curation(tmp_path, tables, [])) == []


def test_distributions_of_one_value_are_drawn() -> None:
    column = JudgedColumn("a", np.array([1.0, 1.0, np.nan]), -math.inf, 5.0)
    assert plot_limits([column], np.array([True, False, True])).startswith(b"\x89PNG")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium to run the page's script")
def test_counts_follow_the_limits_on_the_page(tmp_path: Path) -> None:
    tables, records = judge(tmp_path)
    page = write_report(tmp_path, "t", tables, records)
    change = """<script>
      const input = document.querySelector('tr[data-column="defocus_u_angstrom"] input:nth-of-type(1)');
      input.value = 15150; input.dispatchEvent(new Event("input", {bubbles: true}));
    </script></body>"""
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", change), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", page.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    # Below 15150 are two, above 15650 three, and two of these have a bad score besides.
    row = found.split('data-column="defocus_u_angstrom"')[1].split("</tr>")[0]
    assert row.rstrip().endswith(">5</td>")
    assert 'id="outside">5</td>' in found
    assert "defocus_u_angstrom=15150..15650" in found
