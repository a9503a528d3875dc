"""RELION's motion files, and what RELION itself makes of them."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import starfile
from scipy.ndimage import gaussian_filter, map_coordinates

from vitreous.errors import InputFileError
from vitreous.exporters.relion import export_relion
from vitreous.exporters.relion_motion import MovieTrack, compute_motion_terms, fit_motion_model, read_track
from vitreous.io.mrc import write_mrc
from vitreous.io.star import read_star, write_star
from vitreous.model.tables import complete_table

NX, NY, N = 160, 120, 6
NAMES = ("mic_a", "mic_b", "mic_empty")


def displace(x: np.ndarray, y: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the local displacement at places from -0.5 to 0.5: of the kind that RELION's model holds exactly."""
    along_x = (1 + 2 * x - 3 * y + x * y) * (0.4 * frame - 0.01 * frame**3)
    along_y = (2 * x**2 - y + 0.5) * 0.05 * frame**2
    return along_x, along_y


def make_track(nx: int = NX, ny: int = NY, n: int = N) -> MovieTrack:
    frame = np.arange(n, dtype=np.float64)
    patch_x, patch_y = (
        axis.ravel() for axis in np.meshgrid(np.linspace(0.1, 0.9, 4) * nx, np.linspace(0.15, 0.85, 3) * ny)
    )
    local = displace(patch_x[:, None] / nx - 0.5, patch_y[:, None] / ny - 0.5, frame)
    return MovieTrack(0.5 * frame, -0.06 * frame**2, patch_x, patch_y, *local, is_local=True)


def describe(track: MovieTrack) -> dict[str, object]:
    arrays = {
        "shift_x_px": track.x,
        "shift_y_px": track.y,
        "patch_x_px": track.patch_x,
        "patch_y_px": track.patch_y,
        "patch_shift_x_px": track.local_x,
        "patch_shift_y_px": track.local_y,
    }
    return {name: values.tolist() for name, values in arrays.items()} | {"local_motion": track.is_local}


def make_tables(project: Any, track: MovieTrack, binning: int = 1) -> dict[str, pl.DataFrame]:
    """Write the track of every movie; the micrographs are smaller than the movies by `binning`."""
    for name in NAMES:
        path = project.root / "runs" / "002-motion" / f"{name}_motion.json"
        path.write_text(json.dumps(describe(track)))
    exposures = project.tables["exposures"].with_columns(
        n_frames=pl.lit(len(track.x), dtype=pl.Int64),
        gain_path=None,
        nx_px=pl.col("nx_px") * binning,
        ny_px=pl.col("ny_px") * binning,
        pixel_size_angstrom=pl.col("pixel_size_angstrom") / binning,
    )
    return {**project.tables, "exposures": complete_table("exposures", exposures)}


def run_relion(folder: Path, *words: str) -> None:
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_motion_star(toy_project: Any, tmp_path: Path) -> None:
    export_relion(toy_project.tables, toy_project.root, tmp_path / "to")
    blocks = starfile.read(tmp_path / "to" / "motion" / "mic_a.star")
    assert blocks["general"]["rlnMicrographMovieName"] == "Movies/mic_a.tif"
    assert blocks["general"]["rlnMicrographGainName"] == "Gain/gain.mrc"
    assert blocks["general"]["rlnMicrographDoseRate"] == 1.25
    assert blocks["global_shift"]["rlnMicrographFrameNumber"].tolist() == [1, 2, 3]
    # Content moved to -1.25, 2.5 in x and 3.5, 4.75 in y.
    assert blocks["global_shift"]["rlnMicrographShiftX"].tolist() == [0, 1.25, -2.5]
    assert blocks["global_shift"]["rlnMicrographShiftY"].tolist() == [0, -3.5, -4.75]


def test_motion_is_counted_from_the_first_frame(toy_project: Any, tmp_path: Path) -> None:
    path = toy_project.root / "runs" / "002-motion" / "mic_a_motion.json"
    path.write_text(json.dumps({"shift_x_px": [2.0, 3.0, 5.0], "shift_y_px": [-1.0, -1.0, 1.0]}))
    export_relion(toy_project.tables, toy_project.root, tmp_path / "to")
    shifts = read_star(tmp_path / "to" / "motion" / "mic_a.star")["global_shift"]
    assert shifts.rows() == [(1, 0, 0), (2, -1, 0), (3, -3, -2)]


@pytest.mark.parametrize("text", ["{", "[1]", '{"shift_x_px": [0, 1]}', '{"shift_x_px": [0, 1], "shift_y_px": [0, 1]}'])
def test_broken_motion(toy_project: Any, tmp_path: Path, text: str) -> None:
    (toy_project.root / "runs" / "002-motion" / "mic_a_motion.json").write_text(text)
    with pytest.raises(InputFileError, match=r"mic_a_motion.json: found .* Run motion again"):
        export_relion(toy_project.tables, toy_project.root, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_model_of_known_motion_is_found_exactly() -> None:
    track = make_track(n=40)
    coefficients, residual = fit_motion_model(track, NX, NY)
    assert residual < 1e-9
    expected = np.zeros((2, 6, 3))
    expected[0, :, 0] = -0.4 * np.array([1, 2, 0, -3, 0, 1])
    expected[0, :, 2] = 0.01 * np.array([1, 2, 0, -3, 0, 1])
    expected[1, :, 1] = -0.05 * np.array([0.5, 0, 2, -1, 0, 0])
    np.testing.assert_allclose(coefficients, expected.ravel(), atol=1e-8)


def test_residual_is_the_distance_left() -> None:
    track = make_track()
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 12, N))
    noisy = MovieTrack(track.x, track.y, track.patch_x, track.patch_y, noise[0], noise[1], is_local=True)
    coefficients, residual = fit_motion_model(noisy, NX, NY)
    x, y = (noisy.patch_x / NX - 0.5)[:, None], (noisy.patch_y / NY - 0.5)[:, None]
    terms = compute_motion_terms(x, y, np.arange(N, dtype=float)[None])
    left = -noise - np.stack([terms @ coefficients[:18], terms @ coefficients[18:]])
    assert residual == pytest.approx(float(np.sqrt((left**2).sum(axis=0).mean())))
    # 18 of the 72 values of each axis are fitted.
    assert residual == pytest.approx(np.sqrt(2 * 54 / 72), rel=0.2)


def test_blocks(toy_project: Any, tmp_path: Path) -> None:
    track = make_track(2 * NX, 2 * NY)
    summary = export_relion(make_tables(toy_project, track, binning=2), toy_project.root, tmp_path / "to")
    assert not any("polynomial" in warning for warning in summary.warnings)
    blocks = read_star(tmp_path / "to" / "motion" / "mic_a.star")
    general = blocks["general"].to_dicts()[0]
    assert (general["rlnImageSizeX"], general["rlnImageSizeY"], general["rlnImageSizeZ"]) == (2 * NX, 2 * NY, N)
    assert (general["rlnMicrographBinning"], general["rlnMicrographOriginalPixelSize"]) == (2, 0.75)
    assert general["rlnMotionModelVersion"] == 1
    np.testing.assert_allclose(blocks["global_shift"]["rlnMicrographShiftX"], -track.x)
    local = blocks["local_shift"]
    assert local["rlnMicrographFrameNumber"].to_list() == list(range(1, N + 1)) * 12
    np.testing.assert_allclose(local["rlnCoordinateX"].to_numpy().reshape(12, N)[:, 0], track.patch_x)
    np.testing.assert_allclose(local["rlnMicrographShiftX"].to_numpy().reshape(12, N), -track.local_x, atol=1e-9)
    np.testing.assert_allclose(local["rlnMicrographShiftY"].to_numpy().reshape(12, N), -track.local_y, atol=1e-9)
    assert blocks["local_motion_model"]["rlnMotionModelCoeffsIdx"].to_list() == list(range(36))


def test_no_local_motion_no_model(toy_project: Any, tmp_path: Path) -> None:
    track = make_track()
    still = MovieTrack(track.x, track.y, track.patch_x, track.patch_y, track.local_x, track.local_y, is_local=False)
    export_relion(make_tables(toy_project, still), toy_project.root, tmp_path / "to")
    blocks = read_star(tmp_path / "to" / "motion" / "mic_a.star")
    assert set(blocks) == {"general", "global_shift"}
    assert blocks["general"]["rlnMotionModelVersion"].item() == 0


def test_motion_beyond_the_model_is_a_warning(toy_project: Any, tmp_path: Path) -> None:
    track = make_track()
    wave = 2 * np.sin(np.arange(12) * 2.5)[:, None] * np.arange(N)
    wild = MovieTrack(track.x, track.y, track.patch_x, track.patch_y, wave, wave, is_local=True)
    tables = make_tables(toy_project, track)
    (toy_project.root / "runs" / "002-motion" / "mic_b_motion.json").write_text(json.dumps(describe(wild)))
    summary = export_relion(tables, toy_project.root, tmp_path / "to")
    assert len([text for text in summary.warnings if "local motion of 1 movies" in text and "in mic_b" in text]) == 1


@pytest.mark.parametrize("change", [{"patch_shift_x_px": [[0, 1]]}, {"patch_y_px": [1.0]}, {"patch_x_px": None}])
def test_damaged_local_motion(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(describe(make_track()) | change))
    with pytest.raises(InputFileError, match=r"m\.json: found .* Run motion again"):
        read_track(path, N)


@pytest.mark.relion
def test_motion_has_the_sign_and_labels_of_relion(tmp_path: Path, toy_project: Any) -> None:
    """A movie moved by known steps: RELION measures, in its own file, what ours says of these steps."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft2(rng.normal(size=(256, 320)))
    ky, kx = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(320)[None]
    scene = np.fft.irfft2(spectrum * np.exp(-(ky**2 + kx**2) * 60), s=(256, 320))
    scene *= 5 / scene.std()
    shift_x, shift_y = [0, -3, -6], [0, 2, 4]
    frames = [
        np.roll(scene, (y, x), (0, 1)) + 20 + rng.normal(size=scene.shape)
        for x, y in zip(shift_x, shift_y, strict=True)
    ]
    work = tmp_path / "relion"
    write_mrc(work / "mov.mrcs", np.stack(frames).astype(np.float32), 1.5)
    optics = (
        "data_optics\n\nloop_\n_rlnOpticsGroupName\n_rlnOpticsGroup\n_rlnMicrographOriginalPixelSize\n_rlnVoltage\n"
        + ("_rlnSphericalAberration\n_rlnAmplitudeContrast\nog 1 1.5 300 2.7 0.1\n\n")
    )
    loop = "data_movies\n\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\nmov.mrcs 1\n"
    (work / "movies.star").write_text(f"# version 30001\n\n{optics}# version 30001\n\n{loop}")
    run_relion(work, "relion_run_motioncorr", "--i", "movies.star", "--o", "MC/", "--use_own", "--j", "1", "--patch_x", "1",
               "--patch_y", "1", "--dose_per_frame", "1.25", "--dose_weighting")  # fmt: skip
    motion = toy_project.root / "runs" / "002-motion" / "mic_a_motion.json"
    motion.write_text(json.dumps({"shift_x_px": shift_x, "shift_y_px": shift_y}))
    tables = {**toy_project.tables, "exposures": toy_project.tables["exposures"].with_columns(gain_path=None)}
    tables["exposures"] = complete_table("exposures", tables["exposures"])
    export_relion(tables, toy_project.root, tmp_path / "to")
    theirs, ours = (read_star(path) for path in (work / "MC" / "mov.star", tmp_path / "to" / "motion" / "mic_a.star"))
    assert {name: frame.columns for name, frame in ours.items()} == {
        name: frame.columns for name, frame in theirs.items()
    }
    difference = ours["global_shift"].to_numpy() - theirs["global_shift"].to_numpy()
    assert np.abs(difference).max() < 0.3


@pytest.mark.relion
@pytest.mark.parametrize("binning", [1, 2])
def test_relion_starts_its_particle_tracks_from_our_motion(toy_project: Any, tmp_path: Path, binning: int) -> None:
    """Particle polishing without a step: the tracks that it writes are what it reads from the motion files."""
    nx, ny = NX * binning, NY * binning
    tables = make_tables(toy_project, make_track(nx, ny), binning)
    posed = tables["particles"].with_columns(rot_deg=pl.lit(0.0), tilt_deg=pl.lit(0.0), psi_deg=pl.lit(0.0))
    tables["particles"] = complete_table("particles", posed)
    exposures = tables["exposures"].with_columns(movie_path=pl.format("{}.mrcs", "exposure_id"))
    tables["exposures"] = complete_table("exposures", exposures)
    folder = tmp_path / "to"
    export_relion(tables, toy_project.root, folder)
    rng = np.random.default_rng(0)
    for name in NAMES:
        write_mrc(folder / "Movies" / f"{name}.mrcs", rng.poisson(10, (N, ny, nx)).astype(np.float32), 1.5 / binning)
    shell = np.arange(13)
    curve = {"rlnSpectralIndex": shell, "rlnResolution": shell / 36}
    curve |= {f"rlnFourierShellCorrelation{kind}": np.ones(13) for kind in ("Corrected", "MaskedMaps")}
    write_star(folder / "fsc.star", {"general": {"rlnFinalResolution": 4.0}, "fsc": pl.DataFrame(curve)})
    run_relion(
        folder, "relion_motion_refine", "--i", "particles.star", "--o", "MF/", "--f", "fsc.star", "--corr_mic",
        "micrographs.star", "--m1", "maps/map_half1.mrc", "--m2", "maps/map_half2.mrc", "--angpix_ref", "1.5", "--fdose",
        "1.25", "--max_iters", "0",
    )  # fmt: skip
    particles = read_star(folder / "particles.star")["particles"]
    frame = np.arange(N, dtype=np.float64)
    for name in ("mic_a", "mic_b"):
        tracks = read_star(folder / "MF" / "Micrographs" / f"{name}_tracks.star")
        rows = particles.filter(pl.col("rlnMicrographName") == f"Micrographs/{name}.mrc")
        for i, (x, y) in enumerate(rows.select("rlnCoordinateX", "rlnCoordinateY").iter_rows()):
            local_x, local_y = displace(x / NX - 0.5, y / NY - 0.5, frame)
            expected = np.stack([0.5 * frame + local_x, -0.06 * frame**2 + local_y], axis=1) * 1.5 / binning
            found = tracks[str(i)].select("rlnOriginXAngst", "rlnOriginYAngst").to_numpy()
            np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.relion
def test_relion_writes_what_we_write(toy_project: Any, tmp_path: Path) -> None:
    """A bending scene: labels, order, normalisation and sign of the model and of the patches are those of RELION."""
    rng, n, ny, nx = np.random.default_rng(0), 5, 360, 480
    scene = gaussian_filter(rng.normal(size=(ny, nx)), 1.5, mode="wrap")
    y, x = np.mgrid[:ny, :nx].astype(np.float64)
    frames = []
    for z in range(n):
        moved_x, moved_y = displace(x / nx - 0.5, y / ny - 0.5, np.full(1, z))
        frame = map_coordinates(scene / scene.std() * 3, [y - moved_y, x - moved_x], order=2, mode="wrap")
        frames.append(frame + 20 + rng.normal(size=scene.shape))
    work = tmp_path / "relion"
    write_mrc(work / "mov.mrcs", np.stack(frames).astype(np.float32), 1.5)
    optics = {
        "rlnOpticsGroupName": "og",
        "rlnOpticsGroup": 1,
        "rlnMicrographOriginalPixelSize": 1.5,
        "rlnVoltage": 300.0,
    }
    optics |= {"rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    movies = pl.DataFrame({"rlnMicrographMovieName": ["mov.mrcs"], "rlnOpticsGroup": [1]})
    write_star(work / "movies.star", {"optics": pl.DataFrame([optics]), "movies": movies})
    run_relion(work, "relion_run_motioncorr", "--i", "movies.star", "--o", "MC/", "--use_own", "--j", "1", "--patch_x", "3",
               "--patch_y", "3", "--dose_per_frame", "1.25", "--dose_weighting")  # fmt: skip
    theirs = read_star(work / "MC" / "mov.star")
    export_relion(make_tables(toy_project, make_track()), toy_project.root, tmp_path / "to")
    ours = read_star(tmp_path / "to" / "motion" / "mic_a.star")
    assert {name: frame.columns for name, frame in ours.items()} == {
        name: frame.columns for name, frame in theirs.items()
    }
    local, model = (
        theirs["local_shift"],
        theirs["local_motion_model"]["rlnMotionModelCoeff"].cast(pl.Float64).to_numpy(),
    )
    centre_x, centre_y, shift_x, shift_y = (
        local[f"rln{name}"].cast(pl.Float64).to_numpy().reshape(-1, n)
        for name in ("CoordinateX", "CoordinateY", "MicrographShiftX", "MicrographShiftY")
    )
    u, v, frame = centre_x / nx - 0.5, centre_y / ny - 0.5, np.arange(n, dtype=np.float64)[None]
    terms = compute_motion_terms(u, v, np.broadcast_to(frame, u.shape))
    track_x, track_y = (
        theirs["global_shift"][f"rlnMicrographShift{axis}"].cast(pl.Float64).to_numpy() for axis in "XY"
    )
    # RELION's model is fitted to its patches less their first frame.
    measured = np.stack([shift_x - shift_x[:, :1], shift_y - shift_y[:, :1]])
    modelled = np.stack([terms @ model[:18], terms @ model[18:]])
    assert np.sqrt(np.mean((modelled - measured) ** 2)) < 0.25 * measured.std()
    whole = np.stack([track_x, track_y])[:, None]
    truth = np.stack(displace(u, v, frame))
    assert np.corrcoef((measured + whole).ravel(), -truth.ravel())[0, 1] > 0.98
