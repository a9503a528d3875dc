"""Tell classes of particles from junk: simulated classes of structures that the model never saw, and classes of real images.

python benchmarks/accuracy/select2d.py [--models DIR] [--data DIR]

The model was trained on made-up molecules. Here are the shipped structures and those in --models, 12 classifications of 30
classes each, 40 % of them junk; what averaging gives is drawn directly (`vitreous.simulate.classes`). With --data, the labelled
particles of real micrographs are classified together with boxes cut where there is no particle, 6 for 10 particles: ice, edges of
neighbours, contamination. Writes benchmarks/results/select2d.md.
"""

import argparse
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import scipy.spatial
import torch
from PIL import Image

from vitreous.io.structure import read_structure
from vitreous.io.trees import read_trees
from vitreous.ops.align2d import ClassificationSettings, classify_images
from vitreous.ops.boosting import BoostedTrees
from vitreous.ops.boxes import extract_boxes, normalise_boxes
from vitreous.ops.class_halves import (
    HalfSums,
    add_images,
    average_halves,
    make_class_mask,
    make_empty_sums,
    measure_resolution,
)
from vitreous.ops.class_quality import FEATURES, compute_class_features, score_classes
from vitreous.simulate.classes import JUNK, make_beads, simulate_classes
from vitreous.simulate.volume import SHIPPED_MODELS, find_model

HERE = Path(__file__).resolve().parent
N_SETS, N_CLASSES, JUNK_SHARE, N_PX = 12, 30, 0.4, 64
SIZES = ((8, 30), (30, 100), (100, 2001))


def compute_auc(score: np.ndarray, is_particle: np.ndarray) -> float:
    """Return the chance that a particle scores more than junk."""
    good, bad = score[is_particle][:, None], score[~is_particle][None]
    return float((good > bad).mean() + 0.5 * (good == bad).mean())


@dataclass(frozen=True)
class RealData:
    """Micrographs (a glob), coordinates, diameter and box in their pixels, classes to ask for."""

    images: str
    coordinates: str
    diameter_px: float
    box_px: int
    n_classes: int


REAL = {
    "apoferritin, EMPIAR-10146": RealData(
        "apoferritin-10146/micrographs/*.png", "apoferritin-10146/coordinates", 82.0, 160, 20
    ),
    "80S ribosome, EMPIAR-10028": RealData(
        "ribosome80s-10028/*/images/*.png", "ribosome80s-10028/coordinates", 56.0, 104, 14
    ),
}
DECOYS_PER_PARTICLE, LEAST_IMAGES = 0.6, 8


def read_trained() -> BoostedTrees:
    """Return the shipped model."""
    return read_trees(Path(str(files("vitreous.stages") / "class_model.json")), tuple(FEATURES))


def score_sums(sums: HalfSums, diameter_px: float, mask_radius_px: float) -> np.ndarray:
    """Return the probability that each class shows particles."""
    averages = average_halves(sums)
    resolution = measure_resolution(sums, averages[0], make_class_mask(sums.n_px, mask_radius_px))
    return score_classes(
        read_trained(), compute_class_features(sums, averages, resolution, diameter_px, mask_radius_px)
    )


def cut_images(data: Path, real: RealData, n_micrographs: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return boxes of labelled particles and of places without, protein bright, and which are particles."""
    rng, boxes, labels = np.random.default_rng(0), [], []
    for path in sorted(data.glob(real.images))[:n_micrographs]:
        image = torch.from_numpy(np.array(Image.open(path)).astype(np.float32))
        marked = pl.read_csv(data / real.coordinates / f"{path.stem}.csv").to_numpy()[:, :2].astype(float)
        low, high = real.box_px / 2, np.array(image.shape[::-1]) - real.box_px / 2
        chosen = [xy for xy in marked if (xy > low).all() and (xy < high).all()]
        n_particles, taken = len(chosen), marked
        for xy in rng.uniform(low, high, (6000, 2)):
            if len(chosen) >= n_particles * (1 + DECOYS_PER_PARTICLE):
                break
            if scipy.spatial.cKDTree(taken).query(xy)[0] > 0.5 * real.diameter_px:
                chosen.append(xy)
                taken = np.vstack([taken, xy])
        cut = extract_boxes((image - image.mean()) / image.std(), torch.from_numpy(np.array(chosen)), real.box_px, N_PX)
        boxes.append(-normalise_boxes(cut, 0.55 * real.diameter_px * N_PX / real.box_px))
        labels += [i < n_particles for i in range(len(chosen))]
    return torch.cat(boxes).float(), np.array(labels)


def measure_real(data: Path, real: RealData, n_micrographs: int = 12) -> dict[str, float]:
    """Classify real boxes, select classes, and return how well particles are told from the rest."""
    images, is_particle = cut_images(data, real, n_micrographs)
    diameter = real.diameter_px * N_PX / real.box_px
    radius, half = min(0.55 * diameter, 0.47 * N_PX), torch.arange(len(images)) % 2
    settings = ClassificationSettings(
        n_classes=real.n_classes,
        n_iterations=15,
        mask_radius_px=radius,
        max_shift_px=0.1 * diameter,
        first_ring=round(4 * N_PX / diameter),
        last_ring=26,
        seed=0,
    )
    found = classify_images(images, None, half, settings)
    empty = make_empty_sums(len(found.averages), N_PX)
    sums = add_images(empty, images, None, half, found.class_index, found.angle_deg, found.shift_px)
    score, index = score_sums(sums, diameter, radius), found.class_index.numpy()
    size = np.bincount(index, minlength=len(score))
    share = np.bincount(index, is_particle, minlength=len(score)) / size
    large = size >= LEAST_IMAGES
    kept = score[index] >= 0.5
    return {
        "boxes": len(images),
        "classes": int(large.sum()),
        "auc": compute_auc(score[large], share[large] > 0.5),
        "precision_before": float(is_particle.mean()),
        "precision": float(is_particle[kept].mean()),
        "recall": float(kept[is_particle].mean()),
    }


def measure(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, kinds and numbers of images of the classes of one structure."""
    rng = np.random.default_rng(seed)
    beads, _ = make_beads(read_structure(path).positions_angstrom, rng)
    scores, kinds, sizes = [], [], []
    for _ in range(N_SETS):
        kind = ["particle" if rng.random() > JUNK_SHARE else str(rng.choice(JUNK)) for _ in range(N_CLASSES)]
        found = simulate_classes(beads, kind, rng, n_px=N_PX)
        scores.append(score_sums(found.sums, found.diameter_px, found.mask_radius_px))
        kinds += kind
        sizes.append(found.sums.n_images.sum(dim=0).numpy())
    return np.concatenate(scores), np.array(kinds), np.concatenate(sizes)


def main() -> None:
    """Measure every structure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of more atomic models")
    parser.add_argument("--data", type=Path, help="folder of real micrographs with labels")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = {name: find_model(name) for name in SHIPPED_MODELS}
    if arguments.models:
        more = [path for path in sorted(arguments.models.iterdir()) if path.name not in SHIPPED_MODELS.values()]
        paths |= {
            path.name.split(".")[0]: path
            for path in more
            if path.name.split(".", 1)[-1] in ("cif", "cif.gz", "pdb", "pdb.gz", "ent")
        }
    found = {name: measure(path, 7 + i) for i, (name, path) in enumerate(paths.items())}
    lines = [
        "# Selection of 2D classes",
        "",
        f"{N_SETS} simulated classifications of {N_CLASSES} classes for each structure, {JUNK_SHARE:.0%} junk of {len(JUNK)} "
        "kinds, of 8 to 2000 images, signal-to-noise ratio of an image 0.02 to 0.4. The model was trained "
        "on made-up molecules only. Last three columns: AUC by the number of images of a class.",
        "",
        "| structure | classes | AUC | particles kept | junk rejected | 8 to 29 images | 30 to 99 | 100 and more |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (score, kind, size) in found.items():
        good, kept = kind == "particle", score >= 0.5
        by_size = [
            compute_auc(score[here], good[here]) for low, high in SIZES for here in [(size >= low) & (size < high)]
        ]
        cells = [
            f"{value:.3f}" for value in (compute_auc(score, good), kept[good].mean(), (~kept[~good]).mean(), *by_size)
        ]
        lines.append(f"| {name} | {len(score)} | {' | '.join(cells)} |")
    score, kind, size = (np.concatenate([one[i] for one in found.values()]) for i in range(3))
    lines += [
        "",
        "| kind | AUC against particles | classes of 30 images and more | selected | AUC |",
        "|---|---|---|---|---|",
    ]
    for name in ("particle", *JUNK):
        here, large = kind == name, size >= 30
        against = [
            "" if name == "particle" else f"{compute_auc(score[part], kind[part] == 'particle'):.3f}"
            for part in (here | (kind == "particle"), (here | (kind == "particle")) & large)
        ]
        chosen = (score[here & large] >= 0.5).mean()
        lines.append(f"| {name} | {against[0]} | {(here & large).sum()} | {chosen:.3f} | {against[1]} |")
    lines += ["", "| probability given | classes | share of particles |", "|---|---|---|"]
    for low in np.arange(0, 1, 0.2):
        here = (score >= low) & (score < low + 0.2 + 1e-9)
        lines.append(f"| {low:.1f} to {low + 0.2:.1f} | {here.sum()} | {(kind[here] == 'particle').mean():.2f} |")
    if arguments.data:
        lines += [
            "",
            f"Real boxes of {N_PX} px: labelled particles and places without one. AUC of classes of {LEAST_IMAGES} images and "
            "more.",
            "",
            "| data | boxes | classes | AUC of classes | particles before | after | particles kept |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, real in REAL.items():
            row = measure_real(arguments.data, real)
            lines.append(
                f"| {name} | {row['boxes']} | {row['classes']} | {row['auc']:.3f} | {row['precision_before']:.3f} | "
                f"{row['precision']:.3f} | {row['recall']:.3f} |"
            )
    (HERE.parent / "results" / "select2d.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
