"""Compare CTF fits to the spectrum of a movie's sum with fits to the mean spectrum of sums of 4 e/Å².

python benchmarks/accuracy/ctf_groups.py

Writes benchmarks/results/ctf-groups.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ctf import BASE, OPTICS, split
from numpy.typing import NDArray

from vitreous.ops.ctf_estimate import CtfEstimate, estimate_ctf
from vitreous.ops.ctf_fit import FitBand
from vitreous.ops.spectra import TileSpectra, compute_tile_spectra
from vitreous.simulate.micrograph import make_micrograph
from vitreous.simulate.movie import make_camera, make_movie
from vitreous.simulate.particles import AtomProjector
from vitreous.simulate.volume import load_specimen

RESULTS = Path(__file__).resolve().parents[1] / "results"
N_MOVIES, N_GROUPS, DOSE, TILE = 6, 10, 4.0, 512
SETTINGS = BASE.model_copy(update={"n_frames": N_GROUPS, "dose_per_frame": DOSE, "damage": True})
BAND = FitBand(1 / 30, 1 / 4, **OPTICS)


def sum_spectra(images: list[torch.Tensor]) -> TileSpectra:
    """Return the mean power of several images of one field, tile by tile: of sums of frames, whose noise is independent."""
    found = [compute_tile_spectra(image, TILE) for image in images]
    assert len({one.n_left_out for one in found}) == 1
    power = torch.stack([one.power for one in found]).mean(0)
    return replace(found[0], power=power, n_looks=len(images) * found[0].n_looks)


def estimate(tiles: TileSpectra) -> CtfEstimate:
    pixel = SETTINGS.pixel_size_angstrom
    shape = (SETTINGS.ny_px, SETTINGS.nx_px)
    return estimate_ctf(
        tiles, (pixel, pixel), shape, pixel, BAND, min_defocus_angstrom=3000.0, max_defocus_angstrom=50000.0
    )


def draw_movies(blur_angstrom: float) -> Iterator[tuple[NDArray[np.float64], list[torch.Tensor]]]:
    """Yield the truth and the frames of movies with a drift that nobody corrected."""
    specimen = load_specimen("apoferritin", SETTINGS.pixel_size_angstrom)
    projector = AtomProjector(specimen)
    for seed in range(N_MOVIES):
        rng = np.random.default_rng([seed, 4])
        truth = make_micrograph(
            SETTINGS, projector, specimen.box_px, specimen.diameter_angstrom, rng.uniform(8e3, 25e3), False, rng
        )
        path = np.zeros((N_GROUPS, 2))
        path[:, 0] = np.linspace(0, blur_angstrom / SETTINGS.pixel_size_angstrom, N_GROUPS)
        frames = make_movie(truth, path, make_camera(SETTINGS, rng), SETTINGS, rng)
        known = split(truth.defocus_u_angstrom, truth.defocus_v_angstrom, truth.defocus_angle_deg)
        yield known, [torch.from_numpy(frame.astype(np.float32)) for frame in frames]


def main() -> None:
    torch.set_num_threads(1)
    lines = [
        "# Spectra of sums or of groups of frames",
        "",
        f"{N_MOVIES} simulated movies of apoferritin a row, {SETTINGS.nx_px} x {SETTINGS.ny_px} px, "
        f"{SETTINGS.pixel_size_angstrom} Å/px, {N_GROUPS} frames of {DOSE:g} e/Å², with radiation damage, 0.8 to 2.5 µm. Drift: "
        "what motion correction left, along x over the whole movie. Root mean square errors, and largest; significance of the "
        "rings in standard errors, mean.",
        "",
        "| drift left, Å | spectrum | mean defocus, Å | components of astigmatism, Å | significance | reaches, Å (median) |",
        "|---|---|---|---|---|---|",
    ]
    for blur in (0.0, 1.0):
        errors: dict[str, list[NDArray[np.float64]]] = {"sum": [], "groups": []}
        others: dict[str, list[tuple[float, float]]] = {"sum": [], "groups": []}
        for truth, frames in draw_movies(blur):
            for name, images in (("sum", [torch.stack(frames).sum(0)]), ("groups", frames)):
                found = estimate(sum_spectra(images))
                values = found.refined.values
                error = np.array([values.mean_angstrom, values.cos_part_angstrom, values.sin_part_angstrom]) - truth
                errors[name].append(error)
                others[name].append((found.refined.significance, found.curves.resolution_angstrom))
        for name, found_errors in errors.items():
            mean, *parts = np.sqrt(np.mean(np.square(found_errors), axis=0))
            largest = np.abs(found_errors).max(axis=0)
            significance, resolution = np.array(others[name]).T
            lines.append(
                f"| {blur:g} | {name} | {mean:.1f}, {largest[0]:.0f} | {np.hypot(*parts) / np.sqrt(2):.1f}, "
                f"{largest[1:].max():.0f} | {significance.mean():.0f} | {np.median(resolution):.1f} |"
            )
            print(lines[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ctf-groups.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
