"""Join people's picks with a picker's candidates, or make particles of them alone.

People's marks (add, remove, move) are decisions; they hold for a micrograph whatever run made it, and are applied again to
whatever a picker finds later.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic import Field

from vitreous.errors import PersonNeededError, UserError
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.model.tables import complete_table, empty_table
from vitreous.ops.marks import Joined, Mark, MarkedPicks, join_candidates, replay_marks
from vitreous.ops.matching import Points

__all__ = ["STAGE", "AnnotateParams", "convert_mark"]

_MANUAL = "manual"


class AnnotateParams(StageParams):
    """Choices of method."""

    annotators: tuple[str, ...] | None = Field(None, description="people whose marks count; null: everyone's")
    min_micrographs: int = Field(
        0, ge=0, description="marked micrographs that the run waits for; all of them where there are fewer"
    )
    radius_fraction: float = Field(
        0.4, gt=0, le=1, description="marks and candidates nearer than this are the same particle, in diameters"
    )
    diameter_angstrom: float | None = Field(
        None, gt=0, description="particle diameter, Å; null: as the candidates or the project say"
    )


@dataclass(frozen=True)
class _Micrograph:
    radius_px: float
    marks: tuple[Mark, ...]
    mark_ids: tuple[str, ...]
    candidates_px: Points


@dataclass(frozen=True)
class _Loaded:
    candidates: pl.DataFrame
    micrographs: Mapping[str, _Micrograph]
    """Those that have marks."""
    diameter_angstrom: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Annotated:
    loaded: _Loaded
    marked: Mapping[str, tuple[MarkedPicks, Joined]]


def _choose_marks(decisions: Sequence[Decision], params: AnnotateParams) -> dict[str, list[Decision]]:
    chosen: dict[str, list[Decision]] = {}
    for decision in decisions:
        if decision.kind == "mark" and (params.annotators is None or decision.who in params.annotators):
            chosen.setdefault(decision.subject, []).append(decision)
    return chosen


def _find_diameter(inputs: Inputs, candidates: pl.DataFrame, params: AnnotateParams) -> float:
    if params.diameter_angstrom is not None:
        return params.diameter_angstrom
    if candidates.height:
        return float(np.median(candidates["diameter_angstrom"].to_numpy()))
    given = inputs["entries"]["diameter_angstrom"].drop_nulls()
    if given.is_empty():
        raise UserError(
            "annotate: found no particle diameter, expected one for picks by hand; give it in Å with --diameter to "
            "`vitreous new`, or with --set annotate.diameter_angstrom=A"
        )
    return float(given[0])


def _get_candidates(inputs: Inputs) -> pl.DataFrame:
    """Return the picker's candidates; what an earlier run of this stage added is left out, since it is added again."""
    if "particles" not in inputs:
        return empty_table("particles")
    return inputs["particles"].filter(pl.col("picker") != _MANUAL).with_columns(annotator=pl.lit(None, pl.String))


def convert_mark(decision: Decision) -> Mark:
    """Return the mark that a decision of the kind `mark` is."""
    assert decision.x_px is not None
    assert decision.y_px is not None
    there = decision.to_x_px, decision.to_y_px
    to = None if there[0] is None or there[1] is None else (there[0], there[1])
    match decision.verdict:
        case "add" | "remove" | "move" as act:
            return Mark(decision.who, act, (decision.x_px, decision.y_px), to)
        case verdict:
            raise AssertionError(verdict)


def _load(inputs: Inputs, params: AnnotateParams, context: Context) -> _Loaded:
    candidates = _get_candidates(inputs)
    usable = inputs["micrographs"].filter(pl.col("accepted").fill_null(value=True))
    marks = _choose_marks(inputs.decisions, params)
    pixels = dict(usable.select("micrograph_id", "pixel_size_angstrom").iter_rows())
    known = {name: made for name, made in marks.items() if name in pixels}
    wanted = min(params.min_micrographs, len(pixels))
    if len(known) < wanted or not (known or candidates.height):
        raise PersonNeededError(
            f"annotate: waits for a person's picks in {max(wanted, 1)} micrographs, found them in {len(known)}. Pick with "
            "`vitreous picks add` or `vitreous picks import`, then run the project again; --set annotate.min_micrographs=N asks "
            "for fewer."
        )
    diameter = _find_diameter(inputs, candidates, params)
    places = candidates.select("micrograph_id", "x_px", "y_px").filter(pl.col("micrograph_id").is_in(list(known)))
    by_name = {str(name): part for (name,), part in places.partition_by("micrograph_id", as_dict=True).items()}
    micrographs = {
        name: _Micrograph(
            radius_px=params.radius_fraction * diameter / pixels[name],
            marks=tuple(convert_mark(decision) for decision in made),
            mark_ids=tuple(decision.decision_id for decision in made),
            candidates_px=by_name[name].select("x_px", "y_px").to_numpy() if name in by_name else np.empty((0, 2)),
        )
        for name, made in known.items()
    }
    lost = sorted(set(marks) - set(known))
    warnings = (
        (f"marks on {len(lost)} micrographs that are not in use have no effect now, e.g. {lost[0]}",) if lost else ()
    )
    return _Loaded(candidates, micrographs, diameter, warnings)


def _compute(loaded: _Loaded, params: AnnotateParams, progress: Progress) -> _Annotated:
    marked = {}
    for name, micrograph in loaded.micrographs.items():
        picks = replay_marks(micrograph.marks, micrograph.radius_px)
        marked[name] = (picks, join_candidates(picks, micrograph.candidates_px, micrograph.radius_px))
    return _Annotated(loaded, marked)


def _name_pick(micrograph: str, mark_id: str) -> str:
    """Return an identifier that stays the same whatever else is marked."""
    return f"{micrograph}_m{hashlib.sha256(mark_id.encode()).hexdigest()[:10]}"


def _annotate_one(result: _Annotated, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of one micrograph, a person's word put over the picker's."""
    picks, joined = result.marked[name]
    loaded = result.loaded
    x, y = rows["x_px"].to_numpy().copy(), rows["y_px"].to_numpy().copy()
    annotator: list[str | None] = [None] * rows.height
    refused = np.zeros(rows.height, bool)
    for by, candidate in zip(picks.removed_by, joined.candidate_of_removal, strict=True):
        if candidate >= 0:
            refused[candidate], annotator[candidate] = True, by
    for pick, candidate in enumerate(joined.candidate_of_pick):
        if candidate >= 0:
            x[candidate], y[candidate] = picks.xy_px[pick]
            annotator[candidate] = ", ".join(picks.who[pick])
    old = rows.with_columns(
        pl.Series("x_px", x, pl.Float64),
        pl.Series("y_px", y, pl.Float64),
        pl.Series("annotator", annotator, pl.String),
        label=pl.when(pl.Series(refused)).then(pl.lit("negative")).otherwise("label"),
        reason=pl.when(pl.Series(refused)).then(pl.lit("expert")).otherwise("reason"),
    )
    alone = np.flatnonzero(joined.candidate_of_pick < 0)
    mark_ids = loaded.micrographs[name].mark_ids
    new = pl.DataFrame(
        {
            "particle_id": [_name_pick(name, mark_ids[picks.first_mark[i]]) for i in alone],
            "micrograph_id": [name] * len(alone),
            "x_px": picks.xy_px[alone, 0],
            "y_px": picks.xy_px[alone, 1],
            "diameter_angstrom": [loaded.diameter_angstrom] * len(alone),
            "picker": [_MANUAL] * len(alone),
            "annotator": [", ".join(picks.who[i]) for i in alone],
            "label": ["candidate"] * len(alone),
        }
    )
    return pl.concat([old, complete_table("particles", new)])


def _save(result: _Annotated, inputs: Inputs, params: AnnotateParams, folder: RunFolder) -> Saved:
    candidates = result.loaded.candidates
    groups = {str(name): part for (name,), part in candidates.partition_by("micrograph_id", as_dict=True).items()}
    parts = [empty_table("particles")]
    for name in inputs["micrographs"]["micrograph_id"]:
        rows = groups.get(name, candidates.clear())
        parts.append(_annotate_one(result, name, rows) if name in result.marked else rows)
    return Saved({"particles": pl.concat(parts)}, result.loaded.warnings)


STAGE = DatasetStage(
    name="annotate",
    version="1",
    summary="Join people's picks with the candidates of a picker, or make particles of them alone.",
    params=AnnotateParams,
    needs=("entries", "micrographs"),
    makes=("particles",),
    load=_load,
    compute=_compute,
    save=_save,
    optional=("particles",),
    reads_marks=True,
)
