"""Measure the motion found in simulated movies, and their sums, against the truth, beside RELION's own motion correction.

python benchmarks/accuracy/motion.py

Writes benchmarks/results/motion-accuracy.md. Takes about fifteen minutes on two cores; without RELION two thirds of that. With
`--work FOLDER` what was measured of each movie is kept there, and a run cut off goes on; with `--again` as well, only what this
code makes of the movies is measured anew.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import torch

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.star import read_star
from vitreous.io.tiff import write_tiff
from vitreous.ops.correct import Correction, CorrectionSettings, MovieMotion, correct_movie
from vitreous.ops.dose import compute_dose_weights
from vitreous.ops.frame_sum import compute_kernel_transfer, compute_tile_centres, sum_frames
from vitreous.simulate.drift import LocalDrift, make_local_drift, make_trajectory
from vitreous.simulate.micrograph import make_micrograph
from vitreous.simulate.movie import Camera, compute_attenuation, make_camera, make_clean_frames, make_movie
from vitreous.simulate.particles import make_projector
from vitreous.simulate.settings import SimulationSettings
from vitreous.simulate.volume import compute_volume, load_specimen

RESULTS = Path(__file__).resolve().parents[1] / "results"
DRIFT = 15.0
MOVIES = (
    SimulationSettings(
        nx_px=2048, ny_px=2048, pixel_size_angstrom=1.5, n_frames=24, dose_per_frame=1.7,
        particles_per_movie=200, drift_angstrom=DRIFT, local_drift_angstrom=5, seed=3,
    ),
    SimulationSettings(
        nx_px=2048, ny_px=1536, pixel_size_angstrom=1.0, n_frames=40, dose_per_frame=1.0,
        particles_per_movie=85, drift_angstrom=DRIFT, local_drift_angstrom=6, seed=4,
    ),
    SimulationSettings(
        nx_px=1920, ny_px=2048, pixel_size_angstrom=1.8, n_frames=30, dose_per_frame=1.4,
        particles_per_movie=260, drift_angstrom=DRIFT, local_drift_angstrom=3, seed=5,
    ),
    SimulationSettings(
        nx_px=2048, ny_px=1792, pixel_size_angstrom=1.3, n_frames=24, dose_per_frame=2.0,
        particles_per_movie=60, drift_angstrom=DRIFT, local_drift_angstrom=0, seed=6,
    ),
)  # fmt: skip
FRESH = tuple(MOVIES[number].model_copy(update={"seed": seed}) for number, seed in ((0, 103), (1, 104), (1, 204)))
"""Of other seeds, without RELION."""
SHELLS_ANGSTROM = (40, 20, 12, 9, 7, 6, 5, 4.4, 3.9, 3.6)
N_PARTS = 20
TRUE, OURS, RELION = "true trajectories", "Vitreous", ("RELION, whole", "RELION, 5x5")
EDGE_PX = 96
OPTICS = (
    "data_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnMicrographOriginalPixelSize #3\n_rlnVoltage #4\n"
    "_rlnSphericalAberration #5\n_rlnAmplitudeContrast #6\nopticsGroup1 1 {pixel} 300 2.7 0.07\n\n"
    "data_movies\n\nloop_\n_rlnMicrographMovieName #1\n_rlnOpticsGroup #2\nm.tif 1\n"
)


Places = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Movie:
    settings: SimulationSettings
    frames: np.ndarray
    camera: Camera
    path: np.ndarray
    local: LocalDrift
    clean: np.ndarray

    def displace(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.stack([shift + self.local.evaluate(f, y, x) for f, shift in enumerate(self.path)])


def simulate(settings: SimulationSettings) -> Movie:
    specimen = load_specimen(settings.model, settings.pixel_size_angstrom)
    projector = make_projector("slice", specimen, compute_volume(specimen))
    rng = np.random.default_rng(settings.seed)
    micrograph = make_micrograph(settings, projector, specimen.box_px, specimen.diameter_angstrom, 15_000.0, False, rng)
    path, local, camera = make_trajectory(settings, rng), make_local_drift(settings, rng), make_camera(settings, rng)
    frames = make_movie(micrograph, path, camera, settings, rng, local)
    clean = make_clean_frames(micrograph, np.zeros((1, 2)), settings.model_copy(update={"damage": False}))[0]
    return Movie(settings, frames, camera, path, local, clean)


def correct(movie: Movie) -> Correction:
    settings = CorrectionSettings(movie.settings.pixel_size_angstrom, 300.0, movie.settings.dose_per_frame)
    return correct_movie(torch.from_numpy(movie.frames), torch.from_numpy(movie.camera.gain), settings)


def sum_with_truth(movie: Movie) -> np.ndarray:
    """Return the exposure-weighted sum made with the true trajectories, every frame weighted in Fourier space."""
    settings, n = movie.settings, len(movie.frames)
    shape = (settings.ny_px, settings.nx_px)
    centres = compute_tile_centres(shape).numpy()
    moved = torch.from_numpy(movie.displace(centres[..., 0], centres[..., 1]))
    frames, gain = torch.from_numpy(movie.frames.copy()), torch.from_numpy(movie.camera.gain)
    for y, x in zip(*np.nonzero(movie.camera.hot), strict=True):
        frames[:, y, x] = frames[:, y, (x + 1) % shape[1]]
    k = (
        torch.sqrt(torch.fft.fftfreq(shape[0])[:, None].square() + torch.fft.rfftfreq(shape[1])[None].square())
        / settings.pixel_size_angstrom
    )
    total, squares = torch.zeros(k.shape, dtype=torch.complex64), torch.zeros_like(k)
    for f in range(n):
        weight = compute_dose_weights(k, 1, settings.dose_per_frame, settings.dose_per_frame * f, 300.0)[0]
        image = sum_frames(frames[f : f + 1], gain, moved[f : f + 1], torch.ones(1, 1))[0]
        total += weight * torch.fft.rfft2(image)
        squares += weight.square()
    total /= compute_kernel_transfer(shape, moved) * squares.sqrt()
    weighted: np.ndarray = torch.fft.irfft2(total, s=shape).numpy()
    return weighted


def run_relion(movie: Movie, root: Path, patches: int, places: Places) -> tuple[np.ndarray, np.ndarray]:
    """Return the exposure-weighted sum and the displacement of places, `(n, n_places, 2)`."""
    settings, out = movie.settings, f"MC{patches}"
    (root / "movies.star").write_text(OPTICS.format(pixel=settings.pixel_size_angstrom), encoding="utf-8")
    command = (
        f"relion_run_motioncorr --i movies.star --o {out}/ --use_own --j 2 --patch_x {patches} --patch_y {patches} "
        f"--bfactor 150 --dose_per_frame {settings.dose_per_frame} --preexposure 0 --bin_factor 1 --dose_weighting "
        "--gainref gain.mrc"
    )
    subprocess.run(command.split(), cwd=root, check=True, capture_output=True)
    blocks = read_star(root / out / "m.star")
    shifts = np.stack([blocks["global_shift"][f"rlnMicrographShift{axis}"].cast(pl.Float64) for axis in "YX"], axis=1)
    moved = np.repeat(-shifts[:, None], len(places[0]), axis=1)
    if "local_motion_model" in blocks:
        # RELION's polynomial: {1, x, x², y, y², x y} times {t, t², t³}, x and y from -1/2 to 1/2, first for x, then for y.
        terms = blocks["local_motion_model"]["rlnMotionModelCoeff"].cast(pl.Float64).to_numpy().reshape(2, 6, 3)
        y, x = places
        v, u = y / settings.ny_px - 0.5, x / settings.nx_px - 0.5
        in_space = np.stack([np.ones_like(u), u, u * u, v, v * v, u * v])
        in_time = np.arange(len(shifts))[:, None] ** np.arange(1, 4)
        moved -= np.einsum("cst,ft,sp->fpc", terms, in_time, in_space)[..., ::-1]
    return read_mrc(root / out / "m.mrc")[0], moved


def displace_ours(motion: MovieMotion) -> np.ndarray:
    return (motion.shifts_px[:, None] + motion.patch_shifts_px.transpose(0, 1)).numpy()


def measure(found: np.ndarray, movie: Movie, places: Places) -> tuple[float, float]:
    """Return the error of a coordinate of the mean over places, px, and that of places beside it, Å; about the mean in time."""
    error = found - movie.displace(*places)
    error = error - error.mean(axis=0)
    whole = error.mean(axis=1)
    beside = error - whole[:, None]
    pixel = movie.settings.pixel_size_angstrom
    return float(np.sqrt((whole**2).mean())), float(np.sqrt((beside**2).sum(-1).mean())) * pixel


def keep(found: np.ndarray, movie: Movie, places: Places) -> np.ndarray:
    """Return which share of the signal in each shell errors of motion leave in the exposure-weighted sum, for certain.

    That is the mean of cos(k.e) over places, directions, and frames as their signal and weight ask for, with the errors e about
    their mean over places and frames: the sum may stand elsewhere as a whole.
    """
    settings, n = movie.settings, len(movie.frames)
    error = (found - movie.displace(*places)) * settings.pixel_size_angstrom
    inverse = 1 / np.array(SHELLS_ANGSTROM)
    k = np.sqrt((inverse[1:] ** 2 + inverse[:-1] ** 2) / 2)
    tensor = torch.from_numpy(k)
    dose = settings.dose_per_frame
    left = np.stack([compute_attenuation(tensor, (f + 0.5) * dose, 300.0).numpy() for f in range(n)])
    share = left * compute_dose_weights(tensor, n, dose, 0.0, 300.0).numpy()
    share /= share.sum(axis=0)
    error = error - np.einsum("f,fpc->c", share.mean(axis=1), error) / error.shape[1]
    azimuth = np.arange(12) / 12 * np.pi
    along = error @ np.stack([np.sin(azimuth), np.cos(azimuth)])
    return np.array([share[:, i] @ np.cos(2 * np.pi * k[i] * along).mean(axis=(1, 2)) for i in range(len(k))])


class Rings:
    """Fourier-ring correlations with the noiseless truth, in `N_PARTS` random parts of every shell."""

    def __init__(self, movie: Movie) -> None:
        inner = movie.clean[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX]
        ky, kx = np.fft.fftfreq(inner.shape[0])[:, None], np.fft.rfftfreq(inner.shape[1])[None]
        k = np.hypot(ky, kx)
        limits = 1 / np.array(SHELLS_ANGSTROM) * movie.settings.pixel_size_angstrom
        self.k_y, self.k_x = (2 * np.pi * axis.ravel() for axis in np.broadcast_arrays(ky, kx))
        shell = np.digitize(k, limits) - 1
        shell[(k >= limits[-1]) | (k > 0.48)] = -1
        self.n_shells = int(shell.max()) + 1
        part = np.random.default_rng(0).integers(0, N_PARTS, k.shape)
        self.bins = np.where(shell < 0, self.n_shells * N_PARTS, shell * N_PARTS + part).ravel()
        self.truth = self._transform(movie.clean)

    def _transform(self, image: np.ndarray) -> np.ndarray:
        inner = image[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX]
        return np.fft.rfft2(inner - inner.mean()).ravel()

    def _align(self, spectrum: np.ndarray) -> np.ndarray:
        """Move the image as a whole to where it fits the truth best: the error of the first frame's position does no harm."""
        used = self.bins < self.n_shells * N_PARTS
        for _ in range(5):
            cross = spectrum[used] * self.truth[used].conj()
            axes = np.stack([self.k_y[used], self.k_x[used]])
            step = np.linalg.solve((axes * cross.real) @ axes.T, axes @ cross.imag)
            spectrum = spectrum * np.exp(-1j * (step[0] * self.k_y + step[1] * self.k_x))
        return spectrum

    def correlate(self, image: np.ndarray) -> np.ndarray:
        spectrum, n = self._align(self._transform(image)), self.n_shells * N_PARTS
        cross, power, known = (
            np.bincount(self.bins, values, n + 1)[:n].reshape(-1, N_PARTS)
            for values in ((spectrum * self.truth.conj()).real, np.abs(spectrum) ** 2, np.abs(self.truth) ** 2)
        )
        return np.asarray(cross / np.sqrt(power * known))


def compare(ours: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """Return for each shell by how many standard errors ours is above a share of the other."""
    difference = ours - share * other
    return np.asarray(difference.mean(1) / (difference.std(1, ddof=1) / N_PARTS**0.5))


def describe(settings: SimulationSettings) -> str:
    return (
        f"{settings.nx_px}x{settings.ny_px}x{settings.n_frames}, {settings.pixel_size_angstrom:g} Å/px, "
        f"{settings.dose_per_frame:g} e/Å², local {settings.local_drift_angstrom:g} Å, seed {settings.seed}"
    )


@dataclass(frozen=True)
class Measured:
    """What was measured of a movie, by program: errors, share of signal kept and correlations in parts of shells."""

    errors: dict[str, tuple[float, float]]
    kept: dict[str, list[float]]
    correlations: dict[str, list[list[float]]]


def measure_movie(settings: SimulationSettings, relion: bool, known: Measured | None = None) -> Measured:
    """Measure everything, or only what Vitreous makes of the movie, beside what is known of the rest."""
    movie = simulate(settings)
    rings, corrected = Rings(movie), correct(movie)
    weighted = corrected.weighted
    assert weighted is not None
    sums = {OURS: weighted.numpy()}
    places = (corrected.motion.patch_y_px.numpy(), corrected.motion.patch_x_px.numpy())
    ours = displace_ours(corrected.motion)
    found = {OURS: ours}
    if known is None:
        sums = {TRUE: sum_with_truth(movie), **sums}
        found = {"unaligned": np.zeros_like(ours), **found}
    if known is None and relion:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            write_tiff(root / "m.tif", movie.frames)
            write_mrc(root / "gain.mrc", movie.camera.gain, settings.pixel_size_angstrom)
            for label, patches in zip(RELION, (1, 5), strict=True):
                sums[label], found[label] = run_relion(movie, root, patches, places)
    errors = {label: measure(moved, movie, places) for label, moved in found.items()}
    kept = {label: keep(moved, movie, places)[: rings.n_shells].tolist() for label, moved in found.items()}
    correlations = {label: rings.correlate(image).tolist() for label, image in sums.items()}
    if known is None:
        return Measured(errors, kept, correlations)
    return Measured(known.errors | errors, known.kept | kept, known.correlations | correlations)


def recall(settings: SimulationSettings, relion: bool, work: Path | None, again: bool) -> Measured:
    """Return what was measured of a movie, from the folder if it is there; what Vitreous makes of it anew if so wanted."""
    path = None if work is None else work / f"{settings.pixel_size_angstrom:g}-{settings.seed}.json"
    known = Measured(**json.loads(path.read_text())) if path is not None and path.exists() else None
    if known is not None and not again:
        return known
    measured = measure_movie(settings, relion, known)
    if path is not None:
        path.write_text(json.dumps(asdict(measured)))
    return measured


def list_shells(numbers: np.ndarray) -> str:
    names = [f"{SHELLS_ANGSTROM[i]:g}-{SHELLS_ANGSTROM[i + 1]:g} Å" for i in np.flatnonzero(numbers)]
    return ", ".join(names) if names else "no shell"


def head_shells(n: int) -> list[str]:
    shells = [f"{a:g}-{b:g} Å" for a, b in pairwise(SHELLS_ANGSTROM)][:n]
    return ["| | " + " | ".join(shells) + " |", "|---" * (n + 1) + "|"]


def subtract(ours: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return by how many percent ours is above the truth in each shell, and the standard error."""
    difference = 100 * (ours - truth) / truth.mean(axis=1, keepdims=True)
    return difference.mean(axis=1), difference.std(axis=1, ddof=1) / N_PARTS**0.5


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--again", action="store_true", help="measure what Vitreous makes of movies in the folder anew")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the movies to measure; the table is of these")
    options = parser.parse_args()
    relion = shutil.which("relion_run_motioncorr") is not None
    cases = [(settings, relion) for settings in MOVIES] + [(settings, False) for settings in FRESH]
    absent = list[str]()
    if options.only is not None:
        absent = [describe(case[0]) for number, case in enumerate(cases) if number not in options.only]
        cases = [cases[number] for number in options.only]
    errors, kept, tables, verdicts = list[str](), list[str](), list[str](), list[str]()
    differences = list[tuple[np.ndarray, np.ndarray]]()
    for case in cases:
        name, measured = describe(case[0]), recall(*case, options.work, options.again)
        errors += [f"| {name} | {label} | {a:.3f} | {b:.2f} |" for label, (a, b) in measured.errors.items()]
        for label, shares in measured.kept.items():
            if label != "unaligned":
                kept.append(f"| {name}, {label} | " + " | ".join(f"{100 * (share - 1):.1f}" for share in shares) + " |")
        correlations = {label: np.array(parts) for label, parts in measured.correlations.items()}
        ours, truth = correlations[OURS], correlations[TRUE]
        tables += ["", name, "", *head_shells(len(ours))]
        tables += [
            f"| {label} | " + " | ".join(f"{value:.4f}" for value in parts.mean(1)) + " |"
            for label, parts in correlations.items()
        ]
        differences.append(subtract(ours, truth))
        tables.append(
            "| Vitreous above true, % | "
            + " | ".join(f"{a:.1f} ± {b:.1f}" for a, b in zip(*differences[-1], strict=True))
            + " |"
        )
        verdicts += ["", f"{name}:"]
        for label in RELION:
            if label in correlations:
                verdicts.append(f"- below {label} in {list_shells(compare(ours, correlations[label], 1.0) < -2)};")
        verdicts.append(
            f"- more than 2 % below the sum made with the true trajectories in {list_shells(compare(ours, truth, 0.98) < -2)}."
        )
    n_shells = max(len(mean) for mean, _ in differences)
    together = list[str]()
    for i in range(n_shells):
        value, error = np.array([(mean[i], error[i]) for mean, error in differences if len(mean) > i]).T
        weight = error**-2.0
        together.append(f"{(weight * value).sum() / weight.sum():.2f} ± {weight.sum() ** -0.5:.2f}")
    lines = [
        "# Motion of simulated movies, and their sums, against the truth",
        "",
        f"Apoferritin; a drift of {DRIFT:g} Å with a jitter of a fortieth of it from frame to frame, and local drift as said, "
        f"radiation damage, ice stirred by the beam. {os.cpu_count()} cores ({platform.machine()}). RELION: "
        "`relion_run_motioncorr --use_own --dose_weighting --bfactor 150`, whole frames and 5x5 patches, on the same movies. "
        "Movies of further seeds without RELION." + (f" Not measured: {'; '.join(absent)}." if absent else ""),
        "",
        "Errors are root mean squares about the mean position in time: of a coordinate of the mean displacement, and of the "
        "displacement of places (the centres of Vitreous's patches) beside that.",
        "",
        "| movie | program | whole frame, px | places, Å |",
        "|---|---|---|---|",
        *errors,
        "",
        "By how many percent these errors lower the signal of the exposure-weighted sum. It follows from the errors and the "
        "weights alone, so that no noise is in it:",
        "",
        *head_shells(n_shells),
        *kept,
        "",
        "Fourier-ring correlation of exposure-weighted sums with the noiseless image of the first frame, each sum moved as a "
        "whole to where it fits that best. Both sums hold nearly the same noise; what differs of it makes the standard error of "
        "their difference (from 20 random parts of a shell):",
        *tables,
        "",
        "All movies together, each weighted by its error: Vitreous above the sum made with the true trajectories, %",
        "",
        *head_shells(n_shells),
        "| | " + " | ".join(together) + " |",
        "",
        "Vitreous, beyond two standard errors, is",
        *verdicts,
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "motion-accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
