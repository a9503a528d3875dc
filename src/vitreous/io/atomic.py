"""Write files so that a reader sees all of one or nothing of it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitreous.errors import InputFileError

__all__ = ["open_for_replacement", "write_json", "write_text"]


@contextmanager
def open_for_replacement(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`.

    Raises
    ------
    InputFileError
        If the folder cannot be written to or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputFileError(
            path,
            found=f"that it cannot be written ({error.strerror or error})",
            expected="a writable folder with free space",
            remedy="Free some space or choose a folder that you may write to, then run the same command again.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, atomically."""
    with open_for_replacement(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON, atomically; not-a-number is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
