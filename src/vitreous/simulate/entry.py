"""A whole simulated data set on disk: movies, gain reference, and the truth apart from them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous.io.atomic import open_for_replacement, write_text
from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.simulate.drift import make_local_drift, make_trajectory
from vitreous.simulate.micrograph import Micrograph, make_micrograph
from vitreous.simulate.movie import make_camera, make_movie
from vitreous.simulate.particles import make_projector
from vitreous.simulate.settings import SimulationSettings
from vitreous.simulate.volume import compute_volume, load_specimen

__all__ = ["SimulatedEntry", "simulate_entry"]


@dataclass(frozen=True)
class SimulatedEntry:
    """Where a simulated data set lies.

    Attributes
    ----------
    root, settings
        The folder and what was asked for.
    movies
        `movies/<name>.tif`, one per movie; `<name>` is the micrograph in the tables of the truth.
    gain
        `gain.mrc`, multiplicative, in memory orientation; None when the camera was perfect.
    coordinates
        `truth/coordinates.csv`: micrograph, x_px, y_px, diameter_px; pixel centres at integers, of the first frame.
    particles
        `truth/particles.parquet`: also rot_deg, tilt_deg, psi_deg (RELION's ZYZ) and defocus_angstrom.
    micrographs
        `truth/micrographs.parquet`: defocus; shift_x_px and shift_y_px, where the specimen of every frame stands relative to
        the first; local_drift_px, the coefficients of `vitreous.simulate.drift.LocalDrift`.
    junk
        `truth/junk.parquet`: micrograph, kind (ice, crystal, carbon or aggregate), x_px, y_px, radius_px of the circle that holds
        it; carbon is what is outside its circle.
    volume
        `truth/map.mrc`: the potential over that of ice, V.
    diameter_angstrom
        Of the particle.
    """

    root: Path
    settings: SimulationSettings
    movies: tuple[Path, ...]
    gain: Path | None
    coordinates: Path
    particles: Path
    micrographs: Path
    junk: Path
    volume: Path
    diameter_angstrom: float


def _list_particles(name: str, micrograph: Micrograph, diameter_px: float) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "micrograph": pl.Series([name] * len(micrograph.centres_px), dtype=pl.String),
            "x_px": micrograph.centres_px[:, 0],
            "y_px": micrograph.centres_px[:, 1],
            "diameter_px": np.full(len(micrograph.centres_px), diameter_px),
            "rot_deg": micrograph.angles_deg[:, 0],
            "tilt_deg": micrograph.angles_deg[:, 1],
            "psi_deg": micrograph.angles_deg[:, 2],
            "defocus_angstrom": micrograph.defocus_angstrom,
        }
    )


def _list_junk(name: str, micrograph: Micrograph) -> pl.DataFrame:
    schema = {
        "micrograph": pl.String,
        "kind": pl.String,
        "x_px": pl.Float64,
        "y_px": pl.Float64,
        "radius_px": pl.Float64,
    }
    rows = [(name, one.kind, one.x_px, one.y_px, one.radius_px) for one in micrograph.junk]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _spread_defocus(settings: SimulationSettings, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the defocus of every movie: one at random from each of as many equal parts of the range, in random order."""
    parts = (rng.permutation(settings.n_movies) + rng.uniform(0, 1, settings.n_movies)) / settings.n_movies
    span = settings.defocus_max_angstrom - settings.defocus_min_angstrom
    return np.asarray(settings.defocus_min_angstrom + span * parts)


def simulate_entry(
    out: Path, settings: SimulationSettings, progress: Callable[[float, str], None] | None = None
) -> SimulatedEntry:
    """Simulate a data set into the folder `out`; the same settings make the same files.

    Parameters
    ----------
    out
        Folder, made if need be; files of an earlier simulation are replaced.
    settings
        What to simulate.
    progress
        Told the fraction done and what is being done.

    Raises
    ------
    SettingError
        If there is no room for the particles.
    InputFileError
        If the atomic model cannot be read or the folder cannot be written to.
    """
    report = progress or (lambda fraction, doing: None)
    report(0.0, f"potential of {settings.model}")
    pixel_size = settings.pixel_size_angstrom
    specimen = load_specimen(settings.model, pixel_size)
    volume = compute_volume(specimen)
    projector = make_projector(settings.generator, specimen, volume)
    camera = make_camera(settings, np.random.default_rng([settings.seed, 0]))
    defocus = _spread_defocus(settings, np.random.default_rng([settings.seed, 0, 1]))
    diameter_px = round(specimen.diameter_angstrom / pixel_size, 3)

    movies, particles, micrographs, junk = [], [], [], []
    for index in range(settings.n_movies):
        name = f"movie_{index + 1:04d}"
        report((0.5 + index) / (0.5 + settings.n_movies), f"{name}, {index + 1} of {settings.n_movies}")
        rng = np.random.default_rng([settings.seed, 1 + index])
        with_carbon = index >= settings.n_movies - settings.n_carbon_movies
        micrograph = make_micrograph(
            settings,
            projector,
            specimen.box_px,
            specimen.diameter_angstrom,
            float(defocus[index]),
            with_carbon,
            rng,
        )
        trajectory = make_trajectory(settings, rng)
        local = make_local_drift(settings, np.random.default_rng([settings.seed, 1 + index, 1]))
        path = out / "movies" / f"{name}.tif"
        movie = make_movie(micrograph, trajectory, camera, settings, rng, local)
        write_tiff(path, movie, pixel_size_angstrom=pixel_size)
        movies.append(path)
        particles.append(_list_particles(name, micrograph, diameter_px))
        junk.append(_list_junk(name, micrograph))
        micrographs.append(
            {
                "micrograph": name,
                "defocus_u_angstrom": micrograph.defocus_u_angstrom,
                "defocus_v_angstrom": micrograph.defocus_v_angstrom,
                "defocus_angle_deg": micrograph.defocus_angle_deg,
                "carbon": with_carbon,
                "shift_x_px": trajectory[:, 1].tolist(),
                "shift_y_px": trajectory[:, 0].tolist(),
                "local_drift_px": local.coefficients_px.tolist(),
            }
        )

    gain = out / "gain.mrc" if settings.gain else None
    if gain is not None:
        write_mrc(gain, camera.gain, pixel_size)
    truth = out / "truth"
    entry = SimulatedEntry(
        root=out,
        settings=settings,
        movies=tuple(movies),
        gain=gain,
        coordinates=truth / "coordinates.csv",
        particles=truth / "particles.parquet",
        micrographs=truth / "micrographs.parquet",
        junk=truth / "junk.parquet",
        volume=truth / "map.mrc",
        diameter_angstrom=specimen.diameter_angstrom,
    )
    table = pl.concat(particles)
    write_text(entry.coordinates, table.select("micrograph", "x_px", "y_px", "diameter_px").write_csv())
    frames = (
        (entry.particles, table),
        (entry.micrographs, pl.DataFrame(micrographs)),
        (entry.junk, pl.concat(junk)),
    )
    for path, frame in frames:
        with open_for_replacement(path) as temporary:
            frame.write_parquet(temporary)
    write_mrc(entry.volume, volume, pixel_size, volume=True)
    report(1.0, "done")
    return entry
