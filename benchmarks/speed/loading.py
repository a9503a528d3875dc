"""Time batches for training from shards: what the workers do, and how often a micrograph is decoded.

python benchmarks/speed/loading.py

Writes benchmarks/results/loading.md. Decodings are counted by the names of whole micrographs; crops come from the same reader.
"""

import multiprocessing
import os
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from torch.utils.data import DataLoader

from vitreous.datasets.shards import CropDataset, MicrographDataset
from vitreous.exporters.webdataset import export_webdataset
from vitreous.io.mrc import write_mrc
from vitreous.model.tables import complete_table

RESULTS = Path(__file__).resolve().parents[1] / "results"
N_MICROGRAPHS, SIDE, N_EACH, CROP, BATCH = 20, 4096, 300, 128, 64
PIXEL, DIAMETER = 1.2, 120.0
OPTICS = {"pixel_size_angstrom": PIXEL, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "optics_group": 1}


def make_shards(folder: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"m{i:03d}" for i in range(N_MICROGRAPHS)]
    for name in names:
        write_mrc(folder / "p" / f"{name}.mrc", rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), PIXEL)
    micrographs = pl.DataFrame({"micrograph_id": names, "exposure_id": names}).with_columns(
        *(pl.lit(value).alias(name) for name, value in OPTICS.items()),
        micrograph_path=pl.format("{}.mrc", "micrograph_id"),
        nx_px=SIDE,
        ny_px=SIDE,
    )
    n = N_MICROGRAPHS * N_EACH
    particles = pl.DataFrame({"x_px": rng.uniform(0, SIDE - 1, n), "y_px": rng.uniform(0, SIDE - 1, n)}).with_columns(
        particle_id=pl.int_range(n).cast(pl.String),
        micrograph_id=pl.Series(np.repeat(names, N_EACH)),
        diameter_angstrom=DIAMETER,
        picker=pl.lit("made"),
        label=pl.lit("positive"),
    )
    frames = {"micrographs": micrographs, "particles": particles}
    tables = {name: complete_table(name, frame) for name, frame in frames.items()}
    export_webdataset(tables, folder / "p", folder / "shards")


def read_busy() -> tuple[float, float]:
    """Return seconds that the workers have run, and seconds that they have waited for a core, as the kernel counts them."""
    files = (Path(f"/proc/{worker.pid}/schedstat") for worker in multiprocessing.active_children())
    numbers = np.array([file.read_text(encoding="ascii").split()[:2] for file in files], np.float64)
    ran, waited = numbers.sum(axis=0) / 1e9
    return float(ran), float(waited)


def measure(folder: Path, n_workers: int) -> str:
    whole = MicrographDataset(folder)
    loader = DataLoader(whole, batch_size=None, num_workers=n_workers)
    decoded = Counter(sample.facts["micrograph"] for sample in loader)
    crops = DataLoader(CropDataset(folder, side_px=CROP), batch_size=BATCH, num_workers=n_workers)
    wall, n_batches, ran, waited = time.perf_counter(), 0, 0.0, 0.0
    for _ in crops:
        n_batches += 1
        if len(multiprocessing.active_children()) == n_workers:
            ran, waited = read_busy()
            seconds = time.perf_counter() - wall
    idle = max(0.0, 1 - (ran + waited) / (n_workers * seconds))
    return (
        f"| {n_workers} | {n_batches * BATCH / ran:.0f} | {ran / len(whole):.3f} | {seconds:.0f} | {ran:.0f} | {waited:.0f} | "
        f"{100 * idle:.0f} % | {max(decoded.values())} | {len(decoded)} of {len(whole)} |"
    )


def main() -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_shards(folder)
        rows = [measure(folder / "shards", n_workers) for n_workers in (1, 2)]
    text = "\n".join(
        [
            "# Batches for training",
            "",
            f"Micrographs of {SIDE} x {SIDE} px with {N_EACH} particles each, crops of {CROP} px, as many of the background, "
            f"batches of {BATCH}; {os.cpu_count()} cores ({platform.machine()}), load average {load:.1f} before the run. Idle is "
            "the share of the workers' time in which they neither ran nor waited for a core that others had: at 0 they take all "
            "of as many cores as they are.",
            "",
            "| workers | crops per CPU s | CPU s for a micrograph | wall, s | ran, s | waited for a core, s | idle "
            "| most decodings of one | decoded |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loading.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
