"""The report's sections on picks: micrographs with picks and junk, scores, and what each cut of the review removed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vitreous.io.images import read_picture
from vitreous.io.mrc import read_mrc
from vitreous.model.provenance import RunRecord
from vitreous.reports.pick_plots import (
    PickOverlay,
    ScoreLimits,
    ScoreTrend,
    plot_pick_histogram,
    plot_picks,
    plot_score_trends,
)
from vitreous.reports.render import shrink_image

__all__ = ["MAX_MICROGRAPHS", "draw_picks", "draw_scores"]

Tables = Mapping[str, pl.DataFrame]
Pictures = list[tuple[str, bytes]]

MAX_MICROGRAPHS = 12
"""Micrographs drawn; the page must stay small enough to send by mail."""

_WIDTH_PX = 480
_CUT_NAMES = {
    "min_score": "score too low",
    "min_power": "power too low",
    "max_power": "power too high",
    "junk": "in junk",
    "border": "at the border",
}


def _spread(frame: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return at most `n` rows, evenly spread over the table."""
    if frame.height <= n:
        return frame
    rows = np.linspace(0, frame.height - 1, n).round().astype(int)
    return frame.filter(pl.int_range(pl.len()).is_in(rows.tolist()))


def draw_picks(root: Path, tables: Tables) -> Pictures:
    """Draw micrographs with their picks and their junk."""
    if "particles" not in tables or "micrographs" not in tables:
        return []
    picked = tables["micrographs"].join(
        tables["particles"].select("micrograph_id").unique(), on="micrograph_id", how="semi"
    )
    pictures: Pictures = []
    for row in _spread(picked.sort("micrograph_id"), MAX_MICROGRAPHS).iter_rows(named=True):
        image, _ = read_mrc(root / row["micrograph_path"])
        small, factor_x, factor_y = shrink_image(image, _WIDTH_PX)
        own = tables["particles"].filter(pl.col("micrograph_id") == row["micrograph_id"])
        kinds = own.select(
            pl.when(pl.col("label") == "negative").then(pl.col("reason").fill_null("score")).otherwise(pl.col("label"))
        )
        junk_path = own["junk_path"].drop_nulls().head(1).to_list()
        junk = read_picture(root / junk_path[0]) if junk_path and (root / junk_path[0]).is_file() else None
        overlay = PickOverlay(
            name=row["micrograph_id"],
            image=small,
            x_px=own["x_px"].to_numpy() * factor_x,
            y_px=own["y_px"].to_numpy() * factor_y,
            kind=kinds.to_series().to_list(),
            radius_px=float(own["diameter_angstrom"][0]) / row["pixel_size_angstrom"] * factor_x / 2,
            junk=junk,
        )
        positives = own.filter(pl.col("label") != "negative").height
        caption = f"{row['micrograph_id']}: {positives} kept of {own.height}"
        if junk is not None:
            caption += f"; {100 * (junk > 0).mean():.1f} % of the area is junk"
        pictures.append((caption, plot_picks(overlay)))
    return pictures


def _read_cuts(root: Path, records: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """Return what the last review wrote on its cuts."""
    folders = [record.folder for record in records if record.stage == "review"]
    path = root / "runs" / folders[-1] / "cuts.json" if folders else None
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}


def _describe_cuts(cuts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what each cut removed, in words."""
    parts = []
    for name, cut in cuts.items():
        limit = "" if cut["limit"] is None else f" ({cut['limit']:.2f}, {'given' if cut['given'] else 'proposed'})"
        parts.append(f"{_CUT_NAMES.get(name, name)}{limit} {cut['in_turn']}, alone {cut['alone']}")
    return "removed, one cut after the other: " + "; ".join(parts) if parts else ""


def _describe_noise(particles: pl.DataFrame) -> str:
    """Return how many of the kept candidates noise alone would have made, in words; nothing where that is not known."""
    known = particles.filter((pl.col("label") != "negative") & pl.col("noise_peaks").is_not_null())
    if known.is_empty():
        return ""
    # In each micrograph the kept candidate with the lowest score stands for the threshold.
    expected = known.group_by("micrograph_id").agg(pl.col("noise_peaks").max())["noise_peaks"].to_numpy().mean()
    return f"noise alone has about {expected:.2g} peaks in a micrograph that score like the lowest kept one"


def _draw_trends(tables: Tables) -> Pictures:
    kept = tables["particles"].filter(pl.col("label") != "negative")
    columns = ["score", "score_calibrated", "power", "power_calibrated"]
    medians = (
        kept.group_by("micrograph_id")
        .agg(pl.col(columns).median())
        .join(
            tables["micrographs"].select("micrograph_id", "defocus_u_angstrom", "defocus_v_angstrom"),
            on="micrograph_id",
        )
    )
    medians = medians.drop_nulls(["defocus_u_angstrom", "score", "score_calibrated"]).sort("micrograph_id")
    if medians.height < 3:
        return []
    values = {name: medians[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in columns}
    defocus = ((medians["defocus_u_angstrom"] + medians["defocus_v_angstrom"]) / 2).to_numpy()
    trends = [
        ScoreTrend("score", values["score"], values["score_calibrated"]),
        ScoreTrend("log10 power", values["power"], values["power_calibrated"]),
    ]
    caption = f"median scores of {medians.height} micrographs against defocus, raw and calibrated"
    return [(caption, plot_score_trends(defocus, trends))]


def draw_scores(root: Path, tables: Tables, records: Sequence[RunRecord]) -> Pictures:
    """Draw score against power, with the cuts of the last review, and both against defocus."""
    if "particles" not in tables:
        return []
    scored = tables["particles"].with_columns(
        pl.coalesce("score_calibrated", "score").alias("x"), pl.coalesce("power_calibrated", "power").alias("y")
    )
    scored = scored.filter(pl.col("x").is_finite() & pl.col("y").is_finite())
    if scored.height < 2:
        return []
    reason = scored.select(
        pl.when(pl.col("label") == "negative").then(pl.col("reason").fill_null("score")).otherwise(pl.lit(""))
    )
    cuts = _read_cuts(root, records)

    def limit(name: str) -> float | None:
        return None if name not in cuts else cuts[name]["limit"]

    limits = ScoreLimits(limit("min_score"), (limit("min_power"), limit("max_power")))
    reasons = reason.to_series().to_list()
    lines = [f"{scored.height} candidates, {reasons.count('')} kept", _describe_cuts(cuts), _describe_noise(scored)]
    histogram = plot_pick_histogram(scored["x"].to_numpy(), scored["y"].to_numpy(), reasons, limits)
    pictures = [("; ".join(line for line in lines if line), histogram)]
    return pictures + (_draw_trends(tables) if "micrographs" in tables else [])
