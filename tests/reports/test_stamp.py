from datetime import UTC, datetime
from pathlib import Path

from vitreous.model.provenance import RunRecord
from vitreous.reports.report import write_report
from vitreous.reports.stamp import is_current


def make_record(key: str, **changes: object) -> RunRecord:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    record = RunRecord(
        folder="001-ingest", stage="ingest", stage_version="1", vitreous_version="0", key=key, params={}, changed_params={},
        inputs={}, outputs={}, rows_in={}, started=now, finished=now, seconds=1, cpu_seconds=1, peak_memory_bytes=1,
    )  # fmt: skip
    return record.model_copy(update=changes)


def test_a_page_is_of_its_runs_and_title(tmp_path: Path) -> None:
    records = [make_record("a"), make_record("b")]
    assert not is_current(tmp_path, "t", records)
    write_report(tmp_path, "t", {}, records)
    assert is_current(tmp_path, "t", records)
    assert not is_current(tmp_path, "u", records)
    for others in (
        records[:1],
        records[::-1],
        [records[0], make_record("c")],
        [records[0], make_record("b", warnings=("x",))],
    ):
        assert not is_current(tmp_path, "t", others)


def test_a_long_title_does_not_hide_it(tmp_path: Path) -> None:
    records = [make_record("a")]
    write_report(tmp_path, "&" * 5000, {}, records)
    assert is_current(tmp_path, "&" * 5000, records)
