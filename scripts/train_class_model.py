"""Train the model that tells classes of particles from junk, on simulated classifications of made-up molecules.

python scripts/train_class_model.py [--sets 500] [--seed 1]

Gradient boosting of trees of depth 3 on the features of `vitreous.ops.class_quality`; a part of the classifications is kept out
and calibrates the probability (Platt 1999). Writes src/vitreous/stages/class_model.json; the same seed makes the same file.
About five minutes of one core. How good it is on structures and data that it never saw, benchmarks/accuracy/select2d.py says.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitreous.io.trees import write_trees
from vitreous.ops.average2d import make_soft_circle
from vitreous.ops.boosting import BoostedTrees, predict_logit
from vitreous.ops.class_halves import average_halves, measure_resolution
from vitreous.ops.class_quality import FEATURES, compute_class_features
from vitreous.simulate.classes import JUNK, draw_beads, simulate_classes

Floats = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[1]
DEPTH, N_TREES, RATE, RIDGE, LEAST_WEIGHT, N_BINS = 3, 150, 0.1, 5.0, 10.0, 48
KEPT_OUT = 0.25


def make_set(seed: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return features and labels of one simulated classification of 12 to 30 classes."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    n_px = int(rng.choice([48, 64, 96]))
    n_classes, share = int(rng.integers(12, 31)), rng.uniform(0.05, 0.75)
    kinds = ["particle" if rng.random() > share else str(rng.choice(JUNK)) for _ in range(n_classes)]
    kinds[0] = "particle"
    found = simulate_classes(draw_beads(rng), kinds, rng, n_px=n_px)
    averages = average_halves(found.sums)
    mask = make_soft_circle(n_px, found.mask_radius_px, 3.0)
    resolution = measure_resolution(found.sums, averages[0], mask)
    features = compute_class_features(found.sums, averages, resolution, found.diameter_px, found.mask_radius_px)
    return features, found.is_particle


def grow(
    features: Floats, gradient: Floats, curvature: Floats, edges: list[Floats]
) -> tuple[list[int], Floats, Floats]:
    """Return feature, threshold and value of the nodes of one complete tree, by Newton steps."""
    bins = np.stack(
        [np.searchsorted(edge, column, side="left") for edge, column in zip(edges, features.T, strict=True)]
    )
    node = np.zeros(len(features), dtype=np.int64)
    n_inner = 2**DEPTH - 1
    feature, threshold, value = [0] * n_inner, np.full(n_inner, np.inf), np.zeros(2 * n_inner + 1)
    value[0] = -gradient.sum() / (curvature.sum() + RIDGE)
    for i in range(n_inner):
        here = np.nonzero(node == i)[0]
        best, gain = None, 1e-6
        for j, edge in enumerate(edges):
            g, h = (np.bincount(bins[j, here], part[here], len(edge) + 1).cumsum() for part in (gradient, curvature))
            left, right = h[:-1], h[-1] - h[:-1]
            score = (
                g[:-1] ** 2 / (left + RIDGE) + (g[-1] - g[:-1]) ** 2 / (right + RIDGE) - g[-1] ** 2 / (h[-1] + RIDGE)
            )
            score[(left < LEAST_WEIGHT) | (right < LEAST_WEIGHT)] = 0
            if score.max(initial=0) > gain:
                best, gain = (j, int(score.argmax())), float(score.max())
        value[2 * i + 1] = value[2 * i + 2] = value[i]
        if best is None:
            node[here] = 2 * i + 1
            continue
        feature[i], threshold[i] = best[0], edges[best[0]][best[1]]
        goes = bins[best[0], here] > best[1]
        for side in (0, 1):
            part = here[goes == side]
            node[part] = 2 * i + 1 + side
            value[2 * i + 1 + side] = -gradient[part].sum() / (curvature[part].sum() + RIDGE)
    return feature, threshold, value


def boost(features: Floats, labels: NDArray[np.bool_]) -> BoostedTrees:
    """Return trees that minimise the logistic loss."""
    edges = [np.unique(np.quantile(column, np.linspace(0, 1, N_BINS + 1)[1:-1]).round(4)) for column in features.T]
    base = float(np.log(labels.mean() / (1 - labels.mean())))
    logit = np.full(len(labels), base)
    trees = []
    for _ in range(N_TREES):
        chance = 1 / (1 + np.exp(-logit))
        feature, threshold, value = grow(features, chance - labels, chance * (1 - chance), edges)
        one = BoostedTrees(np.array([feature]), threshold[None], RATE * value[None], 0.0)
        logit += predict_logit(one, features)
        trees.append(one)
    return BoostedTrees(
        np.concatenate([one.feature for one in trees]),
        np.nan_to_num(np.concatenate([one.threshold for one in trees]), posinf=1e9),
        np.concatenate([one.value for one in trees]),
        base,
    )


def calibrate(logit: Floats, labels: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept that make the logit a log odds, by Newton's method."""
    design, step = np.stack([logit, np.ones_like(logit)], axis=1), np.array([1.0, 0.0])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-design @ step))
        hessian = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = step - np.linalg.solve(hessian, design.T @ (chance - labels))
    return float(step[0]), float(step[1])


def compute_auc(score: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the chance that a particle scores more than junk."""
    return float(
        (score[labels][:, None] > score[~labels][None]).mean()
        + 0.5 * (score[labels][:, None] == score[~labels][None]).mean()
    )


def main() -> None:
    """Simulate, train, calibrate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=500, help="classifications")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    seeds = range(arguments.seed * 1_000_000, arguments.seed * 1_000_000 + arguments.sets)
    with ProcessPoolExecutor(arguments.workers) as pool:
        made = list(pool.map(make_set, seeds, chunksize=8))
    n_train = round(len(made) * (1 - KEPT_OUT))
    features, labels = (np.concatenate([one[i] for one in made[:n_train]]) for i in (0, 1))
    kept, truth = (np.concatenate([one[i] for one in made[n_train:]]) for i in (0, 1))
    trees = boost(features, labels.astype(bool))
    logit = predict_logit(trees, kept)
    slope, intercept = calibrate(logit, truth)
    calibrated = BoostedTrees(
        trees.feature,
        trees.threshold.round(4),
        (slope * trees.value).round(5),
        round(slope * trees.base + intercept, 5),
    )
    path = ROOT / "src" / "vitreous" / "stages" / "class_model.json"
    made_by = f"scripts/train_class_model.py --sets {arguments.sets} --seed {arguments.seed}"
    write_trees(path, calibrated, tuple(FEATURES), made_by)
    chance = 1 / (1 + np.exp(-predict_logit(calibrated, kept)))
    right = ((chance >= 0.5) == truth).mean()
    print(
        f"{len(labels)} classes to train, {len(truth)} kept out: AUC {compute_auc(chance, truth):.4f}, right {right:.4f}"
    )


if __name__ == "__main__":
    main()
