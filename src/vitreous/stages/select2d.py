"""Choose the 2D classes that show particles: by a model of what classes look like, with people's verdicts over it.

The particles of the other classes become negatives; nothing is deleted. How long particles are is measured in the averages.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vitreous.errors import SettingError, UserError
from vitreous.io.stacks import read_averages, read_particle_images
from vitreous.io.trees import read_trees
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.ops.boosting import BoostedTrees
from vitreous.ops.class_halves import (
    HalfSums,
    add_images,
    average_halves,
    make_class_mask,
    make_empty_sums,
    measure_resolution,
)
from vitreous.ops.class_matching import compare_averages
from vitreous.ops.class_quality import FEATURES, compute_class_features, find_reasons, score_classes
from vitreous.ops.extent import choose_extent, measure_extents
from vitreous.stages.images import compute_particle_ctf

__all__ = ["STAGE", "Select2dParams"]

_MOSTLY_REJECTED = 0.5
_IMAGES_AT_ONCE = 2000
_MODEL = "class_model.json"
_MAX_SHIFT = 0.1
_LEAST_IN_HALF = 2
_DIAMETERS_DIFFER = 0.15


class Select2dParams(StageParams):
    """Choices of method."""

    min_score: float = Field(
        0.5, ge=0, le=1, description="classes that show particles with a smaller probability are not selected"
    )
    mask_factor: float = Field(1.1, gt=0, le=3, description="diameter of the classes' mask, in particle diameters")


@dataclass(frozen=True)
class _Loaded:
    averages: Tensor
    sums: HalfSums
    trees: BoostedTrees
    pixel_size_angstrom: float
    diameter_angstrom: float


@dataclass(frozen=True)
class _Measured:
    score: NDArray[np.float64]
    reasons: list[str]
    resolution_angstrom: NDArray[np.float64]
    likeness: NDArray[np.float64]
    extent_angstrom: NDArray[np.float64]
    """Not-a-number where not clear."""


def _sum_images(inputs: Inputs, classes: pl.DataFrame, context: Context) -> HalfSums:
    """Average the images again, apart for each half. As they are read: together they may not fit in memory."""
    number = {class_id: i for i, class_id in enumerate(classes["class_id"])}
    used = inputs["particles"].filter(
        (pl.col("label") == "positive") & pl.col("stack_path").is_not_null() & pl.col("class_id").is_in(list(number))
    )
    used = used.with_columns(half=pl.coalesce(pl.col("half") - 1, pl.int_range(pl.len()) % 2))
    box = int(classes["box_px"][0])
    sums = make_empty_sums(len(classes), box, context.device)
    for rows in used.sort("stack_path", maintain_order=True).iter_slices(_IMAGES_AT_ONCE):
        if set(rows["box_px"]) != {box}:
            raise UserError(
                f"select2d: found images of {sorted(set(rows['box_px']))} px of classes of {box} px, expected one size; run "
                "classify2d again"
            )
        columns = {
            name: torch.from_numpy(rows[name].to_numpy().astype(np.float32)).to(context.device)
            for name in ("class_psi_deg", "class_origin_y_angstrom", "class_origin_x_angstrom")
        }
        shift = torch.stack([columns["class_origin_y_angstrom"], columns["class_origin_x_angstrom"]], dim=1)
        sums = add_images(
            sums,
            torch.from_numpy(read_particle_images(rows, context.root)).to(context.device),
            compute_particle_ctf(rows, inputs["micrographs"], box, context.device),
            torch.from_numpy(rows["half"].to_numpy().copy()).to(context.device),
            torch.tensor([number[class_id] for class_id in rows["class_id"]], device=context.device),
            -columns["class_psi_deg"],
            -shift / float(rows["stack_pixel_size_angstrom"][0]),
        )
    return sums


def _load(inputs: Inputs, params: Select2dParams, context: Context) -> _Loaded:
    classes = inputs["classes"]
    if classes.is_empty():
        raise UserError("select2d: there are no classes to choose from; run classify2d first")
    return _Loaded(
        averages=torch.from_numpy(read_averages(context.root, classes)).to(context.device),
        sums=_sum_images(inputs, classes, context),
        trees=read_trees(Path(str(files("vitreous.stages") / _MODEL)), tuple(FEATURES)),
        pixel_size_angstrom=float(classes["pixel_size_angstrom"][0]),
        diameter_angstrom=float(classes["diameter_angstrom"][0]),
    )


def _compute(loaded: _Loaded, params: Select2dParams, progress: Progress) -> _Measured:
    pixel, n_px = loaded.pixel_size_angstrom, loaded.averages.shape[-1]
    diameter = loaded.diameter_angstrom / pixel
    radius = min(params.mask_factor * diameter / 2, 0.47 * n_px)
    averages = average_halves(loaded.sums)
    mask = make_class_mask(n_px, radius, loaded.averages.device)
    resolution = measure_resolution(loaded.sums, averages[0], mask)
    features = compute_class_features(loaded.sums, averages, resolution, diameter, radius)
    score = score_classes(loaded.trees, features)
    # Of what has no images in a half there is nothing to be told.
    told = loaded.sums.n_images.amin(dim=0).cpu().numpy() >= _LEAST_IN_HALF
    matched = compare_averages(loaded.averages, loaded.averages, _MAX_SHIFT * diameter)
    return _Measured(
        score=np.where(told, score, 0.0),
        reasons=[
            reason if known else "strength"
            for reason, known in zip(find_reasons(loaded.trees, features), told, strict=True)
        ],
        resolution_angstrom=n_px * pixel / resolution.ring.double().cpu().numpy(),
        likeness=matched.correlation.double().cpu().numpy(),
        extent_angstrom=measure_extents(averages[0]) * pixel,
    )


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


def _score_views(likeness: NDArray[np.float64], selected: list[bool]) -> list[float | None]:
    """Return how much each class's view is its own: 1 less its highest correlation with another class that is selected."""
    others = np.where(np.array(selected)[None, :] & ~np.eye(len(selected), dtype=bool), likeness, -np.inf)
    best = others.max(axis=1, initial=-np.inf)
    return [float(np.clip(1 - one, 0, 1)) if np.isfinite(one) else None for one in best]


def _describe_members(inputs: Inputs) -> pl.DataFrame:
    return (
        inputs["particles"]
        .filter(pl.col("class_id").is_not_null())
        .group_by("class_id")
        .agg(
            pl.col("class_probability").mean().alias("mean_probability"),
            pl.col("class_n_effective").mean().alias("n_effective"),
        )
    )


def _choose(result: _Measured, inputs: Inputs, params: Select2dParams) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the classes table with measures, choices and reasons, and what is doubtful about it."""
    verdicts = _read_verdicts(inputs.decisions)
    selected, reasons = [], list[str | None]()
    for class_id, score, worst in zip(inputs["classes"]["class_id"], result.score, result.reasons, strict=True):
        verdict = verdicts.get(class_id)
        selected.append(bool(score >= params.min_score) if verdict is None else verdict)
        reasons.append(None if selected[-1] else worst if verdict is None else "expert")
    warnings = []
    if not any(selected) and not verdicts:
        best = int(result.score.argmax())
        selected[best], reasons[best] = True, None
        warnings.append(
            f"no class scores {params.min_score}; class {inputs['classes']['class_id'][best]}, the best with "
            f"{result.score[best]:.2f}, was kept so that the run could go on: look at the classes"
        )
    chosen = np.array(selected)
    assumed = float(inputs["classes"]["diameter_angstrom"][0])
    longest = choose_extent(result.extent_angstrom[chosen], inputs["classes"]["n_particles"].to_numpy()[chosen])
    diameter = assumed if longest is None else round(longest, 1)
    if abs(diameter - assumed) > _DIAMETERS_DIFFER * assumed:
        warnings.append(
            f"particles are {diameter:.0f} Å long in the selected classes, {assumed:.0f} Å was assumed; where nobody gave the "
            "diameter, what follows takes the new one"
        )
    measured = {
        "diameter_angstrom": pl.Series([diameter] * len(selected)),
        "resolution_angstrom": pl.Series(result.resolution_angstrom),
        "view_score": pl.Series(_score_views(result.likeness, selected), dtype=pl.Float64),
        "score": pl.Series(result.score),
        "selected": pl.Series(selected),
        "reason": pl.Series(reasons, dtype=pl.String),
    }
    classes = (
        inputs["classes"]
        .with_columns(series.alias(name) for name, series in measured.items())
        .drop("mean_probability", "n_effective", strict=False)
        .join(_describe_members(inputs), on="class_id", how="left", maintain_order="left")
    )
    kept, total = (int(part["n_particles"].sum()) for part in (classes.filter("selected"), classes))
    if kept < (1 - _MOSTLY_REJECTED) * total:
        warnings.append(f"only {kept} of {total} particles are in selected classes: look at the classes")
    return classes, tuple(warnings)


def _save(result: _Measured, inputs: Inputs, params: Select2dParams, folder: RunFolder) -> Saved:
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
    version="7",
    summary="Choose the 2D classes that show particles; particles of the others become negatives.",
    params=Select2dParams,
    needs=("particles", "micrographs", "classes"),
    makes=("particles", "classes"),
    load=_load,
    compute=_compute,
    save=_save,
)
