"""Measure the trajectories of simulated movies against their truth, beside RELION's own motion correction where it is installed.

python benchmarks/accuracy/motion.py

Writes benchmarks/results/motion-accuracy.md.
"""

import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from vitreous.io.mrc import write_mrc
from vitreous.io.star import read_star
from vitreous.io.tiff import write_tiff
from vitreous.model.stage import Context, Inputs, RunFolder
from vitreous.model.tables import empty_table
from vitreous.simulate.drift import make_trajectory
from vitreous.simulate.micrograph import make_micrograph
from vitreous.simulate.movie import make_camera, make_movie
from vitreous.simulate.particles import AtomProjector
from vitreous.simulate.settings import SimulationSettings
from vitreous.simulate.volume import load_specimen
from vitreous.stages.motion import STAGE, MotionParams

RESULTS = Path(__file__).resolve().parents[1] / "results"
BASE = SimulationSettings(
    nx_px=768, ny_px=720, pixel_size_angstrom=1.75, n_frames=24, dose_per_frame=1.5, particles_per_movie=33
)
CASES: dict[str, dict[str, object]] = {
    "1.5 e/Å² a frame, 24 frames": {},
    "1 e/Å² a frame, 30 frames": {"dose_per_frame": 1.0, "n_frames": 30},
    "0.4 e/Å² a frame, 60 frames": {"dose_per_frame": 0.4, "n_frames": 60},
    "drift of 40 Å": {"drift_angstrom": 40.0},
    "drift of 3 Å": {"drift_angstrom": 3.0},
    "gain reference withheld": {},
    "no particles": {"particles_per_movie": 0},
}
OPTICS = (
    "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographOriginalPixelSize #3\n_rlnVoltage #4\n"
    "_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\nopticsGroup1 1 {pixel} 300 2.7 0.07\n\n"
    "data_movies\n\nloop_\n_rlnMicrographMovieName #1\n_rlnOpticsGroup #2\nm.tif 1\n"
)


def find_ours(root: Path, settings: SimulationSettings, gain: str | None) -> np.ndarray:
    row = {
        "exposure_id": "m",
        "movie_path": "m.tif",
        "n_frames": settings.n_frames,
        "nx_px": settings.nx_px,
        "ny_px": settings.ny_px,
        "pixel_size_angstrom": settings.pixel_size_angstrom,
        "voltage_kv": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.07,
        "optics_group": 1,
        "dose_per_frame": settings.dose_per_frame,
        "pre_exposure": 0.0,
        "gain_path": gain,
    }
    exposures = pl.DataFrame([row], schema_overrides=empty_table("exposures").schema)
    exposures = pl.concat([empty_table("exposures"), exposures], how="diagonal")
    params, context = MotionParams(), Context(root)
    item = STAGE.plan(Inputs({"exposures": exposures}), params, context)[0]
    folder = RunFolder(root, root / "runs")
    saved = STAGE.save(STAGE.compute(STAGE.load(item, params, context), params), item, folder)
    trajectory = json.loads((root / saved.tables["micrographs"]["trajectory_path"][0]).read_text(encoding="utf-8"))
    return np.stack([trajectory["shift_y_px"], trajectory["shift_x_px"]], axis=1)


def find_relion(root: Path, settings: SimulationSettings, gain: str | None) -> np.ndarray:
    (root / "movies.star").write_text(OPTICS.format(pixel=settings.pixel_size_angstrom), encoding="utf-8")
    command = (
        "relion_run_motioncorr --i movies.star --o MC/ --use_own --j 1 --patch_x 1 --patch_y 1 --bfactor 150 "
        f"--dose_per_frame {settings.dose_per_frame} --preexposure 0 --bin_factor 1 --dose_weighting --save_noDW"
    )
    words = command.split() + (["--gainref", gain] if gain else [])
    subprocess.run(words, cwd=root, check=True, capture_output=True)
    shifts = read_star(root / "MC" / "m.star")["global_shift"]
    return -np.stack([shifts[f"rlnMicrographShift{axis}"].cast(pl.Float64).to_numpy() for axis in "YX"], axis=1)


def measure(found: np.ndarray, truth: np.ndarray) -> float:
    error = (found - found.mean(0)) - (truth - truth.mean(0))
    return float(np.sqrt((error**2).mean()))


def main() -> None:
    torch.set_num_threads(1)
    relion = shutil.which("relion_run_motioncorr") is not None
    specimen = load_specimen("apoferritin", BASE.pixel_size_angstrom)
    projector = AtomProjector(specimen)
    rows = []
    for name, changes in CASES.items():
        errors: dict[str, list[float]] = {"ours": [], "RELION": [], "unaligned": []}
        seconds = {"ours": 0.0, "RELION": 0.0}
        for seed in range(2):
            settings = BASE.model_copy(update=changes)
            rng = np.random.default_rng(seed)
            micrograph = make_micrograph(
                settings, projector, specimen.box_px, specimen.diameter_angstrom, 15_000.0 + 5_000 * seed, False, rng
            )
            path, camera = make_trajectory(settings, rng), make_camera(settings, rng)
            movie = make_movie(micrograph, path, camera, settings, rng)
            errors["unaligned"].append(measure(np.zeros_like(path), path))
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder)
                write_tiff(root / "m.tif", movie)
                write_mrc(root / "gain.mrc", camera.gain, settings.pixel_size_angstrom)
                gain = None if name == "gain reference withheld" else "gain.mrc"
                for program, find in (("ours", find_ours), ("RELION", find_relion)):
                    if program == "RELION" and not relion:
                        continue
                    started = time.perf_counter()
                    errors[program].append(measure(find(root, settings, gain), path))
                    seconds[program] += time.perf_counter() - started
        means = {program: f"{np.sqrt(np.mean(np.square(e))):.2f}" if e else "-" for program, e in errors.items()}
        ratio = f"{seconds['ours'] / seconds['RELION']:.1f}" if relion else "-"
        rows.append(f"| {name} | {means['unaligned']} | {means['ours']} | {means['RELION']} | {ratio} |")
        print(rows[-1], flush=True)
    lines = [
        "# Whole-frame motion of simulated movies",
        "",
        f"Apoferritin, {BASE.nx_px} x {BASE.ny_px} px, {BASE.pixel_size_angstrom} Å/px, drift of {BASE.drift_angstrom:g} Å "
        "unless said otherwise, with a jitter of a fortieth of it from frame to frame, radiation damage, 2 movies a row. "
        f"{os.cpu_count()} cores ({platform.machine()}), one thread each.",
        "Errors are root mean squares of a coordinate about its mean, px. RELION: `relion_run_motioncorr --use_own`, whole "
        "frames, `--bfactor 150`.",
        "The ratio is of elapsed times, movie on disk to two sums on disk, in the same run.",
        "",
        "| movies | unaligned | Vitreous | RELION | time, Vitreous / RELION |",
        "|---|---|---|---|---|",
        *rows,
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "motion-accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
