"""Compute how well motion can be known at best in the movies of motion.py, by the bound of Cramér and Rao.

python benchmarks/accuracy/motion_bound.py

Writes benchmarks/results/motion-bound.md. Takes about two minutes on one core.

The coefficient of frame f at frequency k is a displaced sum of particles S, which fade, of ice I, of which r^|f-g| is the same in
frame g, and of noise of counting N. With C the covariance of the frames at no displacement, the Fisher information of their
phases is 2 (C o inv(C)^T - 1); times k k^T and summed over the frequencies it is that of the displacements.

Local motion is the growth g_f times five functions of the place. Let growth and functions be known, but not their coefficients:
with J the information of the whole frame, each tells of itself as much as (g J g) times the variance of its function over the
frame, whatever the whole does, so that the square of the error of a coordinate of a displacement is 5 g_f² / (g J g), the mean
over places.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from motion import MOVIES, SHELLS_ANGSTROM, describe

from vitreous.ops.dose import compute_dose_weights
from vitreous.simulate.micrograph import make_micrograph
from vitreous.simulate.movie import compute_attenuation
from vitreous.simulate.particles import make_projector
from vitreous.simulate.settings import SimulationSettings
from vitreous.simulate.volume import compute_volume, load_specimen

RESULTS = Path(__file__).resolve().parents[1] / "results"
ICE_DISPLACEMENT_ANGSTROM2 = 0.33
EARLY_RATE, N_FUNCTIONS = 3.0, 5
"""Of the local drift of simulated movies."""
N_BINS = 1500
LONGEST_ANGSTROM = 60.0


def compute_spectra(settings: SimulationSettings) -> tuple[np.ndarray, ...]:
    """Return frequencies (1/Å), elements of the half spectrum of a frame there, and the ratios S / N and I / N of a frame."""
    specimen = load_specimen(settings.model, settings.pixel_size_angstrom)
    projector = make_projector("slice", specimen, compute_volume(specimen))
    rng = np.random.default_rng(settings.seed)
    micrograph = make_micrograph(settings, projector, specimen.box_px, specimen.diameter_angstrom, 15_000.0, False, rng)
    (ny, nx), pixel = micrograph.canvas, settings.pixel_size_angstrom
    k = np.hypot(np.fft.fftfreq(ny, pixel)[:, None], np.fft.rfftfreq(nx, pixel)[None])
    bins = np.minimum(k * 2 * pixel * N_BINS, N_BINS).astype(int).ravel()
    counts, particles, ice = (
        np.bincount(bins, values.ravel(), N_BINS + 1)[:N_BINS]
        for values in (
            np.ones_like(k),
            np.abs((micrograph.particle_spectrum + micrograph.support_spectrum).numpy()) ** 2,
            np.broadcast_to(np.asarray(micrograph.ice_amplitude) ** 2 * ny * nx, k.shape),
        )
    )
    noise = ny * nx / (settings.dose_per_frame * pixel**2) * np.maximum(counts, 1)
    share = settings.ny_px * settings.nx_px / (ny * nx)
    return (np.arange(N_BINS) + 0.5) / N_BINS / (2 * pixel), counts * share, particles / noise, ice / noise


def compute_information(settings: SimulationSettings) -> np.ndarray:
    """Return the Fisher information of a coordinate of the displacements of the frames, 1/Å²."""
    n, dose = settings.n_frames, settings.dose_per_frame
    k, counts, particles, ice = compute_spectra(settings)
    left = np.stack([compute_attenuation(torch.from_numpy(k), (f + 0.5) * dose, 300.0).numpy() for f in range(n)])
    apart = np.abs(np.arange(n)[:, None] - np.arange(n))
    information = np.zeros((n, n))
    for i in np.flatnonzero((counts > 0) & (k > 1 / LONGEST_ANGSTROM)):
        same = np.exp(-2 * np.pi**2 * ICE_DISPLACEMENT_ANGSTROM2 * dose * k[i] ** 2) ** apart
        covariance = particles[i] * np.outer(left[:, i], left[:, i]) + ice[i] * same + np.eye(n)
        phases = 2 * (covariance * np.linalg.inv(covariance) - np.eye(n))
        np.fill_diagonal(phases, 0)
        phases -= np.diag(phases.sum(axis=1))
        information += counts[i] * (2 * np.pi * k[i]) ** 2 / 2 * phases
    return information


def bound_local(settings: SimulationSettings, information: np.ndarray, share: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the least error of places, Å, and the mean square of a coordinate about the mean of a sum, Å², for each shell.

    `share` is how much of the signal each frame brings into a sum, `(n, n_shells)`.
    """
    n = settings.n_frames
    if settings.local_drift_angstrom == 0:
        return 0.0, np.zeros((n, share.shape[1]))
    growth = 1 - np.exp(-EARLY_RATE * np.arange(n) / (n - 1))
    variance = N_FUNCTIONS / (growth @ information @ growth)
    about = growth[:, None] - (share * growth[:, None]).sum(axis=0)
    return float(np.sqrt(2 * variance * growth.var())), variance * about**2


def main() -> None:
    torch.set_num_threads(1)
    shells = [f"{a:g}-{b:g} Å" for a, b in pairwise(SHELLS_ANGSTROM)]
    inverse = 1 / np.array(SHELLS_ANGSTROM)
    k = np.sqrt((inverse[1:] ** 2 + inverse[:-1] ** 2) / 2)
    rows = list[str]()
    for settings in MOVIES:
        information, n, dose = compute_information(settings), settings.n_frames, settings.dose_per_frame
        errors = np.sqrt(np.diag(np.linalg.pinv(information, rcond=1e-9, hermitian=True)))
        left = np.stack([compute_attenuation(torch.from_numpy(k), (f + 0.5) * dose, 300.0).numpy() for f in range(n)])
        share = left * compute_dose_weights(torch.from_numpy(k), n, dose, 0.0, 300.0).numpy()
        share /= share.sum(axis=0)
        of_places, squares = bound_local(settings, information, share)
        whole, both = (
            100 * (share * (1 - np.exp(-((2 * np.pi * k) ** 2) * square / 2))).sum(axis=0)
            for square in (errors[:, None] ** 2, errors[:, None] ** 2 + squares)
        )
        root = float(np.sqrt((errors**2).mean()))
        rows.append(
            f"| {describe(settings)} | {root / settings.pixel_size_angstrom:.3f} | {root:.3f} | {errors[0]:.3f} | "
            f"{of_places:.2f} | " + " | ".join(f"{a:.1f}, {b:.1f}" for a, b in zip(whole, both, strict=True)) + " |"
        )
    lines = [
        "# How well motion can be known at best",
        "",
        "The bound of Cramér and Rao for the movies of [motion-accuracy.md](motion-accuracy.md): the least standard error of a "
        "coordinate of the displacement of a frame about the mean of all, for a method that uses every pixel and knows all "
        "spectra and the local motion; root mean square over frames, and of the first frame. Beside it the least error of "
        "the displacement of places, for a method that knows how local motion grows with time and which five functions of "
        "the place it is made of, but not how much of each. And how many percent of the signal of the exposure-weighted sum "
        "errors of that size take in each shell: those of the whole frame alone, and both.",
        "",
        "| movie | px | Å | first frame, Å | places, Å | " + " | ".join(shells) + " |",
        "|---" * (5 + len(shells)) + "|",
        *rows,
    ]
    (RESULTS / "motion-bound.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
