"""Time the CTF fit of a large micrograph beside what no program gets round: reading it, and the transforms of its tiles.

python benchmarks/speed/ctf.py

Writes benchmarks/results/ctf-speed.md. Peak memory is that of the whole process.
"""

import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.stages.ctf import STAGE, CtfParams, MicrographItem

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIDE, REPEATS = 4096, 3
OPTICS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}


def time_best(work: Callable[[], object]) -> tuple[float, float]:
    """Return least wall and CPU seconds of a few runs."""
    results = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        results.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(wall for wall, _ in results), min(cpu for _, cpu in results)


def measure(folder: Path, pixel_size: float) -> list[str]:
    shape = (SIDE, SIDE)
    specimen = torch.fft.rfft2(torch.randn(shape)) * compute_ctf_2d(shape, pixel_size, 15200, 14900, 30, **OPTICS)
    write_mrc(folder / "a.mrc", (torch.fft.irfft2(specimen, s=shape) + torch.randn(shape)).numpy(), pixel_size)
    del specimen
    item = MicrographItem(item_id="a", image_path="a.mrc", pixel_size_angstrom=pixel_size, row={}, **OPTICS)
    params, context = CtfParams(), Context(folder)
    loaded = STAGE.load(item, params, context)
    image = loaded.image
    tile = torch.randn(4, params.tile_px, params.tile_px)
    scaled = min(1.0, pixel_size / params.fit_pixel_size_angstrom)
    n_tiles = round((2 * SIDE * scaled / params.tile_px - 1) ** 2)
    stages = {
        "the fit: spectra, search, refinement, surface, errors": time_best(lambda: STAGE.compute(loaded, params)),
        "reading the file": time_best(lambda: read_mrc(folder / "a.mrc")[0].sum()),
        "one transform of the whole": time_best(lambda: torch.fft.rfft2(image)),
    }
    wall, cpu = time_best(lambda: torch.fft.rfft2(tile))
    stages[f"transforms of {n_tiles} tiles"] = (wall * n_tiles / 4, cpu * n_tiles / 4)
    whole = next(iter(stages.values()))[1]
    return [
        f"| {pixel_size} | {name} | {wall:.2f} | {cpu:.2f} | {whole / cpu:.1f} |"
        for name, (wall, cpu) in stages.items()
    ]


def main() -> None:
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = [row for pixel in (1.4, 0.85) for row in measure(Path(name), pixel)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    text = "\n".join(
        [
            "# CTF fit of a large micrograph",
            "",
            f"{SIDE} x {SIDE} pixels, one thread, {os.cpu_count()} cores ({platform.machine()}), load average {load:.1f} before "
            f"the run; least of {REPEATS}. Micrographs finer than 1.26 Å per pixel are resampled to 1.4 Å first. "
            f"Peak memory of the process, with the making of the image: {peak:.2f} GB.",
            "",
            "| Å/px | what | wall, s | CPU, s | CPU of the fit over this |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ctf-speed.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
