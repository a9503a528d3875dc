"""Find orientation and polarity of simulated gain references from single movies, in all 16 ways that a file can be wrong.

python benchmarks/accuracy/gain.py

Writes benchmarks/results/gain.md.
"""

import itertools
import platform
import time
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch

from vitreous.ops.gain_orientation import ORIENTATIONS, estimate_gain_orientation, invert_gain, orient_gain

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIDE = 1024
ELECTRONS_PER_PIXEL = 40.0
LEVELS = (0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
SEEDS = range(3)


def make_scene(rng: np.random.Generator) -> np.ndarray:
    """Beam with a ramp of 5 %, particles, a carbon edge, gold and ice of every size; 1 on average."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    scene = 1 + 0.05 * x + 0.03 * y - 0.04 * (x**2 + y**2)
    for sigma, strength in ((40, 0.04), (6, 0.03), (2, 0.02)):
        ice = scipy.ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE)), sigma)
        scene += strength * ice / ice.std()
    scene[(x + 0.7 * y) > 0.9] *= 0.8
    beads = np.zeros((SIDE, SIDE))
    beads.flat[rng.choice(SIDE**2, 40, replace=False)] = 1
    scene *= np.where(scipy.ndimage.gaussian_filter(beads, 4) * 100 > 0.4, 0.5, 1)
    return scene / scene.mean()


def make_movie(rng: np.random.Generator, rms: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the counts of a movie, with 100 hot and 100 dead pixels, and its gain, which multiplies."""
    gain = 1 + rms * rng.standard_normal((SIDE, SIDE)).clip(-4, 4)
    factor = 1 / gain
    bad = rng.choice(SIDE**2, 200, replace=False)
    factor.flat[bad[:100]], factor.flat[bad[100:]] = rng.uniform(3, 20, 100), 0
    gain.flat[bad[150:]] = 0
    counts = rng.poisson(ELECTRONS_PER_PIXEL * make_scene(rng) * factor)
    return torch.from_numpy(counts).float(), torch.from_numpy(gain).float()


def undo(orientation: str) -> str:
    """The orientation that turns back what `orientation` did."""
    return {"rot90": "rot270", "rot270": "rot90"}.get(orientation, orientation)


def main() -> None:
    lines = []
    for rms in LEVELS:
        right = wrong = undecided = 0
        significances, ratios, seconds = [], [], []
        for seed in SEEDS:
            counts, gain = make_movie(np.random.default_rng(seed), rms)
            for orientation, polarity in itertools.product(ORIENTATIONS, ("multiply", "divide")):
                on_disk = orient_gain(gain if polarity == "multiply" else invert_gain(gain), undo(orientation))
                started = time.perf_counter()
                found = estimate_gain_orientation(counts, on_disk)
                seconds.append(time.perf_counter() - started)
                is_right = (found.orientation, found.polarity) == (orientation, polarity)
                right += found.verdict == "clear" and is_right
                wrong += found.verdict == "clear" and not is_right
                undecided += found.verdict != "clear"
                significances.append(found.significance)
                ratios.append(found.ratio)
        lines.append(
            f"| {rms:.1%} | {right} | {undecided} | {wrong} | {np.median(significances):.0f} | {np.median(ratios):.1f} |"
        )
        print(lines[-1], flush=True)
    other = absent = 0
    for seed in SEEDS:
        counts, _ = make_movie(np.random.default_rng(seed), 0.02)
        _, gain = make_movie(np.random.default_rng(seed + 100), 0.02)
        found = estimate_gain_orientation(counts, gain)
        other, absent = other + 1, absent + (found.verdict == "absent")
    (RESULTS / "gain.md").write_text(
        f"""# Orientation and polarity of gain references

Single simulated movies of {SIDE} x {SIDE} px, {ELECTRONS_PER_PIXEL:g} e/px in all, with an uneven beam, ice, a carbon edge,
gold, 100 hot and 100 dead pixels. Each row: 8 orientations x multiply and divide x {len(SEEDS)} movies. Significance and ratio to
the second orientation are medians. A frame of 4096 x 4096 px has four times the significance. {np.median(seconds):.2f} s each
on one core ({platform.machine()}).

| deviation of the gain | right | undecided | wrong | significance | ratio |
|---|---|---|---|---|---|
{chr(10).join(lines)}

The reference of another camera (2 %) was told to be absent from the counts in {absent} of {other} movies.
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
