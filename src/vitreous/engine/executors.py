"""Who does the work: this process, processes of this machine, or a Dask cluster; all through `concurrent.futures`."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

from vitreous.engine.machine import Machine
from vitreous.engine.work import ItemTask, prepare_worker, run_item
from vitreous.errors import SettingError
from vitreous.model.provenance import ItemOutcome

__all__ = ["Crew", "open_crew"]

_IN_FLIGHT_PER_WORKER = 2
_PRELOADED = ["torch", "numba", "scipy.interpolate"]
"""What takes seconds to import and starts no thread; a copy of a process with threads, as tables have, can hang."""


class _InProcessExecutor(Executor):
    """Does each task at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _start_server() -> None:
    """Start the process that workers are copies of, unless it runs, and return at once."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()


def _start_pool(workers: int) -> Executor:
    _start_server()
    return ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver"), initializer=prepare_worker)


def _take(future: Future[ItemOutcome], item_id: str) -> ItemOutcome:
    try:
        return future.result()
    except BrokenExecutor:
        raise
    except Exception as error:  # a cluster's own: the worker was lost, again and again
        return ItemOutcome(item_id=item_id, done=False, message=f"{type(error).__name__}: {error}")


class Crew:
    """Runs item tasks and hands back their outcomes as they arrive.

    The processes are started at first need and kept for the next stage. When one dies (mostly for want of memory) a new pool
    does the tasks that were in flight one by one, so that the one that kills its worker is found and becomes a failed item.
    """

    def __init__(self, start: Callable[[], Executor], workers: int) -> None:
        self._start = start
        self._n_in_flight = 1 if workers == 1 else _IN_FLIGHT_PER_WORKER * workers
        self._executor: Executor | None = None

    def close(self) -> None:
        """Stop the workers, once they have done what they are at."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    def _submit(self, task: ItemTask) -> Future[ItemOutcome]:
        if self._executor is None:
            self._executor = self._start()
        return self._executor.submit(run_item, task)

    def run(self, item_ids: Sequence[str], tasks: Sequence[ItemTask]) -> Iterator[ItemOutcome]:
        """Yield the outcome of every task, in the order in which they end; a few are in flight at any time."""
        queue = list(zip(item_ids, tasks, strict=True))[::-1]
        in_flight: dict[Future[ItemOutcome], tuple[str, ItemTask]] = {}
        suspects: list[tuple[str, ItemTask]] = []
        try:
            while queue or in_flight:
                try:
                    while queue and len(in_flight) < self._n_in_flight:
                        entry = queue.pop()
                        try:
                            in_flight[self._submit(entry[1])] = entry
                        except BrokenExecutor:
                            queue.append(entry)
                            raise
                    for future in wait(in_flight, return_when=FIRST_COMPLETED).done:
                        outcome = _take(future, in_flight[future][0])
                        del in_flight[future]
                        yield outcome
                except BrokenExecutor:
                    suspects.extend(in_flight.values())
                    in_flight.clear()
                    self.close()
                if suspects and not in_flight:
                    for entry in suspects:
                        yield self._run_alone(*entry)
                    suspects.clear()
        finally:
            for future in in_flight:
                future.cancel()

    def _run_alone(self, item_id: str, task: ItemTask) -> ItemOutcome:
        try:
            return _take(self._submit(task), item_id)
        except BrokenExecutor:
            self.close()
            return ItemOutcome(
                item_id=item_id,
                done=False,
                message="the worker process died while it worked on this item; the usual reason is too little memory: "
                "try fewer workers",
            )


@contextmanager
def open_crew(machine: Machine, *, at_once: bool = False) -> Iterator[Crew]:
    """Yield the crew that `machine` asks for.

    Parameters
    ----------
    machine
        Where and how wide to run.
    at_once
        Whether there is work for sure: imports for the workers then begin before the first item is there.

    Raises
    ------
    SettingError
        If a scheduler is asked for and Dask is missing or the scheduler does not answer.
    """
    if machine.scheduler is None:
        if at_once and machine.workers > 1:
            _start_server()
        crew = Crew(
            _InProcessExecutor if machine.workers <= 1 else lambda: _start_pool(machine.workers), machine.workers
        )
        try:
            yield crew
        finally:
            crew.close()
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise SettingError("--scheduler needs Dask: pip install 'vitreous[cluster]'") from error
    try:
        client = Client(machine.scheduler, timeout=20)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise SettingError(
            f"--scheduler {machine.scheduler}: found no Dask scheduler that answers ({error}); "
            "start one with `dask scheduler` and give its address, e.g. tcp://head-node:8786"
        ) from error
    with client:
        n_workers = max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        crew = Crew(lambda: client.get_executor(pure=False), n_workers)  # type: ignore[no-untyped-call]
        try:
            yield crew
        finally:
            crew.close()
