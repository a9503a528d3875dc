"""Movies of known truth through the whole stage on disk, beside RELION's own motion correction, and damaged ones."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
from numpy.typing import NDArray

from vitreous.engine.machine import Machine
from vitreous.engine.project import create_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.engine.run import run_stage
from vitreous.errors import InputFileError, SettingError
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.star import read_star
from vitreous.io.tiff import write_tiff
from vitreous.model.documents import Facts
from vitreous.model.provenance import Recipe, RecipeStep
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import complete_table, empty_table
from vitreous.simulate.micrograph import make_micrograph
from vitreous.simulate.movie import make_camera, make_clean_frames, make_movie
from vitreous.simulate.particles import AtomProjector
from vitreous.simulate.settings import SimulationSettings
from vitreous.simulate.volume import load_specimen
from vitreous.stages.motion import STAGE, MotionParams

SETTINGS = SimulationSettings(
    nx_px=640,
    ny_px=512,
    pixel_size_angstrom=2.0,
    n_frames=12,
    dose_per_frame=2.0,
    particles_per_movie=22,
    n_contaminants=0,
    n_hot_pixels=30,
    drift_angstrom=14,
    seed=3,
)


@dataclass(frozen=True)
class Simulated:
    movie: NDArray[np.uint8]
    gain: NDArray[np.float32]
    path: NDArray[np.float64]
    hot: NDArray[np.bool_]
    clean: NDArray[np.float32]


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    specimen = load_specimen("apoferritin", SETTINGS.pixel_size_angstrom)
    rng = np.random.default_rng(SETTINGS.seed)
    micrograph = make_micrograph(
        SETTINGS, AtomProjector(specimen), specimen.box_px, specimen.diameter_angstrom, 18_000.0, False, rng
    )
    progress = 1 - np.exp(-3 * np.arange(SETTINGS.n_frames) / SETTINGS.n_frames)
    path = np.stack([5 * progress, -4 * progress + progress**2], axis=1)
    camera = make_camera(SETTINGS, rng)
    movie = make_movie(micrograph, path, camera, SETTINGS, rng)
    clean = make_clean_frames(micrograph, np.zeros((1, 2)), SETTINGS.model_copy(update={"damage": False}))[0]
    return Simulated(movie, camera.gain, path, camera.hot > 0, clean)


def list_exposures(**changes: object) -> pl.DataFrame:
    row = {
        "exposure_id": "m",
        "movie_path": "m.tif",
        "micrograph_path": None,
        "n_frames": SETTINGS.n_frames,
        "nx_px": SETTINGS.nx_px,
        "ny_px": SETTINGS.ny_px,
        "pixel_size_angstrom": SETTINGS.pixel_size_angstrom,
        "voltage_kv": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.07,
        "optics_group": 1,
        "dose_per_frame": SETTINGS.dose_per_frame,
        "pre_exposure": 0.0,
        "gain_path": None,
    }
    return pl.DataFrame([row | changes], schema=empty_table("exposures").schema)


def correct(root: Path, exposures: pl.DataFrame, params: MotionParams | None = None) -> Saved:
    """Run the stage as the engine would, with every failure raised."""
    params, inputs, context = params or MotionParams(), Inputs({"exposures": exposures}), Context(root)
    folder = RunFolder(root, root / "runs" / "002-motion")
    rows, warnings = [], []
    for item in STAGE.plan(inputs, params, context):
        again = STAGE.item.model_validate_json(item.model_dump_json())
        saved = STAGE.save(STAGE.compute(STAGE.load(again, params, context), params), again, folder)
        rows.append(complete_table("micrographs", saved.tables["micrographs"]))
        warnings += saved.warnings
    return STAGE.collect(inputs, Saved({"micrographs": pl.concat(rows)}, tuple(warnings)), params)


def read_path(root: Path, row: dict[str, object]) -> NDArray[np.float64]:
    trajectory = json.loads((root / str(row["trajectory_path"])).read_text(encoding="utf-8"))
    return np.stack([trajectory["shift_y_px"], trajectory["shift_x_px"]], axis=1)


def rms(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Root mean square error of a coordinate, whatever the origin."""
    error = (found - found.mean(0)) - (truth - truth.mean(0))
    return float(np.sqrt((error**2).mean()))


def correlate_low(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Correlation of two images between 100 and 10 Å."""
    k = np.hypot(np.fft.fftfreq(first.shape[0], 2.0)[:, None], np.fft.rfftfreq(first.shape[1], 2.0)[None, :])
    band = (k > 0.01) & (k < 0.1)
    a, b = (np.fft.rfft2(image)[band] for image in (first, second))
    return float((a * b.conj()).sum().real / np.linalg.norm(a) / np.linalg.norm(b))


def test_a_movie_of_known_truth(tmp_path: Path, simulated: Simulated) -> None:
    write_tiff(tmp_path / "m.tif", simulated.movie)
    write_mrc(tmp_path / "gain.mrc", simulated.gain, 2.0)
    saved = correct(tmp_path, list_exposures(gain_path="gain.mrc"))
    assert saved.warnings == ()
    row = saved.tables["micrographs"].row(0, named=True)
    path = read_path(tmp_path, row)
    assert path[0].tolist() == [0.0, 0.0]
    assert rms(path, simulated.path) < 0.15
    weighted, header = read_mrc(tmp_path / row["micrograph_path"])
    plain, _ = read_mrc(tmp_path / row["nodw_path"])
    assert weighted.shape == plain.shape == (row["ny_px"], row["nx_px"]) == (512, 640)
    assert weighted.dtype == np.float32
    assert header.pixel_size_angstrom == pytest.approx(2.0)
    # The sum is in the frame of the first frame, in counts; damage makes the weighted sum the better one.
    assert plain.mean() == pytest.approx((simulated.movie * simulated.gain)[:, ~simulated.hot].sum(0).mean(), rel=1e-3)
    unaligned = (simulated.movie * simulated.gain).sum(0).astype(np.float32)
    unaligned[simulated.hot] = unaligned.mean()
    scores = [correlate_low(image, simulated.clean) for image in (unaligned, plain, weighted)]
    assert scores[0] + 0.05 < scores[1] < scores[2]
    # Hot pixels are gone.
    assert np.abs(plain - plain.mean()).max() < 8 * plain.std()
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1) * 2.0
    assert row["total_motion_angstrom"] == pytest.approx(steps.sum())
    assert row["early_motion_angstrom"] == pytest.approx(steps[:2].sum())
    assert row["early_motion_angstrom"] + row["late_motion_angstrom"] == pytest.approx(steps.sum())


def test_the_pattern_of_an_uncorrected_camera_does_not_hold_the_specimen(tmp_path: Path, simulated: Simulated) -> None:
    write_tiff(tmp_path / "m.tif", simulated.movie)
    path = read_path(tmp_path, correct(tmp_path, list_exposures()).tables["micrographs"].row(0, named=True))
    assert rms(path, simulated.path) < 0.25


def test_without_motion_the_sum_is_the_sum(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(3.0, (6, 97, 130)).astype(np.uint8)
    write_mrc(tmp_path / "m.mrc", counts, 2.0)
    exposures = list_exposures(movie_path="m.mrc", n_frames=6, ny_px=97, nx_px=130, dose_per_frame=None)
    saved = correct(tmp_path, exposures)
    row = saved.tables["micrographs"].row(0, named=True)
    assert (read_path(tmp_path, row) == 0).all()
    np.testing.assert_allclose(read_mrc(tmp_path / row["micrograph_path"])[0], counts.sum(0), atol=0.02)
    assert row["nodw_path"] is None
    assert row["early_motion_angstrom"] is None
    assert [warning for warning in saved.warnings if "--total-dose" in warning]
    (warning,) = correct(tmp_path, exposures, MotionParams(dose_weighting=False)).warnings
    assert "m: found nothing that the frames have in common" in warning


def test_weighted_noise_stays_white_and_equals_the_formula(tmp_path: Path) -> None:
    counts = np.random.default_rng(1).poisson(5.0, (5, 128, 120)).astype(np.uint16)
    write_tiff(tmp_path / "m.tif", counts)
    exposures = list_exposures(n_frames=5, ny_px=128, nx_px=120, dose_per_frame=6.0, pre_exposure=2.0, voltage_kv=200.0)
    row = correct(tmp_path, exposures).tables["micrographs"].row(0, named=True)
    assert (read_path(tmp_path, row) == 0).all()
    k = np.hypot(np.fft.fftfreq(128, 2.0)[:, None], np.fft.rfftfreq(120, 2.0)[None, :])
    with np.errstate(divide="ignore"):
        rate = 1 / (2 * 0.8 * (0.24499 * k**-1.6649 + 2.8141))
    start = 2.0 + 6.0 * np.arange(5)[:, None, None]
    rate_or_one = np.where(rate > 0, rate, 1.0)
    mean = (np.exp(-start * rate) - np.exp(-(start + 6.0) * rate)) / (6.0 * rate_or_one)
    weights = np.where(rate > 0, mean, 1.0)
    expected = (weights * np.fft.rfft2(counts.astype(np.float64))).sum(0) / np.sqrt((weights**2).mean(0))
    image = np.fft.irfft2(expected, (128, 120))
    found, _ = read_mrc(tmp_path / row["micrograph_path"])
    np.testing.assert_allclose(found, image, atol=2.5e-3 * image.std())


def test_halves_bins_and_patches_are_written(tmp_path: Path, simulated: Simulated) -> None:
    write_tiff(tmp_path / "m.tif", simulated.movie)
    write_mrc(tmp_path / "gain.mrc", simulated.gain, 2.0)
    params = MotionParams(halves=True, bin_factor=2.0, float16=True)
    row = correct(tmp_path, list_exposures(gain_path="gain.mrc"), params).tables["micrographs"].row(0, named=True)
    images = {name: read_mrc(tmp_path / row[f"{name}_path"]) for name in ("even", "odd", "nodw", "micrograph")}
    for image, header in images.values():
        assert image.shape == (row["ny_px"], row["nx_px"]) == (256, 320)
        assert image.dtype == np.float16
        assert header.pixel_size_angstrom == pytest.approx(row["pixel_size_angstrom"]) == pytest.approx(4.0)
    even, odd, plain = (images[name][0].astype(np.float32) for name in ("even", "odd", "nodw"))
    # Half precision has 11 bits.
    np.testing.assert_allclose(even + odd, plain, rtol=2e-3)
    found = json.loads((tmp_path / str(row["trajectory_path"])).read_text(encoding="utf-8"))
    # 1280 x 1024 Å in patches of 500 Å: too few to tell local motion.
    assert found["local_motion"] is False
    assert len(found["patch_x_px"]) == len(found["patch_y_px"]) == 4
    for axis in "xy":
        shifts = np.array(found[f"patch_shift_{axis}_px"])
        assert shifts.shape == (4, SETTINGS.n_frames)
        assert (shifts == 0).all()
    assert row["local_motion_angstrom"] == 0


@pytest.mark.parametrize(("level", "noise"), [(9e4, 300.0), (2e4, 5.0)])
def test_half_precision_that_does_not_hold_the_image_is_refused(tmp_path: Path, level: float, noise: float) -> None:
    """Integrating cameras count to thousands in a frame: sums beyond the largest value, or finer than a step."""
    counts = np.random.default_rng(7).normal(level / 4, noise / 2, (4, 64, 64)).astype(np.float32)
    write_mrc(tmp_path / "m.mrc", counts, 2.0)
    exposures = list_exposures(movie_path="m.mrc", n_frames=4, ny_px=64, nx_px=64, dose_per_frame=None)
    with pytest.raises(SettingError, match=r"motion\.float16: found values of .* Leave float16 out"):
        correct(tmp_path, exposures, MotionParams(float16=True))
    row = correct(tmp_path, exposures).tables["micrographs"].row(0, named=True)
    np.testing.assert_allclose(read_mrc(tmp_path / row["micrograph_path"])[0], counts.sum(0), rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "uint32"])
def test_types_that_torch_cannot_work_on(tmp_path: Path, dtype: str) -> None:
    counts = np.random.default_rng(8).poisson(3.0, (4, 64, 70))
    counts[:, 20, 30] = 900
    if dtype == "float16":
        write_mrc(tmp_path / "m.mrc", counts.astype(dtype), 2.0)
    else:
        tifffile.imwrite(tmp_path / "m.tif", counts[:, ::-1].astype(dtype), photometric="minisblack")
    write_mrc(tmp_path / "usual.mrc", counts.astype(np.int16), 2.0)
    sums = []
    for path in (next(tmp_path.glob("m.*")).name, "usual.mrc"):
        exposures = list_exposures(movie_path=path, n_frames=4, ny_px=64, nx_px=70, dose_per_frame=None)
        row = correct(tmp_path, exposures).tables["micrographs"].row(0, named=True)
        sums.append(read_mrc(tmp_path / row["micrograph_path"])[0])
    np.testing.assert_array_equal(*sums)
    # The hot pixel was replaced.
    assert sums[0].max() < 100


def test_finished_micrographs_pass_through(tmp_path: Path) -> None:
    image = np.random.default_rng(2).normal(size=(40, 30)).astype(np.float32)
    write_mrc(tmp_path / "m.mrc", image, 1.3)
    exposures = list_exposures(movie_path=None, micrograph_path="m.mrc", n_frames=1, ny_px=40, nx_px=30)
    row = correct(tmp_path, exposures).tables["micrographs"].row(0, named=True)
    np.testing.assert_array_equal(read_mrc(tmp_path / row["micrograph_path"])[0], image)
    assert row["trajectory_path"] is row["total_motion_angstrom"] is row["nodw_path"] is None


def test_movies_of_the_other_byte_order(tmp_path: Path) -> None:
    counts = np.random.default_rng(3).integers(0, 300, (4, 48, 50)).astype(np.int16)
    write_mrc(tmp_path / "little.mrc", counts, 2.0)
    raw = (tmp_path / "little.mrc").read_bytes()
    header = np.frombuffer(raw[:1024], "<i4").astype(">i4").tobytes()
    # Text and machine stamp are bytes, not numbers.
    header = (
        header[:104]
        + raw[104:108]
        + header[108:208]
        + raw[208:212]
        + b"\x11\x11\x00\x00"
        + header[216:224]
        + raw[224:1024]
    )
    (tmp_path / "big.mrc").write_bytes(header + counts.astype(">i2").tobytes())
    sums = []
    for name in ("little", "big"):
        exposures = list_exposures(exposure_id=name, movie_path=f"{name}.mrc", n_frames=4, ny_px=48, nx_px=50)
        row = correct(tmp_path, exposures).tables["micrographs"].row(0, named=True)
        sums.append(read_mrc(tmp_path / row["micrograph_path"])[0])
    np.testing.assert_array_equal(*sums)


def make_bad(folder: Path, kind: str) -> None:
    counts = np.random.default_rng(4).poisson(20.0, (5, 64, 64)).astype(np.float32)
    path = folder / "bad.mrc"
    write_mrc(path, counts, 2.0)
    if kind == "nan":
        with path.open("r+b") as file:
            file.seek(1024 + 4 * (2 * 64 * 64 + 100))
            file.write(np.full(3, np.nan, "<f4").tobytes())
    elif kind == "empty":
        counts[2] = 0
        write_mrc(path, counts, 2.0)
    elif kind == "truncated":
        os.truncate(path, path.stat().st_size - 64 * 64 * 6)
    else:
        write_mrc(path, counts[:3], 2.0)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "found 3 pixels that are no number or infinite in frame 3"),
        ("empty", "no count at all in frame 3"),
        ("truncated", "truncated"),
        ("short", "3 frames"),
    ],
)
def test_damage_that_ingest_does_not_see_is_a_failed_item(tmp_path: Path, kind: str, words: str) -> None:
    """Ingest looks at the first and the last frame; a file may also change after it."""
    data = tmp_path / "data"
    for name in ("good1", "bad", "good2"):
        write_mrc(data / f"{name}.mrc", np.random.default_rng(5).poisson(20.0, (5, 64, 64)).astype(np.float32), 2.0)
    if kind in {"nan", "empty"}:
        make_bad(data, kind)
    steps = tuple(RecipeStep(stage=f"vitreous.stages.{name}:STAGE") for name in ("ingest", "motion"))
    facts = Facts(movies=str(data / "*.mrc"), pixel_size_angstrom=2.0, total_dose=10)
    project = create_project(tmp_path / "project", facts, Recipe(steps=steps))
    machine = Machine(workers=1, threads=1)
    assert run_stage(project, steps[0].stage, {}, machine).failed == ()
    if kind not in {"nan", "empty"}:
        make_bad(data, kind)
    record = run_stage(project, steps[1].stage, {}, machine)
    assert [item.item_id for item in record.failed] == ["bad"]
    assert "bad.mrc" in record.failed[0].message
    assert words in record.failed[0].message
    tables = read_current_tables(project, read_current_records(project))
    assert tables["micrographs"]["micrograph_id"].to_list() == ["good1", "good2"]


def test_a_gain_of_another_size_is_refused(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", np.random.default_rng(6).poisson(5.0, (3, 32, 40)).astype(np.uint8), 2.0)
    write_mrc(tmp_path / "gain.mrc", np.ones((32, 32), np.float32), 2.0)
    with pytest.raises(InputFileError, match=r"m\.mrc: found frames of 40x32 pixels; expected 32x32"):
        correct(tmp_path, list_exposures(movie_path="m.mrc", n_frames=3, gain_path="gain.mrc"))


@pytest.mark.relion
def test_relion_finds_the_same_track(tmp_path: Path, simulated: Simulated) -> None:
    write_mrc(tmp_path / "m.mrcs", simulated.movie.astype(np.float32), 2.0)
    write_mrc(tmp_path / "gain.mrc", simulated.gain, 2.0)
    (tmp_path / "movies.star").write_text(
        "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographOriginalPixelSize #3\n"
        "_rlnVoltage #4\n_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\nopticsGroup1 1 2.0 300 2.7 0.07\n\n"
        "data_movies\n\nloop_\n_rlnMicrographMovieName #1\n_rlnOpticsGroup #2\nm.mrcs 1\n",
        encoding="utf-8",
    )
    command = (
        "relion_run_motioncorr --i movies.star --o MC/ --use_own --j 1 --patch_x 1 --patch_y 1 --bfactor 150 "
        "--dose_per_frame 2.0 --preexposure 0 --bin_factor 1 --gainref gain.mrc"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    shifts = read_star(tmp_path / "MC" / "m.star")["global_shift"]
    relion = -np.stack([shifts[f"rlnMicrographShift{axis}"].cast(pl.Float64).to_numpy() for axis in "YX"], axis=1)
    exposures = list_exposures(movie_path="m.mrcs", gain_path="gain.mrc")
    path = read_path(tmp_path, correct(tmp_path, exposures).tables["micrographs"].row(0, named=True))
    assert rms(path, relion) < 0.5
    assert rms(path, simulated.path) < rms(relion, simulated.path)
