"""Time template picking of a large micrograph beside relion_autopick: the same templates, angles and resolution, in one run.

python benchmarks/speed/picking.py

20 templates in steps of 5 degrees, 4096 x 4096 pixels. RELION (where it is installed) works with --shrink 0, at the size that its
low-pass of 20 Å asks for. Writes benchmarks/results/picking-speed.md. Peak memory is that of the whole process.
"""

import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.optics import Optics
from vitreous.ops.fourier import compute_frequency_2d, irfft2, rfft2
from vitreous.pickers.matched import Candidates, MatchSettings
from vitreous.pickers.template import Defocus, TemplateSet, pick_templates

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIDE, PIXEL, DIAMETER, BOX = 4096, 1.0, 150.0, 220
N_TEMPLATES, STEP_DEG, LOW_PASS_ANGSTROM, REPEATS = 20, 5.0, 20.0, 2
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


def main() -> None:
    load = os.getloadavg()[0]
    rng = np.random.default_rng(0)
    templates = make_templates(rng)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mrc(folder / "a.mrc", make_micrograph(templates, rng).numpy(), PIXEL)
        write_mrc(folder / "references.mrcs", templates.numpy(), PIXEL)
        best = float("nan")
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for what, defocus in (("without CTF", None), ("with CTF", Defocus(15_000.0, 14_800.0, 30.0, 0.0))):
                wall, cpu = time_ours(folder / "a.mrc", templates, defocus)
                if threads == 1 and defocus is None:
                    best = cpu
                rows.append(f"| vitreous, {what}, {threads} thread{'s' * (threads > 1)} | {wall:.2f} | {cpu:.2f} |")
        print(*rows, sep="\n", flush=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        relion = time_relion(folder)
    ratio = "RELION was not installed."
    if relion is not None:
        rows.append(f"| relion_autopick --shrink 0, without CTF | {relion[0]:.2f} | {relion[1]:.2f} |")
        ratio = f"RELION takes {relion[1] / best:.0f} times the CPU time of ours (without CTF, one thread)."
    text = "\n".join(
        [
            "# Template picking of a large micrograph",
            "",
            f"{SIDE}² pixels of {PIXEL:g} Å, {N_TEMPLATES} templates every {STEP_DEG:g}°, diameter {DIAMETER:g} Å, reading "
            f"included; {os.cpu_count()} cores ({platform.machine()}), load average {load:.1f}; least of {REPEATS} "
            f"(RELION: one run). Peak memory of the process, with the making of the image: {peak:.2f} GB.",
            "",
            "| what | wall, s | CPU, s |",
            "|---|---|---|",
            *rows,
            "",
            ratio,
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "picking-speed.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
