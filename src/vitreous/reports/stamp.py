"""What a report page was made of, written into it, so that it is not drawn again when nothing has changed."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from vitreous import __version__
from vitreous.model.provenance import RunRecord

__all__ = ["PAGE", "compute_stamp", "is_current"]

PAGE = "report.html"
_HEAD_BYTES = 2048


def compute_stamp(title: str, records: Sequence[RunRecord]) -> str:
    """Return a word that changes when a page of these runs would."""
    parts = [title, __version__, *(record.model_dump_json() for record in records)]
    return "vitreous-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def is_current(root: Path, title: str, records: Sequence[RunRecord]) -> bool:
    """Return whether the page in the project's folder was made of these runs, by this version."""
    try:
        with (root / PAGE).open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:
        return False
    return compute_stamp(title, records).encode() in head
