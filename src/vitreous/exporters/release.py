"""The folder that an export fills: made aside, then moved into place; only what an export wrote is ever replaced."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from vitreous.errors import InputFileError, ProjectError
from vitreous.io.atomic import open_for_replacement, write_json

__all__ = ["MANIFEST", "copy_file", "link_or_copy", "open_release"]

MANIFEST = "vitreous-export.json"
"""Names the layout and every file that the export wrote, so that the next one can replace them."""

_STAGING = ".vitreous-export.part"
_OURS = (MANIFEST, _STAGING, f".{MANIFEST}.")


def _refuse_to_write(path: Path, error: OSError) -> InputFileError:
    return InputFileError(
        path,
        found=f"that it cannot be written ({error.strerror or error})",
        expected="a writable folder with free space",
        remedy="Free some space or choose a folder that you may write to, then run the same command again.",
    )


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, atomically.

    Raises
    ------
    InputFileError
        If there is no such file, or the copy cannot be written.
    """
    if not source.is_file():
        raise InputFileError(
            source,
            found="no such file",
            expected="the file that the project's tables name",
            remedy="Put it back where it was, or run the stage that made it again.",
        )
    with open_for_replacement(target) as temporary:
        shutil.copyfile(source, temporary)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file of the project a second name, which takes no space; copy it where the file system allows no links.

    Raises
    ------
    InputFileError
        If there is no such file, or the copy cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refuse_to_write(target, error) from error
    try:
        os.link(source.resolve(), target)
    except OSError:
        copy_file(source, target)


def _read_previous(to: Path, layout: str) -> frozenset[str]:
    """Return the files that an older export of this layout left in `to`.

    Raises
    ------
    ProjectError
        If `to` is a file or holds anything without being such an export.
    """
    remedy = "Choose a folder that is empty or does not exist, or remove what is there yourself."
    expected = f"nothing, or an older {layout} export of vitreous"
    if not to.exists():
        return frozenset()
    if not to.is_dir():
        raise ProjectError(f"{to}: found a file, expected {expected}. {remedy}")
    manifest = to / MANIFEST
    if not manifest.exists():
        other = sorted(path.name for path in to.iterdir() if not path.name.startswith(_OURS))
        if other:
            raise ProjectError(f"{to}: found {', '.join(other[:3])}, expected {expected}. {remedy}")
        return frozenset()
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        found, files = document["layout"], [PurePosixPath(name) for name in document["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProjectError(
            f"{manifest}: found no list of exported files in it, expected {expected}. {remedy}"
        ) from error
    if found != layout:
        raise ProjectError(f"{to}: found an export of the layout {found}, expected {expected}. {remedy}")
    outside = [str(name) for name in files if name.is_absolute() or ".." in name.parts or not name.parts]
    if outside:
        raise ProjectError(f"{manifest}: found {outside[0]!r}, expected names of files inside the folder. {remedy}")
    return frozenset(str(name) for name in files)


def _write_manifest(to: Path, layout: str, files: frozenset[str]) -> None:
    write_json(to / MANIFEST, {"layout": layout, "files": sorted(files)})


def _remove_files(to: Path, names: frozenset[str]) -> None:
    for name in sorted(names):
        path = to / name
        path.unlink(missing_ok=True)
        for parent in path.parents:
            if parent == to or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()


def _move_into_place(staging: Path, to: Path, layout: str, previous: frozenset[str]) -> None:
    """Replace the files of the older export; the manifest names, at any instant, all that is ours."""
    made = frozenset(str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file())
    foreign = sorted(name for name in made - previous if os.path.lexists(to / name))
    if foreign:
        raise ProjectError(
            f"{to / foreign[0]}: found a file that vitreous did not write, expected none there. Move it away, or choose "
            "another folder."
        )
    _write_manifest(to, layout, made | previous)
    for name in sorted(made):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (staging / name).replace(to / name)
    _remove_files(to, previous - made)
    _write_manifest(to, layout, made)


@contextmanager
def open_release(to: Path, layout: str) -> Iterator[Path]:
    """Yield an empty folder; when the block ends well its files replace those of an older export in `to`.

    Files that others put into `to` since stay. If the block fails, `to` is as it was.

    Parameters
    ----------
    to
        The folder to fill: missing, empty, or an older export of the same layout.
    layout
        Name of the layout.

    Raises
    ------
    ProjectError
        If `to` holds something else.
    InputFileError
        If it cannot be written to or the disk is full.
    """
    previous = _read_previous(to, layout)
    existed, is_new = to.exists(), not (to / MANIFEST).exists()
    staging = to / _STAGING
    try:
        if is_new:
            _write_manifest(to, layout, frozenset())
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
        except BaseException:
            if is_new:
                (to / MANIFEST).unlink(missing_ok=True)
            raise
        _move_into_place(staging, to, layout, previous)
    except OSError as error:
        raise _refuse_to_write(to, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not existed and to.is_dir() and not any(to.iterdir()):
            to.rmdir()
