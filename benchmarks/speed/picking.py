"""Time template picking of a large micrograph beside relion_autopick: the same templates, angles and resolution, in one run.

python benchmarks/speed/picking.py [--relion 0]

20 templates in steps of 5 degrees, 4096 x 4096 pixels: one micrograph with one thread and with two, and the stage `pick` (the
search for junk included) on six micrographs with one worker and with two, each of one thread. The floor is the time that the
matrix products and Fourier transforms of one micrograph take at the speeds that this machine reaches with large ones in one
thread, measured in the same run, and the reading of the file from memory. RELION (where it is installed) works with --shrink 0,
at the size that its low-pass of 20 Å asks for. Writes benchmarks/results/picking-speed.md.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
import torch
from torch.utils.flop_counter import FlopCounterMode

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.optics import Optics
from vitreous.ops.fourier import compute_frequency_2d, irfft2, rfft2
from vitreous.pickers.matched import Candidates, MatchSettings
from vitreous.pickers.template import Defocus, TemplateSet, pick_templates

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIDE, PIXEL, DIAMETER, BOX = 4096, 1.0, 150.0, 220
N_TEMPLATES, STEP_DEG, LOW_PASS_ANGSTROM, REPEATS, N_MICROGRAPHS = 20, 5.0, 20.0, 2, 6
OPTICS = Optics(pixel_size_angstrom=PIXEL, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1)


def make_templates(rng: np.random.Generator) -> torch.Tensor:
    """Return different clusters of balls, protein bright, low-passed."""
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    images = np.zeros((N_TEMPLATES, BOX, BOX), np.float32)
    for image in images:
        for _ in range(25):
            radius, angle = DIAMETER / 2 * 0.75 * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            cx, cy = radius * np.cos(angle), radius * np.sin(angle)
            image += np.sqrt(np.clip(15.0**2 - (x - cx) ** 2 - (y - cy) ** 2, 0, None))
    spectra = rfft2(torch.from_numpy(images))
    ky, kx = compute_frequency_2d((BOX, BOX), PIXEL)
    return irfft2(spectra * torch.exp(-(ky**2 + kx**2) * LOW_PASS_ANGSTROM**2 * 0.35), (BOX, BOX))


def make_micrograph(templates: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return noise with 400 of the templates in it, dark."""
    image = torch.from_numpy(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32))
    for _ in range(400):
        y, x = rng.integers(BOX // 2, SIDE - BOX // 2, 2) - BOX // 2
        image[y : y + BOX, x : x + BOX] -= 0.02 * templates[rng.integers(N_TEMPLATES)]
    return image


def pick(path: Path, templates: torch.Tensor, defocus: Defocus | None) -> Candidates:
    image = torch.from_numpy(read_mrc(path)[0])
    settings = MatchSettings(DIAMETER, 0.75, 0.0)
    return pick_templates(image, OPTICS, defocus, TemplateSet(templates, PIXEL), settings, STEP_DEG)


def time_ours(path: Path, templates: torch.Tensor, defocus: Defocus | None) -> tuple[float, float]:
    """Return least wall and CPU seconds of a few runs, reading included."""
    results = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        pick(path, templates, defocus)
        results.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(wall for wall, _ in results), min(cpu for _, cpu in results)


@dataclass
class Work:
    """What picking one micrograph asks for, whoever does it."""

    product_gflop: float = 0.0
    transform_gflop: float = 0.0
    n_transforms: int = 0
    side: int = 0
    """Of the largest transform, px."""


@contextmanager
def count_transforms(work: Work) -> Iterator[None]:
    """Count real transforms as 2.5 N log2 N operations each."""

    def count(function: Callable[..., Any], side: Callable[..., int]) -> Callable[..., Any]:
        def counted(data: Any, *args: Any, **kwargs: Any) -> Any:
            n_y, n_x = data.shape[-2], side(data, kwargs)
            n_images = int(np.prod(data.shape[:-2]))
            work.transform_gflop += n_images * 2.5e-9 * n_y * n_x * np.log2(n_y * n_x)
            work.n_transforms += n_images
            work.side = max(work.side, n_y)
            return function(data, *args, **kwargs)

        return counted

    forward, backward = torch.fft.rfft2, scipy.fft.irfft2
    torch.fft.rfft2 = count(forward, lambda data, kwargs: data.shape[-1])
    scipy.fft.irfft2 = count(backward, lambda data, kwargs: kwargs["s"][1])
    try:
        yield
    finally:
        torch.fft.rfft2, scipy.fft.irfft2 = forward, backward


def measure_rate(function: Callable[[], object], amount: float) -> float:
    """Return the greatest amount for each CPU second of a few calls."""
    rates = []
    for _ in range(3):
        started = time.process_time()
        function()
        rates.append(amount / (time.process_time() - started))
    return max(rates)


def find_floor(path: Path, templates: torch.Tensor) -> tuple[float, str]:
    """Return the floor of one micrograph, CPU seconds of one thread, and what it is made of."""
    torch.set_num_threads(1)
    work = Work()
    with count_transforms(work), FlopCounterMode(display=False) as products:
        pick(path, templates, Defocus(15_000.0, 14_800.0, 30.0, 0.0))
    work.product_gflop = products.get_total_flops() / 1e9
    one, other = torch.randn(4096, 1024), torch.randn(1024, 2048)
    gemm = measure_rate(lambda: one @ other, 2e-9 * 4096 * 1024 * 2048)
    image = torch.randn(SIDE, SIDE)
    transform = measure_rate(lambda: rfft2(image), 2.5e-9 * SIDE**2 * np.log2(SIDE**2))
    size = path.stat().st_size / 1e9
    reading = measure_rate(path.read_bytes, size)
    parts = (work.product_gflop / gemm, work.transform_gflop / transform, size / reading)
    text = (
        f"Matrix products: {work.product_gflop:.1f} GFLOP at {gemm:.0f} GFLOP/s, {parts[0]:.2f} s. {work.n_transforms} real "
        f"transforms of up to {work.side}²: {work.transform_gflop:.2f} GFLOP at {transform:.1f} GFLOP/s, {parts[1]:.2f} s. "
        f"Reading {1000 * size:.0f} MB at {reading:.1f} GB/s, {parts[2]:.2f} s. Rates are those of one thread in this run."
    )
    return sum(parts), text


def time_stage(folder: Path, workers: int) -> tuple[float, float, float]:
    """Return wall and CPU seconds of one micrograph in the stage, and the peak memory of a worker in GB."""

    def call(*words: str | Path) -> None:
        program = Path(sys.executable).with_name("vitreous")
        subprocess.run([str(program), *map(str, words)], check=True, stdout=subprocess.DEVNULL)

    project = folder / "project"
    if not project.exists():
        (folder / "micrographs").mkdir()
        for number in range(N_MICROGRAPHS):
            (folder / "micrographs" / f"m{number}.mrc").symlink_to(folder / "a.mrc")
        call("new", project, "--micrographs", folder / "micrographs" / "*.mrc", "--pixel-size", f"{PIXEL}", "--voltage", "300",
             "--diameter", f"{DIAMETER}")  # fmt: skip
        call("run", project, "--until", "motion")
    # The seed decides nothing here, and makes another run.
    call("pick", project, "--method", "template", "--templates", folder / "references.mrcs", "--angle-step-deg", f"{STEP_DEG}",
         "--contrast", "dark", "--seed", f"{workers}", "--workers", f"{workers}")  # fmt: skip
    record = json.loads((sorted((project / "runs").glob("*-pick"))[-1] / "run.json").read_text(encoding="utf-8"))
    wall, cpu = record["seconds"] / N_MICROGRAPHS, record["cpu_seconds"] / N_MICROGRAPHS
    return wall, cpu, record["peak_memory_bytes"] / 1e9


def time_relion(folder: Path) -> tuple[float, float] | None:
    """Return wall and CPU seconds of RELION, None where it is not installed."""
    if shutil.which("relion_autopick") is None:
        return None
    words = ["relion_autopick", "--i", "a.mrc", "--ref", "references.mrcs", "--odir", "out/", "--angpix", f"{PIXEL}"]
    words += ["--angpix_ref", f"{PIXEL}", "--particle_diameter", f"{DIAMETER}", "--ang", f"{STEP_DEG}", "--shrink", "0"]
    words += ["--lowpass", f"{LOW_PASS_ANGSTROM}", "--invert", "--threshold", "0.05", "--verb", "0"]
    (folder / "out").mkdir()
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # RELION 3.1.3 can abort while it draws its logfile, after everything is picked and written.
    subprocess.run(words, cwd=folder, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not (folder / "out" / "a_autopick.star").is_file():
        raise RuntimeError("relion_autopick wrote no picks")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - wall, cpu


def write(rows: list[str], explanation: str, ratio: str, load: float) -> None:
    text = "\n".join(
        [
            "# Template picking of a large micrograph",
            "",
            f"{SIDE}² pixels of {PIXEL:g} Å, {N_TEMPLATES} templates every {STEP_DEG:g}°, diameter {DIAMETER:g} Å, reading "
            f"included; {os.cpu_count()} cores ({platform.machine()}), load average {load:.1f}; least of {REPEATS} (the stage "
            "and RELION: one run). CPU is user and system. The stage also looks for junk and writes tables; memory is that of a "
            "worker, above it that of this process with the making of the image. On a machine with other work wall times say "
            "little, and threads that wait for each other cost CPU time.",
            "",
            "| what | wall, s | CPU, s | peak, GB |",
            "|---|---|---|---|",
            *rows,
            "",
            explanation,
            "",
            ratio,
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "picking-speed.md").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--relion", type=int, default=1, help="0 leaves RELION out")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    rng = np.random.default_rng(0)
    templates = make_templates(rng)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mrc(folder / "a.mrc", make_micrograph(templates, rng).numpy(), PIXEL)
        write_mrc(folder / "references.mrcs", templates.numpy(), PIXEL)
        floor, explanation = find_floor(folder / "a.mrc", templates)
        rows.append(f"| floor, with CTF, 1 thread | | {floor:.2f} | |")
        best = float("nan")
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for what, defocus in (("without CTF", None), ("with CTF", Defocus(15_000.0, 14_800.0, 30.0, 0.0))):
                wall, cpu = time_ours(folder / "a.mrc", templates, defocus)
                if threads == 1 and defocus is None:
                    best = cpu
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
                threads_text = f"{threads} thread{'s' * (threads > 1)}"
                rows.append(f"| vitreous, {what}, {threads_text} | {wall:.2f} | {cpu:.2f} | {peak:.2f} |")
        for workers in (1, 2):
            wall, cpu, peak = time_stage(folder, workers)
            workers_text = f"{workers} worker{'s' * (workers > 1)}"
            rows.append(
                f"| the stage, a micrograph of {N_MICROGRAPHS}, {workers_text} | {wall:.2f} | {cpu:.2f} | {peak:.2f} |"
            )
        write(rows, explanation, "RELION was not run.", load)
        relion = time_relion(folder) if arguments.relion else None
    if relion is not None:
        rows.append(f"| relion_autopick --shrink 0, without CTF | {relion[0]:.2f} | {relion[1]:.2f} | |")
        ratio = f"RELION takes {relion[1] / best:.0f} times the CPU time of ours (without CTF, one thread)."
        write(rows, explanation, ratio, load)


if __name__ == "__main__":
    main()
