"""Boosted decision trees as JSON: numbers that anyone can read, and no code."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from vitreous.errors import InputFileError
from vitreous.io.atomic import write_text
from vitreous.ops.boosting import BoostedTrees

__all__ = ["read_trees", "write_trees"]


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")

    made_by: str
    features: tuple[str, ...]
    base: float
    feature: tuple[tuple[int, ...], ...]
    threshold: tuple[tuple[float, ...], ...]
    value: tuple[tuple[float, ...], ...]


def write_trees(path: Path, trees: BoostedTrees, features: tuple[str, ...], made_by: str) -> None:
    """Write trees, the names of their features and what made them."""
    document = _Document(
        made_by=made_by,
        features=features,
        base=trees.base,
        feature=trees.feature.tolist(),
        threshold=trees.threshold.tolist(),
        value=trees.value.tolist(),
    )
    write_text(path, document.model_dump_json() + "\n")


def read_trees(path: Path, features: tuple[str, ...]) -> BoostedTrees:
    """Return the trees of a file.

    Raises
    ------
    InputFileError
        If it cannot be read, or is made for other features.
    """
    try:
        document = _Document.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise InputFileError(
            path, found=f"what cannot be read ({error})", expected="decision trees", remedy="Install the package again."
        ) from error
    if document.features != features:
        raise InputFileError(
            path,
            found=f"trees for the features {', '.join(document.features)}",
            expected=", ".join(features),
            remedy="Train the model again.",
        )
    return BoostedTrees(
        feature=np.array(document.feature, dtype=np.int64),
        threshold=np.array(document.threshold),
        value=np.array(document.value),
        base=document.base,
    )
