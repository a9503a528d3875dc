from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from vitreous.errors import SettingError, UserError
from vitreous.io.mrc import write_mrc
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, empty_table
from vitreous.ops.class_matching import lay_over
from vitreous.ops.class_quality import REASONS
from vitreous.stages.select2d import STAGE, Select2dParams

BOX, PIXEL, DIAMETER = 48, 3.0, 90.0
KINDS = ("front", "side", "edge", "nothing")
SIZES = (120, 60, 80, 40)
LUMPS = {
    "front": [(-7, -4, 1.0), (6, -7, 0.8), (3, 8, 1.1), (-2, 1, 0.6), (9, 2, 0.7), (-8, 6, 0.8)],
    "side": [(-9, 1, 1.0), (-3, -3, 0.9), (2, 4, 1.0), (7, -2, 0.8), (11, 3, 0.7), (-5, 7, 0.6)],
}


def draw(kind: str) -> np.ndarray:
    y, x = np.indices((BOX, BOX)) - BOX // 2
    if kind == "edge":
        return np.tanh((x - 3) / 2.0)
    image = np.zeros((BOX, BOX))
    for cx, cy, height in LUMPS.get(kind, []):
        image += 1.4 * height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.2**2))
    return image


def make_images(kind: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return noisy images, turned by multiples of 90 degrees and shifted, with psi and origin (px) as RELION writes them."""
    angle, shift = rng.integers(0, 4, n) * 90.0, rng.integers(-2, 3, (n, 2))
    clean, images = torch.from_numpy(draw(kind)).float(), []
    for turn, move in zip(angle, shift, strict=True):
        turned = lay_over(clean[None], torch.tensor([turn]).float(), torch.tensor([False]), torch.zeros(1, 2))[0]
        images.append(np.roll(turned.numpy(), move, (0, 1)))
    return np.array(images) + rng.normal(size=(n, BOX, BOX)), -angle, -shift


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pl.DataFrame]]:
    root, rng = tmp_path_factory.mktemp("project"), np.random.default_rng(3)
    write_mrc(root / "classes.mrcs", np.stack([draw(kind) for kind in KINDS]).astype(np.float32), PIXEL)
    classes = pl.DataFrame(
        {
            "class_id": range(1, 5),
            "image_path": ["classes.mrcs"] * 4,
            "image_index": range(4),
            "box_px": [BOX] * 4,
            "pixel_size_angstrom": [PIXEL] * 4,
            "diameter_angstrom": [DIAMETER] * 4,
            "n_particles": SIZES,
            "share": np.array(SIZES) / sum(SIZES),
            "resolution_angstrom": [9.0, 10.0, 11.0, None],
        }
    )
    parts = []
    for i, (kind, n) in enumerate(zip(KINDS, SIZES, strict=True), start=1):
        images, psi, origin = make_images(kind, n, rng)
        write_mrc(root / f"{kind}.mrcs", images.astype(np.float32), PIXEL)
        parts.append(
            pl.DataFrame(
                {
                    "particle_id": [f"{kind}{j}" for j in range(n)],
                    "class_id": [i] * n,
                    "stack_path": [f"{kind}.mrcs"] * n,
                    "stack_index": range(n),
                    "class_psi_deg": psi,
                    "class_origin_x_angstrom": origin[:, 1] * PIXEL,
                    "class_origin_y_angstrom": origin[:, 0] * PIXEL,
                    "class_probability": [0.9 if i == 1 else 0.5] * n,
                    "class_n_effective": [1.2 if i == 1 else 2.0] * n,
                }
            )
        )
    sorted_ones = pl.concat(parts).with_columns(label=pl.lit("positive"), reason=pl.lit(None, dtype=pl.String))
    others = pl.DataFrame(
        {"particle_id": [f"p{i}" for i in range(10)], "label": ["negative"] * 10, "reason": ["ice"] * 10}
    )
    particles = pl.concat([sorted_ones, others], how="diagonal").with_columns(
        micrograph_id=pl.lit("m"),
        x_px=1.0,
        y_px=1.0,
        diameter_angstrom=DIAMETER,
        picker=pl.lit("blob"),
        box_px=BOX,
        stack_pixel_size_angstrom=PIXEL,
    )
    micrographs = empty_table("micrographs")
    found = {"classes": check_table("classes", classes), "particles": check_table("particles", particles)}
    return root, {**found, "micrographs": micrographs}


def decide(subject: str, verdict: str) -> Decision:
    return Decision(
        decision_id=f"d{subject}{verdict}", when=datetime.now(UTC), who="Ada", run="007-classify2d", kind="class",
        subject=subject, verdict=verdict,
    )  # fmt: skip


def run(place: tuple[Path, dict[str, pl.DataFrame]], *decisions: Decision, **params: float) -> Saved:
    root, tables = place
    chosen, inputs = Select2dParams(**params), Inputs(tables, decisions)
    result = STAGE.compute(STAGE.load(inputs, chosen, Context(root)), chosen, lambda fraction, doing: None)
    saved = STAGE.save(result, inputs, chosen, RunFolder(root, root / "runs" / "008-select2d"))
    for name, frame in saved.tables.items():
        check_table(name, frame)
    return saved


Place = tuple[Path, dict[str, pl.DataFrame]]


def test_particles_in_bad_classes_become_negatives_and_none_is_lost(tables: Place) -> None:
    saved = run(tables)
    classes, particles = saved.tables["classes"], saved.tables["particles"]
    assert classes["selected"].to_list() == [True, True, False, False]
    assert classes["reason"].to_list()[:2] == [None, None]
    assert set(classes["reason"].to_list()[2:]) <= set(REASONS)
    assert particles.height == tables[1]["particles"].height
    counts = dict(particles.group_by("label", "reason").len().sort("label", "reason").rows_by_key(["label", "reason"]))
    assert {key: rows[0] for key, rows in counts.items()} == {
        ("positive", None): (180,),
        ("negative", "class"): (120,),
        ("negative", "ice"): (10,),
    }


def test_measures_of_each_class(tables: Place) -> None:
    classes = run(tables).tables["classes"]
    assert classes["mean_probability"].to_list() == pytest.approx([0.9, 0.5, 0.5, 0.5])
    assert classes["n_effective"].to_list() == pytest.approx([1.2, 2.0, 2.0, 2.0])
    # Lumps of deviation 2.2 px fall below the noise of averages well before twice the pixel; noise has no detail at all.
    assert classes["resolution_angstrom"][:2].is_between(2 * PIXEL, 30).all()
    assert classes["resolution_angstrom"][3] > DIAMETER / 2
    # The only other selected class is another view.
    assert classes["view_score"][0] == pytest.approx(classes["view_score"][1], abs=0.05)
    assert classes["view_score"][:2].is_between(0.05, 0.8).all()


def measure_length(kind: str) -> float:
    points = np.argwhere(draw(kind) > 0.1 * draw(kind).max())
    return float(np.linalg.norm(points[:, None] - points[None, :], axis=-1).max()) * PIXEL


def test_the_diameter_is_that_of_the_longest_selected_view(tables: Place) -> None:
    # Averages are smoothed before they are measured, which makes small particles somewhat longer.
    longest = max(measure_length(kind) for kind in ("front", "side"))
    assert run(tables).tables["classes"]["diameter_angstrom"].to_list() == pytest.approx([longest] * 4, rel=0.12)
    root, found = tables
    wrong = {**found, "classes": found["classes"].with_columns(diameter_angstrom=pl.lit(0.8 * longest))}
    saved = run((root, wrong))
    assert saved.tables["classes"]["diameter_angstrom"][0] == pytest.approx(longest, rel=0.12)
    assert any(f"{0.8 * longest:.0f} Å was assumed" in warning for warning in saved.warnings)
    noise = run(tables, decide("1", "reject"), decide("2", "reject"), decide("4", "accept"))
    assert noise.tables["classes"]["diameter_angstrom"].to_list() == [DIAMETER] * 4


def test_a_rare_view_is_kept(tables: Place) -> None:
    root, found = tables
    n_rare = 15
    rare = {f"side{i}" for i in range(n_rare)}
    particles = found["particles"].filter((pl.col("class_id") != 2) | pl.col("particle_id").is_in(rare))
    # Rows without a class are neither.
    particles = pl.concat([particles, found["particles"].filter(pl.col("class_id").is_null())])
    n_particles = pl.when(pl.col("class_id") == 2).then(n_rare).otherwise("n_particles").alias("n_particles")
    saved = run((root, {**found, "particles": particles, "classes": found["classes"].with_columns(n_particles)}))
    assert saved.tables["classes"]["selected"].to_list() == [True, True, False, False]
    kept = saved.tables["particles"].filter(pl.col("class_id") == 2)
    assert (kept.height, set(kept["label"])) == (n_rare, {"positive"})


def test_people_have_the_last_word(tables: Place) -> None:
    decisions = (decide("1", "reject"), decide("3", "reject"), decide("3", "accept"))
    saved = run(tables, *decisions)
    assert saved.tables["classes"]["selected"].to_list() == [False, True, True, False]
    assert saved.tables["classes"]["reason"][0] == "expert"
    labels = saved.tables["particles"].filter(pl.col("class_id") == 3)["label"]
    assert set(labels) == {"positive"}


def test_a_verdict_that_is_none_is_refused(tables: Place) -> None:
    with pytest.raises(SettingError, match="expected accept or reject of a class number, found 'perhaps' of '1'"):
        run(tables, decide("1", "perhaps"))


def test_something_is_kept_and_said_so(tables: Place) -> None:
    saved = run(tables, min_score=1.0)
    assert saved.tables["classes"]["selected"].sum() == 1
    assert any("no class scores 1.0" in warning for warning in saved.warnings)
    assert any("only" in warning and "of 300 particles" in warning for warning in saved.warnings)


def test_no_classes(tables: Place) -> None:
    root, found = tables
    with pytest.raises(UserError, match="run classify2d first"):
        run((root, {**found, "classes": empty_table("classes")}))
