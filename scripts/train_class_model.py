"""Train the model that tells classes of particles from junk, on simulated classifications of made-up molecules.

python scripts/train_class_model.py [--sets 500] [--seed 1]

scikit-learn (the extra `train`) boosts trees of depth 3 on the features of `vitreous.ops.class_quality`; a part of the
classifications is kept out and calibrates the probability (Platt 1999). Writes src/vitreous/stages/class_model.json, which is
evaluated without scikit-learn, and tests/ops/class_model_samples.json, what scikit-learn says of classes that were kept out; the
same seed and release of scikit-learn make the same files. About five minutes of one core. How good the model is on structures and
data that it never saw, benchmarks/accuracy/select2d.py says.
"""

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from vitreous.io.atomic import write_text
from vitreous.io.trees import write_trees
from vitreous.ops.boosting import BoostedTrees
from vitreous.ops.class_halves import average_halves, make_class_mask, measure_resolution
from vitreous.ops.class_quality import FEATURES, compute_class_features
from vitreous.simulate.classes import JUNK, draw_beads, simulate_classes

Floats = NDArray[np.float64]

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"n_estimators": 200, "max_depth": 3, "learning_rate": 0.06, "subsample": 0.5, "min_samples_leaf": 15}
KEPT_OUT = 0.25
N_SAMPLES = 40


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
    resolution = measure_resolution(found.sums, averages[0], make_class_mask(n_px, found.mask_radius_px))
    features = compute_class_features(found.sums, averages, resolution, found.diameter_px, found.mask_radius_px)
    # Trees are grown on numbers of 32 bits.
    return features.astype(np.float32).astype(np.float64), found.is_particle


def export_trees(model: GradientBoostingClassifier, slope: float = 1.0, intercept: float = 0.0) -> BoostedTrees:
    """Return the trees of a classifier of two classes, its log odds made `slope` times as large and moved by `intercept`.

    A branch that ends early goes on with nodes of one value; a node within a tree is worth the mean of its leaves' samples.
    """
    depth = model.max_depth
    feature, threshold, value = [], [], []
    for tree in (one[0].tree_ for one in model.estimators_):
        worth = model.learning_rate * slope * tree.value[:, 0, 0]
        # Children have greater numbers than their parents.
        for node in reversed(range(tree.node_count)):
            sides = [tree.children_left[node], tree.children_right[node]]
            if sides[0] >= 0:
                worth[node] = np.average(worth[sides], weights=tree.weighted_n_node_samples[sides])
        nodes = [0]
        for i in range(2**depth - 1):
            left, right = tree.children_left[nodes[i]], tree.children_right[nodes[i]]
            nodes += [int(left), int(right)] if left >= 0 else [nodes[i]] * 2
        inner = np.array(nodes[: 2**depth - 1])
        splits = tree.children_left[inner] >= 0
        feature.append(np.where(splits, tree.feature[inner], 0))
        threshold.append(np.where(splits, tree.threshold[inner], 0.0))
        value.append(worth[nodes])
    share = float(model.init_.class_prior_[1])
    base = slope * math.log(share / (1 - share)) + intercept
    return BoostedTrees(np.array(feature, dtype=np.int64), np.array(threshold), np.array(value).round(9), base)


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
    model = GradientBoostingClassifier(random_state=arguments.seed, **SETTINGS).fit(features, labels)
    logit = model.decision_function(kept)[:, None]
    platt = LogisticRegression(C=math.inf).fit(logit, truth)
    trees = export_trees(model, float(platt.coef_[0, 0]), float(platt.intercept_[0]))
    made_by = f"scripts/train_class_model.py --sets {arguments.sets} --seed {arguments.seed}"
    write_trees(ROOT / "src" / "vitreous" / "stages" / "class_model.json", trees, tuple(FEATURES), made_by)
    chance = platt.predict_proba(logit)[:, 1]
    samples = {"features": kept[:N_SAMPLES].tolist(), "probability": chance[:N_SAMPLES].tolist()}
    write_text(ROOT / "tests" / "ops" / "class_model_samples.json", json.dumps(samples) + "\n")
    right = ((chance >= 0.5) == truth).mean()
    print(
        f"{len(labels)} classes to train, {len(truth)} kept out: AUC {roc_auc_score(truth, chance):.4f}, right {right:.4f}"
    )


if __name__ == "__main__":
    main()
