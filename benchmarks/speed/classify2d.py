"""Time 2D classification: beside RELION on the same particles, at full size, and as the number of particles grows.

python benchmarks/speed/classify2d.py [--quick]

The images are turned and shifted views of random blobs in noise with a CTF; what they show does not matter for the time. RELION
does its first iterations only, which it needs for the comparison per image, class and iteration. Writes
benchmarks/results/classify2d-speed.md.
"""

import argparse
import os
import platform
import shutil
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
N_ITERATIONS, N_RELION_ITERATIONS = 30, 3
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
    optics = {"voltage_kv": KV, "cs_mm": CS, "amplitude_contrast": AMPLITUDE}
    ctf: np.ndarray = -compute_ctf_2d((box, box), PIXEL, u, u - 200, torch.zeros(len(u)), **optics).numpy()
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


def run_relion(folder: Path, n: int, box: int, n_classes: int) -> None:
    write_mrc(folder / "particles.mrcs", Images(folder, n, box)[torch.arange(n)].numpy(), PIXEL)
    defocus = np.load(folder / "defocus.npy")
    lines = ["data_optics", "", "loop_"]
    names = ["OpticsGroupName", "OpticsGroup", "ImagePixelSize", "ImageSize", "ImageDimensionality", "Voltage",
             "SphericalAberration", "AmplitudeContrast"]  # fmt: skip
    lines += [f"_rln{name} #{i + 1}" for i, name in enumerate(names)]
    lines += [f"one 1 {PIXEL} {box} 2 {KV} {CS} {AMPLITUDE}", "", "data_particles", "", "loop_"]
    names = ["ImageName", "MicrographName", "OpticsGroup", "DefocusU", "DefocusV", "DefocusAngle"]
    lines += [f"_rln{name} #{i + 1}" for i, name in enumerate(names)]
    lines += [f"{i + 1:06d}@particles.mrcs m{i % 5}.mrc 1 {u:.1f} {u - 200:.1f} 0" for i, u in enumerate(defocus[:n])]
    (folder / "particles.star").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    (folder / "out").mkdir()
    words = ["relion_refine", "--o", "out/run", "--i", "particles.star", "--dont_combine_weights_via_disc", "--preread_images",
             "--pool", "30", "--pad", "2", "--ctf", "--iter", str(N_RELION_ITERATIONS), "--tau2_fudge", "2",
             "--particle_diameter", f"{0.68 * box * PIXEL:.0f}", "--K", str(n_classes), "--flatten_solvent", "--zero_mask",
             "--oversampling", "1", "--psi_step", "12", "--offset_range", "5", "--offset_step", "2", "--norm", "--scale",
             "--j", "2", "--random_seed", "1"]  # fmt: skip
    with (folder / "relion.log").open("w") as log:
        subprocess.run(
            words,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


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


def write_row(
    program: str, job: tuple[int, int, int], n_iterations: int, cost: tuple[float, float, float]
) -> tuple[str, float]:
    n, box, n_classes = job
    unit = cost[1] / (n * n_classes * n_iterations) * 1e6
    numbers = f"{cost[0]:.0f} | {cost[1]:.0f} | {cost[2]:.2f} | {unit:.1f}"
    return f"| {program} | {n} | {box} | {n_classes} | {n_iterations} | {numbers} |", unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--step", nargs=5, metavar=("NAME", "FOLDER", "N", "BOX", "K"), help="run one step (used inside)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer particles beside RELION and a tenth of those for the growth"
    )
    arguments = parser.parse_args()
    if arguments.step:
        name, folder, *job = arguments.step
        n, box, n_classes = (int(value) for value in job)
        if name == "simulate":
            simulate(Path(folder), n, box)
        else:
            (run_relion if name == "relion" else classify)(Path(folder), n, box, n_classes)
        return
    part = 10 if arguments.quick else 1
    beside, full = (600 if arguments.quick else 1600, 64, 20), (10_000, 128, 50)
    growth = [(n // part, 64, 20) for n in (1_000, 5_000, 10_000, 50_000)]
    rows, said = [], []
    with tempfile.TemporaryDirectory() as name:
        for box in (64, 128):
            folder = Path(name) / str(box)
            folder.mkdir()
            # In a process of its own: a child is never said to use less memory than what started it.
            measure("simulate", folder, max(job[0] for job in (beside, full, *growth) if job[1] == box), box, 0)
        for job in (beside, full, *growth):
            row, unit = write_row("vitreous", job, N_ITERATIONS, measure("ours", Path(name) / str(job[1]), *job))
            rows.append(row)
            if job == beside and shutil.which("relion_refine") is not None:
                cost = measure("relion", Path(name) / str(job[1]), *job)
                row, other = write_row("RELION 3.1.3", job, N_RELION_ITERATIONS, cost)
                rows.append(row)
                said.append(
                    f"Per image, class and iteration RELION's first {N_RELION_ITERATIONS} iterations take {other / unit:.0f} "
                    f"times the CPU time of ours; for its usual 25 against our {N_ITERATIONS} that is "
                    f"{other * 25 / (unit * N_ITERATIONS):.0f} times, if its later iterations cost as much as its first."
                )
    lines = [
        "# Time of 2D classification",
        "",
        f"{os.cpu_count()} cores ({platform.machine()}), no GPU, on a machine shared with other work: compare CPU seconds. The "
        "unit is CPU µs per image, class and iteration; ours takes a part of the images in most iterations, which the unit "
        "counts as if it took all. Memory is the most that the program held."
        + (" Quick run: the growth with a tenth of the particles." if arguments.quick else ""),
        "",
        "| program | images | box, px | classes | iterations | seconds | CPU seconds | memory, GB | unit |",
        "|" + "---|" * 9,
        *rows,
        "",
        *said,
    ]
    results = HERE.parent / "results"
    results.mkdir(exist_ok=True)
    (results / "classify2d-speed.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
