"""Gather the data of each section of the report from the tables and the files that they name, and draw it."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.io.mrc import read_mrc
from vitreous.reports import plots
from vitreous.reports.render import shrink_image

__all__ = [
    "count_labels",
    "describe_dataset",
    "draw_ctf",
    "draw_picks",
    "draw_scores",
    "draw_volume",
]

Tables = Mapping[str, pl.DataFrame]
Pictures = list[tuple[str, bytes]]

MAX_MICROGRAPHS = 12
"""Micrographs drawn; the page must stay small enough to send by mail."""


def _spread(frame: pl.DataFrame, n: int) -> pl.DataFrame:
    """Return at most `n` rows, evenly spread over the table."""
    if frame.height <= n:
        return frame
    rows = np.linspace(0, frame.height - 1, n).round().astype(int)
    return frame.filter(pl.int_range(pl.len()).is_in(rows.tolist()))


def describe_dataset(tables: Tables) -> list[tuple[str, str]]:
    """Return the lines of the dataset card."""
    lines: list[tuple[str, str]] = []
    if "entries" in tables and tables["entries"].height:
        entry = tables["entries"].row(0, named=True)
        given = entry["diameter_angstrom"]
        lines += [
            ("Data set", entry["title"] or entry["entry_id"]),
            ("Symmetry", entry["symmetry"]),
            ("Particle diameter", f"{given:.0f} Å (given)" if given else "not given"),
        ]
    if "exposures" in tables and tables["exposures"].height:
        exposures = tables["exposures"]
        first = exposures.row(0, named=True)
        kind = "movies" if first["movie_path"] else "finished micrographs"
        lines += [
            (
                "Exposures",
                f"{exposures.height} {kind}, {first['nx_px']} x {first['ny_px']} px, {first['n_frames']} frames",
            ),
            ("Pixel size", f"{first['pixel_size_angstrom']:.4g} Å"),
            (
                "Microscope",
                f"{first['voltage_kv']:.0f} kV, Cs {first['cs_mm']:.2g} mm, "
                f"amplitude contrast {first['amplitude_contrast']:.2g}",
            ),
        ]
        if first["dose_per_frame"]:
            lines.append(("Dose", f"{first['dose_per_frame']:.2f} e/Å² per frame"))
    if "particles" in tables and tables["particles"].height:
        particles = tables["particles"]
        used = float(particles["diameter_angstrom"].to_numpy()[0])
        lines.append(("Diameter used for picking", f"{used:.0f} Å"))
        lines.append(("Positives", f"{particles.filter(pl.col('label') == 'positive').height}"))
    if "volumes" in tables and tables["volumes"].height:
        resolution = tables["volumes"]["resolution_angstrom"][-1]
        lines.append(("Map resolution", f"{resolution:.1f} Å (FSC 0.143)" if resolution else "not determined"))
    return lines


def count_labels(tables: Tables) -> list[tuple[str, str, int]]:
    """Return `(label, reason, particles)` in order of size."""
    if "particles" not in tables:
        return []
    counts = (
        tables["particles"]
        .group_by("label", "reason")
        .len()
        .sort("len", "label", "reason", descending=[True, False, False])
    )
    return [(label, reason or "", n) for label, reason, n in counts.iter_rows()]


def draw_ctf(root: Path, tables: Tables) -> Pictures:
    """Draw the defocus distribution and a few fits."""
    if "micrographs" not in tables:
        return []
    fitted = tables["micrographs"].drop_nulls(("defocus_u_angstrom", "defocus_v_angstrom"))
    if not fitted.height:
        return []
    u, v = fitted["defocus_u_angstrom"].to_numpy(), fitted["defocus_v_angstrom"].to_numpy()
    resolution = fitted["ctf_resolution_angstrom"].fill_null(float("nan")).to_numpy()
    accepted = fitted["accepted"].fill_null(True).to_numpy()
    pictures = [
        (f"CTF of {fitted.height} micrographs", plots.plot_ctf_overview(0.5 * (u + v), u - v, resolution, accepted))
    ]
    for row in _spread(fitted.drop_nulls("ctf_curve_path"), 3).iter_rows(named=True):
        curve = json.loads((root / row["ctf_curve_path"]).read_text())
        arrays = {name: np.asarray(values, dtype=float) for name, values in curve.items() if isinstance(values, list)}
        data = plots.CtfCurve(
            name=row["micrograph_id"],
            frequency_per_angstrom=arrays["frequency_per_angstrom"],
            spectrum=arrays["spectrum"],
            ctf_squared=arrays["ctf_squared"],
            correlation=arrays["correlation"],
            resolution_angstrom=row["ctf_resolution_angstrom"] or float("nan"),
            search_defocus_angstrom=arrays["search_defocus_angstrom"],
            search_score=arrays["search_score"],
        )
        caption = (
            f"{row['micrograph_id']}: U {row['defocus_u_angstrom']:.0f} Å, V {row['defocus_v_angstrom']:.0f} Å, "
            f"U at {row['defocus_angle_deg']:.0f}°"
        )
        pictures.append((caption, plots.plot_ctf_curve(data)))
    return pictures


def draw_picks(root: Path, tables: Tables) -> Pictures:
    """Draw micrographs with their picks."""
    if "particles" not in tables or "micrographs" not in tables:
        return []
    picked = tables["micrographs"].join(
        tables["particles"].select("micrograph_id").unique(), on="micrograph_id", how="semi"
    )
    pictures: Pictures = []
    for row in _spread(picked.sort("micrograph_id"), MAX_MICROGRAPHS).iter_rows(named=True):
        image, _ = read_mrc(root / row["micrograph_path"])
        small, factor_x, factor_y = shrink_image(image, 480)
        own = tables["particles"].filter(pl.col("micrograph_id") == row["micrograph_id"])
        kinds = own.select(
            pl.when(pl.col("label") == "negative").then(pl.col("reason").fill_null("score")).otherwise(pl.col("label"))
        )
        overlay = plots.PickOverlay(
            name=row["micrograph_id"],
            image=small,
            x_px=own["x_px"].to_numpy() * factor_x,
            y_px=own["y_px"].to_numpy() * factor_y,
            kind=kinds.to_series().to_list(),
            radius_px=float(own["diameter_angstrom"][0]) / row["pixel_size_angstrom"] * factor_x / 2,
        )
        positives = own.filter(pl.col("label") != "negative").height
        pictures.append((f"{row['micrograph_id']}: {positives} kept of {own.height}", plots.plot_picks(overlay)))
    return pictures


def draw_scores(tables: Tables) -> Pictures:
    """Draw NCC against power."""
    if "particles" not in tables:
        return []
    scored = tables["particles"].with_columns(
        pl.coalesce("ncc_calibrated", "ncc").alias("x"), pl.coalesce("power_calibrated", "power").alias("y")
    )
    scored = scored.filter(pl.col("x").is_finite() & pl.col("y").is_finite())
    if scored.height < 2:
        return []
    kept = (scored["label"] != "negative").to_numpy()
    caption = f"{scored.height} candidates, {int(kept.sum())} kept"
    return [(caption, plots.plot_pick_histogram(scored["x"].to_numpy(), scored["y"].to_numpy(), kept))]


def draw_volume(root: Path, tables: Tables) -> Pictures:
    """Draw the map's sections and its FSC curves."""
    if "volumes" not in tables or not tables["volumes"].height:
        return []
    row = tables["volumes"].row(-1, named=True)
    pictures: Pictures = []
    if row["fsc_path"]:
        fsc = pl.read_parquet(root / row["fsc_path"])
        frequency = fsc["frequency_per_angstrom"].to_numpy()
        curves = [(name, fsc[name].to_numpy()) for name in fsc.columns if name != "frequency_per_angstrom"]
        resolution = row["resolution_angstrom"] or float("nan")
        pictures.append(("Fourier shell correlation of the half maps", plots.plot_fsc(frequency, curves, resolution)))
    volume, _ = read_mrc(root / row["map_path"])
    caption = f"{row['volume_id']}, {row['symmetry']}, {row['n_particles']} particles"
    pictures.append((caption, plots.plot_map_slices(volume.astype(np.float32))))
    return pictures
