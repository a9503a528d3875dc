"""Compute how well the whole frame's motion can be known at best in the movies of motion.py, by the bound of Cramér and Rao.

python benchmarks/accuracy/motion_bound.py

Writes benchmarks/results/motion-bound.md. Takes about two minutes on one core.

The coefficient of frame f at frequency k is a displaced sum of particles S, which fade, of ice I, of which r^|f-g| is the same in
frame g, and of noise of counting N. With C the covariance of the frames at no displacement, the Fisher information of their
phases is 2 (C o inv(C)^T - 1); times k k^T and summed over the frequencies it is that of the displacements.
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


def compute_errors(settings: SimulationSettings) -> np.ndarray:
    """Return the least standard error of a coordinate of the displacement of each frame about the mean of all, Å."""
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
    return np.sqrt(np.diag(np.linalg.pinv(information, rcond=1e-9, hermitian=True)))


def main() -> None:
    torch.set_num_threads(1)
    shells = [f"{a:g}-{b:g} Å" for a, b in pairwise(SHELLS_ANGSTROM)]
    inverse = 1 / np.array(SHELLS_ANGSTROM)
    k = np.sqrt((inverse[1:] ** 2 + inverse[:-1] ** 2) / 2)
    rows = list[str]()
    for settings in MOVIES:
        errors, n, dose = compute_errors(settings), settings.n_frames, settings.dose_per_frame
        left = np.stack([compute_attenuation(torch.from_numpy(k), (f + 0.5) * dose, 300.0).numpy() for f in range(n)])
        share = left * compute_dose_weights(torch.from_numpy(k), n, dose, 0.0, 300.0).numpy()
        lost = (
            100 * (share * (1 - np.exp(-((2 * np.pi * k * errors[:, None]) ** 2) / 2))).sum(axis=0) / share.sum(axis=0)
        )
        root = float(np.sqrt((errors**2).mean()))
        rows.append(
            f"| {describe(settings)} | {root / settings.pixel_size_angstrom:.3f} | {root:.3f} | {errors[0]:.3f} | "
            + " | ".join(f"{value:.1f}" for value in lost)
            + " |"
        )
    lines = [
        "# How well the motion of the whole frame can be known at best",
        "",
        "The bound of Cramér and Rao for the movies of [motion-accuracy.md](motion-accuracy.md): the least standard error of a "
        "coordinate of the displacement of a frame about the mean of all, for a method that uses every pixel and knows all "
        "spectra and the local motion; root mean square over frames, and of the first frame. And how many percent of the "
        "signal of the exposure-weighted sum errors of that size take in each shell.",
        "",
        "| movie | px | Å | first frame, Å | " + " | ".join(shells) + " |",
        "|---" * (4 + len(shells)) + "|",
        *rows,
    ]
    (RESULTS / "motion-bound.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
