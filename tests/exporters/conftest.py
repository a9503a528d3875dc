"""A small project on disk, with everything an export can hold."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.tables import complete_table

NX, NY, BOX, PIXEL = 160, 120, 24, 1.5
SHIFT_X, SHIFT_Y = [0.0, -1.25, 2.5], [0.0, 3.5, 4.75]


def draw_flag() -> np.ndarray:
    """Return a bright pattern without any symmetry, its mark at its centre element."""
    flag = np.zeros((BOX, BOX), dtype=np.float32)
    flag[12, 12] = 4
    flag[5:19, 8] = 1
    flag[5, 8:17] = 1
    flag[9, 8:13] = 1
    return flag


@dataclass
class ToyProject:
    """The project's folder and tables; `change` returns the tables with one column of one row set."""

    root: Path
    tables: dict[str, pl.DataFrame]

    def change(self, table: str, key: str, **values: Any) -> dict[str, pl.DataFrame]:
        frame = self.tables[table]
        here = pl.col(frame.columns[0]) == key
        changed = frame.with_columns(
            pl.when(here).then(pl.lit(value, dtype=frame.schema[name])).otherwise(pl.col(name)).alias(name)
            for name, value in values.items()
        )
        return {**self.tables, table: changed}

    def set_pixel_size(self, name: str, pixel_size_angstrom: float) -> dict[str, pl.DataFrame]:
        """Write the micrograph again with another pixel size, and return the tables that say so."""
        path = self.root / "runs" / "002-motion" / f"{name}.mrc"
        write_mrc(path, read_mrc(path)[0], pixel_size_angstrom)
        return self.change("micrographs", name, pixel_size_angstrom=pixel_size_angstrom)


POSITIVES = {
    "mic_b": [(30.0, 40.0), (120.25, 33.0), (60.0, 99.4)],
    "mic_a": [(40.0, 30.0), (100.4, 50.0), (70.0, 90.75), (138.0, 101.0)],
}
"""Centres, the second micrograph of the table first."""


def _make_particles(root: Path) -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    common = {"diameter_angstrom": 27.0, "picker": "template"}
    for name, centres in POSITIVES.items():
        # As extract writes them: in the order of the table, without the negatives.
        images = np.stack([draw_flag() + 0.01 * i for i in range(len(centres))])
        write_mrc(root / "runs" / "006-extract" / f"{name}.mrcs", images, PIXEL)
        for i, (x, y) in enumerate(centres):
            rows.append(
                common
                | {"particle_id": f"{name}-{i}", "micrograph_id": name, "x_px": x, "y_px": y, "label": "positive"}
                | {
                    "ncc": 0.5 + 0.01 * i,
                    "score": 0.5 + 0.01 * i,
                    "stack_path": f"runs/006-extract/{name}.mrcs",
                    "stack_index": i,
                    "box_px": BOX,
                }
                | {"stack_pixel_size_angstrom": PIXEL, "half": 1 + i % 2, "class_id": 1 + i, "class_psi_deg": 10.0 * i}
                | {"class_origin_x_angstrom": 1.5, "class_origin_y_angstrom": -3.0, "class_probability": 0.9}
            )
    others = [("ice", "mic_a", "negative"), ("score", "mic_b", "negative"), (None, "mic_b", "candidate")]
    for i, (reason, name, label) in enumerate(others):
        values = {"particle_id": f"other-{i}", "micrograph_id": name, "x_px": 20.0 + i, "y_px": 100.0, "label": label}
        rows.append(common | values | {"reason": reason, "ncc": 0.1, "score": 0.1})
    return complete_table("particles", pl.DataFrame(rows, infer_schema_length=None))


@pytest.fixture
def toy_project(tmp_path: Path) -> ToyProject:
    root = tmp_path / "project"
    names = ["mic_a", "mic_b", "mic_empty", "mic_bad"]
    rng = np.random.default_rng(5)
    optics = {
        "pixel_size_angstrom": PIXEL,
        "voltage_kv": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.1,
        "optics_group": 1,
    }
    exposures, micrographs = [], []
    for i, name in enumerate(names):
        image = rng.normal(0, 0.02, (NY, NX)).astype(np.float32)
        for x, y in POSITIVES.get(name, []):
            # RELION 3.1 cuts the fractions off when it extracts; planted there, its image is exactly the pattern.
            column, row = int(x) - BOX // 2, int(y) - BOX // 2
            # Protein is dark; the part of a pattern past the edge is lost.
            part = image[max(0, row) : row + BOX, max(0, column) : column + BOX]
            part -= draw_flag()[: part.shape[0], : part.shape[1]]
        write_mrc(root / "runs" / "002-motion" / f"{name}.mrc", image, PIXEL)
        motion = root / "runs" / "002-motion" / f"{name}_motion.json"
        motion.write_text(json.dumps({"shift_x_px": SHIFT_X, "shift_y_px": SHIFT_Y, "pixel_size_angstrom": PIXEL}))
        size = {"nx_px": NX, "ny_px": NY}
        exposures.append(
            {"exposure_id": name, "movie_path": f"../elsewhere/{name}.tif", "n_frames": 3, "dose_per_frame": 1.25}
            | {"pre_exposure": 0.0, "gain_path": "gain.mrc"} | size | optics
        )  # fmt: skip
        micrographs.append(
            {"micrograph_id": name, "exposure_id": name, "micrograph_path": f"runs/002-motion/{name}.mrc"}
            | {"trajectory_path": f"runs/002-motion/{name}_motion.json", "total_motion_angstrom": 8.5}
            | {"early_motion_angstrom": 6.0, "late_motion_angstrom": 2.5, "accepted": name != "mic_bad"}
            | {"defocus_u_angstrom": 12_000.0 + 500 * i, "defocus_v_angstrom": 11_500.0, "defocus_angle_deg": 35.0}
            | {"phase_shift_deg": 0.0, "ctf_resolution_angstrom": 4.2, "ctf_score": 0.8} | size | optics
        )  # fmt: skip
    write_mrc(root / "gain.mrc", np.ones((NY, NX), np.float32), PIXEL)
    for name in ("map", "half1", "half2", "mask"):
        cube = rng.normal(size=(BOX, BOX, BOX)).astype(np.float32)
        write_mrc(root / "runs" / "009-reconstruct" / f"{name}.mrc", cube, PIXEL, volume=True)
    volume = {f"{name}_path": f"runs/009-reconstruct/{name}.mrc" for name in ("map", "half1", "half2", "mask")}
    volume |= {"volume_id": "map", "box_px": BOX, "pixel_size_angstrom": PIXEL, "symmetry": "C1", "n_particles": 7}
    tables = {
        "entries": complete_table("entries", pl.DataFrame([{"entry_id": "10017", "title": "Toy", "symmetry": "C1"}])),
        "exposures": complete_table("exposures", pl.DataFrame(exposures)),
        "micrographs": complete_table("micrographs", pl.DataFrame(micrographs)),
        "particles": _make_particles(root),
        "volumes": complete_table("volumes", pl.DataFrame([volume])),
    }
    return ToyProject(root, tables)


@pytest.fixture
def list_files() -> Callable[[Path], set[str]]:
    def list_them(folder: Path) -> set[str]:
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

    return list_them
