"""The optics that a CTF is computed from, as one value."""

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Optics"]


class Optics(BaseModel):
    """Microscope settings of one optics group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixel_size_angstrom: float = Field(gt=0)
    voltage_kv: float = Field(gt=0)
    cs_mm: float = Field(ge=0)
    amplitude_contrast: float = Field(ge=0, le=1)
