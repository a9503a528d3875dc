"""Measure CTF fits of simulated micrographs against their truth, and of real micrographs against independent fits.

python benchmarks/accuracy/ctf.py [../shared/data]

Writes benchmarks/results/ctf-accuracy.md.
"""

import argparse
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vitreous.io.images import read_micrograph
from vitreous.io.mrc import write_mrc
from vitreous.model.stage import Context
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.ctf_estimate import CtfEstimate
from vitreous.ops.potential import compute_interaction_constant
from vitreous.simulate.micrograph import compute_ice_spectrum, make_micrograph
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
N, N_MANY, N_FIELDS, N_EMPTY = 8, 24, 3, 12
MANY = ("0.8 to 1.5 µm", "2.5 to 4 µm")
"""Rows of more micrographs, so that the share inside one standard error means something: 72 numbers, 68 ± 6 %."""
FIELD_PX, FIELD_PIXEL_ANGSTROM, STEP_ANGSTROM = 2048, 1.5, 100.0
OPTICS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.07}


@dataclass(frozen=True)
class Fit:
    estimate: CtfEstimate
    seconds: float

    @property
    def is_doubtful(self) -> bool:
        return (
            self.estimate.curves.score < 0.4
            or self.estimate.curves.resolution_angstrom > 15
            or self.estimate.refined.significance < 8
        )


def fit(image: NDArray[np.float32], pixel_size: float, params: CtfParams | None = None) -> Fit:
    """Run the stage on one image on disk; CPU seconds of the computation."""
    params = params or CtfParams()
    with tempfile.TemporaryDirectory() as folder:
        write_mrc(Path(folder) / "a.mrc", image.astype(np.float32), pixel_size)
        item = MicrographItem(item_id="a", image_path="a.mrc", pixel_size_angstrom=pixel_size, row={}, **OPTICS)
        loaded = STAGE.load(item, params, Context(Path(folder)))
        started = time.process_time()
        return Fit(STAGE.compute(loaded, params).estimate, time.process_time() - started)


def split(u: float, v: float, angle_deg: float) -> NDArray[np.float64]:
    """Return the mean and the two smooth components of astigmatism."""
    half, double = (u - v) / 2, math.radians(2 * angle_deg)
    return np.array([(u + v) / 2, half * math.cos(double), half * math.sin(double)])


def compare(found: Fit, truth: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return errors of mean defocus and of the components of astigmatism, and the errors over their standard errors."""
    values = found.estimate.refined.values
    error = np.array([values.mean_angstrom, values.cos_part_angstrom, values.sin_part_angstrom]) - truth
    return error, error / found.estimate.refined.covariance.diagonal()[:3].sqrt().numpy()


def measure_flat() -> list[str]:
    specimen = load_specimen("apoferritin", BASE.pixel_size_angstrom)
    projector = AtomProjector(specimen)
    rows, relative = [], []
    for name, (changes, (low, high)) in CASES.items():
        settings = BASE.model_copy(update=changes)
        errors, differences, angles, resolutions, seconds = [], [], [], [], 0.0
        n = N_MANY if name in MANY else N
        for seed in range(n):
            rng = np.random.default_rng([seed, int(low)])
            defocus = low + (high - low) * (seed + 0.5) / n
            truth = make_micrograph(
                settings, projector, specimen.box_px, specimen.diameter_angstrom, defocus, False, rng
            )
            image = make_movie(truth, np.zeros((1, 2)), make_camera(settings, rng), settings, rng)[0]
            found = fit(image, settings.pixel_size_angstrom)
            seconds += found.seconds
            u, v, angle = truth.defocus_u_angstrom, truth.defocus_v_angstrom, truth.defocus_angle_deg
            error, scaled = compare(found, split(u, v, angle))
            errors.append(error[0])
            relative.append(scaled)
            values = found.estimate.refined.values
            differences.append(values.astigmatism_angstrom - (u - v))
            if u - v > 200:
                angles.append(abs((values.defocus_angle_deg - angle + 90) % 180 - 90))
            resolutions.append(found.estimate.curves.resolution_angstrom)
        far = int((np.abs(errors) > 500).sum())
        inside = np.mean(np.abs(relative[-n:]) < 1)
        turned = f"{root_mean_square(angles):.1f}, {np.max(angles):.1f}" if angles else "-"
        rows.append(
            f"| {name} | {root_mean_square(errors):.1f} | {root_mean_square(differences):.1f} | {turned} | {far} of {n} | "
            f"{np.median(resolutions):.1f} | {inside:.0%} | {seconds / n:.2f} |"
        )
        print(rows[-1], flush=True)
    inside = np.mean(np.abs(relative) < 1, axis=0)
    rows += [
        "",
        f"Inside one standard error of all {len(relative)}: mean defocus {inside[0]:.0%}, components of astigmatism "
        f"{inside[1]:.0%} and {inside[2]:.0%}, together {inside.mean():.0%} (68 % for a normal error).",
    ]
    return rows


def root_mean_square(values: Iterable[float]) -> float:
    return float(np.sqrt(np.mean(np.square(list(values)))))


def make_field(
    surface: torch.Tensor, defocus: tuple[float, float, float], phase_deg: float, seed: int
) -> NDArray[np.float32]:
    """Return ice at 40 e/Å² whose defocus varies: images at defoci 100 Å apart, mixed at each place by its defocus.

    `surface` holds local less mean defocus in Å.
    """
    shape = (surface.shape[0], surface.shape[1])
    generator = torch.Generator().manual_seed(seed)
    ky = torch.fft.fftfreq(shape[0], FIELD_PIXEL_ANGSTROM)[:, None]
    k = torch.hypot(ky, torch.fft.rfftfreq(shape[1], FIELD_PIXEL_ANGSTROM)[None])
    strength = 2 * BASE.contrast * compute_interaction_constant(300) * torch.exp(-15 * k**2)
    ice = torch.fft.rfft2(torch.randn(shape, generator=generator))
    ice *= strength * compute_ice_spectrum(k, BASE.ice_thickness_angstrom).sqrt() / FIELD_PIXEL_ANGSTROM
    image = torch.zeros(shape)
    u, v, angle = defocus
    first = math.floor(float(surface.min()) / STEP_ANGSTROM)
    for number in range(first, math.ceil(float(surface.max()) / STEP_ANGSTROM) + 1):
        offset = number * STEP_ANGSTROM
        weight = (1 - (surface - offset).abs() / STEP_ANGSTROM).clamp_min(0)
        ctf = compute_ctf_2d(
            shape, FIELD_PIXEL_ANGSTROM, u + offset, v + offset, angle, phase_shift_deg=phase_deg, **OPTICS
        )
        image += weight * torch.fft.irfft2(ice * ctf, s=shape)
    electrons = 40 * FIELD_PIXEL_ANGSTROM**2
    return torch.poisson(electrons * (1 + image).clamp_min(0), generator=generator).numpy()


def measure_surfaces() -> list[str]:
    line = torch.linspace(-1, 1, FIELD_PX)
    y, x = line[:, None], line[None, :]
    half = 0.5 * FIELD_PX * FIELD_PIXEL_ANGSTROM
    steps = torch.arange(64, FIELD_PX, 128)
    places = torch.cartesian_prod(steps, steps).flip(1).double()
    rows = []
    for name, tilt, bow in [
        ("flat", 0.0, 0.0),
        ("tilted by 20°", 20.0, 0.0),
        ("tilted by 30°", 30.0, 0.0),
        ("tilted by 40°", 40.0, 0.0),
        ("bowl, 800 Å", 0.0, 400.0),
        ("tilted by 10°, saddle, 800 Å", 10.0, -400.0),
    ]:
        local, tilts, axes, scaled, degrees, astigmatism = [], [], [], [], [], []
        for seed in range(N_FIELDS):
            rng = np.random.default_rng([seed, round(tilt), round(abs(bow))])
            direction = rng.uniform(0, 2 * np.pi)
            surface = math.tan(math.radians(tilt)) * half * (math.cos(direction) * x + math.sin(direction) * y)
            surface = surface + bow * (x**2 + math.copysign(1, bow) * y**2)
            surface = surface - surface.mean()
            mean, spread, angle = rng.uniform(12_000, 25_000), rng.uniform(50, 300), rng.uniform(0, 180)
            u, v = mean + spread / 2, mean - spread / 2
            found = fit(make_field(surface, (u, v, angle), 0.0, seed), FIELD_PIXEL_ANGSTROM)
            estimate = found.estimate
            astigmatism.append(estimate.refined.values.astigmatism_angstrom - spread)
            if estimate.surface is None:
                continue
            truth = surface[places[:, 1].long(), places[:, 0].long()].double()
            error = estimate.refined.values.mean_angstrom + estimate.surface.compute_offsets(places) - (mean + truth)
            local.append(error.numpy())
            if estimate.surface.degree:
                errors = (
                    estimate.surface.compute_errors(places).square() + estimate.surface.constant_error_angstrom**2
                ).sqrt()
                scaled.append((error / errors).numpy())
            found_tilt, axis, _ = estimate.surface.compute_tilt(FIELD_PIXEL_ANGSTROM)
            degrees.append(estimate.surface.degree)
            tilts.append(found_tilt - tilt)
            if tilt:
                axes.append(abs((axis - math.degrees(direction)) % 180 - 90))
        within = f"{np.mean(np.abs(np.concatenate(scaled)) < 1):.0%}" if scaled else "-"
        rows.append(
            f"| {name} | {root_mean_square(np.concatenate(local)):.0f} | {np.max(np.abs(tilts)):.1f} | "
            f"{f'{max(axes):.1f}' if axes else '-'} | {root_mean_square(astigmatism):.0f} | "
            f"{', '.join(map(str, degrees))} | {within} |"
        )
        print(rows[-1], flush=True)
    return rows


def measure_phases() -> str:
    errors, scaled, defocus = [], [], []
    flat = torch.zeros(1024, 1024)
    for seed, phase in enumerate((20.0, 50.0, 80.0, 110.0, 140.0, 170.0)):
        rng = np.random.default_rng(seed)
        mean = rng.uniform(6_000, 20_000)
        image = make_field(flat, (mean + 50, mean - 50, 30.0), phase, seed)
        refined = fit(image, FIELD_PIXEL_ANGSTROM, CtfParams(max_phase_shift_deg=180)).estimate.refined
        errors.append((refined.values.phase_shift_deg - phase + 90) % 180 - 90)
        scaled.append(errors[-1] / refined.phase_shift_error_deg)
        defocus.append(refined.values.mean_angstrom - mean)
    text = (
        f"Phase plates, shift of 20 to 170° searched from 0 to 180°, {len(errors)} fields of 1024 x 1024 px: error of the shift "
        f"{root_mean_square(errors):.1f}° (largest {np.max(np.abs(errors)):.1f}°), of the defocus "
        f"{root_mean_square(defocus):.0f} Å; {np.mean(np.abs(scaled) < 1):.0%} of the shifts inside one standard error."
    )
    print(text, flush=True)
    return text


def measure_empty() -> str:
    rng = np.random.default_rng(0)
    found = [fit(rng.poisson(90, (1024, 1024)).astype(np.float32), 1.5) for _ in range(N_EMPTY)]
    text = f"Fields without specimen called doubtful: {sum(one.is_doubtful for one in found)} of {N_EMPTY}."
    print(text, flush=True)
    return text


def measure_real(data: Path) -> list[str]:
    rows = []
    paths = [(path, 1.5) for path in sorted((data / "apoferritin-10146" / "micrographs").glob("*.png"))]
    for path, pixel in [*paths, (data / "formats" / "fei-extended.mrc.bz2", 0.854)]:
        if not path.exists():
            continue
        estimate = fit(read_micrograph(path)[0], pixel).estimate
        values, surface = estimate.refined.values, estimate.surface
        tilt = surface.compute_tilt(pixel)[0] if surface else math.nan
        rows.append(
            f"| {path.name.split('.png')[0]} | {values.mean_angstrom:.0f} ± {estimate.refined.mean_error_angstrom:.0f} | "
            f"{values.astigmatism_angstrom:.0f} ± {estimate.refined.astigmatism_error_angstrom:.0f} | "
            f"{estimate.curves.resolution_angstrom:.1f} | {estimate.curves.strict_resolution_angstrom:.1f} | "
            f"{estimate.curves.score:.2f} | "
            f"{surface.degree if surface else '-'} | {tilt:.1f} | {estimate.refined.misfit:.2f} |"
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder of the real micrographs")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    lines = [
        "# CTF fits",
        "",
        f"Simulated micrographs of apoferritin, {BASE.nx_px} x {BASE.ny_px} px, {BASE.pixel_size_angstrom} Å/px, "
        f"{BASE.dose_per_frame:g} e/Å² unless said otherwise, {N} a row or {N_MANY}, astigmatism up to "
        f"{BASE.astigmatism_angstrom:g} Å. Errors are root mean squares; of the angle this and the largest where the "
        "astigmatism is over 200 Å; far: off by more than 500 Å; inside: share of the errors of mean defocus and of both "
        "components of astigmatism that are smaller than their standard error.",
        f"CPU seconds a micrograph, one thread. {os.cpu_count()} cores ({platform.machine()}).",
        "",
        "| defocus | mean defocus, Å | astigmatism, Å | angle, ° | far | fit reaches, Å (median) | inside | CPU s |",
        "|---|---|---|---|---|---|---|---|",
        *measure_flat(),
        "",
        "## Specimens that are not flat",
        "",
        f"Ice alone, {FIELD_PX} x {FIELD_PX} px, {FIELD_PIXEL_ANGSTROM} Å/px, 40 e/Å², 1.2 to 2.5 µm in the middle, {N_FIELDS} "
        "a row. Images at defoci 100 Å apart are mixed at each place by its defocus. Local defocus at 256 places, root mean "
        "square; tilt and axis: the largest error; degree of the surface (0: flat); inside: places within one standard error.",
        "",
        "| specimen | local defocus, Å | tilt, ° | axis, ° | astigmatism, Å | degree | inside |",
        "|---|---|---|---|---|---|---|",
        *measure_surfaces(),
        "",
        measure_phases(),
        "",
        measure_empty(),
    ]
    if data is not None:
        lines += [
            "",
            "## Real micrographs",
            "",
            "EMPIAR-10146 (apoferritin, 1240 x 1200 px, 1.5 Å/px): independent fits of the rotational average give "
            "15 700 to 25 100 Å. `fei-extended` (K2, 0.854 Å/px): one gives 10 600 Å. "
            "Misfit: variance of the residuals over the expected one.",
            "",
            "| micrograph | mean defocus, Å | astigmatism, Å | correlation 0.3, Å | CTFFIND's rule, Å | correlation | degree | "
            "tilt, ° | misfit |",
            "|---|---|---|---|---|---|---|---|---|",
            *measure_real(data),
        ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ctf-accuracy.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
