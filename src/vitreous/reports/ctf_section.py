"""Gather the CTF of the micrographs for the report, and draw it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous.reports.ctf_plots import CtfFigure, Landscape, plot_ctf, plot_ctf_overview
from vitreous.reports.documents import read_array

__all__ = ["MAX_MICROGRAPHS", "draw_ctf"]

MAX_MICROGRAPHS = 4
"""Micrographs drawn one by one: the best fit, the worst, and others evenly between."""


def _make_figure(row: Mapping[str, Any], document: Mapping[str, Any]) -> CtfFigure:
    """Return what is drawn of a micrograph from its row in the table and its file of curves."""
    names = ("x_px", "y_px", "defocus_angstrom")
    surface = {name: read_array(document, f"landscape_{name}") for name in names}
    tiles = {f"tile_{name}": read_array(document, f"tile_{name}") for name in names}
    curves = (
        "frequency_per_angstrom",
        "spectrum",
        "ctf_squared",
        "correlation",
        "search_defocus_angstrom",
        "search_score",
    )
    error, resolution = row["defocus_error_angstrom"], row["ctf_resolution_angstrom"]
    return CtfFigure(
        name=row["micrograph_id"],
        resolution_angstrom=np.nan if resolution is None else resolution,
        defocus_angstrom=0.5 * (row["defocus_u_angstrom"] + row["defocus_v_angstrom"]),
        defocus_error_angstrom=np.nan if error is None else error,
        spectrum_beside_ctf=_read_picture(document),
        k_max_per_angstrom=float(document.get("spectrum_k_max_per_angstrom", 0)),
        landscape=Landscape(**surface, **tiles) if surface["defocus_angstrom"].size else None,
        **{name: read_array(document, name) for name in curves},
    )


def _read_picture(document: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the picture; empty where an earlier version of the stage wrote it in another form."""
    lines = document.get("spectrum_beside_ctf", [])
    if not all(isinstance(line, str) for line in lines):
        lines = []
    return np.array([list(bytes.fromhex(line)) for line in lines], float)


def _describe(row: Mapping[str, Any]) -> str:
    text = (
        f"{row['micrograph_id']}: U {row['defocus_u_angstrom']:.0f} Å, V {row['defocus_v_angstrom']:.0f} Å, "
        f"U at {row['defocus_angle_deg']:.0f}°"
    )
    if row["phase_shift_deg"]:
        text += f", phase shift {row['phase_shift_deg']:.0f}°"
    if row["ctf_resolution_angstrom"] is not None:
        text += f"; rings to {row['ctf_resolution_angstrom']:.1f} Å"
    if row["ctf_strict_resolution_angstrom"] is not None:
        text += f" ({row['ctf_strict_resolution_angstrom']:.1f} Å by CTFFIND's rule)"
    if row["specimen_tilt_deg"]:
        text += (
            f"; tilted by {row['specimen_tilt_deg']:.1f}°, the defocus differs by up to "
            f"{row['defocus_range_angstrom']:.0f} Å"
        )
    return text if row["accepted"] is not False else f"{text}; not accepted: {row['reason']}"


def draw_ctf(root: Path, tables: Mapping[str, pl.DataFrame]) -> list[tuple[str, bytes]]:
    """Draw the CTFs of all micrographs, and a few fits from the best to the worst; captions and PNGs."""
    if "micrographs" not in tables:
        return []
    fitted = tables["micrographs"].drop_nulls(("defocus_u_angstrom", "defocus_v_angstrom"))
    if not fitted.height:
        return []
    columns = {
        name: fitted[name].fill_null(float("nan")).to_numpy()
        for name in ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_error_angstrom", "ctf_resolution_angstrom")
    }
    u, v, error, resolution = columns.values()
    accepted = fitted["accepted"].fill_null(value=True).to_numpy()
    pictures = [
        (f"CTF of {fitted.height} micrographs", plot_ctf_overview(0.5 * (u + v), error, u - v, resolution, accepted))
    ]
    drawn = fitted.drop_nulls("ctf_curve_path").sort("ctf_resolution_angstrom", "micrograph_id", nulls_last=True)
    chosen = np.unique(np.linspace(0, drawn.height - 1, min(drawn.height, MAX_MICROGRAPHS)).round().astype(int))
    for number in chosen.tolist():
        row = drawn.row(number, named=True)
        document = json.loads((root / row["ctf_curve_path"]).read_text(encoding="utf-8"))
        pictures.append((_describe(row), plot_ctf(_make_figure(row, document))))
    return pictures
