"""The engine on small stages with real files, a real database, real processes and a real Dask cluster."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from vitreous.engine.listener import Recorder
from vitreous.engine.machine import Machine
from vitreous.engine.project import Project, open_project, record_decision
from vitreous.engine.records import read_current_records, read_current_tables, read_status
from vitreous.engine.run import run_recipe, run_stage
from vitreous.errors import InputFileError, ProjectError, SettingError, StageError, UserError

MakeProject = Callable[[list[str]], Project]
ALONE = Machine(workers=1, threads=1)
SQUARE, SUM = "toy_stages:SQUARE", "toy_stages:SUM"


def read_tables(project: Project) -> dict[str, pl.DataFrame]:
    return read_current_tables(project, read_current_records(project))


def test_recipe_gives_the_right_tables(make_project: MakeProject) -> None:
    project = make_project(["1", "2", "3"])
    records = run_recipe(project, machine=ALONE)
    assert [record.folder for record in records] == ["001-read", "002-square", "003-sum"]
    tables = read_tables(project)
    assert tables["micrographs"]["defocus_u_angstrom"].to_list() == [1.0, 4.0, 9.0]
    assert tables["volumes"]["resolution_angstrom"].to_list() == [14.0]
    assert records[1].rows_in == {"exposures": 3}
    assert records[1].peak_memory_bytes > 10e6


def test_second_run_computes_nothing(make_project: MakeProject) -> None:
    project = make_project(["1", "2"])
    run_recipe(project, machine=ALONE)
    before = {path: path.stat().st_mtime_ns for path in project.runs.rglob("*")}
    recorder = Recorder()
    run_recipe(project, machine=ALONE, listener=recorder)
    assert recorder.reused == ["001-read", "002-square", "003-sum"]
    assert recorder.done == []
    assert {path: path.stat().st_mtime_ns for path in project.runs.rglob("*")} == before


def test_changed_parameter_recomputes_what_depends_on_it_and_returns_to_the_old_runs(make_project: MakeProject) -> None:
    project = make_project(["1", "2"])
    run_recipe(project, machine=ALONE)
    recorder = Recorder()
    run_recipe(project, overrides=[(SQUARE, "power", 3)], machine=ALONE, listener=recorder)
    assert recorder.reused == ["001-read"]
    assert recorder.done == ["004-square", "005-sum"]
    assert read_tables(project)["volumes"]["resolution_angstrom"].to_list() == [9.0]
    run_recipe(project, machine=ALONE)
    assert read_tables(project)["volumes"]["resolution_angstrom"].to_list() == [5.0]
    assert [run.current for run in read_status(project).runs] == [True, True, True, False, False]


def test_changed_input_file_makes_new_runs(make_project: MakeProject) -> None:
    project = make_project(["1", "2"])
    run_recipe(project, machine=ALONE)
    (project.root / "input" / "m01.txt").write_text("30", encoding="utf-8")
    run_recipe(project, machine=ALONE)
    assert read_tables(project)["volumes"]["resolution_angstrom"].to_list() == [901.0]


def test_same_results_from_processes(make_project: MakeProject) -> None:
    project = make_project([str(i) for i in range(9)])
    run_recipe(project, machine=ALONE)
    expected = read_tables(project)
    other = open_copy(project, "pool")
    records = run_recipe(other, machine=Machine(workers=2, threads=1))
    assert_same(read_tables(other), expected)
    assert records[1].warnings == ("m08 is large",)


def open_copy(project: Project, name: str) -> Project:
    """Return a project with the same inputs and no runs."""
    root = project.root.parent / name
    (root / "input").mkdir(parents=True)
    for path in (project.root / "input").iterdir():
        (root / "input" / path.name).write_bytes(path.read_bytes())
    for file in ("project.toml", "recipe.toml"):
        (root / file).write_bytes((project.root / file).read_bytes())
    return open_project(root)


def assert_same(tables: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert tables.keys() == expected.keys()
    for name, frame in expected.items():
        assert_frame_equal(tables[name], frame)


@pytest.mark.filterwarnings("ignore")
def test_same_results_from_dask(make_project: MakeProject) -> None:
    from distributed import LocalCluster

    project = make_project([str(i) for i in range(5)])
    run_recipe(project, machine=ALONE)
    expected = read_tables(project)
    other = open_copy(project, "dask")
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        run_recipe(other, machine=Machine(threads=1, scheduler=cluster.scheduler_address))
    assert_same(read_tables(other), expected)


@pytest.mark.filterwarnings("ignore")
def test_scheduler_that_is_not_there_is_named() -> None:
    from vitreous.engine.executors import open_crew

    with (
        pytest.raises(SettingError, match=r"--scheduler nonsense://nowhere"),
        open_crew(Machine(scheduler="nonsense://nowhere")),
    ):
        pass


DRIVER = """
import sys
from pathlib import Path
from vitreous.engine.machine import Machine
from vitreous.engine.project import open_project
from vitreous.engine.run import run_recipe
if __name__ == "__main__":
    machine = Machine(workers=int(sys.argv[2]), threads=1)
    run_recipe(open_project(Path(sys.argv[1])), overrides=[("toy_stages:SQUARE", "pause_s", 0.15)], machine=machine)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments_ends_with_the_same_tables(
    make_project: MakeProject, tmp_path: Path, workers: int
) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER, encoding="utf-8")
    project = make_project([str(i) for i in range(12)])
    reference = open_copy(project, "reference")
    run_recipe(reference, overrides=[(SQUARE, "pause_s", 0.15)], machine=ALONE)

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, str(script), str(project.root), str(workers)]
        return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)

    def wait_for_items(n: int, process: subprocess.Popen[bytes]) -> bool:
        while process.poll() is None:
            runs = [run for run in read_status(project).runs if run.stage == "square"]
            if runs and (runs[0].n_done >= n or runs[0].status == "done"):
                return runs[0].status != "done"
            time.sleep(0.02)
        return False

    rng = random.Random(workers)
    kills = 0
    for n in (0, 3, 7, 10):
        process = start()
        if wait_for_items(n, process):
            time.sleep(rng.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 3
    last = start()
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors.decode()
    assert_same(read_tables(project), read_tables(reference))
    assert [run.folder for run in read_status(project).runs] == ["001-read", "002-square", "003-sum"]


def test_items_that_are_done_are_not_done_again(make_project: MakeProject) -> None:
    project = make_project(["1", "2", "x", "y", "z"])
    with pytest.raises(UserError, match="3 of 5 items failed"):
        run_recipe(project, machine=ALONE)
    rows = {path: path.stat().st_mtime_ns for path in project.runs.rglob("exposures.parquet")}
    assert len(rows) == 2
    with pytest.raises(UserError, match="m02"):
        run_recipe(project, machine=ALONE)
    assert {path: path.stat().st_mtime_ns for path in project.runs.rglob("exposures.parquet")} == rows


def test_one_bad_file_is_a_failed_row(make_project: MakeProject) -> None:
    project = make_project(["1", "x", "3", "crash"])
    records = run_recipe(project, machine=ALONE)
    assert [failed.item_id for failed in records[0].failed] == ["m01", "m03"]
    assert "expected a number" in records[0].failed[0].message
    assert "ZeroDivisionError: a bug (at toy_stages.py:" in records[0].failed[1].message
    assert read_tables(project)["volumes"]["resolution_angstrom"].to_list() == [10.0]


def test_all_failing_through_bugs_is_a_stage_error(make_project: MakeProject) -> None:
    project = make_project(["crash", "crash"])
    with pytest.raises(StageError, match="2 of 2 items failed"):
        run_recipe(project, machine=ALONE)
    assert read_status(project).runs[0].status == "failed"


def test_item_that_kills_its_worker_is_a_failed_row(make_project: MakeProject) -> None:
    project = make_project(["1", "2", "kill", "4", "5"])
    records = run_recipe(project, machine=Machine(workers=2, threads=1))
    assert [failed.item_id for failed in records[0].failed] == ["m02"]
    assert "too little memory" in records[0].failed[0].message
    assert read_tables(project)["volumes"]["resolution_angstrom"].to_list() == [1.0 + 4 + 16 + 25]


def test_decision_on_an_input_makes_a_new_run(make_project: MakeProject) -> None:
    project = make_project(["1", "2", "3"])
    run_recipe(project, machine=ALONE)
    record_decision(project, who="ada", run="002-square", kind="micrograph", subject="m02", verdict="reject")
    recorder = Recorder()
    run_recipe(project, machine=ALONE, listener=recorder)
    assert recorder.done == ["004-sum"]
    assert read_tables(project)["volumes"]["resolution_angstrom"].to_list() == [5.0]


def test_one_stage_reads_the_current_tables(make_project: MakeProject) -> None:
    project = make_project(["1", "2"])
    with pytest.raises(ProjectError, match="needs the table micrographs"):
        run_stage(project, SUM, {}, ALONE)
    assert len(run_recipe(project, until=SQUARE, machine=ALONE)) == 2
    assert len(run_recipe(project, until=f"{SUM}:1", machine=ALONE)) == 3
    record = run_stage(project, SUM, {"factor": "2.5"}, ALONE)
    assert record.changed_params == {"factor": 2.5}
    assert read_tables(project)["volumes"]["resolution_angstrom"].to_list() == [12.5]


def test_unknown_parameter_and_stage_are_named(make_project: MakeProject) -> None:
    project = make_project(["1"])
    with pytest.raises(SettingError, match="no parameter 'powr'; it has power, pause_s"):
        run_recipe(project, overrides=[(SQUARE, "powr", 3)], machine=ALONE)
    with pytest.raises(SettingError, match="the recipe has no stage 'cube'"):
        run_recipe(project, overrides=[("cube", "power", 3)], machine=ALONE)
    with pytest.raises(SettingError, match="--until cube"):
        run_recipe(project, until="cube", machine=ALONE)


def test_second_driver_is_refused(make_project: MakeProject, tmp_path: Path) -> None:
    project = make_project([str(i) for i in range(20)])
    script = tmp_path / "driver.py"
    script.write_text(DRIVER, encoding="utf-8")
    process = subprocess.Popen([sys.executable, str(script), str(project.root), "1"])
    try:
        while not (project.root / "project.db").exists() or not read_status(project).runs:
            assert process.poll() is None
            time.sleep(0.02)
        with pytest.raises(ProjectError, match=rf"process {process.pid} on .* is running this project"):
            run_recipe(project, machine=ALONE)
    finally:
        process.kill()
        process.wait()


def test_full_disk_names_the_file(make_project: MakeProject, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: the kernel refuses the write in the same way."""
    project = make_project(["1", "2"])
    script = tmp_path / "driver.py"
    script.write_text(
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from vitreous.io.atomic import write_text\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from vitreous.errors import InputFileError\n"
        "try:\n"
        "    write_text(Path(sys.argv[1]), 'x' * 5000)\n"
        "except InputFileError as error:\n"
        "    sys.exit(f'{error.exit_code} {error}')\n",
        encoding="utf-8",
    )
    target = project.root / "big.txt"
    done = subprocess.run([sys.executable, str(script), str(target)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"2 {target}: found that it cannot be written (File too large)")
    assert not list(project.root.glob(".big*"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_read_only_folder_is_named(tmp_path: Path) -> None:
    """`/proc` is a folder that nobody can write to, root included."""
    from vitreous.io.atomic import write_text

    with pytest.raises(InputFileError, match=r"/proc/vitreous/project.toml: found that it cannot be written"):
        write_text(Path("/proc/vitreous/project.toml"), "x")


def test_run_record_is_complete(make_project: MakeProject) -> None:
    project = make_project(["1", "2"])
    run_recipe(project, machine=ALONE)
    record = json.loads((project.runs / "002-square" / "run.json").read_text(encoding="utf-8"))
    assert record["inputs"] == {"exposures": "001-read"}
    assert record["outputs"] == {"micrographs": 2}
    assert record["n_items"] == record["n_done"] == 2
    assert record["seconds"] > 0
