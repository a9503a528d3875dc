"""What ingest found of a gain reference, written beside it, in words."""

import json
from pathlib import Path

import polars as pl

from vitreous.errors import InputFileError

__all__ = ["describe_gains"]


def describe_gains(root: Path, exposures: pl.DataFrame) -> tuple[str, ...]:
    """Say of each gain reference of a table of exposures how it lies on the movies and how surely.

    References without a record beside them, as of projects of earlier versions, are left out.

    Raises
    ------
    InputFileError
        If a record cannot be read.
    """
    sentences = []
    for name in exposures["gain_path"].drop_nulls().unique().sort():
        path = (root / name).with_suffix(".json")
        if not path.is_file():
            continue
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            evidence, verb = document["evidence"], "multiplies" if document["polarity"] == "multiply" else "divides"
            found, expected = (f"{evidence[key]:.0f}" for key in ("significance", "expected_significance"))
            sentences.append(
                f"Gain reference {Path(document['source']).name}: {document['description']}, {verb}; the movies' evidence is "
                f"{evidence['verdict']} (significance {found}, {expected} if it is theirs)."
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputFileError(
                path,
                found=f"{type(error).__name__}: {error}",
                expected="the record of a gain reference, as ingest writes it",
                remedy="Delete the folder of the ingest run and run the project again.",
            ) from error
    return tuple(sentences)
