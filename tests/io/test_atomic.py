"""Atomic writing: all or nothing, whatever happens."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitreous.errors import InputFileError
from vitreous.io.atomic import open_for_replacement, write_json, write_text


def test_writes_and_makes_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "x.txt", "Å")
    assert (tmp_path / "a" / "b" / "x.txt").read_bytes() == "Å".encode()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x.txt"]


def test_replaces(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "old and longer")
    write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "new"


def test_an_error_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "old")

    def write_half() -> None:
        with open_for_replacement(tmp_path / "x.txt") as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        write_half()
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x.txt"]


def test_a_killed_writer_leaves_the_old_file_alone(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "old")
    code = (
        "import sys, time; from pathlib import Path; from vitreous.io.atomic import open_for_replacement\n"
        "with open_for_replacement(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x.txt")]) as writer:
        deadline = time.monotonic() + 30
        while not list(tmp_path.glob("*.part")) and time.monotonic() < deadline:
            time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
    assert list(tmp_path.glob(".x.txt.*.part"))
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "old"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where nobody can make a folder")
def test_folder_that_cannot_be() -> None:
    with pytest.raises(InputFileError, match=r"x\.txt: found that it cannot be written .*; expected a writable folder"):
        write_text(Path("/proc/vitreous/x.txt"), "text")


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs /dev/full, which Linux has")
def test_full_disk(tmp_path: Path) -> None:
    def fill() -> None:
        with open_for_replacement(tmp_path / "x.txt"), Path("/dev/full").open("w", encoding="utf-8") as stream:
            stream.write("text")

    with pytest.raises(InputFileError, match=r"No space left on device.*Free some space"):
        fill()
    assert not list(tmp_path.iterdir())


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1.5, None]})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": [1.5, None]}
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": [1.5, None]}
