"""From movies of a known molecule to a labelled dataset, and from real micrographs, through the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import polars.testing
import pytest

from vitreous.engine.project import open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.io.mrc import read_mrc

pytestmark = pytest.mark.slow


def call(*words: str | Path) -> str:
    command = [sys.executable, "-c", "from vitreous.cli.main import main; main()", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def kill_while_running(project: Path) -> None:
    """Start to run the project, and kill it and its workers at once when a few movies are corrected."""
    command = [sys.executable, "-c", "from vitreous.cli.main import main; main()", "run", str(project)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(project.glob("runs/002-motion/images/*.mrc")) and running.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL


def read_tables(project: Path) -> dict[str, pl.DataFrame]:
    opened = open_project(project)
    return read_current_tables(opened, read_current_records(opened))


def measure_ring(image: np.ndarray, pixel_size_angstrom: float) -> tuple[float, float]:
    """Return the mean of the image inside 20 Å and in the shell of apoferritin, 40 to 55 Å from the centre."""
    y, x = np.indices(image.shape)
    radius = np.hypot(y - image.shape[0] // 2, x - image.shape[1] // 2) * pixel_size_angstrom
    return float(image[radius < 20].mean()), float(image[(radius > 40) & (radius < 55)].mean())


def check_release(project: Path, folder: Path, n_micrographs: int) -> None:
    call("export", project, "--format", "cryoppp", "--to", folder / "cryoppp")
    call("export", project, "--format", "relion", "--to", folder / "relion")
    labels = list((folder / "cryoppp").rglob("particle_coordinates/*.csv"))
    assert len(labels) == n_micrographs
    assert (folder / "relion" / "particles.star").is_file()
    assert (folder / "relion" / "micrographs.star").is_file()
    assert (folder / "relion" / "Class2D" / "run_model.star").is_file()
    page = Path(call("report", project).strip()).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") >= 5


def test_simulated_movies_become_a_dataset(tmp_path: Path) -> None:
    truth = tmp_path / "data" / "truth" / "coordinates.csv"
    call("simulate", tmp_path / "data", "--n-movies", "3", "--nx-px", "768", "--ny-px", "640", "--particles-per-movie",
         "35", "--n-frames", "8", "--dose-per-frame", "5", "--seed", "7")  # fmt: skip
    project = tmp_path / "project"
    call("new", project, "--movies", tmp_path / "data" / "movies" / "*.tif", "--gain", tmp_path / "data" / "gain.mrc",
         "--pixel-size", "1.75", "--total-dose", "40", "--amplitude-contrast", "0.07", "--symmetry", "O")  # fmt: skip
    broken = tmp_path / "data" / "movies" / "broken.tif"
    first = next((tmp_path / "data" / "movies").glob("*.tif"))
    broken.write_bytes(first.read_bytes()[:50_000])
    kill_while_running(project)
    call("run", project)
    evaluate = ["evaluate", "--picks", project, "--truth", truth, "--radius", "36", "--border", "40", "--json"]
    assert json.loads(call(*evaluate))["f1"] >= 0.85
    status = json.loads(call("status", project, "--json"))
    assert [failed["item_id"] for failed in status["runs"][0]["failed"]] == ["broken"]
    assert status["resolution_angstrom"] < 30
    check_release(project, tmp_path / "release", 3)


def test_tables_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    call("simulate", tmp_path / "data", "--n-movies", "3", "--nx-px", "512", "--ny-px", "480", "--particles-per-movie",
         "15", "--n-frames", "6", "--dose-per-frame", "6", "--local-drift-angstrom", "3")  # fmt: skip
    tables = []
    for workers in ("1", "2"):
        project = tmp_path / f"project{workers}"
        call("new", project, "--movies", tmp_path / "data" / "movies" / "*.tif", "--gain", tmp_path / "data" / "gain.mrc",
             "--pixel-size", "1.75", "--total-dose", "36", "--diameter", "125", "--recipe", "loop")  # fmt: skip
        call("run", project, "--until", "classify2d", "--set", "pick.max_blob_micrographs=2", "--workers", workers)
        tables.append(read_tables(project))
    assert tables[0].keys() == tables[1].keys()
    assert tables[0]["particles"]["micrograph_id"].n_unique() == 2
    for name, table in tables[0].items():
        pl.testing.assert_frame_equal(table, tables[1][name], check_exact=True)
    images = [(tmp_path / f"project{n}" / tables[0]["micrographs"]["micrograph_path"][0]).read_bytes() for n in (1, 2)]
    # The header's label holds the time of writing.
    assert images[0][1024:] == images[1][1024:]


@pytest.mark.shared_data
def test_real_apoferritin_becomes_a_dataset(tmp_path: Path, shared_data: Path) -> None:
    data, project = shared_data / "apoferritin-10146", tmp_path / "project"
    call("new", project, "--micrographs", data / "micrographs" / "*.png", "--pixel-size", "1.5", "--voltage", "300",
         "--cs", "2.7", "--symmetry", "O")  # fmt: skip
    call("run", project, "--until", "select2d:2")
    evaluate = ["evaluate", "--picks", project, "--truth", data / "coordinates", "--radius", "43", "--border", "90"]
    assert json.loads(call(*evaluate, "--json"))["f1"] >= 0.85
    tables = read_tables(project)
    chosen = tables["classes"].filter(pl.col("selected")).sort("n_particles", descending=True).row(0, named=True)
    average = read_mrc(project / chosen["image_path"])[0][chosen["image_index"]]
    hole, shell = measure_ring(average, chosen["pixel_size_angstrom"])
    assert shell > hole + 0.2 * average.std()
    summary = json.loads(call("status", project, "--json"))["classes"]
    assert summary["n_selected"] == tables["classes"]["selected"].sum()
    assert 5 < summary["best_10"]["mean_angstrom"] < 25
    assert (
        summary["best_10"]["low_angstrom"] < summary["best_10"]["mean_angstrom"] < summary["best_10"]["high_angstrom"]
    )
    assert tables["particles"].filter(pl.col("label") == "negative").height > 0
    check_release(project, tmp_path / "release", 12)
    if shutil.which("relion_preprocess") is not None:
        check_relion(tmp_path / "release" / "relion")


def check_relion(folder: Path) -> None:
    """Let RELION extract from our micrographs and picks: the mean of its particles is a centred ring."""
    command = "relion_preprocess --i micrographs.star --coord_dir ./ --coord_suffix _autopick.star --part_star out.star"
    flags = (
        "--part_dir out/ --extract --extract_size 128 --scale 64 --norm --bg_radius 24 --white_dust -1 --black_dust -1"
    )
    words = [*command.split(), *flags.split(), "--invert_contrast"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    stacks = [read_mrc(path)[0] for path in sorted(folder.rglob("out/**/*.mrcs"))]
    assert sum(len(stack) for stack in stacks) > 1000
    mean = np.concatenate(stacks).mean(axis=0)
    hole, shell = measure_ring(mean, 3.0)
    assert shell > hole
    y, x = np.indices(mean.shape)
    weight = np.clip(mean - mean.mean(), 0, None)
    centre = np.array([(weight * y).sum(), (weight * x).sum()]) / weight.sum()
    assert np.abs(centre - 32).max() < 1.5
