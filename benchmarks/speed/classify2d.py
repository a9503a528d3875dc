"""Time 2D classification at full size, and as the number of particles grows.

python benchmarks/speed/classify2d.py [--quick]

The images are turned and shifted views of random blobs in noise with a CTF; what they show does not matter for the time.
benchmarks/accuracy/classify2d.py times RELION beside ours on the same images. Writes benchmarks/results/classify2d-speed.md.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from vitreous.io.mrc import write_mrc
from vitreous.io.stacks import ParticleStacks
from vitreous.ops.align2d import ClassificationSettings, classify_images
from vitreous.ops.ctf import compute_ctf_2d

HERE = Path(__file__).resolve().parent
PIXEL, KV, CS, AMPLITUDE, N_VIEWS = 3.0, 300.0, 2.7, 0.1, 40
N_ITERATIONS = 30
BATCH = 1000


def draw_views(box: int, rng: np.random.Generator) -> np.ndarray:
    """Return blobs within a third of the box: (view, blob, (x, y, width, height))."""
    r, t = box / 3.5 * np.sqrt(rng.uniform(0, 1, (N_VIEWS, 20))), rng.uniform(0, 2 * np.pi, (N_VIEWS, 20))
    return np.stack([r * np.cos(t), r * np.sin(t), np.full(r.shape, box / 40), rng.uniform(0.5, 1.5, r.shape)], axis=-1)


def simulate(folder: Path, n: int, box: int) -> None:
    """Write defoci, and images in stacks of up to `BATCH`, as a project has them in one for each micrograph."""
    rng = np.random.default_rng(3)
    views, defocus = draw_views(box, rng), rng.uniform(8000, 22000, n)
    np.save(folder / "defocus.npy", defocus)
    axis = np.arange(box) - box // 2
    for start in range(0, n, BATCH):
        count = min(BATCH, n - start)
        angle, shift = rng.uniform(0, 2 * np.pi, count), rng.normal(0, box / 64, (count, 2)).clip(-box / 20, box / 20)
        blobs = views[rng.integers(0, N_VIEWS, count)]
        c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
        x, y = (
            c * blobs[..., 0] - s * blobs[..., 1] + shift[:, :1],
            s * blobs[..., 0] + c * blobs[..., 1] + shift[:, 1:],
        )
        width = 2 * blobs[..., 2, None] ** 2
        rows = np.exp(-((axis - y[..., None]) ** 2) / width) * blobs[..., 3, None]
        clean = np.einsum("bky,bkx->byx", rows, np.exp(-((axis - x[..., None]) ** 2) / width))
        signal = np.fft.irfft2(np.fft.rfft2(clean) * compute_ctf(defocus[start : start + count], box), s=(box, box))
        signal *= np.sqrt(0.1 / signal.var())
        images = signal + rng.normal(size=signal.shape)
        write_mrc(folder / f"{start // BATCH}.mrcs", images.astype(np.float32), PIXEL)


def compute_ctf(defocus: np.ndarray, box: int) -> np.ndarray:
    u = torch.from_numpy(np.asarray(defocus)).float()
    ctf: np.ndarray = -compute_ctf_2d(
        (box, box), PIXEL, u, u - 200, torch.zeros(len(u)), voltage_kv=KV, cs_mm=CS, amplitude_contrast=AMPLITUDE
    ).numpy()
    return ctf


class Images:
    """Images read some at a time, as the stage does."""

    def __init__(self, folder: Path, n: int, box: int) -> None:
        number = np.arange(n)
        table = {
            "stack_path": [f"{i}.mrcs" for i in number // BATCH],
            "stack_index": number % BATCH,
            "box_px": [box] * n,
        }
        self._stacks = ParticleStacks(pl.DataFrame(table), folder)
        self.shape = self._stacks.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: torch.Tensor, /) -> torch.Tensor:
        return torch.from_numpy(self._stacks.read(index.numpy()))


def classify(folder: Path, n: int, box: int, n_classes: int) -> None:
    images = Images(folder, n, box)
    defocus = np.load(folder / "defocus.npy")
    radius = 0.34 * box
    settings = ClassificationSettings(
        n_classes=n_classes,
        n_iterations=N_ITERATIONS,
        mask_radius_px=radius,
        max_shift_px=0.2 * radius,
        first_ring=max(4, round(2 * box / radius)),
        last_ring=box // 4,
        seed=0,
    )
    half = torch.arange(n) % 2
    classify_images(images, lambda index: torch.from_numpy(compute_ctf(defocus[index.numpy()], box)), half, settings)


def measure(step: str, folder: Path, n: int, box: int, n_classes: int) -> tuple[float, float, float]:
    """Run a step in a process of its own; return wall seconds, CPU seconds and peak memory in GB."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, __file__, "--step", step, str(folder), str(n), str(box), str(n_classes)]
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the step {step} failed; see above")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def write_row(job: tuple[int, int, int], cost: tuple[float, float, float]) -> str:
    n, box, n_classes = job
    unit = cost[1] / (n * n_classes * N_ITERATIONS) * 1e6
    return f"| {n} | {box} | {n_classes} | {cost[0]:.0f} | {cost[1]:.0f} | {cost[2]:.2f} | {unit:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--step", nargs=5, metavar=("NAME", "FOLDER", "N", "BOX", "K"), help="run one step (used inside)"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the particles for the growth")
    arguments = parser.parse_args()
    if arguments.step:
        name, folder, *job = arguments.step
        n, box, n_classes = (int(value) for value in job)
        if name == "simulate":
            simulate(Path(folder), n, box)
        else:
            classify(Path(folder), n, box, n_classes)
        return
    part = 10 if arguments.quick else 1
    jobs = [(10_000, 128, 50), *((n // part, 64, 20) for n in (1_000, 5_000, 10_000, 50_000))]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for box in (64, 128):
            folder = Path(name) / str(box)
            folder.mkdir()
            # In a process of its own: a child is never said to use less memory than what started it.
            measure("simulate", folder, max(job[0] for job in jobs if job[1] == box), box, 0)
        for job in jobs:
            rows.append(write_row(job, measure("ours", Path(name) / str(job[1]), *job)))
    lines = [
        "# Time of 2D classification",
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), no GPU, shared with other work; {N_ITERATIONS} iterations. The "
        "unit is CPU µs per image, class and iteration; ours takes a part of the images in most iterations, which the unit "
        "counts as if it took all. Memory is the most that the program held."
        + (" Quick run: the growth with a tenth of the particles." if arguments.quick else ""),
        "",
        "| images | box, px | classes | seconds | CPU seconds | memory, GB | unit |",
        "|" + "---|" * 7,
        *rows,
    ]
    results = HERE.parent / "results"
    results.mkdir(exist_ok=True)
    (results / "classify2d-speed.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
