"""The stage `annotate`: people's marks over a picker's candidates, and without any."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from vitreous.errors import PersonNeededError, UserError
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, complete_table
from vitreous.stages.annotate import STAGE, AnnotateParams
from vitreous.stages.review import STAGE as REVIEW
from vitreous.stages.review import ReviewParams

DIAMETER, PIXEL = 100.0, 2.0
START = datetime(2026, 1, 1, tzinfo=UTC)

pytestmark = pytest.mark.usefixtures("own_folder")


def make_tables(diameter: float | None = None) -> dict[str, pl.DataFrame]:
    micrographs = {
        "micrograph_id": ["m0", "m1", "m2"],
        "exposure_id": ["m0", "m1", "m2"],
        "micrograph_path": ["a", "b", "c"],
        "nx_px": [500] * 3,
        "ny_px": [500] * 3,
        "pixel_size_angstrom": [PIXEL] * 3,
        "voltage_kv": [300.0] * 3,
        "cs_mm": [2.7] * 3,
        "amplitude_contrast": [0.1] * 3,
        "optics_group": [1] * 3,
        "accepted": [True, None, False],
    }
    places = [("m0", 100.0, 100.0), ("m0", 200.0, 200.0), ("m0", 300.0, 300.0), ("m1", 100.0, 100.0)]
    particles = {
        "particle_id": [f"p{i}" for i in range(4)],
        "micrograph_id": [name for name, _, _ in places],
        "x_px": [x for _, x, _ in places],
        "y_px": [y for _, _, y in places],
        "diameter_angstrom": [DIAMETER] * 4,
        "picker": ["blob"] * 4,
        "score": [0.1, 0.9, 0.9, 0.9],
        "label": ["candidate"] * 4,
    }
    entry = {"entry_id": ["e"], "symmetry": ["C1"], "diameter_angstrom": [diameter]}
    tables = {"micrographs": micrographs, "particles": particles, "entries": entry}
    return {name: complete_table(name, pl.DataFrame(columns)) for name, columns in tables.items()}


def mark(number: int, micrograph: str, act: str, x: float, y: float, who: str = "ada", **more: Any) -> Decision:
    return Decision(
        decision_id=f"d{number}", when=START + timedelta(seconds=number), who=who, run="004-curate", kind="mark",
        subject=micrograph, verdict=act, x_px=x, y_px=y, **more,
    )  # fmt: skip


def run(tables: dict[str, pl.DataFrame], marks: list[Decision], **params: Any) -> Saved:
    inputs, values = Inputs(tables, tuple(marks)), AnnotateParams(**params)
    annotated = STAGE.compute(STAGE.load(inputs, values, Context(Path())), values, lambda fraction, words: None)
    saved = STAGE.save(annotated, inputs, values, RunFolder(Path(), Path()))
    check_table("particles", saved.tables["particles"])
    return saved


MARKS = [
    mark(1, "m0", "add", 104, 98),
    mark(2, "m0", "add", 400, 250),
    mark(3, "m0", "remove", 195, 203),
    mark(4, "m0", "move", 298, 302, to_x_px=330, to_y_px=310),
    mark(5, "m0", "add", 108, 102, who="bob"),
]


def test_people_stand_above_the_picker() -> None:
    rows = run(make_tables(), MARKS).tables["particles"]
    assert rows["particle_id"].to_list()[:3] == ["p0", "p1", "p2"]
    assert rows.select("x_px", "y_px").rows() == [(106, 100), (200, 200), (330, 310), (400, 250), (100, 100)]
    assert rows["picker"].to_list() == ["blob", "blob", "blob", "manual", "blob"]
    assert rows["annotator"].to_list() == ["ada, bob", "ada", "ada", "ada", None]
    assert rows["label"].to_list() == ["candidate", "negative", "candidate", "candidate", "candidate"]
    assert rows["reason"].to_list() == [None, "expert", None, None, None]
    assert rows["score"].to_list() == [0.1, 0.9, 0.9, None, 0.9]


def test_only_some_annotators() -> None:
    rows = run(make_tables(), MARKS, annotators=("bob",)).tables["particles"]
    assert rows["annotator"].to_list() == ["bob", None, None, None]
    assert rows.row(0, named=True)["x_px"] == 108


def test_names_stay_whatever_else_is_marked_and_running_again_changes_nothing() -> None:
    tables = make_tables()
    once = run(tables, MARKS[:2]).tables["particles"]
    more = run(tables, [mark(0, "m0", "add", 20, 20), *MARKS]).tables["particles"]
    name = once.filter(pl.col("picker") == "manual")["particle_id"][0]
    assert more.filter(pl.col("particle_id") == name).select("x_px", "y_px").row(0) == (400, 250)
    again = run(tables | {"particles": once}, MARKS[:2]).tables["particles"]
    assert again.equals(once)


def test_picks_by_hand_alone_from_some_micrographs() -> None:
    tables = make_tables(diameter=120.0)
    del tables["particles"]
    found = run(tables, [mark(1, "m1", "add", 10, 20), mark(2, "m2", "add", 30, 30), mark(3, "gone", "add", 1, 1)])
    rows = found.tables["particles"]
    assert rows.select("micrograph_id", "x_px", "y_px", "diameter_angstrom").rows() == [("m1", 10, 20, 120)]
    assert "2 micrographs that are not in use" in found.warnings[0]
    with pytest.raises(UserError, match="diameter"):
        run({**tables, "entries": make_tables()["entries"]}, [mark(1, "m1", "add", 10, 20)])


def test_it_waits_for_a_person() -> None:
    tables = make_tables(diameter=120.0)
    with pytest.raises(
        PersonNeededError, match=r"waits for a person's picks in 2 micrographs, found them in 1.*picks add"
    ):
        run(tables, MARKS, min_micrographs=20)
    assert run(tables, [*MARKS, mark(9, "m1", "add", 9, 9)], min_micrographs=20).tables["particles"].height == 6
    del tables["particles"]
    with pytest.raises(PersonNeededError, match="in 1 micrographs, found them in 0"):
        run(tables, [])


def test_without_marks_candidates_pass_unchanged() -> None:
    tables = make_tables()
    assert run(tables, []).tables["particles"].equals(tables["particles"])


def test_review_keeps_what_people_said() -> None:
    tables = make_tables()
    tables["particles"] = run(tables, [*MARKS, mark(6, "m0", "add", 3, 3)]).tables["particles"]
    params = ReviewParams(min_score=0.5)
    inputs = Inputs(tables)
    judged = REVIEW.compute(REVIEW.load(inputs, params, Context(Path())), params, lambda fraction, words: None)
    rows = REVIEW.save(judged, inputs, params, RunFolder(Path(), Path())).tables["particles"]
    # Neither a low score nor the edge stands against a person's pick; nor a high score against a refusal.
    labels = dict(zip(rows["particle_id"], rows["label"], strict=True))
    assert labels["p0"] == "positive"
    assert labels["p1"] == "negative"
    assert rows.filter(pl.col("particle_id") == "p1")["reason"].to_list() == ["expert"]
    assert set(rows.filter(pl.col("picker") == "manual")["label"]) == {"positive"}
