"""Time the export of a project of a million particles, and reading its STAR file again; and of images of real size.

python benchmarks/speed/export.py [LAYOUT ...]
python benchmarks/speed/export.py images [LAYOUT ...]

The first writes benchmarks/results/export.md. The project has 1,000 micrographs of 1,000 positives each with defocus, 2D class,
3D orientation, half set and an extracted image. Images are tiny (256 x 256 px; boxes of 8 px): what is timed is the tables,
the linking and the checksums of what is linked, which the last column tells.

The second writes benchmarks/results/export-images.md: 4 micrographs of 4096 x 4096 px in single precision with 300 particles
each, in boxes of 256 px in half precision, and what 200 of them would take, 50 times as much.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.engine.project import create_project
from vitreous.io.atomic import write_json
from vitreous.io.mrc import write_mrc
from vitreous.io.parquet import write_table
from vitreous.io.star import read_star
from vitreous.model.documents import Facts
from vitreous.model.provenance import RunRecord

RESULTS = Path(__file__).resolve().parents[1] / "results"
PIXEL = 1.5
LAYOUTS = ("relion", "cryosparc", "cryoppp")
IMAGE_LAYOUTS = ("relion", "cryosparc", "cryoppp", "lite", "coco", "webdataset")


@dataclass(frozen=True)
class Size:
    """Numbers of micrographs and of particles in each, sides of both in px, types of both."""

    n_micrographs: int
    n_each: int
    side: int
    box: int
    image: type[np.generic]
    stack: type[np.generic]


MANY = Size(1000, 1000, 256, 8, np.int8, np.float32)
LARGE, FACTOR = Size(4, 300, 4096, 256, np.float32, np.float16), 50
OPTICS = {"pixel_size_angstrom": PIXEL, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}


def make_micrographs(root: Path, rng: np.random.Generator, size: Size) -> pl.DataFrame:
    names = [f"FoilHole_{i:05d}_Data_{i * 7919 % 99991:05d}_20240131_Fractions" for i in range(size.n_micrographs)]
    for name in names:
        image = 4 * rng.standard_normal((size.side, size.side), np.float32)
        stack = rng.standard_normal((size.n_each, size.box, size.box), np.float32)
        write_mrc(root / "images" / f"{name}.mrc", image.astype(size.image), PIXEL)
        write_mrc(root / "images" / f"{name}.mrcs", stack.astype(size.stack), PIXEL)
    defocus = rng.uniform(8_000, 25_000, size.n_micrographs)
    return pl.DataFrame({"micrograph_id": names, "exposure_id": names}).with_columns(
        *(pl.lit(value).alias(name) for name, value in OPTICS.items()),
        micrograph_path=pl.format("images/{}.mrc", "micrograph_id"),
        nx_px=size.side,
        ny_px=size.side,
        optics_group=1,
        defocus_u_angstrom=pl.Series(defocus + 200),
        defocus_v_angstrom=pl.Series(defocus),
        defocus_angle_deg=pl.Series(rng.uniform(0, 180, size.n_micrographs)),
        phase_shift_deg=0.0,
    )


def make_particles(micrographs: pl.DataFrame, rng: np.random.Generator, size: Size) -> pl.DataFrame:
    n = size.n_micrographs * size.n_each
    numbers = {
        "x_px": rng.uniform(0, size.side - 1, n),
        "y_px": rng.uniform(0, size.side - 1, n),
        "score": rng.uniform(0.1, 0.9, n),
        "class_id": rng.integers(1, 101, n),
        "half": rng.integers(1, 3, n),
        **{name: rng.uniform(-180, 180, n) for name in ("rot_deg", "tilt_deg", "psi_deg", "class_psi_deg")},
        **{f"{kind}origin_{axis}_angstrom": rng.normal(0, 3, n) for kind in ("", "class_") for axis in "xy"},
    }
    names = micrographs.select("micrograph_id", stack_path=pl.format("images/{}.mrcs", "micrograph_id"))
    repeated = names.select(pl.all().repeat_by(size.n_each).explode(empty_as_null=True))
    return pl.DataFrame(numbers).with_columns(
        *repeated,
        stack_index=pl.int_range(n) % size.n_each,
        particle_id=pl.format("{}_{}", repeated["micrograph_id"], pl.int_range(n) % size.n_each),
        box_px=size.box,
        stack_pixel_size_angstrom=PIXEL,
        diameter_angstrom=PIXEL * size.box / 1.4,
        picker=pl.lit("template"),
        label=pl.lit("positive"),
    )


def make_project(root: Path, size: Size) -> None:
    rng = np.random.default_rng(0)
    micrographs = make_micrographs(root, rng, size)
    create_project(root, Facts(micrographs=str(root / "images" / "*.mrc"), pixel_size_angstrom=PIXEL))
    tables = {"micrographs": micrographs, "particles": make_particles(micrographs, rng, size)}
    folder = root / "runs" / "001-made"
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", name, table)
    now = datetime.now(UTC)
    record = RunRecord(
        folder=folder.name, stage="made", stage_version="1", vitreous_version="0", key="k", params={}, changed_params={},
        inputs={}, outputs={name: table.height for name, table in tables.items()}, rows_in={}, started=now, finished=now,
        seconds=0, cpu_seconds=0, peak_memory_bytes=0,
    )  # fmt: skip
    write_json(folder / "run.json", record.model_dump(mode="json"))


def export(root: Path, layout: str, to: Path) -> tuple[float, float, float, float]:
    """Return wall and CPU seconds and memory (GB) of `vitreous export`, and how much it wrote (GB)."""
    program = Path(sys.executable).with_name("vitreous")
    start = time.perf_counter()
    process = subprocess.Popen([program, "export", root, "--format", layout, "--to", to], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    assert os.waitstatus_to_exitcode(status) == 0
    process.returncode = 0
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file()) / 1e9
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024**2, size


def read_again(path: Path) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    n = read_star(path)["particles"].height
    assert n == MANY.n_micrographs * MANY.n_each
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return f"| read particles.star | {wall:.1f} | {cpu:.1f} | {peak:.2f} | {path.stat().st_size / 1e9:.2f} |"


def write_page(name: str, title: str, about: str, heads: str, rows: list[str]) -> None:
    rule = "|" + "---|" * (heads.count("|") - 1)
    text = "\n".join([f"# {title}", "", about, "", heads, rule, *rows])
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / name).write_text(text + "\n", encoding="utf-8")


def describe_machine(load: float) -> str:
    return f"{os.cpu_count()} cores ({platform.machine()}), load average {load:.1f} before the run"


def time_many(layouts: list[str]) -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder / "project", MANY)
        rows = []
        for layout in layouts:
            wall, cpu, memory, size = export(folder / "project", layout, folder / layout)
            rows.append(f"| export as {layout} | {wall:.1f} | {cpu:.1f} | {memory:.2f} | {size:.2f} |")
        if (star := folder / "relion" / "particles.star").exists():
            rows.append(read_again(star))
    write_page(
        "export.md",
        "A million particles",
        f"{MANY.n_micrographs:,} micrographs with {MANY.n_each:,} positives each, through `vitreous export`, start to end; "
        f"{describe_machine(load)}. Images are tiny, so that this is the cost of the tables. Memory of the last row includes the "
        "making of the project.",
        "| what | wall, s | CPU, s | peak memory, GB | files, GB |",
        rows,
    )


def time_images(layouts: list[str]) -> None:
    load = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder / "project", LARGE)
        for layout in layouts:
            wall, cpu, memory, size = export(folder / "project", layout, folder / layout)
            row = f"| {layout} | {wall:.1f} | {cpu:.1f} | {memory:.2f} | {size:.2f} |"
            rows.append(f"{row} {cpu * FACTOR / 60:.0f} | {size * FACTOR:.0f} |")
            subprocess.run(["rm", "-r", folder / layout], check=True)
    n = LARGE.n_micrographs
    write_page(
        "export-images.md",
        "Images of real size",
        f"{n} micrographs of {LARGE.side} x {LARGE.side} px in single precision with {LARGE.n_each} positives each, in boxes of "
        f"{LARGE.box} px in half precision, through `vitreous export`, start to end; {describe_machine(load)}. The last columns "
        f"are {FACTOR} times the CPU time, the start of the program included, and the size: what {n * FACTOR} micrographs would "
        "take at most. Micrographs are hard links of the project's where the layout has them as they are; all files are read "
        "once for their checksums, and stacks in half precision are written again in single precision.",
        f"| layout | wall, s | CPU, s | peak memory, GB | files, GB | CPU for {n * FACTOR}, min | files for {n * FACTOR}, GB |",
        rows,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["images"]:
        time_images(sys.argv[2:] or list(IMAGE_LAYOUTS))
    else:
        time_many(sys.argv[1:] or list(LAYOUTS))
