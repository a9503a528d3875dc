"""Pick simulated micrographs, clean and contaminated, unattended, and compare with the truth of particles and of junk.

python benchmarks/accuracy/contaminated.py apoferritin glua3-ntd ../shared/data/models/4v5d.cif.gz

Six micrographs of every model, clean and with lumps and crystals of ice, clumps of particles and, in two of them, carbon; without
a template, then with the class averages of that, and with those of that again (the recipe `loop`, which stops where classes get
no better). Writes benchmarks/results/contaminated.md after every case; rows of models that are not named stay.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import read_tiff
from vitreous.ops.matching import match_points
from vitreous.simulate.entry import SimulatedEntry, simulate_entry
from vitreous.simulate.settings import SimulationSettings

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIDE = 1536
GIVEN = {"glua3-ntd"}
"""Models that are picked again with their diameter given: the lobes of this one can be taken for the particle."""


def call(*words: str | float | Path) -> None:
    program = Path(sys.executable).with_name("vitreous")
    subprocess.run([str(program), *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def write_micrographs(folder: Path, settings: SimulationSettings) -> SimulatedEntry:
    """Simulate movies of one frame and write each as a micrograph beside it."""
    entry = simulate_entry(folder, settings)
    for movie in entry.movies:
        write_mrc(folder / f"{movie.stem}.mrc", read_tiff(movie)[0].astype(np.float32), settings.pixel_size_angstrom)
    return entry


def simulate(folder: Path, model: str, contaminated: bool) -> SimulatedEntry:
    large = Path(model).exists()
    return write_micrographs(
        folder,
        SimulationSettings(
            model=model, n_movies=6, nx_px=SIDE, ny_px=SIDE, pixel_size_angstrom=1.8 if large else 1.6, n_frames=1,
            dose_per_frame=40.0, defocus_min_angstrom=8_000, defocus_max_angstrom=26_000, drift_angstrom=0,
            particles_per_movie=30 if large else 65, gain=False, n_hot_pixels=0, n_contaminants=2 * contaminated,
            n_crystals=contaminated, n_aggregates=3 * contaminated, n_carbon_movies=2 * contaminated, seed=12,
        ),
    )  # fmt: skip


def measure(entry: SimulatedEntry, folder: Path, name: str, number: int) -> str:
    """Return the row of a table for one review."""
    particles = pl.read_parquet(folder / "particles.parquet")
    truth, junk = pl.read_parquet(entry.particles), pl.read_parquet(entry.junk)
    diameter = entry.diameter_angstrom / entry.settings.pixel_size_angstrom
    hits = kept = wanted = 0
    found = lost = 0
    planted, removed = Counter[str](), Counter[str]()
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
        inside = np.full(len(xy), "", dtype="U9")
        for one in junk.filter(pl.col("micrograph") == micrograph).iter_rows(named=True):
            distance = np.hypot(xy[:, 0] - one["x_px"], xy[:, 1] - one["y_px"])
            within = (distance > one["radius_px"]) if one["kind"] == "carbon" else (distance < one["radius_px"])
            inside[within & ~real] = "clumps" if one["kind"] == "aggregate" else "all else"
        planted.update(inside.tolist())
        removed.update(inside[~positive].tolist())
    rms = float(np.sqrt(np.mean(np.square(distances)))) / diameter
    shares = [
        f"{removed[kind]} of {planted[kind]} ({removed[kind] / planted[kind]:.1%})" if planted[kind] else "-"
        for kind in ("clumps", "all else")
    ]
    return (
        f"| {name} | {number}, {particles['picker'][0]} "
        f"| {particles['diameter_angstrom'][0]:.0f} ({entry.diameter_angstrom:.0f}) "
        f"| {hits / kept:.3f} | {hits / wanted:.3f} | {2 * hits / (kept + wanted):.3f} | {rms:.3f} "
        f"| {' | '.join(shares)} | {lost / found:.1%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="atomic models, or names of those that are built in")
    arguments = parser.parse_args()
    table = RESULTS / "contaminated.md"
    lines = [
        "# Picking simulated micrographs, clean and contaminated, unattended",
        "",
        "No diameter (but where it is said), threshold or template is given. Matched one to one within half a",
        "diameter; half a diameter at the border is left out. Removed: candidates in planted junk that are no particle and end",
        "up negative. Lost: true ones that end up negative, except at the border. Micrographs that curation leaves out count as",
        "missed.",
        "",
        "| case | round, picker | diameter, Å (truth) | precision | recall | F1 | centre error, diameters (RMS) "
        "| removed in clumps | in ice and carbon | lost |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = [Path(model).name.split(".")[0] for model in arguments.models]
    kept = [line for line in table.read_text(encoding="utf-8").splitlines() if line.count("|") == lines[-1].count("|")]
    lines += [line for line in kept[2:] if line[2:].split(",")[0] not in names]
    with tempfile.TemporaryDirectory() as temporary:
        for model, short in zip(arguments.models, names, strict=True):
            for contaminated, given in product((False, True), (False, True) if short in GIVEN else (False,)):
                name = f"{short}, {'contaminated' if contaminated else 'clean'}{', diameter given' if given else ''}"
                folder = Path(temporary) / name.replace(", ", "-").replace(" ", "-")
                entry = simulate(folder, model, contaminated)
                call("new", folder / "project", "--micrographs", folder / "*.mrc", "--pixel-size",
                     entry.settings.pixel_size_angstrom, "--voltage", 300, "--cs", 2.7, "--amplitude-contrast", 0.07,
                     "--recipe", "loop", *(("--diameter", entry.diameter_angstrom) if given else ()))  # fmt: skip
                call("run", folder / "project", "--until", "review:3")
                reviews = sorted((folder / "project" / "runs").glob("*-review"))
                lines += [measure(entry, review, name, number) for number, review in enumerate(reviews, 1)]
                table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
