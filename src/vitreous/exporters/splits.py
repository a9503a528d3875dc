"""Which micrographs are for training, for validation and for testing: whole micrographs, the same choice in every layout."""

import hashlib
from collections.abc import Mapping, Sequence

__all__ = ["SPLITS", "assign_splits"]

SPLITS = ("train", "validation", "test")

_HELD_OUT = 0.1
"""Share of the micrographs in each of validation and test."""


def assign_splits(names: Sequence[str]) -> Mapping[str, str]:
    """Return the split of each micrograph, by a hash of its name: no order of theirs, and no chance, decides.

    A tenth each goes to test and validation, at least one where there are enough micrographs for that.
    """
    shuffled = sorted(names, key=lambda name: (hashlib.sha256(name.encode()).digest(), name))
    n = len(shuffled)
    n_test = max(round(_HELD_OUT * n), int(n >= 2))
    n_validation = max(round(_HELD_OUT * n), int(n >= 3))
    return {
        name: "test" if i < n_test else "validation" if i < n_test + n_validation else "train"
        for i, name in enumerate(shuffled)
    }
