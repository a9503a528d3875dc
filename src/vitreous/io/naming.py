"""Names of micrographs as other programs change them: prefixes, suffixes, folders; which of ours is meant."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

__all__ = ["find_micrograph_stem", "match_micrographs", "strip_additions"]

_IMAGE_SUFFIX = re.compile(r"\.(mrcs?|tiff?|png|jpe?g|eer|hdf)$", re.IGNORECASE)
_UID_PREFIX = re.compile(r"^\d{18,21}_")
"""CryoSPARC's unique numbers; names that begin with a date have at most 17 digits there."""

_STEP_SUFFIX = re.compile(r"_(patch|rigid)_aligned(_doseweighted)?$")


def find_micrograph_stem(name: str) -> str:
    """Return the stem of a micrograph that another program names; dots that begin no image suffix belong to the name."""
    return _IMAGE_SUFFIX.sub("", PurePosixPath(name.strip()).name)


def strip_additions(stem: str) -> str:
    """Return the stem without what CryoSPARC put before and behind it."""
    return _STEP_SUFFIX.sub("", _UID_PREFIX.sub("", stem))


def match_micrographs(names: Iterable[str], identifiers: Iterable[str]) -> Mapping[str, str]:
    """Return for each stem of another program the identifier of ours that it means; those that mean none are left out.

    A name that is ours already stays. Another means the one identifier that is the same once what CryoSPARC adds is gone from
    both and blanks are read as underscores; where several are the same, none is meant.
    """
    known = set(identifiers)
    by_core: dict[str, set[str]] = {}
    for identifier in known:
        by_core.setdefault(_make_core(identifier), set()).add(identifier)
    found = {}
    for name in set(names):
        meant = {name} if name in known else by_core.get(_make_core(name), set())
        if len(meant) == 1:
            found[name] = next(iter(meant))
    return found


def _make_core(stem: str) -> str:
    return strip_additions(stem).replace(" ", "_")
