"""Run the whole recipe on the 12 real apoferritin micrographs; record time and peak memory of every stage.

python benchmarks/speed/apoferritin.py ../shared/data/apoferritin-10146

Writes benchmarks/results/apoferritin.md.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def call(*words: str | Path) -> str:
    done = subprocess.run(["vitreous", *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=Path, help="make the project here and keep it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = arguments.keep or Path(folder) / "apoferritin"
        micrographs = arguments.data / "micrographs" / "*.png"
        call("new", project, "--micrographs", micrographs, "--pixel-size", "1.5", "--voltage", "300", "--cs", "2.7",
             "--symmetry", "O")  # fmt: skip
        started = time.perf_counter()
        call("run", project)
        seconds = time.perf_counter() - started
        status = json.loads(call("status", project, "--json"))
        evaluate = ["evaluate", "--picks", project, "--truth", arguments.data / "coordinates", "--radius", "43"]
        scores = json.loads(call(*evaluate, "--border", "90", "--json"))
    lines = [
        "# Twelve real apoferritin micrographs, from PNG to map",
        "",
        f"1240 x 1200 px, 1.5 Å/px, unattended, no diameter given. {os.cpu_count()} cores ({platform.machine()}), no GPU.",
        "Peak memory is the largest resident size of one process.",
        "",
        "| run | seconds | peak memory, GB | out |",
        "|---|---|---|---|",
    ]
    for run in status["runs"]:
        out = ", ".join(f"{rows} {name}" for name, rows in run["outputs"].items())
        lines.append(f"| {run['folder']} | {run['seconds']:.1f} | {run['peak_memory_bytes'] / 1e9:.2f} | {out} |")
    lines += [
        "",
        f"Whole command: {seconds:.0f} s. Final positives against the hand labels (radius 43 px, border 90 px left out): "
        f"F1 {scores['f1']:.3f}, precision {scores['precision']:.3f}, recall {scores['recall']:.3f}.",
        f"Map: {status['resolution_angstrom']:.1f} Å." if status["resolution_angstrom"] else "No map.",
    ]
    results = HERE.parent / "results"
    results.mkdir(exist_ok=True)
    (results / "apoferritin.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
