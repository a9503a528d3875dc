"""Gather the data of each section of the report from the tables and the files that they name, and draw it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.io.mrc import read_mrc
from vitreous.reports import plots

__all__ = [
    "count_labels",
    "describe_dataset",
    "draw_volume",
]

Tables = Mapping[str, pl.DataFrame]
Pictures = list[tuple[str, bytes]]


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
