from pathlib import Path

import pytest
import sqlalchemy as sa

from vitreous.engine import ledger as module
from vitreous.engine.ledger import is_network_path, open_ledger, read_ledger
from vitreous.errors import ProjectError
from vitreous.model.provenance import ItemOutcome


def read_journal(root: Path) -> str:
    engine = sa.create_engine(f"sqlite:///{root / 'project.db'}")
    with engine.connect() as connection:
        mode = str(connection.execute(sa.text("PRAGMA journal_mode")).scalar())
    engine.dispose()
    return mode


def test_what_is_written_is_read(tmp_path: Path) -> None:
    outcome = ItemOutcome(item_id="a", done=False, message="no", warnings=("w",))
    with open_ledger(tmp_path) as ledger:
        ledger.begin_run("001-motion", "motion", "key")
        ledger.record_item("001-motion", ItemOutcome(item_id="a", done=True))
        ledger.record_item("001-motion", outcome)
        ledger.append_history("001-motion")
        ledger.append_history("002-ctf")
        ledger.append_history("001-motion")
        with read_ledger(tmp_path) as reader:
            assert reader.read_items("001-motion") == {"a": outcome}
    with read_ledger(tmp_path) as reader:
        assert [(row.folder, row.status) for row in reader.read_runs()] == [("001-motion", "running")]
        assert reader.read_history() == ["002-ctf", "001-motion"]


def test_local_disk_uses_write_ahead_log(tmp_path: Path) -> None:
    assert not is_network_path(tmp_path)
    with open_ledger(tmp_path):
        assert read_journal(tmp_path) == "wal"


def test_network_disk_uses_rollback_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = type("Part", (), {"mountpoint": str(tmp_path.resolve()), "fstype": "nfs4"})
    monkeypatch.setattr(module.psutil, "disk_partitions", lambda all: [part])
    assert is_network_path(tmp_path / "deep" / "er")
    with open_ledger(tmp_path):
        assert read_journal(tmp_path) == "delete"


def test_missing_ledger_is_empty(tmp_path: Path) -> None:
    with read_ledger(tmp_path) as reader:
        assert reader.read_runs() == []
        assert reader.read_history() == []
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(ProjectError, match=r"project\.db: found that it cannot be used"), open_ledger(Path("/proc")):
        pass


def test_broken_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "project.db").write_bytes(b"not a database at all, but long enough to look like one" * 40)
    with pytest.raises(ProjectError, match=r"project\.db"), open_ledger(tmp_path):
        pass
