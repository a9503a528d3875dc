"""The stage `review` on candidates whose kinds are known."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from vitreous.errors import SettingError, UserError
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, complete_table, empty_table
from vitreous.stages.review import STAGE, ReviewParams

N_MICROGRAPHS, N_EACH, SIDE, PIXEL, DIAMETER = 10, 60, 1000, 2.0, 100.0
RADIUS_PX = DIAMETER / PIXEL / 2

pytestmark = pytest.mark.usefixtures("own_folder")


def make_micrographs() -> pl.DataFrame:
    rows = {
        "micrograph_id": [f"m{i}" for i in range(N_MICROGRAPHS)],
        "exposure_id": [""] * N_MICROGRAPHS,
        "micrograph_path": [""] * N_MICROGRAPHS,
        "nx_px": [SIDE] * N_MICROGRAPHS,
        "ny_px": [SIDE + 100] * N_MICROGRAPHS,
        "pixel_size_angstrom": [PIXEL] * N_MICROGRAPHS,
        "voltage_kv": [300.0] * N_MICROGRAPHS,
        "cs_mm": [2.7] * N_MICROGRAPHS,
        "amplitude_contrast": [0.1] * N_MICROGRAPHS,
        "optics_group": [1] * N_MICROGRAPHS,
        "defocus_u_angstrom": [1e4 + 2e3 * i + 200 for i in range(N_MICROGRAPHS)],
        "defocus_v_angstrom": [1e4 + 2e3 * i - 200 for i in range(N_MICROGRAPHS)],
    }
    return complete_table("micrographs", pl.DataFrame(rows))


def make_particles() -> tuple[pl.DataFrame, np.ndarray]:
    """Return candidates and their kinds: noise, particle or ice; two of the particles are at the edges."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(N_MICROGRAPHS), N_EACH)
    kind = np.tile(np.array(["noise"] * 25 + ["particle"] * 33 + ["ice"] * 2), N_MICROGRAPHS)
    score = np.where(kind == "noise", rng.normal(0.15, 0.03, len(kind)), rng.normal(0.45, 0.04, len(kind)))
    score += 4e-6 * (2e3 * group)
    power = rng.normal(0.1, 0.03, len(kind)) + 1.2 * (kind == "ice")
    x, y = rng.uniform(RADIUS_PX, SIDE - 1 - RADIUS_PX, (2, len(kind)))
    places = np.nonzero(kind == "particle")[0]
    kind = kind.astype("U10")
    for place, (px, py) in zip(places, [(RADIUS_PX - 0.5, 500), (500, SIDE + 99 - RADIUS_PX + 0.5)], strict=False):
        x[place], y[place], kind[place] = px, py, "border"
    frame = pl.DataFrame(
        {
            "particle_id": [f"p{i}" for i in range(len(kind))],
            "micrograph_id": [f"m{i}" for i in group],
            "x_px": x,
            "y_px": y,
            "diameter_angstrom": [DIAMETER] * len(kind),
            "picker": ["blob"] * len(kind),
            "score": score,
            "power": power,
            "label": ["candidate"] * len(kind),
        }
    )
    return complete_table("particles", frame), kind


def decide(kind: Any, subject: str, verdict: str, who: str = "ada") -> Decision:
    name = f"{who}-{kind}-{subject}-{verdict}"
    return Decision(
        decision_id=name, when=datetime(2025, 1, 1, tzinfo=UTC), who=who, run="r", kind=kind, subject=subject,
        verdict=verdict,
    )  # fmt: skip


def run(
    particles: pl.DataFrame,
    decisions: tuple[Decision, ...] = (),
    params: ReviewParams | None = None,
    micrographs: pl.DataFrame | None = None,
) -> Saved:
    params = params or ReviewParams()
    tables = {"particles": particles, "micrographs": make_micrographs() if micrographs is None else micrographs}
    inputs, root = Inputs(tables, decisions), Path()
    result = STAGE.compute(STAGE.load(inputs, params, Context(root)), params, lambda fraction, doing: None)
    saved = STAGE.save(result, inputs, params, RunFolder(root, root))
    check_table("particles", saved.tables["particles"])
    return saved


def test_reasons_are_those_planted_and_nothing_is_deleted() -> None:
    particles, kind = make_particles()
    saved = run(particles)
    judged = saved.tables["particles"]
    assert saved.warnings == ()
    assert judged["particle_id"].to_list() == particles["particle_id"].to_list()
    expected = {"noise": "score", "particle": None, "ice": "ice", "border": "border"}
    right = np.array([reason == expected[one] for reason, one in zip(judged["reason"], kind, strict=True)])
    assert right.mean() > 0.99
    assert judged.filter(pl.Series(kind == "border"))["reason"].to_list() == ["border"] * 2
    assert ((judged["label"] == "positive") == judged["reason"].is_null()).all()
    assert set(judged["label"]) == {"positive", "negative"}
    assert judged.drop("label", "reason", "score_calibrated", "power_calibrated").equals(
        particles.drop("label", "reason", "score_calibrated", "power_calibrated")
    )


def test_calibrated_scores_have_no_trend_with_defocus() -> None:
    particles, kind = make_particles()
    judged = run(particles).tables["particles"].filter(pl.Series(kind == "particle"))
    defocus = judged.join(make_micrographs(), on="micrograph_id", maintain_order="left")["defocus_u_angstrom_right"]
    for name, low, high in (("score", 0.3, 1.0), ("score_calibrated", -0.1, 0.1)):
        assert low < np.corrcoef(defocus, judged[name])[0, 1] < high


def test_noise_of_weak_micrographs_is_not_taken_for_particles() -> None:
    particles, kind = make_particles()
    # Particles score from 0.25 to 0.5 with defocus, noise the same in all micrographs.
    group = np.repeat(np.arange(N_MICROGRAPHS), N_EACH)
    rng = np.random.default_rng(3)
    score = np.where(kind == "noise", rng.normal(0.15, 0.02, len(kind)), rng.normal(0.25 + 0.03 * group, 0.025))
    judged = run(particles.with_columns(score=pl.Series(score))).tables["particles"]
    right = (judged["reason"].fill_null("") == "score").to_numpy() == (kind == "noise")
    assert right.mean() > 0.985
    true = judged.filter(pl.Series(kind == "particle"))
    assert abs(np.corrcoef(group[kind == "particle"], true["score_calibrated"])[0, 1]) < 0.1


def test_what_has_too_much_power_does_not_move_the_threshold() -> None:
    particles, kind = make_particles()
    rng = np.random.default_rng(1)
    # As many pieces of junk as particles, that fill the valley between noise and particles.
    junk = particles.filter(pl.Series(kind == "particle")).with_columns(
        particle_id=pl.col("particle_id") + "j",
        score=pl.Series(rng.uniform(0.2, 0.35, int((kind == "particle").sum()))),
        power=pl.Series(rng.normal(1.0, 0.2, int((kind == "particle").sum()))),
    )
    both = run(pl.concat([particles, junk])).tables["particles"]
    plain = run(particles).tables["particles"]
    assert (both.head(particles.height)["label"] == plain["label"]).mean() > 0.99  # type: ignore[operator]
    assert (both.tail(junk.height)["label"] == "negative").all()


def test_people_override() -> None:
    particles, kind = make_particles()
    ids = particles["particle_id"].to_list()
    noise, good, ice, border = (
        ids[int(np.nonzero(kind == one)[0][0])] for one in ("noise", "particle", "ice", "border")
    )
    decisions = [decide("pick", one, "accept") for one in (noise, ice, border)]
    decisions += [decide("pick", good, "reject"), decide("class", ids[60], "reject"), decide("pick", "gone", "reject")]
    judged = run(particles, tuple(decisions)).tables["particles"]
    plain = run(particles).tables["particles"]
    changed = judged.filter(judged["label"] != plain["label"])
    assert set(changed["particle_id"]) == {noise, good, ice, border}
    rows = {row["particle_id"]: row for row in changed.iter_rows(named=True)}
    assert all(rows[one]["label"] == "positive" and rows[one]["reason"] is None for one in (noise, ice, border))
    assert rows[good]["label"] == "negative"
    assert rows[good]["reason"] == "expert"


def test_the_last_verdict_on_a_pick_counts() -> None:
    particles, kind = make_particles()
    good = particles["particle_id"][int(np.nonzero(kind == "particle")[0][0])]
    decisions = (decide("pick", good, "reject"), decide("pick", good, "accept"))
    judged = run(particles, decisions).tables["particles"].filter(pl.col("particle_id") == good)
    assert judged["label"].to_list() == ["positive"]


@pytest.mark.parametrize("by", ["person", "parameter"])
def test_given_thresholds(by: str) -> None:
    particles, _ = make_particles()
    if by == "person":
        decisions = (decide("threshold", "score_calibrated", "0.5"), decide("threshold", "power_calibrated", "0.12"))
        judged = run(particles, decisions, ReviewParams(min_score=0.1, max_power=9)).tables["particles"]
    else:
        judged = run(particles, params=ReviewParams(min_score=0.5, max_power=0.12)).tables["particles"]
    positive = judged.filter(pl.col("label") == "positive")
    expected = (judged["score_calibrated"] >= 0.5) & (judged["power_calibrated"] <= 0.12)
    assert 0 < positive.height <= int(expected.sum()) <= positive.height + 2
    assert positive["score_calibrated"].min() >= 0.5  # type: ignore[operator]
    assert positive["power_calibrated"].max() <= 0.12  # type: ignore[operator]


def test_a_threshold_set_under_the_former_name_still_counts() -> None:
    particles, _ = make_particles()
    former, now = (
        run(particles, (decide("threshold", name, "0.5"),)) for name in ("ncc_calibrated", "score_calibrated")
    )
    assert former.tables["particles"].equals(now.tables["particles"])


def test_threshold_that_is_no_number() -> None:
    with pytest.raises(SettingError, match=r"expected a number for score_calibrated, found 'high'"):
        run(make_particles()[0], (decide("threshold", "score_calibrated", "high"),))


def test_no_candidates() -> None:
    with pytest.raises(UserError, match="run pick first"):
        run(empty_table("particles"))


def test_scores_that_do_not_part_are_said_to() -> None:
    particles, kind = make_particles()
    saved = run(particles.filter(pl.Series(kind == "particle")))
    assert "do not part" in saved.warnings[0]
    assert (saved.tables["particles"]["label"] == "positive").mean() > 0.97  # type: ignore[operator]


def test_picks_without_scores_are_taken_and_do_not_move_the_threshold() -> None:
    particles, kind = make_particles()
    manual = particles.head(200).with_columns(
        particle_id=pl.col("particle_id") + "m",
        picker=pl.lit("manual"),
        score=pl.lit(None, pl.Float64),
        power=pl.lit(None, pl.Float64),
    )
    both = run(pl.concat([particles, manual])).tables["particles"]
    assert both.head(particles.height).equals(run(particles).tables["particles"])
    rest = both.tail(200)
    assert rest["score_calibrated"].null_count() == rest["power_calibrated"].null_count() == 200
    edge = int((kind[:200] == "border").sum())
    assert (rest["label"] == "positive").sum() == 200 - edge
    assert rest["reason"].drop_nulls().to_list() == ["border"] * edge


def test_few_candidates_and_no_defocus() -> None:
    particles, _ = make_particles()
    nothing = make_micrographs().with_columns(
        pl.lit(None, pl.Float64).alias(name) for name in ("defocus_u_angstrom", "defocus_v_angstrom")
    )
    judged = run(particles, micrographs=nothing).tables["particles"]
    np.testing.assert_array_equal(judged["score_calibrated"], judged["score"])
    assert set(run(particles.slice(40, 3)).tables["particles"]["label"]) == {"positive"}


def test_what_the_edge_cuts_does_not_move_the_threshold() -> None:
    particles, _ = make_particles()
    between = np.random.default_rng(1).normal(0.3, 0.03, 600)
    cut = particles.head(600).with_columns(
        particle_id=pl.col("particle_id") + "e", x_px=pl.lit(1.0), score=pl.Series(between)
    )
    both = run(pl.concat([particles, cut])).tables["particles"]
    assert both.head(particles.height).equals(run(particles).tables["particles"])


def test_the_threshold_rises_where_noise_is_expected_to_make_many_of_the_candidates() -> None:
    particles, _ = make_particles()
    peaks = 2000 * np.exp(-particles["score"].to_numpy() / 0.08)
    above, as_before = (
        run(one).tables["particles"].filter(pl.col("reason").fill_null("") != "score")
        for one in (particles.with_columns(noise_peaks=pl.Series(peaks)), particles)
    )
    assert set(above["particle_id"]) < set(as_before["particle_id"])
    inside = above.filter(pl.col("reason").fill_null("") != "border")
    expected = inside.group_by("micrograph_id").agg(pl.col("noise_peaks").max())["noise_peaks"].to_numpy().sum()
    assert 0.25 * inside.height < expected <= 0.3 * inside.height
