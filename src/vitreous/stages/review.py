"""Judge candidates without a person: score against local power over the whole dataset, and people's overrides.

Nothing is deleted: what fails is labelled negative, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from vitreous.errors import SettingError, UserError
from vitreous.io.atomic import write_json
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.ops.scores import PowerLimits, calibrate_scores, find_noise_limit, find_power_limits, split_scores
from vitreous.stages.doubt import settle_defocus

__all__ = ["STAGE", "ReviewParams"]

_CLEARLY_APART = 2.0
_LEAST_SCORES = 4
_MOST_NOISE, _LITTLE_NOISE = 0.3, 0.05
"""Share of the candidates down to the least score that noise may be expected to make; where it makes more, the scores were not
parted where particles begin. Where it makes so little, candidates as rare as those where scores part may be particles."""
_FORMER_SUBJECTS = {"ncc_calibrated": "score_calibrated"}
"""Of thresholds that people set before the columns were called what they are called now."""


class ReviewParams(StageParams):
    """Choices of method."""

    retired = {  # noqa: RUF012 - a ClassVar of the base
        "min_ncc": "it is min_score now: the correlation times the contrast over the usual"
    }
    min_score: float | None = Field(None, description="least calibrated score; null: where the scores part")
    min_power: float | None = Field(None, description="least calibrated local power; null: from the spread")
    max_power: float | None = Field(None, description="greatest calibrated local power; null: where junk begins")
    power_sigma: float = Field(5.0, gt=0, description="robust deviations from the median that are too far")
    min_power_margin: float = Field(
        0.25, ge=0, description="distance from the median power that is not too far where no junk is seen, log10 units"
    )


@dataclass(frozen=True)
class _Loaded:
    score: NDArray[np.float64]
    """Not-a-number where a person or another program picked; that is taken as it is."""
    power: NDArray[np.float64]
    """Likewise."""
    noise_peaks: NDArray[np.float64]
    """Not-a-number where not known."""
    group: NDArray[np.int64]
    defocus: NDArray[np.float64]
    crosses_edge: NDArray[np.bool_]
    junk: NDArray[np.str_]
    """What the candidate lies in, empty where in no junk."""
    thresholds: dict[str, float]


@dataclass(frozen=True)
class _Judged:
    score: NDArray[np.float64]
    power: NDArray[np.float64]
    reason: NDArray[np.str_]
    """Empty where the candidate is positive."""
    cuts: dict[str, dict[str, float | int | bool | None]]
    """For each cut its limit, whether a person gave it, and what it removes alone and after those before it."""
    warnings: tuple[str, ...]


def _read_thresholds(decisions: Sequence[Decision]) -> dict[str, float]:
    thresholds = {}
    for decision in decisions:
        if decision.kind == "threshold":
            subject = _FORMER_SUBJECTS.get(decision.subject, decision.subject)
            try:
                thresholds[subject] = float(decision.verdict)
            except ValueError as error:
                raise SettingError(
                    f"decision {decision.decision_id}: expected a number for {decision.subject}, found {decision.verdict!r}"
                ) from error
    return thresholds


def _load(inputs: Inputs, params: ReviewParams, context: Context) -> _Loaded:
    if inputs["particles"].is_empty():
        raise UserError("review: there are no candidates; run pick first")
    micrographs = (
        settle_defocus(inputs["micrographs"])
        .with_row_index("group")
        .with_columns(defocus=(pl.col("defocus_u_angstrom") + pl.col("defocus_v_angstrom")) / 2)
    )
    columns = micrographs.select("micrograph_id", "group", "nx_px", "ny_px", "pixel_size_angstrom")
    joined = inputs["particles"].join(columns, on="micrograph_id", how="left", maintain_order="left")
    radius = pl.col("diameter_angstrom") / pl.col("pixel_size_angstrom") / 2
    x, y = pl.col("x_px"), pl.col("y_px")
    crosses = (x < radius) | (y < radius) | (x > pl.col("nx_px") - 1 - radius) | (y > pl.col("ny_px") - 1 - radius)
    return _Loaded(
        score=joined["score"].fill_null(float("nan")).to_numpy().astype(np.float64),
        power=joined["power"].fill_null(float("nan")).to_numpy().astype(np.float64),
        noise_peaks=joined["noise_peaks"].fill_null(float("nan")).to_numpy().astype(np.float64),
        group=joined["group"].to_numpy().astype(np.int64),
        defocus=micrographs["defocus"].cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64),
        junk=joined["junk"].fill_null("").to_numpy().astype("U16"),
        crosses_edge=joined.select(crosses.alias("edge"))["edge"].to_numpy().astype(bool),
        thresholds=_read_thresholds(inputs.decisions),
    )


def _find_anchor(loaded: _Loaded, plain: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Return the score from which candidates are more likely particles than noise, and how clearly these part."""
    if len(np.unique(loaded.score[plain])) < _LEAST_SCORES:
        return None
    score, noise_peaks, group = loaded.score[plain], loaded.noise_peaks[plain], loaded.group[plain]
    split = split_scores(score)
    least, clear = (find_noise_limit(score, noise_peaks, group, share) for share in (_MOST_NOISE, _LITTLE_NOISE))
    anchor = split.threshold
    if clear is not None:
        anchor = min(anchor, max(split.least, clear))
    if least is not None:
        anchor = max(anchor, least)
    return anchor, split.separation


def _find_power_limits(
    loaded: _Loaded, power: NDArray[np.float64], among: NDArray[np.bool_], params: ReviewParams
) -> PowerLimits | None:
    measured = among & np.isfinite(power) & np.isfinite(loaded.score)
    if not measured.any():
        return None
    score = loaded.score[measured]
    return find_power_limits(power[measured], score >= np.median(score), params.power_sigma, params.min_power_margin)


def _compute(loaded: _Loaded, params: ReviewParams, progress: Progress) -> _Judged:
    warnings: list[str] = []
    scored = np.isfinite(loaded.score)
    inside = loaded.junk != ""
    # What the edge cuts correlates less than what is whole, and does not gain as much from defocus; junk has scores of its own.
    choices = (scored & ~inside & ~loaded.crosses_edge, scored & ~inside)
    plain = next((one for one in choices if len(np.unique(loaded.score[one])) >= _LEAST_SCORES), scored)

    def find_particles() -> tuple[tuple[float, float] | None, NDArray[np.bool_], NDArray[np.float64]]:
        found = _find_anchor(loaded, plain)
        particles = plain & (loaded.score >= (-1.0 if found is None else found[0]))
        return found, particles, calibrate_scores(loaded.power, loaded.group, particles, loaded.defocus)

    found, particles, power = find_particles()
    usual = _find_power_limits(loaded, power, particles, params)
    if usual is not None:
        # So does what nobody saw to be junk, but has too much power.
        plain = plain & (power <= usual.most)
        found, particles, power = find_particles()
    score = calibrate_scores(loaded.score, loaded.group, particles, loaded.defocus, None if found is None else found[0])
    limits = {
        "min_score": loaded.thresholds.get("score_calibrated", params.min_score),
        "min_power": loaded.thresholds.get("power_calibrated_min", params.min_power),
        "max_power": loaded.thresholds.get("power_calibrated", params.max_power),
    }
    given = [name for name, limit in limits.items() if limit is not None]
    if limits["min_score"] is None and found is not None:
        limits["min_score"], separation = found
        if separation < _CLEARLY_APART:
            warnings.append(
                f"the scores do not part clearly into noise and particles (separation {separation:.1f}); "
                f"the threshold {limits['min_score']:.2f} is a guess"
            )
    good = ~scored | (score >= (-np.inf if limits["min_score"] is None else limits["min_score"]))
    likely = _find_power_limits(loaded, power, good & ~inside, params)
    if likely is not None:
        for name, limit in (("min_power", likely.least), ("max_power", likely.most)):
            if limits[name] is None:
                limits[name] = limit
    cuts = {
        "min_score": ~good,
        "min_power": np.zeros(len(score), bool) if limits["min_power"] is None else power < limits["min_power"],
        "max_power": np.zeros(len(score), bool) if limits["max_power"] is None else power > limits["max_power"],
        "junk": inside,
        "border": loaded.crosses_edge,
    }
    # The later a reason, the more it says.
    reason = np.full(len(score), "", dtype="U16")
    reason[cuts["border"]] = "border"
    reason[cuts["min_score"] | cuts["min_power"]] = "score"
    reason[cuts["max_power"]] = "ice"
    reason[inside] = loaded.junk[inside]
    removed, left = {}, np.ones(len(score), bool)
    for name, cut in cuts.items():
        removed[name] = {
            "limit": limits.get(name),
            "given": name in given,
            "alone": int(cut.sum()),
            "in_turn": int((cut & left).sum()),
        }
        left &= ~cut
    return _Judged(score, power, reason, removed, tuple(warnings))


def _save(result: _Judged, inputs: Inputs, params: ReviewParams, folder: RunFolder) -> Saved:
    verdicts = {decision.subject: decision.verdict for decision in inputs.decisions if decision.kind == "pick"}
    reason = pl.Series("new_reason", result.reason)
    particles = inputs["particles"].with_columns(
        pl.Series("score_calibrated", result.score).fill_nan(None),
        pl.Series("power_calibrated", result.power).fill_nan(None),
        reason,
    )
    verdict = pl.col("particle_id").replace_strict(verdicts, default=None, return_dtype=pl.String)
    # What people marked or refused before is not for scores to judge.
    refused, marked = (pl.col("reason") == "expert").fill_null(value=False), pl.col("annotator").is_not_null()
    rejected = (verdict == "reject").fill_null(value=False) | (refused & (verdict != "accept").fill_null(value=True))
    accepted = ((verdict == "accept").fill_null(value=False) | marked) & ~rejected
    negative = (rejected | (pl.col("new_reason") != "")) & ~accepted
    particles = particles.with_columns(
        label=pl.when(negative).then(pl.lit("negative")).otherwise(pl.lit("positive")),
        reason=pl.when(rejected).then(pl.lit("expert")).when(negative).then(pl.col("new_reason")),
    ).drop("new_reason")
    write_json(folder.path / "cuts.json", result.cuts)
    return Saved({"particles": particles}, result.warnings)


STAGE = DatasetStage(
    name="review",
    version="7",
    summary="Label candidates positive or negative by score and local power, calibrated against defocus.",
    params=ReviewParams,
    needs=("particles", "micrographs"),
    makes=("particles",),
    load=_load,
    compute=_compute,
    save=_save,
)
