"""Choose the 2D classes that show particles: by measure, with people's verdicts over it.

The particles of the other classes become negatives; nothing is deleted.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vitreous.errors import SettingError, UserError
from vitreous.io.mrc import read_mrc
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.ops.class_quality import MEASURES, measure_classes, score_classes

__all__ = ["STAGE", "Select2dParams"]

_MOSTLY_REJECTED = 0.5


class Select2dParams(StageParams):
    """Choices of method."""

    min_score: float = Field(0.5, ge=0, le=1, description="classes that score less are not selected")
    mask_factor: float = Field(1.1, gt=0, le=3, description="diameter of the classes' mask, in particle diameters")


@dataclass(frozen=True)
class _Loaded:
    averages: Tensor
    resolution_angstrom: Tensor
    n_images: Tensor
    pixel_size_angstrom: float
    diameter_angstrom: float


@dataclass(frozen=True)
class _Scored:
    score: NDArray[np.float64]
    parts: NDArray[np.float64]


def _load(inputs: Inputs, params: Select2dParams, context: Context) -> _Loaded:
    classes = inputs["classes"]
    if classes.is_empty():
        raise UserError("select2d: there are no classes to choose from; run classify2d first")
    stack, _ = read_mrc(context.root / classes["image_path"][0])
    averages = stack.reshape(-1, *stack.shape[-2:])[classes["image_index"].to_numpy()]
    pixel = float(classes["pixel_size_angstrom"][0])
    # A class whose resolution could not be measured shows nothing: as if it ended at the box.
    resolution = classes["resolution_angstrom"].fill_null(pixel * stack.shape[-1]).to_numpy()
    return _Loaded(
        averages=torch.from_numpy(averages).float().to(context.device),
        resolution_angstrom=torch.from_numpy(resolution.copy()).float().to(context.device),
        n_images=torch.from_numpy(classes["n_particles"].to_numpy().copy()).to(context.device),
        pixel_size_angstrom=pixel,
        diameter_angstrom=float(classes["diameter_angstrom"][0]),
    )


def _compute(loaded: _Loaded, params: Select2dParams, progress: Progress) -> _Scored:
    pixel, diameter = loaded.pixel_size_angstrom, loaded.diameter_angstrom
    measures = measure_classes(
        loaded.averages,
        loaded.resolution_angstrom / pixel,
        diameter / pixel,
        min(params.mask_factor * diameter / 2 / pixel, 0.47 * loaded.averages.shape[-1]),
    )
    score, parts = score_classes(measures, loaded.n_images)
    return _Scored(score.double().cpu().numpy(), parts.double().cpu().numpy())


def _read_verdicts(decisions: tuple[Decision, ...]) -> dict[int, bool]:
    """Return which classes people accept or reject; the last word on each counts."""
    verdicts = {}
    for decision in decisions:
        if decision.kind == "class":
            if not decision.subject.isdigit() or decision.verdict not in ("accept", "reject"):
                raise SettingError(
                    f"decision {decision.decision_id}: expected accept or reject of a class number, found "
                    f"{decision.verdict!r} of {decision.subject!r}"
                )
            verdicts[int(decision.subject)] = decision.verdict == "accept"
    return verdicts


def _choose(result: _Scored, inputs: Inputs, params: Select2dParams) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the classes table with scores, choices and reasons, and what is doubtful about it."""
    worst = [MEASURES[part] for part in result.parts.argmin(axis=1)]
    verdicts = _read_verdicts(inputs.decisions)
    selected, reasons = [], list[str | None]()
    for row, score, measure in zip(inputs["classes"].iter_rows(named=True), result.score, worst, strict=True):
        verdict = verdicts.get(row["class_id"])
        selected.append(bool(score >= params.min_score) if verdict is None else verdict)
        reasons.append(None if selected[-1] else measure if verdict is None else "expert")
    warnings = []
    if not any(selected) and not verdicts:
        best = int(result.score.argmax())
        selected[best], reasons[best] = True, None
        warnings.append(
            f"no class scores {params.min_score}; class {inputs['classes']['class_id'][best]}, the best with "
            f"{result.score[best]:.2f}, was kept so that the run could go on: look at the classes"
        )
    classes = inputs["classes"].with_columns(
        pl.Series("score", result.score), pl.Series("selected", selected), pl.Series("reason", reasons, dtype=pl.String)
    )
    kept, total = (int(part["n_particles"].sum()) for part in (classes.filter("selected"), classes))
    if kept < (1 - _MOSTLY_REJECTED) * total:
        warnings.append(f"only {kept} of {total} particles are in selected classes: look at the classes")
    return classes, tuple(warnings)


def _save(result: _Scored, inputs: Inputs, params: Select2dParams, folder: RunFolder) -> Saved:
    classes, warnings = _choose(result, inputs, params)
    rejected = (
        pl.col("class_id").is_in(classes.filter(~pl.col("selected"))["class_id"].to_list()).fill_null(value=False)
    )
    changed = rejected & (pl.col("label") == "positive")
    particles = inputs["particles"].with_columns(
        label=pl.when(changed).then(pl.lit("negative")).otherwise("label"),
        reason=pl.when(changed).then(pl.lit("class")).otherwise("reason"),
    )
    return Saved({"particles": particles, "classes": classes}, warnings)


STAGE = DatasetStage(
    name="select2d",
    version="2",
    summary="Choose the 2D classes that show particles; particles of the others become negatives.",
    params=Select2dParams,
    needs=("particles", "classes"),
    makes=("particles", "classes"),
    load=_load,
    compute=_compute,
    save=_save,
)
