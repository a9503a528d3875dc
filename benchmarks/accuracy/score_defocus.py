"""Pick simulated micrographs over a wide range of defocus and tell how far the scores of true particles still follow it.

python benchmarks/accuracy/score_defocus.py [MODEL ...]

Apoferritin, or the models that are given; sixteen clean micrographs each, 0.8 to 2.6 µm. Without a template, and with projections
of the true map. Writes benchmarks/results/score-defocus.md after every row.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from contaminated import RESULTS, call, write_micrographs

from vitreous.ops.matching import match_points
from vitreous.simulate.entry import SimulatedEntry
from vitreous.simulate.settings import SimulationSettings

SIDE = 1024


def simulate(folder: Path, model: str) -> SimulatedEntry:
    return write_micrographs(
        folder,
        SimulationSettings(
            model=model, n_movies=16, nx_px=SIDE, ny_px=SIDE, pixel_size_angstrom=1.8, n_frames=1, dose_per_frame=40.0,
            defocus_min_angstrom=8_000, defocus_max_angstrom=26_000, drift_angstrom=0, particles_per_movie=30,
            gain=False, n_hot_pixels=0, n_contaminants=0, seed=31,
        ),
    )  # fmt: skip


def measure(entry: SimulatedEntry, project: Path, name: str) -> str:
    """Return the row of a table, over the true particles that were found but those at the edge, whatever the review says."""
    folder = sorted((project / "runs").glob("*-review"))[-1]
    particles = pl.read_parquet(folder / "particles.parquet")
    truth, micrographs = pl.read_parquet(entry.particles), pl.read_parquet(entry.micrographs)
    radius = entry.diameter_angstrom / entry.settings.pixel_size_angstrom / 2
    found = []
    for row in micrographs.iter_rows(named=True):
        own = particles.filter(pl.col("micrograph_id") == row["micrograph"])
        true = truth.filter(pl.col("micrograph") == row["micrograph"]).select("x_px", "y_px").to_numpy()
        xy = own.select("x_px", "y_px").to_numpy()
        hits = match_points(xy, true, radius)[0]
        hits = hits[((xy[hits] >= radius) & (xy[hits] <= SIDE - 1 - radius)).all(axis=1)]
        mean = (row["defocus_u_angstrom"] + row["defocus_v_angstrom"]) / 2
        found.append(own[hits].with_columns(defocus=pl.lit(mean)))
    scored = pl.concat(found)
    numbers = [
        f"{np.corrcoef(scored[column].to_numpy(), scored['defocus'].to_numpy())[0, 1]:+.3f}"
        for column in ("score", "score_calibrated", "power", "power_calibrated")
    ]
    return f"| {name} | {particles['picker'][0]} | {scored.height} of {truth.height} | {' | '.join(numbers)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["apoferritin"], help="atomic models")
    arguments = parser.parse_args()
    lines = [
        "# Scores of true particles against defocus",
        "",
        "Correlation with the defocus, over the candidates that are true particles, and that no edge cuts, in sixteen simulated",
        "micrographs of 0.8 to 2.6 µm, raw and calibrated; CTFs are fitted. Templates are projections of the true map.",
        "",
        "| particle | picker | found | score | score, calibrated | power | power, calibrated |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for model in arguments.models:
            name = Path(model).name.split(".")[0]
            folder = Path(temporary) / name
            entry = simulate(folder, model)
            project = folder / "project"
            call("new", project, "--micrographs", folder / "*.mrc", "--pixel-size", entry.settings.pixel_size_angstrom,
                 "--voltage", 300, "--cs", 2.7, "--amplitude-contrast", 0.07, "--diameter", entry.diameter_angstrom)  # fmt: skip
            call("run", project, "--until", "review")
            lines.append(measure(entry, project, name))
            call("pick", project, "--method", "template", "--templates", entry.volume)
            call("review", project)
            lines.append(measure(entry, project, name))
            (RESULTS / "score-defocus.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
