"""What an exporter gives back."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ExportSummary"]


@dataclass(frozen=True)
class ExportSummary:
    """What was written, by kind, and what the user should know about it."""

    counts: Mapping[str, int]
    warnings: tuple[str, ...] = ()
