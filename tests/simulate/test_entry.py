"""A whole simulated data set on disk."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from vitreous.errors import InputFileError
from vitreous.io.mrc import read_mrc
from vitreous.io.tiff import read_tiff, read_tiff_header
from vitreous.simulate.entry import SimulatedEntry, simulate_entry
from vitreous.simulate.settings import SimulationSettings

SETTINGS = SimulationSettings(
    n_movies=2,
    nx_px=320,
    ny_px=256,
    pixel_size_angstrom=3.0,
    n_frames=4,
    particles_per_movie=10,
    n_contaminants=0,
    n_hot_pixels=3,
    n_carbon_movies=0,
    ice_thickness_angstrom=500,
    seed=1,
)


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> SimulatedEntry:
    return simulate_entry(tmp_path_factory.mktemp("entry"), SETTINGS)


def test_files_are_where_the_entry_says(entry: SimulatedEntry) -> None:
    assert [path.name for path in entry.movies] == ["movie_0001.tif", "movie_0002.tif"]
    for path in entry.movies:
        assert read_tiff_header(path)[:3] == (4, 256, 320)
        assert read_tiff_header(path)[3] == pytest.approx(3.0, rel=1e-4)
    assert entry.gain is not None
    gain, header = read_mrc(entry.gain)
    assert gain.shape == (256, 320)
    assert header.pixel_size_angstrom == pytest.approx(3.0, rel=1e-5)
    volume, header = read_mrc(entry.volume)
    assert volume.ndim == 3
    assert 100 < entry.diameter_angstrom < 140


def test_the_truth_is_complete(entry: SimulatedEntry) -> None:
    coordinates = pl.read_csv(entry.coordinates)
    assert coordinates.columns == ["micrograph", "x_px", "y_px", "diameter_px"]
    assert coordinates["micrograph"].value_counts().sort("micrograph").rows() == [
        ("movie_0001", 10),
        ("movie_0002", 10),
    ]
    assert coordinates["x_px"].is_between(0, 319).all()
    assert coordinates["y_px"].is_between(0, 255).all()
    particles = pl.read_parquet(entry.particles)
    assert {"rot_deg", "tilt_deg", "psi_deg", "defocus_angstrom"} <= set(particles.columns)
    micrographs = pl.read_parquet(entry.micrographs)
    for row in micrographs.iter_rows(named=True):
        mean = (row["defocus_u_angstrom"] + row["defocus_v_angstrom"]) / 2
        assert SETTINGS.defocus_min_angstrom <= mean <= SETTINGS.defocus_max_angstrom
        assert row["shift_x_px"][0] == row["shift_y_px"][0] == 0
        assert len(row["shift_x_px"]) == 4
        own = particles.filter(pl.col("micrograph") == row["micrograph"])["defocus_angstrom"]
        assert ((own - mean).abs() < SETTINGS.ice_thickness_angstrom / 2).all()


def test_particles_are_dark_in_the_files_themselves(entry: SimulatedEntry) -> None:
    """Row 0 in memory, the gain and the coordinates belong together: the whole way through the disk."""
    assert entry.gain is not None
    gain, _ = read_mrc(entry.gain)
    truth = pl.read_csv(entry.coordinates)
    radius_px = entry.diameter_angstrom / SETTINGS.pixel_size_angstrom / 2
    y, x = np.ogrid[:256, :320]
    for path in entry.movies:
        image = np.median(read_tiff(path), axis=0) * gain
        own = truth.filter(pl.col("micrograph") == path.stem)
        distances = np.min([np.hypot(y - cy, x - cx) for cx, cy in own.select("x_px", "y_px").iter_rows()], axis=0)
        shell = (distances > 0.65 * radius_px) & (distances < radius_px)
        mirrored = shell[::-1]
        outside = image[distances > 1.5 * radius_px].mean()
        assert outside - image[shell].mean() > 0.01 * outside
        assert outside - image[shell].mean() > 2 * (outside - image[mirrored].mean())


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_settings_make_the_same_files(entry: SimulatedEntry, tmp_path: Path, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = simulate_entry(tmp_path, SETTINGS)
    finally:
        torch.set_num_threads(before)
    for first, second in zip(entry.movies, again.movies, strict=True):
        assert first.read_bytes() == second.read_bytes()
    for name in ("coordinates", "particles", "micrographs"):
        assert getattr(entry, name).read_bytes() == getattr(again, name).read_bytes()
    np.testing.assert_array_equal(read_mrc(entry.volume)[0], read_mrc(again.volume)[0])


def test_other_seeds_make_other_movies_and_progress_is_told(entry: SimulatedEntry, tmp_path: Path) -> None:
    told: list[float] = []
    settings = SETTINGS.model_copy(update={"seed": 2, "n_movies": 1, "gain": False})
    other = simulate_entry(tmp_path, settings, lambda fraction, doing: told.append(fraction))
    assert other.gain is None
    assert not (tmp_path / "gain.mrc").exists()
    assert not np.array_equal(read_tiff(other.movies[0]), read_tiff(entry.movies[0]))
    assert told == sorted(told)
    assert told[-1] == 1


def test_an_unknown_model_is_refused_with_the_names_of_those_shipped(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="apoferritin, glua3-ntd"):
        simulate_entry(tmp_path, SETTINGS.model_copy(update={"model": "ferritin"}))
