"""The stage `curate`: limits that are given, limits that are proposed, and verdicts of people that override both."""

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from vitreous.errors import SettingError, UserError
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, complete_table
from vitreous.stages.curate import STAGE, CurateParams, count_rejected, parse_limit, propose_limits

pytestmark = pytest.mark.usefixtures("own_folder")


def make_table(n: int = 12, **changes: dict[int, object]) -> pl.DataFrame:
    """Return `n` good micrographs, but for the `changes`: column -> row -> value."""
    columns: dict[str, list[object]] = {
        "micrograph_id": [f"m{i}" for i in range(n)],
        "exposure_id": [f"m{i}" for i in range(n)],
        "micrograph_path": [f"m{i}.mrc" for i in range(n)],
        "nx_px": [100] * n,
        "ny_px": [100] * n,
        "pixel_size_angstrom": [1.0] * n,
        "voltage_kv": [300.0] * n,
        "cs_mm": [2.7] * n,
        "amplitude_contrast": [0.1] * n,
        "optics_group": [1] * n,
        "defocus_u_angstrom": [12_000.0 + 100 * i for i in range(n)],
        "defocus_v_angstrom": [11_900.0 + 100 * i for i in range(n)],
        "astigmatism_angstrom": [100.0 + i for i in range(n)],
        "ctf_resolution_angstrom": [4.0 + 0.05 * i for i in range(n)],
        "ctf_score": [0.8 + 0.005 * i for i in range(n)],
        "ice_ring_score": [1.1 + 0.01 * i for i in range(n)],
        "structure": [None] * n,
        "total_motion_angstrom": [8.0 + 0.2 * i for i in range(n)],
        "accepted": [True] * n,
        "reason": [None] * n,
    }
    for name, values in changes.items():
        for row, value in values.items():
            columns[name][row] = value
    schema = {name: dtype for name, dtype in complete_schema().items() if name in columns}
    return complete_table("micrographs", pl.DataFrame(columns, schema=schema))


def complete_schema() -> pl.Schema:
    from vitreous.model.tables import TABLES

    return TABLES["micrographs"].schema


def decide(kind: str, subject: str, verdict: str, number: int = 0) -> Decision:
    return Decision.model_validate(
        {
            "decision_id": str(number),
            "when": datetime(2026, 1, 1, tzinfo=UTC),
            "who": "a",
            "run": "003-ctf",
            "kind": kind,
            "subject": subject,
            "verdict": verdict,
        }
    )


def run(table: pl.DataFrame, params: CurateParams | None = None, decisions: tuple[Decision, ...] = ()) -> Saved:
    params, inputs, root = params or CurateParams(), Inputs({"micrographs": table}, decisions), Path()
    loaded = STAGE.load(inputs, params, Context(root))
    result = STAGE.compute(loaded, params, lambda fraction, text: None)
    saved = STAGE.save(result, inputs, params, RunFolder(root, root))
    check_table("micrographs", saved.tables["micrographs"])
    return saved


def list_reasons(saved: Saved) -> dict[str, str]:
    rejected = saved.tables["micrographs"].filter(~pl.col("accepted"))
    return dict(rejected.select("micrograph_id", "reason").iter_rows())


def test_good_micrographs_are_all_accepted() -> None:
    saved = run(make_table())
    assert list_reasons(saved) == {}
    assert saved.warnings == ()


def test_the_proposal_names_what_is_wrong() -> None:
    table = make_table(
        ctf_score={1: 0.2},
        ctf_resolution_angstrom={2: 9.0, 1: 22.0},
        astigmatism_angstrom={3: 2500.0},
        ice_ring_score={4: 3.0},
        total_motion_angstrom={5: 90.0},
    )
    saved = run(table)
    assert list_reasons(saved) == {
        "m1": "ctf fit, ctf resolution",
        "m2": "ctf resolution",
        "m3": "astigmatism",
        "m4": "ice",
        "m5": "motion",
    }
    assert saved.warnings == (
        "5 of 12 micrographs are not accepted (ctf fit 1, ctf resolution 2, astigmatism 1, motion 1, ice 1)",
    )


def test_differences_that_do_no_harm_are_accepted() -> None:
    """Far from the others in robust deviations, but better than anybody would mind."""
    table = make_table(astigmatism_angstrom={3: 400.0}, ice_ring_score={4: 1.35}, ctf_resolution_angstrom={2: 5.5})
    assert list_reasons(run(table)) == {}


def test_few_micrographs_are_judged_by_what_is_hopeless_alone() -> None:
    table = make_table(5, ctf_score={0: 0.1}, astigmatism_angstrom={1: 9000.0})
    assert list_reasons(run(table)) == {"m0": "ctf fit"}


def test_what_hardly_shows_near_focus_is_not_empty_where_there_are_rings() -> None:
    """Particles of 250 Å at 0.96 µm have a structure of 0.04; others of the set, at 2 µm, of 0.7."""
    for n in (4, 12):
        near = make_table(n, structure={i: 0.04 if i < 1 else 0.3 + 0.03 * i for i in range(n)})
        assert list_reasons(run(near)) == {}
        assert list_reasons(run(near.with_columns(ctf_score=None))) == {"m0": "empty"}


def test_rings_that_end_where_images_do_reject_none_and_outliers_of_the_set_are() -> None:
    """Shrunk images: all rings end beyond what a sharp image of a fine pixel would be refused for."""
    shrunk = dict.fromkeys(range(12), 17.0)
    assert list_reasons(run(make_table(12, ctf_resolution_angstrom=shrunk))) == {}
    assert list_reasons(run(make_table(4, ctf_resolution_angstrom={0: 17.0}))) == {}
    assert list_reasons(run(make_table(12, ctf_resolution_angstrom={**shrunk, 3: 60.0}))) == {"m3": "ctf resolution"}


def test_a_fault_of_most_micrographs_rejects_none() -> None:
    table = make_table(10, ctf_score=dict.fromkeys(range(8), 0.1))
    saved = run(table)
    assert list_reasons(saved) == {}
    (warning,) = saved.warnings
    assert warning.startswith("ctf fit: found 8 of 10 micrographs beyond ctf_score=0.4..")


def test_given_limits_replace_proposed_ones_of_the_same_column() -> None:
    table = make_table(ctf_score={1: 0.2}, defocus_u_angstrom={7: 31_000.0})
    limits = "ctf_score=0.1.. , defocus_u_angstrom=..30000"
    assert list_reasons(run(table, CurateParams(limits=limits))) == {"m7": "defocus"}
    assert list_reasons(run(table, CurateParams(limits="defocus_u_angstrom=..30000", propose=False))) == {
        "m7": "defocus"
    }
    assert set(list_reasons(run(table, CurateParams(limits="nx_px=..99", propose=False))).values()) == {"nx_px"}


def test_people_set_limits_and_have_the_last_word() -> None:
    table = make_table(ctf_score={1: 0.2, 2: 0.3})
    decisions = (
        decide("threshold", "defocus_u_angstrom", "12100..", 0),
        decide("micrograph", "m1", "accept", 1),
        decide("micrograph", "m9", "reject", 2),
    )
    assert list_reasons(run(table, decisions=decisions)) == {"m0": "defocus", "m2": "ctf fit", "m9": "expert"}


def test_what_was_left_out_before_stays_out() -> None:
    table = make_table(accepted={3: False, 4: False}, reason={3: "drift", 4: "drift"})
    assert list_reasons(run(table)) == {"m3": "drift", "m4": "drift"}
    assert list_reasons(run(table, decisions=(decide("micrograph", "m4", "accept"),))) == {"m3": "drift"}


def test_missing_values_are_not_judged() -> None:
    table = make_table(ctf_score={0: None}, ice_ring_score=dict.fromkeys(range(12)))
    assert list_reasons(run(table)) == {}


def test_counts_are_those_of_each_reason_alone() -> None:
    table = make_table(ctf_score={1: 0.2, 2: 0.3}, ctf_resolution_angstrom={1: 20.0})
    limits = [parse_limit("ctf_score", "0.4.."), parse_limit("ctf_resolution_angstrom", "..15")]
    assert count_rejected(table, limits) == {"ctf fit": 2, "ctf resolution": 1}
    proposed = {limit.column: str(limit) for limit in propose_limits(table, 6.0)}
    assert proposed["ctf_score"] == "0.6.."


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ("ctf_score", "expected column=LOW..HIGH"),
        ("ctf_score=5", "expected LOW..HIGH"),
        ("ctf_score=9..5", "expected LOW..HIGH"),
        ("ctf_score=a..b", "expected LOW..HIGH"),
        ("picker=1..2", "expected a column with numbers"),
        ("reason=1..2", "expected a column with numbers"),
    ],
)
def test_limits_that_cannot_be_read_are_refused(limits: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CurateParams(limits=limits)
    column, _, text = limits.partition("=")
    if text:
        with pytest.raises(SettingError, match=message):
            run(make_table(), decisions=(decide("threshold", column, text),))


def test_no_micrographs() -> None:
    with pytest.raises(UserError, match="no micrographs"):
        run(make_table().clear())
