"""The features and the shipped model, on simulated classes of a structure that the model was not trained on."""

import json
import runpy
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from vitreous.io.structure import read_structure
from vitreous.io.trees import read_trees
from vitreous.ops.boosting import BoostedTrees
from vitreous.ops.class_halves import HalfSums, average_halves, make_class_mask, make_empty_sums, measure_resolution
from vitreous.ops.class_quality import FEATURES, REASONS, compute_class_features, find_reasons, score_classes
from vitreous.simulate.classes import JUNK, Beads, ClassSet, make_beads, simulate_classes
from vitreous.simulate.volume import find_model


@pytest.fixture(scope="module")
def trees() -> BoostedTrees:
    return read_trees(Path(str(files("vitreous.stages") / "class_model.json")), tuple(FEATURES))


@pytest.fixture(scope="module")
def beads() -> Beads:
    positions = read_structure(find_model("glua3-ntd")).positions_angstrom
    return make_beads(positions, np.random.default_rng(1))[0]


def measure(found: ClassSet) -> np.ndarray:
    averages = average_halves(found.sums)
    mask = make_class_mask(found.sums.n_px, found.mask_radius_px)
    resolution = measure_resolution(found.sums, averages[0], mask)
    return compute_class_features(found.sums, averages, resolution, found.diameter_px, found.mask_radius_px)


def test_the_model_says_what_scikit_learn_said(trees: BoostedTrees) -> None:
    stored = json.loads((Path(__file__).parent / "class_model_samples.json").read_text(encoding="utf-8"))
    expected = np.array(stored["probability"])
    assert score_classes(trees, np.array(stored["features"])) == pytest.approx(expected, abs=1e-6)
    assert expected.min() < 0.1
    assert expected.max() > 0.9


def test_junk_scores_less_than_particles(beads: Beads, trees: BoostedTrees) -> None:
    rng = np.random.default_rng(11)
    scores, is_particle = [], []
    for _ in range(5):
        kinds = [*["particle"] * 14, *JUNK]
        found = simulate_classes(beads, kinds, rng)
        scores.append(score_classes(trees, measure(found)))
        is_particle.append(found.is_particle)
    score, good = np.concatenate(scores), np.concatenate(is_particle)
    difference = score[good][:, None] - score[~good][None]
    assert (difference > 0).mean() + 0.5 * (difference == 0).mean() >= 0.95
    assert (score[good] >= 0.5).mean() > 0.9
    assert (score[~good] < 0.5).mean() > 0.8


def test_rare_views_are_kept(beads: Beads, trees: BoostedTrees) -> None:
    rare, common = [], []
    for seed in range(20):
        kinds = ["particle"] * 8
        # The same molecule, noise and errors with few images and with many: only the least and greatest number differ.
        few = simulate_classes(beads, kinds, np.random.default_rng(seed), most_images=60)
        many = simulate_classes(beads, kinds, np.random.default_rng(seed), most_images=4000)
        together = join(few, many)
        score = score_classes(trees, measure(together))
        n_images = together.sums.n_images.sum(dim=0).numpy()
        rare += score[:8][n_images[:8] >= 20].tolist()
        common += score[8:].tolist()
        assert n_images[:8].sum() < 0.2 * n_images.sum()
    assert np.mean(np.array(rare) >= 0.5) > 0.9
    assert np.mean(np.array(common) >= 0.5) > 0.95


def join(one: ClassSet, other: ClassSet) -> ClassSet:
    parts = [torch.cat([getattr(found.sums, name) for found in (one, other)], dim=1) for name in SUMS]
    return replace(one, sums=HalfSums(*parts), kind=one.kind + other.kind)


SUMS = ("spectra", "ctf_power", "image_power", "n_images")


def test_the_number_of_images_is_no_feature(beads: Beads) -> None:
    # So few that both times resolution goes by the rule for small classes.
    found = simulate_classes(beads, ["particle"] * 6, np.random.default_rng(4), most_images=95)
    # Twice the images of the same average and noise of the average: the noise of one image is twice as strong.
    sums = found.sums
    scaled = HalfSums(2 * sums.spectra, 2 * sums.ctf_power, 4 * sums.image_power, 2 * sums.n_images)
    # The least class has 8: one degree of freedom of the noise, lost to the average, is up to a seventh of it. What is left of an
    # image is noise, which is twice as strong.
    same = [i for i, name in enumerate(FEATURES) if name != "scatter"]
    assert measure(replace(found, sums=scaled))[:, same] == pytest.approx(measure(found)[:, same], abs=0.15)


def test_the_same_at_any_scale(beads: Beads) -> None:
    found = simulate_classes(beads, ["particle"] * 5 + ["edge", "ice", "aside"], np.random.default_rng(6), n_px=96)
    n = 48
    rows = torch.cat([torch.arange(n // 2), torch.arange(96 - n // 2, 96)])
    spectra = found.sums.spectra[:, :, rows, : n // 2 + 1] / 4
    small = HalfSums(
        spectra,
        found.sums.ctf_power[..., : n // 2 + 1],
        found.sums.image_power[..., : n // 2 + 1] / 16,
        found.sums.n_images,
    )
    reduced = ClassSet(small, found.kind, found.diameter_px / 2, found.mask_radius_px / 2)
    large, little = measure(found), measure(reduced)
    for i, name in enumerate(FEATURES):
        # Counts of pixels along an edge change most; everything is measured in features' spread over kinds of classes.
        assert np.abs(large[:, i] - little[:, i]).max() < 0.35 * max(1.0, float(np.ptp(large[:, i]))), name


@pytest.mark.parametrize(
    ("junk", "reasons"),
    [("aside", {"off-centre"}), ("crystal", {"shape"}), ("mixed", {"mixed"}), ("aggregate", {"shape", "surroundings"})],
)
def test_reasons(beads: Beads, trees: BoostedTrees, junk: str, reasons: set[str]) -> None:
    named = []
    for seed in range(3):
        found = simulate_classes(beads, ["particle"] * 8 + [junk] * 4, np.random.default_rng(seed))
        features = measure(found)
        rejected = score_classes(trees, features)[8:] < 0.5
        named += [reason for reason, out in zip(find_reasons(trees, features)[8:], rejected, strict=True) if out]
    assert set(named) <= set(REASONS)
    assert np.mean([reason in reasons for reason in named]) > 0.5


def test_no_classes() -> None:
    sums = make_empty_sums(0, 32)
    averages = (torch.zeros(2, 0, 32, 32), torch.zeros(0, 32, 32))
    resolution = measure_resolution(make_empty_sums(1, 32), torch.zeros(2, 1, 32, 32), torch.ones(32, 32))
    with pytest.raises(ValueError, match="no class average"):
        compute_class_features(sums, averages, resolution, 10.0, 12.0)


@pytest.mark.shared_data
def test_classes_of_real_ribosomes(shared_data: Path) -> None:
    place = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "select2d.py"
    benchmark = runpy.run_path(str(place))
    found = benchmark["measure_real"](shared_data, benchmark["REAL"]["80S ribosome, EMPIAR-10028"])
    assert found["precision_before"] < 0.65
    assert found["auc"] >= 0.95
    assert found["precision"] > 0.95
    assert found["recall"] > 0.95
