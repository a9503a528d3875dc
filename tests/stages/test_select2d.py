from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitreous.errors import SettingError, UserError
from vitreous.io.mrc import write_mrc
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, empty_table
from vitreous.stages.select2d import STAGE, Select2dParams

BOX, PIXEL, DIAMETER = 48, 3.0, 90.0
KINDS = ("ring", "disc", "edge", "nothing")
SIZES = (120, 60, 80, 40)


def draw(kind: str) -> np.ndarray:
    y, x = np.indices((BOX, BOX)) - BOX // 2
    radius = np.hypot(y, x)
    image = {
        "ring": ((radius < 14) & (radius > 8)) * 1.0,
        "disc": (radius < 13) * 0.8,
        "edge": (x > 0) * 1.0,
        "nothing": np.random.default_rng(1).normal(0, 0.03, (BOX, BOX)),
    }[kind]
    return (image * (radius <= 16)).astype(np.float32)


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, pl.DataFrame]:
    write_mrc(tmp_path / "classes.mrcs", np.stack([draw(kind) for kind in KINDS]), PIXEL)
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
    numbers = [i for i, size in enumerate(SIZES, start=1) for _ in range(size)]
    particles = pl.DataFrame(
        {
            "particle_id": [f"p{i}" for i in range(len(numbers) + 10)],
            "micrograph_id": ["m"] * (len(numbers) + 10),
            "x_px": [1.0] * (len(numbers) + 10),
            "y_px": [1.0] * (len(numbers) + 10),
            "diameter_angstrom": [DIAMETER] * (len(numbers) + 10),
            "picker": ["blob"] * (len(numbers) + 10),
            "label": ["positive"] * len(numbers) + ["negative"] * 10,
            "reason": [None] * len(numbers) + ["ice"] * 10,
            "class_id": [*numbers, *[None] * 10],
        }
    )
    return {"classes": check_table("classes", classes), "particles": check_table("particles", particles)}


def decide(subject: str, verdict: str) -> Decision:
    return Decision(
        decision_id=f"d{subject}{verdict}", when=datetime.now(UTC), who="Ada", run="007-classify2d", kind="class",
        subject=subject, verdict=verdict,
    )  # fmt: skip


def run(tables: dict[str, pl.DataFrame], root: Path, *decisions: Decision, **params: float) -> Saved:
    chosen, inputs = Select2dParams(**params), Inputs(tables, decisions)
    result = STAGE.compute(STAGE.load(inputs, chosen, Context(root)), chosen, lambda fraction, doing: None)
    saved = STAGE.save(result, inputs, chosen, RunFolder(root, root / "runs" / "008-select2d"))
    for name, frame in saved.tables.items():
        check_table(name, frame)
    return saved


def test_particles_in_bad_classes_become_negatives_and_none_is_lost(
    tables: dict[str, pl.DataFrame], tmp_path: Path
) -> None:
    saved = run(tables, tmp_path)
    classes, particles = saved.tables["classes"], saved.tables["particles"]
    assert classes["selected"].to_list() == [True, True, False, False]
    assert classes["reason"].to_list()[:3] == [None, None, "off-centre"]
    assert particles.height == tables["particles"].height
    counts = dict(particles.group_by("label", "reason").len().sort("label", "reason").rows_by_key(["label", "reason"]))
    assert {key: rows[0] for key, rows in counts.items()} == {
        ("positive", None): (180,),
        ("negative", "class"): (120,),
        ("negative", "ice"): (10,),
    }


def test_people_have_the_last_word(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    decisions = (decide("1", "reject"), decide("3", "reject"), decide("3", "accept"))
    classes = run(tables, tmp_path, *decisions).tables["classes"]
    assert classes["selected"].to_list() == [False, True, True, False]
    assert classes["reason"][0] == "expert"


def test_a_verdict_that_is_none_is_refused(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="expected accept or reject of a class number, found 'perhaps' of '1'"):
        run(tables, tmp_path, decide("1", "perhaps"))


def test_something_is_kept_and_said_so(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    saved = run(tables, tmp_path, min_score=1.0)
    assert saved.tables["classes"]["selected"].sum() == 1
    assert any("no class scores 1.0" in warning for warning in saved.warnings)
    assert any("only" in warning and "of 300 particles" in warning for warning in saved.warnings)


def test_no_classes(tables: dict[str, pl.DataFrame], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run classify2d first"):
        run({**tables, "classes": empty_table("classes")}, tmp_path)
