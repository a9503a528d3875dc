"""What happens in a worker: one item, loaded, computed and saved. Workers never touch the database."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from vitreous.engine.machine import limit_threads, measure_peak_memory, reset_peak_memory
from vitreous.engine.stages import load_stage
from vitreous.errors import UserError, VitreousError
from vitreous.io.atomic import open_for_replacement
from vitreous.model.provenance import ItemOutcome
from vitreous.model.stage import Context, ItemStage, RunFolder
from vitreous.model.tables import complete_table

__all__ = ["ItemTask", "locate_item", "prepare_worker", "run_item"]


class ItemTask(BaseModel):
    """All that a worker is told, plain data."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    item_json: str
    params_json: str
    root: Path
    folder: str
    device: str


def locate_item(run: Path, item_id: str) -> Path:
    """Return the folder that holds the rows of an item; the name is safe whatever the identifier holds."""
    return run / "items" / hashlib.sha256(item_id.encode()).hexdigest()[:32]


def _follow_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def prepare_worker() -> None:
    """Make a worker process end with the driver, however that ends, and at once when interrupted from the keyboard."""
    # An exception would end its item only, and the driver wait for the next.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow_driver, daemon=True).start()


def _work(stage: ItemStage[Any, Any, Any, Any], task: ItemTask, item_id: str) -> tuple[str, ...]:
    item = stage.item.model_validate_json(task.item_json)
    params = stage.params.model_validate_json(task.params_json)
    folder = RunFolder(task.root, task.root / "runs" / task.folder)
    loaded = stage.load(item, params, Context(task.root, task.device))
    saved = stage.save(stage.compute(loaded, params), item, folder)
    if missing := set(stage.makes) - set(saved.tables):
        raise RuntimeError(f"stage {stage.name} returned no rows for {sorted(missing)}")
    place = locate_item(folder.path, item_id)
    for name, frame in saved.tables.items():
        with open_for_replacement(place / f"{name}.parquet") as temporary:
            complete_table(name, frame).write_parquet(temporary)
    return saved.warnings


def run_item(task: ItemTask) -> ItemOutcome:
    """Do one item; whatever goes wrong becomes its outcome.

    What we raise on purpose is final; anything else is tried once more, since file servers and accelerators have hiccups.
    """
    item_id = str(json.loads(task.item_json)["item_id"])
    limit_threads(1)
    reset_peak_memory()
    started, cpu_started = time.perf_counter(), time.process_time()

    def describe(**fields: Any) -> ItemOutcome:
        return ItemOutcome(
            item_id=item_id,
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - cpu_started,
            peak_memory_bytes=measure_peak_memory(),
            **fields,
        )

    message = ""
    for _ in range(2):
        try:
            stage = load_stage(task.stage)
            if not isinstance(stage, ItemStage):
                raise RuntimeError(f"stage {stage.name} has no items")
            return describe(done=True, warnings=_work(stage, task, item_id))
        except VitreousError as error:
            return describe(done=False, message=str(error), user_can_mend=isinstance(error, UserError))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{type(error).__name__}: {error} (at {Path(where.filename).name}:{where.lineno})"
    return describe(done=False, message=message)


def read_item_rows(run: Path, item_id: str, name: str) -> pl.DataFrame:
    """Return the rows that an item gave for the table `name`."""
    return pl.read_parquet(locate_item(run, item_id) / f"{name}.parquet")
