"""The ledger: which runs were begun and which of their items are done. Written by one process, the driver."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil
import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict

from vitreous.errors import ProjectError
from vitreous.model.provenance import ItemOutcome

__all__ = ["Ledger", "is_network_path", "open_ledger", "read_ledger"]

DATABASE_FILE, LOCK_FILE = "project.db", "project.lock"

_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "jfs", "apfs", "rootfs"})

_METADATA = sa.MetaData()
_RUNS = sa.Table(
    "runs",
    _METADATA,
    sa.Column("folder", sa.String, primary_key=True),
    sa.Column("stage", sa.String, nullable=False),
    sa.Column("key", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("message", sa.String, nullable=False, default=""),
    sa.Column("n_items", sa.Integer),
    sa.Column("begun", sa.String, nullable=False),
)
_ITEMS = sa.Table(
    "items",
    _METADATA,
    sa.Column("folder", sa.String, primary_key=True),
    sa.Column("item_id", sa.String, primary_key=True),
    sa.Column("outcome", sa.String, nullable=False),
)
_HISTORY = sa.Table(
    "history",
    _METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("folder", sa.String, nullable=False),
)


class RunRow(BaseModel):
    """A run that was begun."""

    model_config = ConfigDict(frozen=True)

    folder: str
    stage: str
    key: str
    status: str
    message: str
    n_items: int | None
    begun: datetime


def is_network_path(path: Path) -> bool:
    """Return whether `path` is on a file system that is not known to be local, where write-ahead logging is not safe."""
    path = path.resolve()
    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    for folder in (path, *path.parents):
        if folder in mounts:
            return mounts[folder] not in _LOCAL
    return True


class Ledger:
    """Access to `project.db`. Every change is committed before the method returns."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def begin_run(self, folder: str, stage: str, key: str) -> None:
        """Note that a run is begun, or goes on."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_RUNS).where(_RUNS.c.folder == folder))
            begun = datetime.now(UTC).isoformat()
            connection.execute(
                sa.insert(_RUNS).values(folder=folder, stage=stage, key=key, status="running", message="", begun=begun)
            )

    def end_run(self, folder: str, status: str, message: str = "") -> None:
        """Note how a run ended: done or failed."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(_RUNS).where(_RUNS.c.folder == folder).values(status=status, message=message))

    def set_item_count(self, folder: str, n_items: int) -> None:
        """Note how many items a run has."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(_RUNS).where(_RUNS.c.folder == folder).values(n_items=n_items))

    def record_item(self, folder: str, outcome: ItemOutcome) -> None:
        """Note what became of an item."""
        with self._engine.begin() as connection:
            row = (_ITEMS.c.folder == folder) & (_ITEMS.c.item_id == outcome.item_id)
            connection.execute(sa.delete(_ITEMS).where(row))
            connection.execute(
                sa.insert(_ITEMS).values(folder=folder, item_id=outcome.item_id, outcome=outcome.model_dump_json())
            )

    def append_history(self, folder: str) -> None:
        """Note that the tables of this run are now the current ones."""
        with self._engine.begin() as connection:
            connection.execute(sa.insert(_HISTORY).values(folder=folder))

    def read_runs(self) -> list[RunRow]:
        """Return all runs that were begun, by folder."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_RUNS).order_by(_RUNS.c.folder)).mappings().all()
        return [RunRow.model_validate(dict(row)) for row in rows]

    def read_items(self, folder: str) -> dict[str, ItemOutcome]:
        """Return what became of the items of a run so far."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_ITEMS.c.outcome).where(_ITEMS.c.folder == folder)).scalars().all()
        outcomes = [ItemOutcome.model_validate(json.loads(row)) for row in rows]
        return {outcome.item_id: outcome for outcome in outcomes}

    def read_history(self) -> list[str]:
        """Return folders of runs in the order in which they became current, the last mention of each only."""
        with self._engine.connect() as connection:
            folders = connection.execute(sa.select(_HISTORY.c.folder).order_by(_HISTORY.c.number)).scalars().all()
        return list(reversed(dict.fromkeys(reversed(folders))))


def _explain(root: Path, error: Exception) -> ProjectError:
    return ProjectError(
        f"{root / DATABASE_FILE}: found that it cannot be used ({error}); expected a writable folder with free space. "
        "Free some space or make the folder writable, then run the same command again."
    )


@contextmanager
def _hold_lock(root: Path) -> Iterator[None]:
    """Keep every other driver out; the kernel gives the lock back when the process ends, however it ends."""
    try:
        descriptor = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _explain(root, error) from error
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            raise ProjectError(
                f"{root}: found that {owner} is running this project; expected nobody to. "
                "Wait until it ends, or stop it first; `vitreous status` shows how far it is."
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield
    finally:
        os.close(descriptor)


def _make_engine(url: str, journal: str | None) -> sa.Engine:
    engine = sa.create_engine(url, poolclass=sa.pool.StaticPool, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sa.engine.interfaces.DBAPIConnection, _: object) -> None:
        cursor = connection.cursor()
        if journal is not None:
            cursor.execute(f"PRAGMA journal_mode={journal}")
            cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    return engine


@contextmanager
def open_ledger(root: Path) -> Iterator[Ledger]:
    """Open the ledger for writing, as the project's only driver.

    Raises
    ------
    ProjectError
        If another process drives the project, or the folder cannot be written.
    """
    with _hold_lock(root):
        journal = "DELETE" if is_network_path(root) else "WAL"
        engine = _make_engine(f"sqlite:///{root / DATABASE_FILE}", journal)
        try:
            _METADATA.create_all(engine)
            yield Ledger(engine)
        except sa.exc.DatabaseError as error:
            raise _explain(root, error.orig or error) from error
        finally:
            engine.dispose()


@contextmanager
def read_ledger(root: Path) -> Iterator[Ledger]:
    """Open the ledger for reading; works beside a driver and in a read-only folder. Empty where there is none yet."""
    path = root / DATABASE_FILE
    if path.exists():
        # Without the right to make the shared-memory file, only a database that nobody writes can be read.
        options = "mode=ro" if os.access(root, os.W_OK) else "immutable=1"
        engine = _make_engine(f"sqlite:///file:{path}?{options}&uri=true", None)
    else:
        engine = _make_engine("sqlite://", None)
    try:
        if not sa.inspect(engine).has_table("history"):
            engine.dispose()
            engine = _make_engine("sqlite://", None)
            _METADATA.create_all(engine)
        yield Ledger(engine)
    finally:
        engine.dispose()
