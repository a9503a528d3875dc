"""Gather the motion of the movies for the report, and draw it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vitreous.io.gain_record import describe_gains
from vitreous.io.mrc import read_mrc
from vitreous.reports.documents import read_array
from vitreous.reports.motion_plots import PatchMotion, Track, plot_motion_overview, plot_patch_motion
from vitreous.reports.render import shrink_image

__all__ = ["MAX_MOVIES", "draw_motion"]

MAX_MOVIES = 3
"""Movies whose patches are drawn: those with the largest local motion."""

_WIDTH_PX = 400


def _make_track(name: str, document: Mapping[str, Any]) -> Track:
    pixel = float(document["pixel_size_angstrom"])
    x, y = (read_array(document, f"shift_{axis}_px", pixel) for axis in "xy")
    is_local = bool(document.get("local_motion", False))
    local = np.hypot(*(read_array(document, f"patch_shift_{axis}_px", pixel) for axis in "xy"))
    return Track(
        name=name,
        x_angstrom=x,
        y_angstrom=y,
        total_angstrom=float(np.hypot(np.diff(x), np.diff(y)).sum()),
        local_angstrom=float(local.max()) if is_local else 0.0,
        significance=float(document.get("local_motion_significance", 0.0)),
        is_local=is_local,
    )


def _gather_patches(root: Path, row: Mapping[str, Any], document: Mapping[str, Any], track: Track) -> PatchMotion:
    """Return the patches of a movie in the frame of its micrograph, shrunk; the micrograph may be reduced already."""
    image, _ = read_mrc(root / row["micrograph_path"])
    small, factor_x, factor_y = shrink_image(image, _WIDTH_PX)
    pixel = float(document["pixel_size_angstrom"])
    reduced = pixel / float(row["pixel_size_angstrom"])
    return PatchMotion(
        track=track,
        image=small,
        pixel_size_angstrom=float(row["pixel_size_angstrom"]) / factor_x,
        patch_x_px=read_array(document, "patch_x_px", reduced * factor_x),
        patch_y_px=read_array(document, "patch_y_px", reduced * factor_y),
        patch_x_angstrom=read_array(document, "patch_shift_x_px", pixel),
        patch_y_angstrom=read_array(document, "patch_shift_y_px", pixel),
    )


def _describe(tracks: list[Track]) -> str:
    local = [track for track in tracks if track.is_local]
    total = np.median([track.total_angstrom for track in tracks])
    text = f"Motion of {len(tracks)} movies relative to their first frame: the whole frame moves {total:.1f} Å in the median."
    if not local:
        return f"{text} Local motion was corrected in none of them."
    least, most = (f"{f(track.significance for track in local):.1f}" for f in (min, max))
    how = least if least == most else f"{least} to {most}"
    greatest = max(track.local_angstrom for track in local)
    return (
        f"{text} Local motion was corrected in {len(local)} of them (significance {how} standard errors), by {greatest:.1f} Å at "
        "most."
    )


def draw_motion(root: Path, tables: Mapping[str, pl.DataFrame]) -> list[tuple[str, bytes]]:
    """Draw the motion of all movies, and of patches where local motion is largest; captions and PNGs."""
    if "micrographs" not in tables:
        return []
    found = []
    for row in tables["micrographs"].drop_nulls("trajectory_path").iter_rows(named=True):
        document = json.loads((root / row["trajectory_path"]).read_text(encoding="utf-8"))
        found.append((row, document, _make_track(row["micrograph_id"], document)))
    if not found:
        return []
    tracks = [track for _, _, track in found]
    gains = describe_gains(root, tables["exposures"]) if "exposures" in tables else ()
    pictures = [(" ".join([_describe(tracks), *gains]), plot_motion_overview(tracks))]
    largest = sorted((entry for entry in found if entry[2].is_local), key=lambda entry: -entry[2].local_angstrom)
    for row, document, track in largest[:MAX_MOVIES]:
        caption = (
            f"{track.name}: local motion of up to {track.local_angstrom:.1f} Å in {len(document['patch_x_px'])} patches, "
            f"significance {track.significance:.1f} standard errors; the micrograph is "
            f"{row['nx_px'] * row['pixel_size_angstrom'] / 10:.0f} nm wide"
        )
        pictures.append((caption, plot_patch_motion(_gather_patches(root, row, document, track))))
    return pictures
