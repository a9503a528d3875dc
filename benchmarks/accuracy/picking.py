"""Pick three real data sets unattended, without and then with class averages as templates, and compare with their labels.

python benchmarks/accuracy/picking.py ../shared/data

Takes about four minutes of a processor; --blob-only leaves templates out.
Writes benchmarks/results/picking.md after every data set.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class DataSet:
    """Where micrographs and labels are, and how they are compared; the labels leave out a border."""

    name: str
    micrographs: str
    labels: str
    pixel_size_angstrom: float
    cs_mm: float
    symmetry: str
    radius_px: float
    border_px: float


DATA_SETS = (
    DataSet("apoferritin (EMPIAR-10146)", "apoferritin-10146/micrographs/*.png", "apoferritin-10146/coordinates",
            1.5, 2.7, "O", 43, 90),
    DataSet("beta-galactosidase (EMPIAR-10017)", "betagal-10017/micrographs/*.jpg", "betagal-10017/labels",
            1.77, 2.0, "D2", 54, 120),
    DataSet("80S ribosome (EMPIAR-10028)", "ribosome80s-10028/*/images/*.png", "ribosome80s-10028/coordinates",
            5.36, 2.0, "C1", 28, 46),
)  # fmt: skip


def call(*words: str | float | Path) -> str:
    program = Path(sys.executable).with_name("vitreous")
    done = subprocess.run([str(program), *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def measure(data: DataSet, root: Path, folder: Path, blob_only: bool) -> list[str]:
    """Return the rows of the table."""
    if not (folder / "project.toml").exists():
        call("new", folder, "--micrographs", root / data.micrographs, "--pixel-size", data.pixel_size_angstrom,
             "--voltage", 300, "--cs", data.cs_mm, "--symmetry", data.symmetry)  # fmt: skip
    call("run", folder, "--until", "review")
    rows = [describe(data, root, folder, "blob")]
    if blob_only:
        return rows
    call("run", folder, "--until", "review:2")
    return [*rows, describe(data, root, folder, "template")]


def describe(data: DataSet, root: Path, folder: Path, how: str) -> str:
    words = ["evaluate", "--picks", folder, "--truth", root / data.labels]
    words += ["--radius", data.radius_px, "--border", data.border_px, "--json"]
    score: dict[str, Any] = json.loads(call(*words))
    runs = json.loads(call("status", folder, "--json"))["runs"]
    review = [run for run in runs if run["folder"].endswith("-review")][-1]
    particles = pl.read_parquet(folder / "runs" / review["folder"] / "particles.parquet")
    if particles["picker"][0] != how:
        how = f"{how} (fell back to {particles['picker'][0]})"
    return (
        f"| {data.name} | {how} | {particles['diameter_angstrom'][0]:.0f} | {score['precision']:.3f} | {score['recall']:.3f} "
        f"| {score['f1']:.3f} ({score['f1_low']:.3f} to {score['f1_high']:.3f}) "
        f"| {score['mean_distance_px'] * data.pixel_size_angstrom:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the three data sets")
    parser.add_argument(
        "--keep", type=Path, help="make the projects here and keep them, or go on with those that are there"
    )
    parser.add_argument("--blob-only", action="store_true", help="leave template picking out")
    arguments = parser.parse_args()
    lines = [
        "# Picking three real data sets, unattended",
        "",
        "No diameter, threshold or template is given. Labels are matched one to one within the radius; what is so near the edge",
        "that nobody labelled it is left out (border).",
        "",
        "| data set | radius, px | border, px | pixel, Å |",
        "|---|---|---|---|",
        *(f"| {d.name} | {d.radius_px:g} | {d.border_px:g} | {d.pixel_size_angstrom} |" for d in DATA_SETS),
        "",
        "| data set | picker | diameter used, Å | precision | recall | F1 (95 % interval) | distance, Å |",
        "|---|---|---|---|---|---|---|",
    ]
    results = HERE.parent / "results"
    results.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        for number, data in enumerate(DATA_SETS):
            folder = (arguments.keep or Path(temporary)) / f"{number + 1}"
            lines += measure(data, arguments.data, folder, arguments.blob_only)
            (results / "picking.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
