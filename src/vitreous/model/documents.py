"""Documents that people or programs write and others read: the facts of a project and the decisions taken in it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Decision", "Facts", "GainOrientation", "GainPolarity"]

GainOrientation = Literal[
    "auto", "as-is", "rot90", "rot180", "rot270", "flip-x", "flip-y", "transpose", "anti-transpose"
]
GainPolarity = Literal["auto", "multiply", "divide"]


class Facts(BaseModel):
    """Facts about the data, as given to `vitreous new` and kept in `project.toml`. Paths are relative to the project."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field("", description="what the data set is")
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

    A later decision of the same person on the same subject replaces the earlier one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision_id: str = Field(description="unique identifier")
    when: datetime
    who: str = Field(min_length=1, description="annotator")
    run: str = Field(description="folder name of the run whose result was judged, e.g. 006-classify2d")
    kind: Literal["class", "pick", "micrograph", "threshold"]
    subject: str = Field(description="what was judged: a class number, a particle or micrograph identifier, a column")
    verdict: str = Field(description="accept, reject, or a value")
    note: str = ""
