"""Time motion correction of large simulated movies beside RELION's own, in the same run on the same files.

python benchmarks/speed/motion.py CACHE [--sizes 3838x3710x24 5760x4092x40]

The movies are made once and kept in the folder CACHE (about 2 GB). Writes benchmarks/results/motion-speed.md; sizes that are
not measured stay in it as they were, so that each can have a run of its own.
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy import fft

from vitreous.io.movie import read_movie
from vitreous.io.mrc import write_mrc
from vitreous.io.star import read_star, write_star
from vitreous.io.tiff import write_tiff
from vitreous.ops.dose import compute_dose_basis

RESULTS = Path(__file__).resolve().parents[1] / "results"
N_MOVIES, N_FOR_RELION = 4, 2
"""RELION takes the same time for each movie, and has next to nothing to start."""
PIXEL_ANGSTROM, DOSE_PER_FRAME = 1.0, 1.25
DRIFT_ANGSTROM, LOCAL_ANGSTROM = 12.0, 4.0
CONTRAST = 0.08
PR_SET_CHILD_SUBREAPER = 36
"""Of Linux: linux/prctl.h."""
OPTICS = {"rlnOpticsGroupName": "og", "rlnOpticsGroup": 1, "rlnMicrographOriginalPixelSize": PIXEL_ANGSTROM}
OPTICS |= {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Size:
    nx: int
    ny: int
    n: int

    @property
    def name(self) -> str:
        return f"{self.nx}x{self.ny}x{self.n}"


@dataclass(frozen=True)
class Cost:
    """Of one command, and of all its processes; memory is that of the largest process."""

    wall: float
    cpu: float
    memory_bytes: int

    def share(self, n_movies: int) -> "Cost":
        """Return the cost of one of so many movies."""
        return Cost(self.wall / n_movies, self.cpu / n_movies, self.memory_bytes)


@numba.njit(fastmath=True, cache=False)
def sample(scene, along_y, along_x, local, image):  # type: ignore[no-untyped-def]
    """Move the scene by a displacement that varies over the image; bilinear, since the scene has no finer detail."""
    ny, nx = scene.shape
    for i in range(ny):
        v = i / ny - 0.5
        for j in range(nx):
            u = j / nx - 0.5
            y = (i - along_y - local * (v - 2 * u * u)) % ny
            x = (j - along_x - local * (u + 2 * u * v)) % nx
            i0, j0 = int(y), int(x)
            b, a = y - i0, x - j0
            i1, j1 = (i0 + 1) % ny, (j0 + 1) % nx
            i0, j0 = i0 % ny, j0 % nx
            upper = scene[i0, j0] * (1 - a) + scene[i0, j1] * a
            lower = scene[i1, j0] * (1 - a) + scene[i1, j1] * a
            image[i, j] = upper * (1 - b) + lower * b


def make_scene(size: Size, rng: np.random.Generator) -> Floats:
    """Return smooth random density of mean 0 and deviation 1, with detail from 500 to 8 Å."""
    spectrum = fft.rfft2(rng.standard_normal((size.ny, size.nx), dtype=np.float32))
    ky = fft.fftfreq(size.ny, PIXEL_ANGSTROM)[:, None]
    k = np.hypot(ky, fft.rfftfreq(size.nx, PIXEL_ANGSTROM)[None]).astype(np.float32)
    spectrum *= (k > 1 / 500) / np.sqrt(1 + (k * 60) ** 2) * np.exp(-((k * 8) ** 2) / 2)
    scene = fft.irfft2(spectrum, s=(size.ny, size.nx))
    return np.asarray(scene / scene.std(), dtype=np.float32)


def make_track(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the drift of the whole frame, fast at first, as (y, x), px."""
    time_ = (1 - np.exp(-np.arange(n) / 6)) / (1 - np.exp(-(n - 1) / 6))
    angle = rng.uniform(0, 2 * np.pi)
    straight = DRIFT_ANGSTROM / PIXEL_ANGSTROM * time_[:, None] * np.array([np.sin(angle), np.cos(angle)])
    bend = 2 * np.sin(np.pi * time_)[:, None] * np.array([np.cos(angle), -np.sin(angle)])
    return np.asarray(straight + bend)


def compute_local(frame: float | NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the size of the local motion, px."""
    return np.asarray(LOCAL_ANGSTROM / PIXEL_ANGSTROM * (1 - np.exp(-np.asarray(frame) / 6)))


def make_movies(folder: Path, size: Size) -> None:
    """Make the movies that are not in the folder yet."""
    wanted = [folder / f"{size.name}-{number}.tif" for number in range(N_MOVIES)]
    gain_path = folder / f"{size.name}-gain.mrc"
    if all(path.exists() for path in (*wanted, gain_path)):
        return
    print(f"making {N_MOVIES} movies of {size.name}", flush=True)
    rng = np.random.default_rng(0)
    scene = make_scene(size, rng)
    gain = rng.normal(1, 0.03, scene.shape).astype(np.float32)
    write_mrc(gain_path, gain, PIXEL_ANGSTROM)
    image, movie = np.empty_like(scene), np.empty((size.n, size.ny, size.nx), dtype=np.uint8)
    for path in wanted:
        track = make_track(size.n, rng)
        for f in range(size.n):
            sample(scene, track[f, 0], track[f, 1], float(compute_local(f)), image)
            rate = DOSE_PER_FRAME * PIXEL_ANGSTROM**2 * np.maximum(0, 1 + CONTRAST * image) / gain
            movie[f] = np.minimum(rng.poisson(rate), 255)
        write_tiff(path, movie)
        path.with_suffix(".json").write_text(json.dumps(track.tolist()), encoding="utf-8")


def run(words: Sequence[str | Path], folder: Path) -> Cost:
    """Run a command to its end and measure it with its processes."""
    # Processes that outlive the command become our children: the one that workers are copies of ends just after it.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # RELION's threads are those of --j; ours are set by the engine.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([str(word) for word in words], cwd=folder, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode:
        sys.exit((folder / "log.txt").read_text())
    usages = [usage]
    with contextlib.suppress(ChildProcessError):
        while True:
            usages.append(os.wait4(-1, 0)[2])
    cpu, memory = sum(part.ru_utime + part.ru_stime for part in usages), max(part.ru_maxrss for part in usages)
    return Cost(wall, cpu, memory * 1024)


def make_project(folder: Path, movies: str, gain: Path, n: int) -> Path:
    vitreous = Path(sys.executable).with_name("vitreous")
    run([vitreous, "new", "p", "--movies", movies, "--gain", gain, "--pixel-size", f"{PIXEL_ANGSTROM}", "--voltage", "300",
         "--cs", "2.7", "--amplitude-contrast", "0.1", "--total-dose", f"{DOSE_PER_FRAME * n}"], folder)  # fmt: skip
    run([vitreous, "run", "p", "--until", "ingest", "--workers", "1"], folder)
    return folder / "p"


def run_ours(folder: Path, movies: str, gain: Path, n: int) -> tuple[Cost, Cost]:
    """Return the cost of the command, and that of the stage as its record has it."""
    project = make_project(folder, movies, gain, n)
    words = [Path(sys.executable).with_name("vitreous"), "run", "p", "--until", "motion", "--workers", "2"]
    whole = run(words, folder)
    record = json.loads((project / "runs" / "002-motion" / "run.json").read_text(encoding="utf-8"))
    return whole, Cost(record["seconds"], record["cpu_seconds"], record["peak_memory_bytes"])


def run_relion(folder: Path, movies: Sequence[Path], gain: Path) -> Cost:
    for path in (*movies, gain):
        (folder / path.name).symlink_to(path)
    listed = {"rlnMicrographMovieName": [path.name for path in movies], "rlnOpticsGroup": [1] * len(movies)}
    write_star(folder / "movies.star", {"optics": pl.DataFrame([OPTICS]), "movies": pl.DataFrame(listed)})
    words = (
        "relion_run_motioncorr --i movies.star --o MC/ --use_own --j 2 --patch_x 5 --patch_y 5 --bfactor 150 --preexposure 0 "
        f"--bin_factor 1 --gain_rot 0 --gain_flip 0 --dose_weighting --save_noDW --dose_per_frame {DOSE_PER_FRAME} "
        f"--gainref {gain.name}"
    )
    return run(words.split(), folder)


def measure_error(found: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    error = (found - found.mean(0)) - (truth - truth.mean(0))
    return float(np.sqrt((error**2).mean()))


def measure_errors(folder: Path, movies: Sequence[Path]) -> tuple[float, float | None]:
    """Return the error of the track of the whole frame, ours and RELION's; the mean local motion is part of the truth."""
    ours, theirs = [], []
    for path in movies:
        truth = np.array(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        # The mean of v - 2 u² over the frame, see `sample`.
        truth[:, 0] -= compute_local(np.arange(len(truth))) / 6
        motion = folder / "p" / "runs" / "002-motion" / "images" / f"{path.stem}_motion.json"
        document = json.loads(motion.read_text(encoding="utf-8"))
        ours.append(measure_error(np.stack([document["shift_y_px"], document["shift_x_px"]], axis=1), truth))
        if (folder / "MC" / f"{path.stem}.star").exists():
            shifts = read_star(folder / "MC" / f"{path.stem}.star")["global_shift"]
            axes = [-shifts[f"rlnMicrographShift{axis}"].cast(pl.Float64).to_numpy() for axis in "YX"]
            theirs.append(measure_error(np.stack(axes, axis=1), truth))
    return float(np.mean(ours)), float(np.mean(theirs)) if theirs else None


def time_cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure_floor(path: Path, size: Size, folder: Path) -> dict[str, float]:
    """Return CPU seconds of one movie, one thread, of what no program gets round: each part timed alone."""
    started = resource.getrusage(resource.RUSAGE_SELF)
    frames = read_movie(path)
    ended = resource.getrusage(resource.RUSAGE_SELF)
    decode = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
    pixels = frames.reshape(-1)
    words = pixels[: pixels.size // 8 * 8].view(np.uint64)
    once = time_cpu(lambda: int(np.bitwise_or.reduce(words)))
    k = torch.linspace(0, 0.5**0.5 / PIXEL_ANGSTROM, 2000, dtype=torch.float64)
    rank = len(compute_dose_basis(k, size.n, DOSE_PER_FRAME, 0.0, 300.0).factors)
    image = torch.rand(size.ny, size.nx)
    spectrum = torch.fft.rfft2(image)
    forward = time_cpu(lambda: torch.fft.rfft2(image))
    inverse = time_cpu(lambda: torch.fft.irfft2(spectrum, s=(size.ny, size.nx)))
    write = time_cpu(lambda: [write_mrc(folder / f"floor{i}.mrc", image.numpy(), PIXEL_ANGSTROM) for i in range(2)])
    return {
        "decoding the LZW TIFF": decode,
        f"reading its {frames.nbytes / 1e9:.2f} GB once from memory": once,
        f"{size.n} Fourier transforms of whole frames (their middle is enough to compare them)": size.n * forward,
        f"{rank} Fourier transforms of sums and 2 of images": rank * forward + 2 * inverse,
        "writing 2 images": write,
        f"not needed: {size.n} transforms back and {size.n} forth to shift and weight frames": size.n
        * (forward + inverse),
    }


def warm_up(folder: Path) -> None:
    """Correct a small movie of the same kind, so that all loops are compiled."""
    small = Size(512, 512, 8)
    make_movies(folder, small)
    run_ours(folder, f"{folder}/{small.name}-*.tif", folder / f"{small.name}-gain.mrc", small.n)


def measure_size(cache: Path, size: Size, relion: bool) -> list[str]:
    make_movies(cache, size)
    movies = [cache / f"{size.name}-{number}.tif" for number in range(N_MOVIES)]
    gain = cache / f"{size.name}-gain.mrc"
    for path in movies:
        path.read_bytes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole, stage = run_ours(folder, f"{cache}/{size.name}-[0-9].tif", gain, size.n)
        theirs = run_relion(folder, movies[:N_FOR_RELION], gain) if relion else None
        error, their_error = measure_errors(folder, movies)
        floor = measure_floor(movies[0], size, folder)
    lines = [
        f"## {size.nx} x {size.ny} x {size.n}, {movies[0].stat().st_size / 1e6:.0f} MB a file",
        "",
        "| | wall, s a movie | CPU, s a movie | peak memory of a process, GB | error of the track, px |",
        "|---|---|---|---|---|",
    ]
    ours = [("Vitreous, the stage", stage.share(N_MOVIES)), ("Vitreous, the whole command", whole.share(N_MOVIES))]
    rows = [(label, cost, error) for label, cost in ours]
    if theirs is not None and their_error is not None:
        theirs = theirs.share(N_FOR_RELION)
        rows.append(("RELION 3.1.3", theirs, their_error))
    for label, cost, distance in rows:
        wall, cpu = cost.wall, cost.cpu
        lines.append(f"| {label} | {wall:.1f} | {cpu:.1f} | {cost.memory_bytes / 1e9:.2f} | {distance:.2f} |")
    if theirs is not None:
        for label, cost in ours:
            ratios = f"{theirs.wall / cost.wall:.1f} | {theirs.cpu / cost.cpu:.1f}"
            lines.append(f"| **RELION / {label}** | **{ratios.replace(' | ', '** | **')}** | | |")
    lines += ["", "Floor of one movie, each part timed alone on one thread:", "", "| | CPU, s |", "|---|---|"]
    lines += [f"| {what} | {seconds:.2f} |" for what, seconds in floor.items()]
    print("\n".join(lines), flush=True)
    return [*lines, ""]


def keep_other_sizes(blocks: dict[str, list[str]]) -> list[str]:
    """Return the blocks of this run and those of other sizes of runs before."""
    path, kept = RESULTS / "motion-speed.md", dict[str, list[str]]()
    before = path.read_text(encoding="utf-8").split("\n## ")[1:] if path.exists() else []
    for block in before:
        lines = f"## {block}".rstrip().splitlines()
        kept["x".join(lines[0][3:].split(",")[0].split(" x "))] = [*lines, ""]
    return [line for block in (kept | blocks).values() for line in block]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, help="folder for the simulated movies")
    parser.add_argument("--sizes", nargs="+", default=["3838x3710x24", "5760x4092x40"], help="columns x rows x frames")
    arguments = parser.parse_args()
    cache = arguments.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    relion = shutil.which("relion_run_motioncorr") is not None
    with tempfile.TemporaryDirectory() as folder:
        warm_up(Path(folder))
    load = os.getloadavg()[0]
    blocks = {size: measure_size(cache, Size(*map(int, size.split("x"))), relion) for size in arguments.sizes}
    lines = [
        "# Motion correction of large movies",
        "",
        f"{N_MOVIES} movies of each size, uint8 LZW TIFF with a gain reference, {PIXEL_ANGSTROM:g} Å/px, {DOSE_PER_FRAME:g} e/Å² "
        f"a frame, {DRIFT_ANGSTROM:g} Å of drift and up to {LOCAL_ANGSTROM:g} Å of local motion. {os.cpu_count()} cores "
        f"({platform.machine()}), load average {load:.1f} before the run.",
        "From files on disk (already in the page cache) to both sums and the trajectories on disk. Vitreous: 2 workers, each one "
        "movie on one thread, compiled loops cached beforehand; the stage as its run.json has it, and the whole command with the "
        "start of its processes and the report, which do not grow with the number of movies. RELION, on "
        f"{N_FOR_RELION} of the movies: `relion_run_motioncorr --use_own --j 2 "
        "--patch_x 5 --patch_y 5 --bfactor 150 --dose_weighting --save_noDW --gainref ...`, in the same run.",
        "",
        *keep_other_sizes(blocks),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "motion-speed.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
