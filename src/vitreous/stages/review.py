"""Judge candidates without a person: correlation against local power over the whole dataset, and people's overrides.

Nothing is deleted: what fails is labelled negative, with the reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from vitreous.errors import SettingError, UserError
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.ops.scores import calibrate_scores, find_power_limit, split_scores

__all__ = ["STAGE", "ReviewParams"]

_CLEARLY_APART = 2.0


class ReviewParams(StageParams):
    """Choices of method."""

    min_ncc: float | None = Field(None, description="least calibrated correlation; null: where the scores part")
    max_power: float | None = Field(None, description="greatest calibrated local power; null: from the spread")
    power_sigma: float = Field(5.0, gt=0, description="robust deviations above the median that are too strong")
    min_power_margin: float = Field(
        0.25, ge=0, description="power above the median that is never too strong, log10 units"
    )


@dataclass(frozen=True)
class _Loaded:
    ncc: NDArray[np.float64]
    """Not-a-number where a person or another program picked; that is taken as it is."""
    power: NDArray[np.float64]
    """Likewise."""
    group: NDArray[np.int64]
    defocus: NDArray[np.float64]
    crosses_edge: NDArray[np.bool_]
    thresholds: dict[str, float]


@dataclass(frozen=True)
class _Judged:
    ncc: NDArray[np.float64]
    power: NDArray[np.float64]
    reason: NDArray[np.str_]
    """Empty where the candidate is positive."""
    warnings: tuple[str, ...]


def _read_thresholds(decisions: Sequence[Decision]) -> dict[str, float]:
    thresholds = {}
    for decision in decisions:
        if decision.kind == "threshold":
            try:
                thresholds[decision.subject] = float(decision.verdict)
            except ValueError as error:
                raise SettingError(
                    f"decision {decision.decision_id}: expected a number for {decision.subject}, found {decision.verdict!r}"
                ) from error
    return thresholds


def _load(inputs: Inputs, params: ReviewParams, context: Context) -> _Loaded:
    if inputs["particles"].is_empty():
        raise UserError("review: there are no candidates; run pick first")
    micrographs = (
        inputs["micrographs"]
        .with_row_index("group")
        .with_columns(defocus=(pl.col("defocus_u_angstrom") + pl.col("defocus_v_angstrom")) / 2)
    )
    columns = micrographs.select("micrograph_id", "group", "nx_px", "ny_px", "pixel_size_angstrom")
    joined = inputs["particles"].join(columns, on="micrograph_id", how="left", maintain_order="left")
    radius = pl.col("diameter_angstrom") / pl.col("pixel_size_angstrom") / 2
    x, y = pl.col("x_px"), pl.col("y_px")
    crosses = (x < radius) | (y < radius) | (x > pl.col("nx_px") - 1 - radius) | (y > pl.col("ny_px") - 1 - radius)
    return _Loaded(
        ncc=joined["ncc"].fill_null(float("nan")).to_numpy().astype(np.float64),
        power=joined["power"].fill_null(float("nan")).to_numpy().astype(np.float64),
        group=joined["group"].to_numpy().astype(np.int64),
        defocus=micrographs["defocus"].cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64),
        crosses_edge=joined.select(crosses.alias("edge"))["edge"].to_numpy().astype(bool),
        thresholds=_read_thresholds(inputs.decisions),
    )


def _compute(loaded: _Loaded, params: ReviewParams, progress: Progress) -> _Judged:
    warnings: list[str] = []
    split = None
    scored = np.isfinite(loaded.ncc)
    if len(np.unique(loaded.ncc[scored])) >= 4:
        split = split_scores(loaded.ncc[scored])
    reference = loaded.ncc >= (split.threshold if split else -1.0)
    ncc = calibrate_scores(loaded.ncc, loaded.group, reference, loaded.defocus)
    power = calibrate_scores(loaded.power, loaded.group, reference, loaded.defocus)
    least = loaded.thresholds.get("ncc_calibrated", params.min_ncc)
    if least is None and split is not None:
        split = split_scores(ncc[scored])
        least = split.threshold
        if split.separation < _CLEARLY_APART:
            warnings.append(
                f"the correlations do not part clearly into noise and particles (separation {split.separation:.1f}); "
                f"the threshold {least:.2f} is a guess"
            )
    good = ~scored | (ncc >= (-np.inf if least is None else least))
    most = loaded.thresholds.get("power_calibrated", params.max_power)
    measured = good & np.isfinite(power)
    if most is None and measured.any():
        most = find_power_limit(power[measured], params.power_sigma, params.min_power_margin)
    reason = np.full(len(ncc), "", dtype="U16")
    reason[~good] = "score"
    if most is not None:
        reason[power > most] = "ice"
    reason[loaded.crosses_edge & (reason == "")] = "border"
    return _Judged(ncc, power, reason, tuple(warnings))


def _save(result: _Judged, inputs: Inputs, params: ReviewParams, folder: RunFolder) -> Saved:
    verdicts = {decision.subject: decision.verdict for decision in inputs.decisions if decision.kind == "pick"}
    reason = pl.Series("new_reason", result.reason)
    particles = inputs["particles"].with_columns(
        pl.Series("ncc_calibrated", result.ncc).fill_nan(None),
        pl.Series("power_calibrated", result.power).fill_nan(None),
        reason,
    )
    verdict = pl.col("particle_id").replace_strict(verdicts, default=None, return_dtype=pl.String)
    rejected = (verdict == "reject").fill_null(value=False)
    accepted = (verdict == "accept").fill_null(value=False)
    negative = (rejected | (pl.col("new_reason") != "")) & ~accepted
    particles = particles.with_columns(
        label=pl.when(negative).then(pl.lit("negative")).otherwise(pl.lit("positive")),
        reason=pl.when(rejected).then(pl.lit("expert")).when(negative).then(pl.col("new_reason")),
    ).drop("new_reason")
    return Saved({"particles": particles}, result.warnings)


STAGE = DatasetStage(
    name="review",
    version="2",
    summary="Label candidates positive or negative by correlation and local power, calibrated against defocus.",
    params=ReviewParams,
    needs=("particles", "micrographs"),
    makes=("particles",),
    load=_load,
    compute=_compute,
    save=_save,
)
