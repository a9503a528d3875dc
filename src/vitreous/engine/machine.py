"""Facts about the machine: never part of a run's key, and never of its results."""

import os
from dataclasses import dataclass, field

__all__ = ["Machine", "count_cores", "limit_threads", "measure_peak_memory", "reset_peak_memory"]


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Machine:
    """Where and how wide to run.

    Attributes
    ----------
    workers
        Processes that work on items, each on one at a time; 1 works in this process.
    threads
        Threads of a stage that works on the whole dataset. An item always gets one thread, so that its result depends on
        neither number.
    device
        Where tensors go.
    scheduler
        Address of a Dask scheduler; replaces the processes of this machine.
    """

    workers: int = field(default_factory=count_cores)
    threads: int = field(default_factory=count_cores)
    device: str = "cpu"
    scheduler: str | None = None


def limit_threads(n: int) -> None:
    """Let the array engines of this process use `n` threads."""
    import numba
    import torch

    torch.set_num_threads(n)
    numba.set_num_threads(min(n, count_cores()))


def reset_peak_memory() -> None:
    """Start to measure the peak of this process' memory anew, where the kernel allows it."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as stream:  # noqa: PTH123 - not a file on disk
            stream.write("5")
    except OSError:
        return


def measure_peak_memory() -> int:
    """Return the largest resident size of this process since the last reset, bytes."""
    with open("/proc/self/status", encoding="ascii") as stream:  # noqa: PTH123 - not a file on disk
        for line in stream:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
