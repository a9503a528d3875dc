"""Pick simulated micrographs, clean and contaminated, unattended, and compare with the truth of particles and of junk.

python benchmarks/accuracy/contaminated.py ../shared/data/models/4v5d.cif.gz [--until review:2]

Apoferritin and, where they are given, other models; four micrographs each, clean and with lumps and crystals of ice, clumps of
particles and, in two of them, carbon. Writes benchmarks/results/contaminated.md after every case.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import read_tiff
from vitreous.ops.matching import match_points
from vitreous.simulate.entry import SimulatedEntry, simulate_entry
from vitreous.simulate.settings import SimulationSettings

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIDE = 2048


def call(*words: str | float | Path) -> None:
    program = Path(sys.executable).with_name("vitreous")
    subprocess.run([str(program), *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def simulate(folder: Path, model: str, contaminated: bool) -> SimulatedEntry:
    large = model != "apoferritin"
    entry = simulate_entry(
        folder,
        SimulationSettings(
            model=model, n_movies=4, nx_px=SIDE, ny_px=SIDE, pixel_size_angstrom=1.8 if large else 1.6, n_frames=1,
            dose_per_frame=40.0, defocus_min_angstrom=8_000, defocus_max_angstrom=26_000, drift_angstrom=0,
            particles_per_movie=60 if large else 120, gain=False, n_hot_pixels=0, n_contaminants=3 * contaminated,
            n_crystals=2 * contaminated, n_aggregates=4 * contaminated, n_carbon_movies=2 * contaminated, seed=12,
        ),
    )  # fmt: skip
    for movie in entry.movies:
        write_mrc(
            folder / f"{movie.stem}.mrc", read_tiff(movie)[0].astype(np.float32), entry.settings.pixel_size_angstrom
        )
    return entry


def measure(entry: SimulatedEntry, project: Path, name: str) -> str:
    """Return the row of a table."""
    folder = sorted((project / "runs").glob("*-review"))[-1]
    particles = pl.read_parquet(folder / "particles.parquet")
    truth, junk = pl.read_parquet(entry.particles), pl.read_parquet(entry.junk)
    diameter = entry.diameter_angstrom / entry.settings.pixel_size_angstrom
    hits = kept = wanted = 0
    found = lost = planted = removed = 0
    distances: list[float] = []
    for micrograph in truth["micrograph"].unique().sort():
        own = particles.filter(pl.col("micrograph_id") == micrograph)
        xy, positive = own.select("x_px", "y_px").to_numpy(), (own["label"] == "positive").to_numpy()
        true = truth.filter(pl.col("micrograph") == micrograph).select("x_px", "y_px").to_numpy()
        picks, labels = (
            points[((points >= diameter / 2) & (points < SIDE - diameter / 2)).all(axis=1)]
            for points in (xy[positive], true)
        )
        pick, _, distance = match_points(picks, labels, diameter / 2)
        hits, kept, wanted = hits + len(pick), kept + len(picks), wanted + len(labels)
        distances += distance.tolist()
        real = np.zeros(len(xy), bool)
        real[match_points(xy, true, diameter / 2)[0]] = True
        found += int(real.sum())
        lost += int((real & ~positive & (own["reason"].fill_null("") != "border").to_numpy()).sum())
        inside = np.zeros(len(xy), bool)
        for one in junk.filter(pl.col("micrograph") == micrograph).iter_rows(named=True):
            distance = np.hypot(xy[:, 0] - one["x_px"], xy[:, 1] - one["y_px"])
            inside |= (distance > one["radius_px"]) if one["kind"] == "carbon" else (distance < one["radius_px"])
        planted += int((inside & ~real).sum())
        removed += int((inside & ~real & ~positive).sum())
    rms = float(np.sqrt(np.mean(np.square(distances)))) / diameter
    share = f"{removed} of {planted} ({removed / planted:.1%})" if planted else "-"
    return (
        f"| {name} | {particles['picker'][0]} | {particles['diameter_angstrom'][0]:.0f} ({entry.diameter_angstrom:.0f}) "
        f"| {hits / kept:.3f} | {hits / wanted:.3f} | {2 * hits / (kept + wanted):.3f} | {rms:.3f} "
        f"| {share} | {lost / found:.1%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="atomic models beside apoferritin")
    parser.add_argument("--until", default="review", help="review: without a template; review:2: with class averages")
    arguments = parser.parse_args()
    lines = [
        "# Picking simulated micrographs, clean and contaminated, unattended",
        "",
        "No diameter, threshold or template is given. Matched one to one within half a diameter; half a diameter at the border",
        "is left out. Junk removed: candidates in planted junk that are no particle and end up negative. Lost: true ones that",
        "end up negative, except at the border. Micrographs that curation leaves out count as missed.",
        "",
        "| case | picker | diameter, Å (truth) | precision | recall | F1 | centre error, diameters (RMS) | junk removed | lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        for model in ("apoferritin", *arguments.models):
            for contaminated in (False, True):
                name = f"{Path(model).name.split('.')[0]}, {'contaminated' if contaminated else 'clean'}"
                folder = Path(temporary) / name.replace(", ", "-")
                entry = simulate(folder, model, contaminated)
                call("new", folder / "project", "--micrographs", folder / "*.mrc", "--pixel-size",
                     entry.settings.pixel_size_angstrom, "--voltage", 300, "--cs", 2.7, "--amplitude-contrast", 0.07)  # fmt: skip
                call("run", folder / "project", "--until", arguments.until)
                lines.append(measure(entry, folder / "project", name))
                (RESULTS / "contaminated.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
