"""Gather for the report how micrographs were judged: limits with counts that follow their changes, and what was left out."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vitreous.io.mrc import read_mrc
from vitreous.model.provenance import RunRecord
from vitreous.reports.curation_plots import JudgedColumn, plot_limits, plot_rejected
from vitreous.reports.render import shrink_image

__all__ = ["MAX_THUMBNAILS", "Curation", "describe_curation", "draw_curation"]

MAX_THUMBNAILS = 12
_WIDTH_PX = 160


@dataclass(frozen=True)
class Curation:
    """What the page needs to count again when a limit is changed on it.

    Attributes
    ----------
    limits
        As `limits.json` of the run has them: column, low, high (null: none), reason, proposed, rejected.
    values
        Column name: its values, null where there is none; the micrographs in one order.
    n_accepted, n_micrographs
        As it was run, other reasons and people's verdicts included.
    """

    limits: Sequence[Mapping[str, Any]]
    values: Mapping[str, Sequence[float | None]]
    n_accepted: int
    n_micrographs: int


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.5g}")


def describe_curation(root: Path, tables: Mapping[str, pl.DataFrame], records: Sequence[RunRecord]) -> Curation | None:
    """Return the limits of the last run of `curate` and the values that they judge; None where there was none."""
    paths = [root / "runs" / record.folder / "limits.json" for record in records if record.stage == "curate"]
    if not paths or not paths[-1].exists() or "micrographs" not in tables:
        return None
    limits = json.loads(paths[-1].read_text(encoding="utf-8"))
    micrographs = tables["micrographs"]
    values = {limit["column"]: [_round(value) for value in micrographs[limit["column"]]] for limit in limits}
    accepted = micrographs["accepted"].fill_null(value=True)
    return Curation(limits, values, int(accepted.sum()), micrographs.height)


def draw_curation(root: Path, tables: Mapping[str, pl.DataFrame], curation: Curation | None) -> list[tuple[str, bytes]]:
    """Draw the distribution of every limited column, and micrographs that were not accepted; captions and PNGs."""
    if curation is None:
        return []
    micrographs = tables["micrographs"]
    accepted = micrographs["accepted"].fill_null(value=True)
    columns = [
        JudgedColumn(
            limit["column"],
            np.array([np.nan if value is None else value for value in curation.values[limit["column"]]], dtype=float),
            -math.inf if limit["low"] is None else limit["low"],
            math.inf if limit["high"] is None else limit["high"],
        )
        for limit in curation.limits
    ]
    columns = [column for column in columns if np.isfinite(column.values).any()]
    pictures = []
    if columns:
        caption = f"{curation.n_accepted} of {curation.n_micrographs} micrographs accepted; limits dashed"
        pictures.append((caption, plot_limits(columns, accepted.to_numpy())))
    rejected = micrographs.filter(~accepted)
    if rejected.height:
        images, captions = [], []
        for row in rejected.head(MAX_THUMBNAILS).iter_rows(named=True):
            image, _ = read_mrc(root / row["micrograph_path"])
            images.append(shrink_image(image, _WIDTH_PX)[0])
            captions.append(f"{row['micrograph_id']}\n{row['reason'] or ''}")
        shown = f"the first {MAX_THUMBNAILS} of {rejected.height}" if rejected.height > MAX_THUMBNAILS else "all"
        pictures.append((f"Not accepted ({shown}), with the reasons", plot_rejected(images, captions)))
    return pictures
