"""What to simulate. Importing this module costs nothing: the arrays are made in the other modules of the package."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["DEMO_DIAMETER_ANGSTROM", "DEMO_SETTINGS", "DEMO_SYMMETRY", "SimulationSettings"]


class SimulationSettings(BaseModel):
    """A simulated data set; the same settings make the same files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        "apoferritin", min_length=1, description="atomic model: a PDB or mmCIF file, or apoferritin or glua3-ntd"
    )
    n_movies: int = Field(6, ge=1, description="number of movies")
    nx_px: int = Field(1024, ge=128, description="columns of a frame")
    ny_px: int = Field(1024, ge=128, description="rows of a frame")
    pixel_size_angstrom: float = Field(1.75, gt=0.2, lt=20, description="Å per pixel")
    voltage_kv: float = Field(300.0, ge=40, le=1500, description="acceleration voltage, kV")
    cs_mm: float = Field(2.7, ge=0, le=20, description="spherical aberration, mm")
    amplitude_contrast: float = Field(0.07, ge=0, le=1, description="fraction of amplitude contrast")
    n_frames: int = Field(15, ge=1, description="frames of a movie")
    dose_per_frame: float = Field(2.7, gt=0, description="exposure of one frame, e/Å²")
    defocus_min_angstrom: float = Field(
        10_000.0, ge=0, description="least mean defocus of a movie, underfocus positive, Å"
    )
    defocus_max_angstrom: float = Field(22_000.0, ge=0, description="greatest mean defocus of a movie, Å")
    astigmatism_angstrom: float = Field(300.0, ge=0, description="greatest difference of the two principal defoci, Å")
    ice_thickness_angstrom: float = Field(400.0, gt=0, description="thickness of the ice, Å")
    contrast: float = Field(
        0.65,
        gt=0,
        le=1,
        description="contrast as a share of the ideal; inelastic scattering and the camera take the rest. The default gives "
        "the signal-to-noise ratios of real micrographs of apoferritin (EMPIAR-10146)",
    )
    particles_per_movie: int = Field(60, ge=0, description="particles whose centre is in the first frame of a movie")
    minimum_separation_diameters: float = Field(1.1, ge=0, description="least distance of two particles, in diameters")
    drift_angstrom: float = Field(12.0, ge=0, description="length of the drift from the first frame to the last, Å")
    local_drift_angstrom: float = Field(
        0.0, ge=0, description="largest displacement of a place in the frame beside the drift of the whole, Å"
    )
    damage: bool = Field(True, description="whether the signal fades with the exposure")
    gain: bool = Field(True, description="whether the camera's pixels differ in gain and a gain reference is written")
    n_hot_pixels: int = Field(20, ge=0, description="hot pixels of the camera")
    n_contaminants: int = Field(2, ge=0, description="blobs of ice contamination in a movie")
    n_crystals: int = Field(0, ge=0, description="crystals of ice in a movie")
    n_aggregates: int = Field(0, ge=0, description="clumps of particles that lie on top of each other in a movie")
    n_carbon_movies: int = Field(0, ge=0, description="movies (the last ones) with a carbon edge along a side")
    generator: Literal["slice", "atoms"] = Field(
        "slice", description="projections from central slices of the map's transform, or from the atoms one by one"
    )
    seed: int = Field(0, ge=0, description="seed of all random numbers")

    @model_validator(mode="after")
    def _check_order(self) -> "SimulationSettings":
        if self.defocus_min_angstrom > self.defocus_max_angstrom:
            raise ValueError("defocus_min_angstrom is greater than defocus_max_angstrom")
        if self.n_carbon_movies > self.n_movies:
            raise ValueError("n_carbon_movies is greater than n_movies")
        return self


DEMO_SETTINGS = SimulationSettings(n_carbon_movies=1, generator="atoms", seed=2026)
"""Six movies of apoferritin."""

DEMO_DIAMETER_ANGSTROM = 125.0
"""Outer diameter of apoferritin's protein shell."""

DEMO_SYMMETRY = "O"
"""Point group of apoferritin, four-fold axes along x, y and z."""
