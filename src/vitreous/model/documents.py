"""Documents that people or programs write and others read: the facts of a project and the decisions taken in it."""

import math
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Decision", "DecisionKind", "Facts", "GainOrientation", "GainPolarity"]

GainOrientation = Literal[
    "auto", "as-is", "rot90", "rot180", "rot270", "flip-x", "flip-y", "transpose", "anti-transpose"
]
GainPolarity = Literal["auto", "multiply", "divide"]

DecisionKind = Literal["class", "pick", "micrograph", "threshold", "mark", "run"]


class Facts(BaseModel):
    """Facts about the data, as given to `vitreous new` and kept in `project.toml`. Paths are relative to the project."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field("", description="what the data set is")
    entry_id: str = Field(
        "entry",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="short name of the data set, e.g. its EMPIAR number",
    )
    molecular_weight_kda: float | None = Field(None, gt=0, description="weight of the particle, kDa")
    source: str = Field("", description="where the data come from, e.g. EMPIAR-10017 or a DOI")
    licence: str = Field("", description="terms under which the dataset may be used, e.g. CC0-1.0")
    movies: str | None = Field(None, description="glob of movies")
    micrographs: str | None = Field(None, description="glob of finished micrographs")
    gain: str | None = Field(None, description="gain reference (movies only)")
    gain_orientation: GainOrientation = Field(
        "auto", description="how the gain reference is turned to lie on the movies; auto: found from the counts"
    )
    gain_polarity: GainPolarity = Field(
        "auto", description="whether the gain reference multiplies or divides; auto: found from the counts"
    )
    defects: str | None = Field(None, description="map or list of the camera's bad pixels (movies only)")
    eer_fractions: int = Field(40, ge=2, le=10_000, description="fractions that an EER movie is divided into")
    eer_upsampling: Literal[1, 2] = Field(1, description="EER: 1 for the detector's pixels, 2 for a grid twice as fine")
    pixel_size_angstrom: float | None = Field(
        None, gt=0, lt=100, description="Å per pixel; needed unless every file's header carries it"
    )
    voltage_kv: float = Field(300.0, ge=40, le=1500, description="acceleration voltage, kV")
    cs_mm: float = Field(2.7, ge=0, le=20, description="spherical aberration, mm")
    amplitude_contrast: float = Field(0.1, ge=0, le=1, description="fraction of amplitude contrast")
    total_dose: float | None = Field(None, gt=0, description="total exposure, e/Å²")
    diameter_angstrom: float | None = Field(None, gt=0, description="particle diameter, Å; estimated when not given")
    symmetry: str = Field("C1", pattern=r"^([CD][1-9][0-9]?|T|O|I)$", description="point group")

    @field_validator("eer_upsampling", mode="before")
    @classmethod
    def _read_word(cls, value: object) -> object:
        return int(value) if value in ("1", "2") else value

    @model_validator(mode="after")
    def _one_kind_of_input(self) -> "Facts":
        if (self.movies is None) == (self.micrographs is None):
            raise ValueError("give either movies or micrographs, one of them and not both")
        if self.gain is not None and self.movies is None:
            raise ValueError("a gain reference goes with movies; finished micrographs are corrected already")
        if self.defects is not None and self.movies is None:
            raise ValueError("a list of bad pixels goes with movies; finished micrographs are corrected already")
        if self.gain is None and (self.gain_orientation, self.gain_polarity) != ("auto", "auto"):
            raise ValueError("an orientation or polarity of the gain reference was given, but no gain reference")
        return self


class Decision(BaseModel):
    """One judgement of one person on one thing: append-only, replayable, comparable between people.

    A later decision of the same person on the same subject replaces the earlier one. Marks are picks by hand: each is an act at a
    place of a micrograph, they add up in their order, and they hold whatever run made the micrographs. The kind `run` accepts
    what a run proposes as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision_id: str = Field(description="unique identifier")
    when: datetime
    who: str = Field(min_length=1, description="annotator")
    run: str = Field(description="folder name of the run whose result was judged, e.g. 006-classify2d")
    kind: DecisionKind
    subject: str = Field(
        description="what was judged: a class number, a particle or micrograph identifier, a column; of marks the micrograph"
    )
    verdict: str = Field(description="accept, reject, or a value; of marks add, remove or move")
    note: str = ""
    x_px: float | None = Field(None, description="marks: column of the place, in the corrected micrograph")
    y_px: float | None = Field(None, description="marks: its row; row 0 is the first in memory")
    to_x_px: float | None = Field(None, description="column that a moved pick goes to")
    to_y_px: float | None = Field(None, description="row that a moved pick goes to")

    @model_validator(mode="after")
    def _marks_have_places(self) -> "Decision":
        here, there = (self.x_px, self.y_px), (self.to_x_px, self.to_y_px)
        is_mark, moves = self.kind == "mark", self.verdict == "move"
        if is_mark and self.verdict not in ("add", "remove", "move"):
            raise ValueError(f"a mark adds, removes or moves; found {self.verdict!r}")
        if (None in here) == is_mark or (None in there) == (is_mark and moves) or here.count(None) == 1:
            raise ValueError("a mark needs x and y, one that moves also where to; nothing else has a place")
        if any(value is not None and not math.isfinite(value) for value in (*here, *there)):
            raise ValueError("places are finite numbers")
        return self
