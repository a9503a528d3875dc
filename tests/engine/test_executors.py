"""Worker processes: what they are copies of, and that none outlives its driver."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vitreous.engine.project import Project
from vitreous.engine.records import read_status

MakeProject = Callable[[list[str]], Project]
PAUSE_S = 300
COMMAND = [sys.executable, "-c", "from vitreous.cli.main import main; main()"]


def start(project: Project) -> subprocess.Popen[str]:
    """Start a driver with two workers that are held up by their first items."""
    settings = ["--set", f"toy_stages:SQUARE.pause_s={PAUSE_S}", "--workers", "2"]
    process = subprocess.Popen(
        [*COMMAND, "run", str(project.root), *settings], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    while [run.stage for run in read_status(project).runs if run.n_items] != ["read", "square"]:
        assert process.poll() is None
        time.sleep(0.05)
    # The driver, the server, its two copies, and the one that multiprocessing has for itself.
    while len(list_group(process.pid)) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    # The copies have still to take up their items.
    time.sleep(1)
    return process


def list_group(leader: int) -> list[str]:
    """Return the command lines of the processes of the session that `leader` began, without those that are ending."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            command = (status.parent / "cmdline").read_text(encoding="utf-8").replace("\0", " ")
            if int(fields[3]) == leader and command:
                found.append(command)
        except (OSError, UnicodeDecodeError):
            continue
    return found


def wait_for_end(leader: int) -> None:
    """Wait until no process of the session is left: a process closes its files a little before it is gone."""
    until = time.monotonic() + PAUSE_S / 10
    while left := list_group(leader):
        assert time.monotonic() < until, left
        time.sleep(0.05)


def test_workers_end_with_their_driver(make_project: MakeProject) -> None:
    process = start(make_project([str(i) for i in range(4)]))
    os.kill(process.pid, signal.SIGKILL)
    # Each of them holds the other end of the pipe.
    process.communicate(timeout=PAUSE_S / 10)
    assert process.returncode == -signal.SIGKILL
    wait_for_end(process.pid)


def test_interrupted_from_the_keyboard(make_project: MakeProject) -> None:
    """Ctrl-C reaches all processes of the terminal at once."""
    process = start(make_project([str(i) for i in range(4)]))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PAUSE_S / 10)
    assert process.returncode == 130
    assert "interrupted; the same command goes on where it was" in errors
    wait_for_end(process.pid)


def test_what_workers_are_copies_of_has_no_threads(tmp_path: Path) -> None:
    """A copy of a process in which another thread holds a lock waits for it forever."""
    (tmp_path / "look.py").write_text(
        "import os, sys\n"
        "def look():\n"
        "    n_threads = len(os.listdir(f'/proc/{os.getppid()}/task'))\n"
        "    return n_threads, sorted({'torch', 'numba'} & set(sys.modules))\n"
    )
    script = tmp_path / "driver.py"
    script.write_text(
        "from look import look\n"
        "from vitreous.engine.executors import _start_pool\n"
        "if __name__ == '__main__':\n"
        "    with _start_pool(1) as pool:\n"
        "        print(pool.submit(look).result())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(1, ['numba', 'torch'])"), done.stderr
