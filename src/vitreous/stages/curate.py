"""Judge whole micrographs: by limits on any column, given or proposed from the data, and by people's verdicts.

Nothing is deleted: what fails is not accepted, and later stages leave it out, with the reason beside it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from vitreous.errors import SettingError, UserError
from vitreous.io.atomic import write_json
from vitreous.model.documents import Decision
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.model.tables import TABLES

__all__ = ["STAGE", "CurateParams", "Limit", "count_rejected", "parse_limit", "propose_limits"]

_MOST_REJECTED = 0.5
_REASONS = {
    "ctf_score": "ctf fit",
    "ctf_significance": "ctf fit",
    "ctf_resolution_angstrom": "ctf resolution",
    "ctf_strict_resolution_angstrom": "ctf resolution",
    "defocus_u_angstrom": "defocus",
    "defocus_v_angstrom": "defocus",
    "defocus_error_angstrom": "defocus error",
    "astigmatism_angstrom": "astigmatism",
    "ice_ring_score": "ice",
    "specimen_tilt_deg": "tilt",
    "coarseness": "contamination",
    "structure": "empty",
    "total_motion_angstrom": "motion",
    "local_motion_angstrom": "motion",
    "early_motion_angstrom": "motion",
    "late_motion_angstrom": "motion",
}
_FEWEST = 8


@dataclass(frozen=True)
class _Rule:
    """How a limit is proposed: `sign` 1 where large values are bad, -1 where small ones are."""

    column: str
    sign: int
    harmless: float
    """Never rejected on the good side of this."""
    hopeless: float | None = None
    """Always rejected beyond this."""
    harmless_px: float = 0.0
    """In pixels, where this is worse than `harmless`: images hold no more, however good they are."""
    unless: str | None = None
    """Nothing is hopeless where this column has values."""


_RULES = (
    _Rule("ctf_score", -1, 0.6, 0.4),
    _Rule("ctf_significance", -1, 8.0, 8.0),
    # No bound for all sets: rings of images that were low-passed or shrunk end there, with nothing wrong.
    _Rule("ctf_resolution_angstrom", 1, 6.0, harmless_px=4.0),
    _Rule("astigmatism_angstrom", 1, 1000.0),
    _Rule("total_motion_angstrom", 1, 30.0),
    _Rule("ice_ring_score", 1, 1.4),
    _Rule("coarseness", 1, 0.7),
    # Near focus even large particles hardly show in the spectrum: rings tell that there is a specimen, and picks what is in it.
    _Rule("structure", -1, 0.3, 0.2, unless="ctf_score"),
)


@dataclass(frozen=True)
class Limit:
    """The values of a column that are accepted, both ends included; a micrograph without a value is not judged by it."""

    column: str
    low: float
    high: float

    @property
    def reason(self) -> str:
        """What is written beside a micrograph that fails."""
        return _REASONS.get(self.column, self.column)

    def __str__(self) -> str:
        low, high = (f"{end:.4g}" if np.isfinite(end) else "" for end in (self.low, self.high))
        return f"{low}..{high}"

    def find_rejected(self, micrographs: pl.DataFrame) -> pl.Series:
        """Return which rows are outside the limit."""
        outside = (pl.col(self.column) < self.low) | (pl.col(self.column) > self.high)
        return micrographs.select(outside.fill_null(value=False).alias("outside"))["outside"]


def parse_limit(column: str, text: str) -> Limit:
    """Return the limit that `LOW..HIGH` stands for, e.g. `..6` or `5000..30000`; either end may be left out.

    Raises
    ------
    SettingError
        If the column does not exist or does not hold numbers, or the text is not of that form.
    """
    numeric = [name for name, dtype in TABLES["micrographs"].schema.items() if dtype.is_numeric()]
    if column not in numeric:
        raise SettingError(f"curate: found a limit on {column!r}, expected a column with numbers: {', '.join(numeric)}")
    found = re.fullmatch(r"\s*(\S*?)\s*\.\.\s*(\S*?)\s*", text)
    try:
        if found is None:
            raise ValueError
        low = float(found[1]) if found[1] else -np.inf
        high = float(found[2]) if found[2] else np.inf
        if not low <= high:
            raise ValueError
    except ValueError:
        raise SettingError(
            f"curate: found the limit {text!r} on {column}, expected LOW..HIGH, e.g. ..6 or 5000..30000"
        ) from None
    return Limit(column, low, high)


class CurateParams(StageParams):
    """Choices of method."""

    limits: str = Field(
        "",
        description="what is accepted, as column=LOW..HIGH, separated by commas; either end may be left out, "
        "e.g. ctf_resolution_angstrom=..6,defocus_u_angstrom=5000..30000",
    )
    propose: bool = Field(True, description="whether columns without a limit get one from the data")
    outlier_sigma: float = Field(
        6.0, gt=0, description="robust deviations from the median that a proposed limit allows"
    )

    @field_validator("limits")
    @classmethod
    def _check_limits(cls, text: str) -> str:
        try:
            _parse_limits(text)
        except SettingError as error:
            raise ValueError(str(error)) from error
        return text


def _parse_limits(text: str) -> list[Limit]:
    limits = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        column, equals, values = part.partition("=")
        if not equals:
            raise SettingError(f"curate: found the limit {part!r}, expected column=LOW..HIGH")
        limits.append(parse_limit(column.strip(), values))
    return limits


def propose_limits(micrographs: pl.DataFrame, outlier_sigma: float) -> list[Limit]:
    """Return limits that leave out what is hopeless, and what is far from the rest and not harmless.

    Parameters
    ----------
    micrographs
        The table.
    outlier_sigma
        How many robust standard deviations from the median are far; with fewer than eight values nothing is.
    """
    limits = []
    pixel_size_angstrom = float(micrographs["pixel_size_angstrom"].to_numpy().max(initial=0.0))
    for rule in _RULES:
        values = rule.sign * micrographs[rule.column].drop_nulls().drop_nans().to_numpy()
        known = rule.unless is not None and micrographs[rule.unless].drop_nulls().len() > 0
        bound = np.inf if rule.hopeless is None or known else rule.sign * rule.hopeless
        if len(values) >= _FEWEST:
            middle = float(np.median(values))
            far = middle + outlier_sigma * 1.4826 * float(np.median(np.abs(values - middle)))
            harmless = max(rule.harmless, rule.harmless_px * pixel_size_angstrom)
            bound = min(bound, max(far, rule.sign * harmless))
        if np.isfinite(bound):
            ends = (-np.inf, bound) if rule.sign > 0 else (-bound, np.inf)
            limits.append(Limit(rule.column, *ends))
    return limits


def count_rejected(micrographs: pl.DataFrame, limits: Sequence[Limit]) -> Mapping[str, int]:
    """Return how many micrographs each reason would reject, alone."""
    counts: dict[str, set[int]] = {}
    for limit in limits:
        counts.setdefault(limit.reason, set()).update(limit.find_rejected(micrographs).arg_true().to_list())
    return {reason: len(rows) for reason, rows in counts.items()}


@dataclass(frozen=True)
class _Loaded:
    micrographs: pl.DataFrame
    given: tuple[Limit, ...]


@dataclass(frozen=True)
class _Judged:
    limits: tuple[Limit, ...]
    n_given: int
    """Of the limits, the first ones: given, not proposed."""
    reasons: tuple[str, ...]
    """For each micrograph, joined by commas; empty where nothing is wrong."""
    warnings: tuple[str, ...]


def _load(inputs: Inputs, params: CurateParams, context: Context) -> _Loaded:
    if inputs["micrographs"].is_empty():
        raise UserError("curate: there are no micrographs; run motion first")
    given = {limit.column: limit for limit in _parse_limits(params.limits)}
    for decision in inputs.decisions:
        if decision.kind == "threshold":
            given[decision.subject] = parse_limit(decision.subject, decision.verdict)
    return _Loaded(inputs["micrographs"], tuple(given.values()))


def _compute(loaded: _Loaded, params: CurateParams, progress: Progress) -> _Judged:
    limits, warnings = list(loaded.given), []
    if params.propose:
        taken, table = {limit.column for limit in limits}, loaded.micrographs
        for limit in propose_limits(table, params.outlier_sigma):
            n = limit.find_rejected(table).sum()
            if limit.column in taken:
                continue
            if n > _MOST_REJECTED * table.height:
                # What is wrong with most of the micrographs is no ground to leave out some.
                warnings.append(
                    f"{limit.reason}: found {n} of {table.height} micrographs beyond {limit.column}={limit}, expected few; "
                    "all are kept, but look at them. To leave them out, give the limit"
                )
                continue
            limits.append(limit)
    rejected = [(limit.reason, limit.find_rejected(loaded.micrographs).to_list()) for limit in limits]
    reasons = tuple(
        ", ".join(dict.fromkeys(reason for reason, rows in rejected if rows[i]))
        for i in range(loaded.micrographs.height)
    )
    return _Judged(tuple(limits), len(loaded.given), reasons, tuple(warnings))


def _read_verdicts(decisions: Sequence[Decision]) -> dict[str, str]:
    return {decision.subject: decision.verdict for decision in decisions if decision.kind == "micrograph"}


def _save(result: _Judged, inputs: Inputs, params: CurateParams, folder: RunFolder) -> Saved:
    verdict = pl.col("micrograph_id").replace_strict(
        _read_verdicts(inputs.decisions), default=None, return_dtype=pl.String
    )
    by_people = (verdict == "reject").fill_null(value=False)
    before = ~pl.col("accepted").fill_null(value=True)
    fails = pl.col("found") != ""
    rejected = (by_people | before | fails) & ~(verdict == "accept").fill_null(value=False)
    micrographs = (
        inputs["micrographs"]
        .with_columns(pl.Series("found", result.reasons, dtype=pl.String))
        .with_columns(
            accepted=~rejected,
            reason=pl.when(by_people)
            .then(pl.lit("expert"))
            .when(rejected & fails)
            .then("found")
            .when(rejected)
            .then("reason"),
        )
        .drop("found")
    )
    limits = [
        {
            "column": limit.column,
            "low": limit.low if np.isfinite(limit.low) else None,
            "high": limit.high if np.isfinite(limit.high) else None,
            "reason": limit.reason,
            "proposed": number >= result.n_given,
            "rejected": int(limit.find_rejected(inputs["micrographs"]).sum()),
        }
        for number, limit in enumerate(result.limits)
    ]
    write_json(folder.path / "limits.json", limits)
    n = micrographs.filter(~pl.col("accepted")).height
    warnings = [*result.warnings]
    if n:
        counts = count_rejected(inputs["micrographs"], result.limits)
        named = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
        warnings.append(f"{n} of {micrographs.height} micrographs are not accepted" + (f" ({named})" if named else ""))
    return Saved({"micrographs": micrographs}, tuple(warnings))


STAGE = DatasetStage(
    name="curate",
    version="4",
    summary="Accept or leave out whole micrographs by limits on any column, proposed from the data where none are given.",
    params=CurateParams,
    needs=("micrographs",),
    makes=("micrographs",),
    load=_load,
    compute=_compute,
    save=_save,
)
