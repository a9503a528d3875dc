"""The command line as other programs see it: a real process, its output, its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from vitreous.cli.main import app
from vitreous.io.mrc import write_mrc


def call(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from vitreous.cli.main import main; main()", *map(str, words)]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def make_micrograph(path: Path, pixel_size: float = 2.0, shape: tuple[int, int] = (96, 128)) -> Path:
    rng = np.random.default_rng(len(path.name))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mrc(path, rng.normal(size=shape).astype(np.float32), pixel_size)
    return path


def expect_user_error(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    for part in parts:
        assert part in done.stderr


def test_help_lists_every_command() -> None:
    done = call("--help")
    assert done.returncode == 0
    for name in (
        "new",
        "run",
        "status",
        "report",
        "export",
        "evaluate",
        "compare",
        "agree",
        "import",
        "statistics",
        "simulate",
        "demo",
        "formats",
        "ingest",
        "ctf",
    ):
        assert f"\n  {name} " in done.stdout


def test_help_waits_for_no_engine() -> None:
    """Neither does anything that has no use for it."""
    script = (
        "import sys\n"
        "from vitreous.cli.main import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(sorted({'torch', 'numba', 'matplotlib', 'polars'} & set(sys.modules)), file=sys.stderr)\n"
    )
    for words, needed in ((("--help",), []), (("run", "--help"), ["polars"]), (("evaluate", "--help"), ["polars"])):
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == str(needed)


def test_commands_are_what_the_list_says() -> None:
    context = click.Context(app, info_name="vitreous")
    for name in app.list_commands(context):
        listed = app.get_command(context, name)
        found, command, rest = app.resolve_command(context, [name, "x"])
        assert listed is not None
        assert command is not None
        assert (found, rest) == (name, ["x"])
        assert command.get_help(click.Context(command, info_name=name)).startswith("Usage: ")
        assert listed.get_short_help_str(200).endswith(".")
    assert app.get_command(context, "pikc") is None


def test_stage_has_an_option_for_each_parameter() -> None:
    from vitreous.engine.stages import load_stage

    done = call("ctf", "--help")
    assert done.returncode == 0
    for name in load_stage("ctf").params.model_fields:
        assert f"--{name.replace('_', '-')} " in done.stdout
    assert "--workers" in done.stdout


def test_unknown_command_and_option() -> None:
    expect_user_error(call("pikc", "x"), "No such command 'pikc'")
    expect_user_error(call("status", "x", "--jsn"), "No such option")


def test_status_of_nothing(tmp_path: Path) -> None:
    expect_user_error(call("status", tmp_path, "--json"), str(tmp_path), "found no project.toml", "vitreous new")


def test_status_is_one_json_object(tmp_path: Path) -> None:
    make_micrograph(tmp_path / "data" / "a.mrc")
    assert call("new", "p", "--micrographs", "data/*.mrc", cwd=tmp_path).returncode == 0
    done = call("ingest", "p", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    found = json.loads(call("status", "p", "--json", cwd=tmp_path).stdout)
    assert [(run["folder"], run["status"]) for run in found["runs"]] == [("001-ingest", "done")]
    assert found["runs"][0]["outputs"]["exposures"] == 1
    page = tmp_path / "p" / "report.html"
    made = page.stat().st_mtime_ns
    assert call("ingest", "p", cwd=tmp_path).returncode == 0
    # Nothing to say anew, unless asked for.
    assert page.stat().st_mtime_ns == made
    assert call("report", "p", cwd=tmp_path).stdout.strip() == str(page)
    assert page.stat().st_mtime_ns > made
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_empty_glob(tmp_path: Path) -> None:
    done = call("new", tmp_path / "p", "--movies", tmp_path / "none" / "*.tif", "--pixel-size", "1")
    expect_user_error(done, str(tmp_path / "none" / "*.tif"), "found no file", "expected at least one", "--movies")


def test_both_kinds_of_input(tmp_path: Path) -> None:
    expect_user_error(call("new", tmp_path / "p", "--movies", "*.tif", "--micrographs", "*.mrc"), "either movies or")


def test_value_out_of_range(tmp_path: Path) -> None:
    make_micrograph(tmp_path / "a.mrc")
    done = call("new", tmp_path / "p", "--micrographs", tmp_path / "a.mrc", "--voltage", "3", "--symmetry", "X9")
    expect_user_error(done, "voltage_kv", "3.0", "symmetry", "X9")


def test_gain_references_as_they_are_said_to_lie(tmp_path: Path) -> None:
    """The reference of another camera is refused with exit code 2, unless it was said how it lies."""
    rng = np.random.default_rng(0)
    gains = 1 + 0.05 * rng.standard_normal((2, 128, 128)).clip(-4, 4)
    write_mrc(tmp_path / "m.mrcs", rng.poisson(8 / gains[0], (6, 128, 128)).astype(np.int16), 2.0)
    write_mrc(tmp_path / "gain.mrc", gains[1].astype(np.float32), 2.0)
    words = ("--movies", tmp_path / "*.mrcs", "--gain", tmp_path / "gain.mrc")
    done = call("new", tmp_path / "a", *words, "--gain-orientation", "sideways")
    expect_user_error(done, "'sideways' is not one of", "'auto', 'as-is', 'rot90'")
    assert call("new", tmp_path / "b", *words).returncode == 0
    done = call("ingest", tmp_path / "b", "--workers", "1")
    expect_user_error(done, "gain.mrc: found ", "the movies show nothing", "; expected ", "--gain-orientation as-is")
    options = ("--gain-orientation", "rot270", "--gain-polarity", "divide")
    assert call("new", tmp_path / "c", *words, *options).returncode == 0
    done = call("ingest", tmp_path / "c", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "may be of another camera" in done.stderr
    (record,) = (tmp_path / "c" / "gain").glob("*.json")
    found = json.loads(record.read_text(encoding="utf-8"))
    assert (found["orientation"], found["polarity"]) == ("rot270", "divide")
    shown = call("status", tmp_path / "c")
    assert "001-ingest: gain ../gain.mrc: the movies show" in shown.stdout
    verdict = "Gain reference gain.mrc: turned by 90° counter-clockwise, divides; the movies' evidence is absent (significance "
    assert verdict in shown.stdout
    (sentence,) = json.loads(call("status", tmp_path / "c", "--json").stdout)["gains"]
    assert sentence.startswith(verdict)


def test_read_only_folder(tmp_path: Path) -> None:
    make_micrograph(tmp_path / "a.mrc")
    done = call("new", "/proc/vitreous", "--micrographs", tmp_path / "a.mrc")
    expect_user_error(done, "/proc/vitreous/recipe.toml", "cannot be written", "expected a writable folder")


def test_pixel_size_missing(tmp_path: Path) -> None:
    make_micrograph(tmp_path / "a.mrc", pixel_size=0.0)
    assert call("new", tmp_path / "p", "--micrographs", tmp_path / "a.mrc").returncode == 0
    expect_user_error(call("run", tmp_path / "p", "--workers", "1"), "a.mrc", "--pixel-size")


def test_pixel_size_contradicted(tmp_path: Path) -> None:
    make_micrograph(tmp_path / "a.mrc", pixel_size=2.0)
    assert call("new", tmp_path / "p", "--micrographs", tmp_path / "a.mrc", "--pixel-size", "1.5").returncode == 0
    expect_user_error(call("run", tmp_path / "p", "--workers", "1"), "a.mrc", "1.5", "2")


def test_one_truncated_file_among_many_is_a_failed_row(tmp_path: Path) -> None:
    for name in "abcd":
        make_micrograph(tmp_path / "data" / f"{name}.mrc")
    whole = (tmp_path / "data" / "b.mrc").read_bytes()
    (tmp_path / "data" / "b.mrc").write_bytes(whole[: len(whole) // 2])
    assert call("new", tmp_path / "p", "--micrographs", tmp_path / "data" / "*.mrc").returncode == 0
    done = call("ingest", tmp_path / "p", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "b.mrc" in done.stderr
    [run] = json.loads(call("status", tmp_path / "p", "--json").stdout)["runs"]
    assert (run["n_items"], run["n_done"]) == (4, 3)
    assert "b.mrc" in run["failed"][0]["message"]


def test_bad_setting(tmp_path: Path) -> None:
    make_micrograph(tmp_path / "a.mrc")
    assert call("new", tmp_path / "p", "--micrographs", tmp_path / "a.mrc").returncode == 0
    expect_user_error(call("run", tmp_path / "p", "--set", "ctf=3"), "--set ctf=3", "stage.param=value")
    expect_user_error(
        call("run", tmp_path / "p", "--set", "motion.nonsense=3", "--until", "motion"), "no parameter 'nonsense'"
    )


def test_unknown_export_format(tmp_path: Path) -> None:
    make_micrograph(tmp_path / "a.mrc")
    assert call("new", tmp_path / "p", "--micrographs", tmp_path / "a.mrc").returncode == 0
    expect_user_error(
        call("export", tmp_path / "p", "--format", "xls", "--to", tmp_path / "o"), "xls", "cryoppp, cryosparc"
    )
    expect_user_error(call("export", tmp_path / "p", "--format", "relion", "--to", tmp_path / "o"), "no particles")


@pytest.mark.parametrize("command", ["evaluate", "simulate"])
def test_missing_words(command: str) -> None:
    assert call(command).returncode == 2
