"""Time the comparison of picks with labels, at three sizes.

python benchmarks/speed/matching.py

Writes benchmarks/results/matching.md.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from vitreous.ops.matching import compute_average_precision, count_flips, count_images

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIDE, LABELS, RADIUS = 4096, 333, 54.0
SIZES = (30, 300, 3000)


def measure(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for n_images in SIZES:
        truth = [rng.uniform(0, SIDE, (LABELS, 2)) for _ in range(n_images)]
        found = [labels[rng.random(LABELS) < 0.8] for labels in truth]
        picks = [
            np.concatenate([xy + rng.normal(0, 8, xy.shape), rng.uniform(0, SIDE, (LABELS - len(xy), 2))])
            for xy in found
        ]
        scores = [rng.random(len(xy)) for xy in picks]
        times = (
            measure(partial(count_images, picks, truth, RADIUS)),
            measure(partial(count_flips, picks, truth, RADIUS, [(SIDE, SIDE)] * n_images)),
            measure(partial(compute_average_precision, picks, scores, truth, RADIUS)),
        )
        rows.append(f"| {n_images} | {sum(map(len, picks))} | " + " | ".join(f"{value:.2f}" for value in times) + " |")
    text = (
        "# Comparing picks with labels\n\n"
        f"Micrographs of {SIDE} x {SIDE} px with {LABELS} labels and as many picks, four fifths of them near a label; radius "
        f"{RADIUS:g} px. CPU seconds, one thread.\n\n"
        "| micrographs | picks | exact matching | matching of the four mirror images | average precision |\n"
        "|---|---|---|---|---|\n"
    )
    (RESULTS / "matching.md").write_text(text + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
