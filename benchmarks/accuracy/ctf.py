"""Measure CTF fits of simulated micrographs against their truth, and of real apoferritin micrographs against independent fits.

python benchmarks/accuracy/ctf.py [../shared/data/apoferritin-10146/micrographs]

Writes benchmarks/results/ctf-accuracy.md.
"""

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vitreous.io.images import read_micrograph
from vitreous.io.mrc import write_mrc
from vitreous.model.stage import Context
from vitreous.ops.ctf_fit import CtfFit
from vitreous.simulate.micrograph import make_micrograph
from vitreous.simulate.movie import make_camera, make_movie
from vitreous.simulate.particles import AtomProjector
from vitreous.simulate.settings import SimulationSettings
from vitreous.simulate.volume import load_specimen
from vitreous.stages.ctf import STAGE, CtfParams, MicrographItem

RESULTS = Path(__file__).resolve().parents[1] / "results"
BASE = SimulationSettings(
    nx_px=1024,
    ny_px=1024,
    pixel_size_angstrom=1.5,
    n_frames=1,
    dose_per_frame=40,
    damage=False,
    drift_angstrom=0,
    gain=False,
    n_hot_pixels=0,
    n_contaminants=1,
    particles_per_movie=45,
)
CASES: dict[str, tuple[dict[str, object], tuple[float, float]]] = {
    "0.5 to 0.8 µm": ({}, (5_000, 8_000)),
    "0.8 to 1.5 µm": ({}, (8_000, 15_000)),
    "1.5 to 2.5 µm": ({}, (15_000, 25_000)),
    "2.5 to 4 µm": ({}, (25_000, 40_000)),
    "0.8 to 2.5 µm, thin ice (200 Å)": ({"ice_thickness_angstrom": 200.0}, (8_000, 25_000)),
    "0.8 to 2.5 µm, 20 e/Å²": ({"dose_per_frame": 20.0}, (8_000, 25_000)),
}
N = 6


def fit(image: np.ndarray, pixel_size: float) -> CtfFit:
    """Run the stage on one image on disk."""
    with tempfile.TemporaryDirectory() as folder:
        write_mrc(Path(folder) / "a.mrc", image.astype(np.float32), pixel_size)
        item = MicrographItem(
            item_id="a",
            image_path="a.mrc",
            pixel_size_angstrom=pixel_size,
            voltage_kv=300,
            cs_mm=2.7,
            amplitude_contrast=0.07,
            row={},
        )
        params = CtfParams()
        return STAGE.compute(STAGE.load(item, params, Context(Path(folder))), params)


def measure_simulated() -> list[str]:
    specimen = load_specimen("apoferritin", BASE.pixel_size_angstrom)
    projector = AtomProjector(specimen)
    rows = []
    for name, (changes, (low, high)) in CASES.items():
        settings = BASE.model_copy(update=changes)
        errors, angles, resolutions, seconds, far = [], [], [], 0.0, 0
        for seed in range(N):
            rng = np.random.default_rng([seed, int(low)])
            truth = make_micrograph(
                settings,
                projector,
                specimen.box_px,
                specimen.diameter_angstrom,
                low + (high - low) * (seed + 0.5) / N,
                False,
                rng,
            )
            image = make_movie(truth, np.zeros((1, 2)), make_camera(settings, rng), settings, rng)[0]
            started = time.process_time()
            found = fit(image, settings.pixel_size_angstrom)
            seconds += time.process_time() - started
            u = found.defocus_u_angstrom - truth.defocus_u_angstrom
            v = found.defocus_v_angstrom - truth.defocus_v_angstrom
            errors.append(((u + v) / 2, u - v))
            far += abs(u + v) / 2 > 500
            if truth.defocus_u_angstrom - truth.defocus_v_angstrom > 100:
                angles.append(abs((found.defocus_angle_deg - truth.defocus_angle_deg + 90) % 180 - 90))
            resolutions.append(found.resolution_angstrom)
        mean, astigmatism = np.sqrt(np.mean(np.square(errors), axis=0))
        angle = f"{np.median(angles):.1f}" if angles else "-"
        rows.append(
            f"| {name} | {mean:.0f} | {astigmatism:.0f} | {angle} | {far} of {N} | {np.median(resolutions):.1f} "
            f"| {seconds / N:.2f} |"
        )
        print(rows[-1], flush=True)
    return rows


def measure_real(folder: Path) -> list[str]:
    rows = []
    for path in sorted(folder.glob("*.png")):
        found = fit(read_micrograph(path)[0], 1.5)
        defocus = (found.defocus_u_angstrom + found.defocus_v_angstrom) / 2
        astigmatism = found.defocus_u_angstrom - found.defocus_v_angstrom
        rows.append(
            f"| {path.stem} | {defocus:.0f} | {astigmatism:.0f} | {found.resolution_angstrom:.1f} | {found.score:.2f} |"
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the real micrographs")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    lines = [
        "# CTF fits",
        "",
        f"Simulated micrographs of apoferritin, {BASE.nx_px} x {BASE.ny_px} px, {BASE.pixel_size_angstrom} Å/px, "
        f"{BASE.dose_per_frame:g} e/Å² unless said otherwise, {N} a row, astigmatism up to {BASE.astigmatism_angstrom:g} Å. "
        "Errors are root mean squares, Å; of the angle the median where the astigmatism is over 100 Å; far: off by more than "
        "500 Å.",
        f"CPU seconds a micrograph, one thread. {os.cpu_count()} cores ({platform.machine()}).",
        "",
        "| defocus | mean defocus, Å | astigmatism, Å | angle, ° | far | fit reaches, Å (median) | CPU s |",
        "|---|---|---|---|---|---|---|",
        *measure_simulated(),
    ]
    if data is not None:
        lines += [
            "",
            "Real micrographs (EMPIAR-10146, apoferritin, 1240 x 1200 px, 1.5 Å/px); independent fits of the rotational average "
            "give 15 700 to 25 100 Å.",
            "",
            "| micrograph | mean defocus, Å | astigmatism, Å | fit reaches, Å | correlation |",
            "|---|---|---|---|---|",
            *measure_real(data),
        ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ctf-accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
