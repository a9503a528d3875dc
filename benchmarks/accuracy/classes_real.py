"""2D classes of real apoferritin: detail, the hollow of the shell, and what two seeds have in common.

python benchmarks/accuracy/classes_real.py ../shared/data/apoferritin-10146 [--keep DIR]

Twelve micrographs go unattended from PNG to selected classes, twice, with seeds 0 and 1 of the classification. Apoferritin is a
shell of protein, 120 Å across round a hollow of 80 Å, so that its averages are rings from whatever side. Writes
benchmarks/results/classes-real.md; --keep leaves the projects, their reports and the figure of matched classes, and goes on from
them. Takes about four minutes of one core.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.engine.project import open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.io.stacks import read_averages

HERE = Path(__file__).resolve().parent
SEEDS = (0, 1)
CENTRE, WANTED_ANGSTROM, WANTED_HOLLOW = 0.1, 12.0, 0.5


def call(*words: str | Path) -> str:
    """Run vitreous and return what it prints."""
    program = Path(sys.executable).with_name("vitreous")
    return subprocess.run([str(program), *map(str, words)], check=True, stdout=subprocess.PIPE, text=True).stdout


def measure_hollow(image: np.ndarray, diameter_px: float) -> float:
    """Return how far the centre falls below the ring: 0 where it is as bright, 1 where it is as dark as the mean of the image."""
    y, x = np.indices(image.shape) - image.shape[0] // 2
    radius = np.hypot(y, x)
    ring = radius.round().astype(int)
    profile = np.bincount(ring.ravel(), (image - image.mean()).ravel()) / np.bincount(ring.ravel())
    centre = (image - image.mean())[radius <= CENTRE * diameter_px].mean()
    return float(1 - centre / profile[: round(diameter_px / 2)].max())


def describe(root: Path) -> pl.DataFrame:
    """Return the classes of a project with their hollows, the largest first."""
    project = open_project(root)
    classes = read_current_tables(project, read_current_records(project))["classes"]
    diameter_px = float(classes["diameter_angstrom"][0] / classes["pixel_size_angstrom"][0])
    hollow = [measure_hollow(image, diameter_px) for image in read_averages(project.root, classes)]
    return classes.with_columns(hollow=pl.Series(hollow)).sort("n_particles", descending=True)


def main() -> None:
    """Classify twice and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, help="make the projects here and keep them")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        projects = [folder / f"seed{seed}" for seed in SEEDS]
        micrographs = arguments.data.resolve() / "micrographs" / "*.png"
        if not projects[0].exists():
            call("new", projects[0], "--micrographs", micrographs, "--pixel-size", "1.5", "--voltage", "300", "--cs", "2.7",
                 "--symmetry", "O")  # fmt: skip
        call("run", projects[0], "--until", "extract")
        if not projects[1].exists():
            shutil.copytree(projects[0], projects[1])
        for project, seed in zip(projects, SEEDS, strict=True):
            call("run", project, "--until", "select2d", "--set", f"classify2d.seed={seed}")
            call("report", project)
        tables = [describe(project) for project in projects]
        names = [f"{project.name}={project}" for project in projects]
        found = json.loads(call("compare", *names, "--classes", "--to", folder, "--json"))
    lines = [
        "# 2D classes of real apoferritin (EMPIAR-10146)",
        "",
        "Twelve micrographs of 1240 x 1200 px, 1.5 Å/px, picked unattended. Hollow: how far the centre of an average falls below "
        "its ring; 0 no hollow, 1 as dark as the solvent.",
        "",
        "| seed | class | particles | resolution, Å | hollow | score | selected |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, table in zip(SEEDS, tables, strict=True):
        for row in table.iter_rows(named=True):
            lines.append(
                f"| {seed} | {row['class_id']} | {row['n_particles']} | {row['resolution_angstrom']:.1f} | {row['hollow']:.2f} | "
                f"{row['score']:.2f} | {'yes' if row['selected'] else 'no'} |"
            )
    lines.append("")
    for seed, table in zip(SEEDS, tables, strict=True):
        selected, total = table.filter("selected"), table["n_particles"].sum()
        fine = table.filter(pl.col("resolution_angstrom") < WANTED_ANGSTROM)["n_particles"].sum() / total
        rings = table.filter(pl.col("hollow") > WANTED_HOLLOW)["n_particles"].sum() / total
        lines.append(
            f"Seed {seed}: {selected['n_particles'].sum()} of {total} particles in {selected.height} selected classes of "
            f"{table.height}; best {table['resolution_angstrom'].min():.1f} Å; {fine:.1%} of particles in classes finer than "
            f"{WANTED_ANGSTROM:.0f} Å, {rings:.1%} in rings with a hollow of more than {WANTED_HOLLOW}."
        )
        lines.append("")
    mean = np.mean([pair["correlation"] for pair in found["pairs"]]) if found["pairs"] else float("nan")
    lines.append(
        f"The seeds' selected classes: {len(found['pairs'])} pairs of one view, mean correlation {mean:.2f}; "
        f"{found['first']['matched_share']:.1%} and {found['second']['matched_share']:.1%} of particles in matched classes; "
        f"divergence of views {found['view_divergence_bits']:.2f} bits."
    )
    (HERE.parent / "results" / "classes-real.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
