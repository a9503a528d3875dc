"""The export's folder: replaced as a whole, never what is not ours, and left as it was when something fails."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from vitreous.errors import InputFileError, ProjectError
from vitreous.exporters.release import MANIFEST, copy_file, link_or_copy, open_release
from vitreous.io.atomic import write_text

ListFiles = Callable[[Path], set[str]]


def release(to: Path, *names: str, text: str = "x", layout: str = "toy") -> None:
    with open_release(to, layout) as folder:
        for name in names:
            write_text(folder / name, text)


def test_new_and_replaced(tmp_path: Path, list_files: ListFiles) -> None:
    to = tmp_path / "deep" / "to"
    release(to, "a.txt", "old/b.txt", "kept/c.txt")
    assert list_files(to) == {MANIFEST, "a.txt", "old/b.txt", "kept/c.txt"}
    release(to, "a.txt", "kept/d.txt", text="new")
    assert list_files(to) == {MANIFEST, "a.txt", "kept/d.txt"}
    assert (to / "a.txt").read_text() == "new"
    assert not (to / "old").exists()
    assert json.loads((to / MANIFEST).read_text()) == {"layout": "toy", "files": ["a.txt", "kept/d.txt"]}


def test_files_of_others_stay(tmp_path: Path, list_files: ListFiles) -> None:
    release(tmp_path, "a.txt", "jobs/b.txt")
    (tmp_path / "jobs" / "result.star").write_text("of another program")
    release(tmp_path, "a.txt")
    assert list_files(tmp_path) == {MANIFEST, "a.txt", "jobs/result.star"}
    with pytest.raises(ProjectError, match=r"jobs/result.star: found a file that vitreous did not write.*Move it away"):
        release(tmp_path, "z.txt", "jobs/result.star")
    assert (tmp_path / "jobs" / "result.star").read_text() == "of another program"
    assert list_files(tmp_path) == {MANIFEST, "a.txt", "jobs/result.star"}


def test_refuses_what_is_not_ours(tmp_path: Path, list_files: ListFiles) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ProjectError, match=r"found thesis.tex, expected nothing, or an older toy export"):
        release(tmp_path, "a.txt")
    assert list_files(tmp_path) == {"thesis.tex"}
    with pytest.raises(ProjectError, match="found a file, expected nothing"):
        release(tmp_path / "thesis.tex", "a.txt")
    release(tmp_path / "other", "a.txt", layout="another")
    with pytest.raises(ProjectError, match="found an export of the layout another"):
        release(tmp_path / "other", "a.txt")
    assert list_files(tmp_path / "other") == {MANIFEST, "a.txt"}


@pytest.mark.parametrize("name", ["../precious.txt", "/etc/precious.txt", "a/../../precious.txt"])
def test_a_manifest_cannot_name_files_outside(tmp_path: Path, name: str) -> None:
    to = tmp_path / "to"
    release(to, "a.txt")
    (tmp_path / "precious.txt").write_text("x")
    (to / MANIFEST).write_text(json.dumps({"layout": "toy", "files": [name]}))
    with pytest.raises(ProjectError, match="expected names of files inside the folder"):
        release(to, "a.txt")
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"layout": "toy"}', '{"layout": "toy", "files": [1]}'])
def test_a_broken_manifest_is_refused(tmp_path: Path, text: str) -> None:
    release(tmp_path, "a.txt")
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ProjectError, match="no list of exported files"):
        release(tmp_path, "b.txt")
    assert (tmp_path / "a.txt").exists()


def test_a_failure_leaves_everything_as_it_was(tmp_path: Path, list_files: ListFiles) -> None:
    def fail(to: Path) -> None:
        with open_release(to, "toy") as folder:
            write_text(folder / "b.txt", "half")
            raise ProjectError("the tables contradict each other")

    with pytest.raises(ProjectError, match="contradict"):
        fail(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProjectError, match="contradict"):
        fail(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    release(tmp_path / "older", "a.txt")
    with pytest.raises(ProjectError, match="contradict"):
        fail(tmp_path / "older")
    assert list_files(tmp_path / "older") == {MANIFEST, "a.txt"}
    assert list((tmp_path / "older").iterdir()) != []


def test_killed_on_the_way_it_can_be_run_again(tmp_path: Path, list_files: ListFiles) -> None:
    pid = os.fork()
    if pid == 0:
        with open_release(tmp_path / "to", "toy") as folder:
            write_text(folder / "b.txt", "half")
            os._exit(9)
    os.waitpid(pid, 0)
    assert (tmp_path / "to").exists()
    release(tmp_path / "to", "a.txt")
    assert list_files(tmp_path / "to") == {MANIFEST, "a.txt"}
    assert len(list((tmp_path / "to").iterdir())) == 2


def test_unwritable_folder_and_full_disk(tmp_path: Path, list_files: ListFiles) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputFileError, match=r"cannot be written.*expected a writable folder with free space"):
        release(tmp_path / "file" / "to", "a.txt")
    release(tmp_path / "to", "a.txt")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(InputFileError, match=r"cannot be written.*Free some space"):
            release(tmp_path / "to", "a.txt", text="y" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "to" / "a.txt").read_text() == "x"
    assert list_files(tmp_path / "to") == {MANIFEST, "a.txt"}


def test_link_or_copy(tmp_path: Path) -> None:
    source, other = tmp_path / "source.mrc", Path("/dev/shm") / f"vitreous-{os.getpid()}.mrc"
    source.write_bytes(b"abc")
    link_or_copy(source, tmp_path / "new" / "link.mrc")
    assert (tmp_path / "new" / "link.mrc").samefile(source)
    link = tmp_path / "relative.mrc"
    link.symlink_to("source.mrc")
    link_or_copy(link, tmp_path / "new" / "deeper" / "link.mrc")
    assert (tmp_path / "new" / "deeper" / "link.mrc").read_bytes() == b"abc"
    assert not (tmp_path / "new" / "deeper" / "link.mrc").is_symlink()
    if Path("/dev/shm").stat().st_dev != tmp_path.stat().st_dev:
        try:
            link_or_copy(source, other)
            assert other.read_bytes() == b"abc"
            assert not other.samefile(source)
        finally:
            other.unlink(missing_ok=True)
    with pytest.raises(InputFileError, match=r"gone\.mrc: found no such file"):
        copy_file(tmp_path / "gone.mrc", tmp_path / "new" / "gone.mrc")
    with pytest.raises(InputFileError, match="cannot be written"):
        link_or_copy(source, source / "below" / "a.mrc")
