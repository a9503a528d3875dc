"""Time the export of a project of a million particles, and reading its STAR file again.

python benchmarks/speed/export.py [LAYOUT ...]

Writes benchmarks/results/export.md. The project has 1,000 micrographs of 1,000 positives each with defocus, 2D class, 3D
orientation, half set and an extracted image. Images are tiny (256 x 256 px; boxes of 8 px): what is timed is the tables, the
linking and the checksums of what is linked, which the last column tells.
"""

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
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
N_MICROGRAPHS, N_EACH, SIDE, BOX, PIXEL = 1000, 1000, 256, 8, 1.5
LAYOUTS = ("relion", "cryosparc", "cryoppp")
OPTICS = {"pixel_size_angstrom": PIXEL, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}


def make_micrographs(root: Path, rng: np.random.Generator) -> pl.DataFrame:
    names = [f"FoilHole_{i:05d}_Data_{i * 7919 % 99991:05d}_20240131_Fractions" for i in range(N_MICROGRAPHS)]
    for name in names:
        write_mrc(root / "images" / f"{name}.mrc", rng.integers(-9, 9, (SIDE, SIDE)).astype(np.int8), PIXEL)
        write_mrc(root / "images" / f"{name}.mrcs", rng.normal(0, 1, (N_EACH, BOX, BOX)).astype(np.float32), PIXEL)
    defocus = rng.uniform(8_000, 25_000, N_MICROGRAPHS)
    return pl.DataFrame({"micrograph_id": names, "exposure_id": names}).with_columns(
        *(pl.lit(value).alias(name) for name, value in OPTICS.items()),
        micrograph_path=pl.format("images/{}.mrc", "micrograph_id"),
        nx_px=SIDE,
        ny_px=SIDE,
        optics_group=1,
        defocus_u_angstrom=pl.Series(defocus + 200),
        defocus_v_angstrom=pl.Series(defocus),
        defocus_angle_deg=pl.Series(rng.uniform(0, 180, N_MICROGRAPHS)),
        phase_shift_deg=0.0,
    )


def make_particles(micrographs: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    n = N_MICROGRAPHS * N_EACH
    numbers = {
        "x_px": rng.uniform(0, SIDE - 1, n),
        "y_px": rng.uniform(0, SIDE - 1, n),
        "ncc": rng.uniform(0.1, 0.9, n),
        "class_id": rng.integers(1, 101, n),
        "half": rng.integers(1, 3, n),
        **{name: rng.uniform(-180, 180, n) for name in ("rot_deg", "tilt_deg", "psi_deg", "class_psi_deg")},
        **{f"{kind}origin_{axis}_angstrom": rng.normal(0, 3, n) for kind in ("", "class_") for axis in "xy"},
    }
    names = micrographs.select("micrograph_id", stack_path=pl.format("images/{}.mrcs", "micrograph_id"))
    repeated = names.select(pl.all().repeat_by(N_EACH).explode(empty_as_null=True))
    return pl.DataFrame(numbers).with_columns(
        *repeated,
        stack_index=pl.int_range(n) % N_EACH,
        particle_id=pl.format("{}_{}", repeated["micrograph_id"], pl.int_range(n) % N_EACH),
        box_px=BOX,
        stack_pixel_size_angstrom=PIXEL,
        diameter_angstrom=9.0,
        picker=pl.lit("template"),
        label=pl.lit("positive"),
    )


def make_project(root: Path) -> None:
    rng = np.random.default_rng(0)
    micrographs = make_micrographs(root, rng)
    create_project(root, Facts(micrographs=str(root / "images" / "*.mrc"), pixel_size_angstrom=PIXEL))
    tables = {"micrographs": micrographs, "particles": make_particles(micrographs, rng)}
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


def export(root: Path, layout: str, to: Path) -> str:
    """Return a row of the table: wall, CPU and memory of `vitreous export`, and what it wrote."""
    program = Path(sys.executable).with_name("vitreous")
    start = time.perf_counter()
    process = subprocess.Popen([program, "export", root, "--format", layout, "--to", to], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    assert os.waitstatus_to_exitcode(status) == 0
    process.returncode = 0
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file()) / 1e9
    cpu = usage.ru_utime + usage.ru_stime
    return f"| export as {layout} | {wall:.1f} | {cpu:.1f} | {usage.ru_maxrss / 1024**2:.2f} | {size:.2f} |"


def read_again(path: Path) -> str:
    wall, cpu = time.perf_counter(), time.process_time()
    n = read_star(path)["particles"].height
    assert n == N_MICROGRAPHS * N_EACH
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    return f"| read particles.star | {wall:.1f} | {cpu:.1f} | {peak:.2f} | {path.stat().st_size / 1e9:.2f} |"


def main(layouts: list[str]) -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_project(folder / "project")
        rows = [export(folder / "project", layout, folder / layout) for layout in layouts]
        if (star := folder / "relion" / "particles.star").exists():
            rows.append(read_again(star))
    text = "\n".join(
        [
            "# A million particles",
            "",
            f"{N_MICROGRAPHS:,} micrographs with {N_EACH:,} positives each, through `vitreous export`, start to end; "
            f"{os.cpu_count()} cores ({platform.machine()}), load average {load:.1f} before the run. Images are tiny, so that "
            "this is the cost of the tables. Memory of the last row includes the making of the project.",
            "",
            "| what | wall, s | CPU, s | peak memory, GB | files, GB |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "export.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:] or list(LAYOUTS))
