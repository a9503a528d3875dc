"""Groups that CryoSPARC imports: micrographs and particles as .cs tables, each with its .csg description.

Positions are fractions of columns and rows, row 0 the first in memory, as CryoSPARC counts.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous import __version__
from vitreous.exporters.card import write_card
from vitreous.exporters.dataset import Dataset, choose_usable, gather_dataset
from vitreous.exporters.particles import write_stacks
from vitreous.exporters.pictures import link_micrographs
from vitreous.exporters.release import open_release
from vitreous.exporters.summary import ExportSummary
from vitreous.io.atomic import write_text
from vitreous.io.csparc import make_uid, write_cs
from vitreous.io.metadata import compute_cs_poses

__all__ = ["LAYOUT", "export_cryosparc"]

LAYOUT = "cryosparc"

_MICROGRAPHS, _STACKS = "micrographs", "particles"
_COORDINATES = {
    "y_origin": "top",
    "x": "location/center_x_frac = x_px / nx_px, x_px the column of the centre, 0 the first in memory",
    "y": "location/center_y_frac = y_px / ny_px, y_px the row of the centre, 0 the first in memory",
    "unit": "fractions of the micrograph's sides, in single precision",
}
_CTF = (
    ("type", "S6"),
    ("exp_group_id", "<u4"),
    ("accel_kv", "<f4"),
    ("cs_mm", "<f4"),
    ("amp_contrast", "<f4"),
    ("df1_A", "<f4"),
    ("df2_A", "<f4"),
    ("df_angle_rad", "<f4"),
    ("phase_shift_rad", "<f4"),
    ("scale", "<f4"),
)
_FIT = {"cross_corr_ctffind4": "ctf_score", "ctf_fit_to_A": "ctf_resolution_angstrom"}
Fields = dict[str, tuple[Any, Any]]
"""Name of a field: its type, and its values."""


def _get(frame: pl.DataFrame, name: str, default: float = 0.0) -> NDArray[np.float64]:
    return frame[name].cast(pl.Float64).fill_nan(None).fill_null(default).to_numpy().astype(np.float64)


def _make_ctf(frame: pl.DataFrame) -> Fields:
    values = {
        "type": [b"spline"] * frame.height,
        "exp_group_id": _get(frame, "group"),
        "accel_kv": _get(frame, "voltage_kv"),
        "cs_mm": _get(frame, "cs_mm"),
        "amp_contrast": _get(frame, "amplitude_contrast"),
        "df1_A": _get(frame, "defocus_u_angstrom"),
        "df2_A": _get(frame, "defocus_v_angstrom"),
        "df_angle_rad": np.deg2rad(_get(frame, "defocus_angle_deg")),
        "phase_shift_rad": np.deg2rad(_get(frame, "phase_shift_deg")),
        "scale": np.ones(frame.height),
    }
    fields: Fields = {f"ctf/{name}": (kind, values[name]) for name, kind in _CTF}
    fitted = {theirs: ours for theirs, ours in _FIT.items() if not frame[ours].null_count()}
    return fields | {f"ctf/{theirs}": ("<f4", _get(frame, ours)) for theirs, ours in fitted.items()}


def _assemble(fields: Fields, n: int) -> NDArray[np.void]:
    table = np.zeros(
        n, dtype=[(name, *(kind if isinstance(kind, tuple) else (kind,))) for name, (kind, _) in fields.items()]
    )
    for name, (_, values) in fields.items():
        table[name] = values
    return table


def _encode(values: list[str]) -> tuple[str, list[bytes]]:
    encoded = [value.encode() for value in values]
    return f"S{max((len(value) for value in encoded), default=1)}", encoded


def _make_micrographs(micrographs: pl.DataFrame) -> Fields:
    names = micrographs["name"].to_list()
    shape = micrographs.select("ny_px", "nx_px").to_numpy()
    fields: Fields = {
        "uid": ("<u8", np.array([make_uid("micrograph", name) for name in names], np.uint64)),
        "micrograph_blob/path": _encode([f"{_MICROGRAPHS}/{name}.mrc" for name in names]),
        "micrograph_blob/idx": ("<u4", 0),
        "micrograph_blob/shape": (("<u4", (2,)), shape),
        "micrograph_blob/psize_A": ("<f4", _get(micrographs, "pixel_size_angstrom")),
        "micrograph_blob/is_background_subtracted": ("<u4", 0),
        "mscope_params/accel_kv": ("<f4", _get(micrographs, "voltage_kv")),
        "mscope_params/cs_mm": ("<f4", _get(micrographs, "cs_mm")),
        "mscope_params/phase_plate": ("<u4", _get(micrographs, "phase_shift_deg") != 0),
        "mscope_params/exp_group_id": ("<u4", _get(micrographs, "group")),
    }
    if not micrographs["defocus_u_angstrom"].null_count():
        fields |= _make_ctf(micrographs)
    return fields


def _make_particles(particles: pl.DataFrame) -> Fields:
    names = particles["name"].to_list()
    shape = particles.select("ny_px", "nx_px").to_numpy()
    paths = [f"{_MICROGRAPHS}/{name}.mrc" for name in names]
    uid = {name: make_uid("micrograph", name) for name in set(names)}
    fields: Fields = {
        "uid": ("<u8", np.array([make_uid("particle", name) for name in particles["particle_id"]], np.uint64)),
        "location/micrograph_uid": ("<u8", np.array([uid[name] for name in names], np.uint64)),
        "location/exp_group_id": ("<u4", _get(particles, "group")),
        "location/micrograph_path": _encode(paths),
        "location/micrograph_shape": (("<u4", (2,)), shape),
        "location/micrograph_psize_A": ("<f4", _get(particles, "pixel_size_angstrom")),
        "location/center_x_frac": ("<f4", _get(particles, "x_px") / shape[:, 1]),
        "location/center_y_frac": ("<f4", _get(particles, "y_px") / shape[:, 0]),
        "location/min_dist_A": ("<f4", _get(particles, "diameter_angstrom") / 2),
        "pick_stats/ncc_score": ("<f4", _get(particles.with_columns(pl.coalesce("ncc", "score").alias("ncc")), "ncc")),
        "pick_stats/power": ("<f4", _get(particles, "power")),
        "pick_stats/template_idx": ("<u4", _get(particles, "template")),
        "pick_stats/angle_rad": ("<f4", np.deg2rad(_get(particles, "pick_psi_deg"))),
    }
    if particles.height and not particles["defocus_u_angstrom"].null_count():
        fields |= _make_ctf(particles)
    if particles.height and not particles["stack_path"].null_count():
        index = particles.select(pl.int_range(pl.len()).over("micrograph_id")).to_series().to_numpy()
        box = particles["box_px"].to_numpy()
        fields |= {
            "blob/path": _encode([f"{_STACKS}/{name}.mrc" for name in names]),
            "blob/idx": ("<u4", index),
            "blob/shape": (("<u4", (2,)), np.stack([box, box], axis=1)),
            "blob/psize_A": ("<f4", _get(particles, "stack_pixel_size_angstrom")),
            # Extraction has made protein bright.
            "blob/sign": ("<f4", 1.0),
        }
    return fields | _make_alignments(particles)


def _make_alignments(particles: pl.DataFrame) -> Fields:
    """Return the alignments of 2D and of 3D that all particles have; the shifts are in pixels of the image."""
    pixel = _get(particles, "stack_pixel_size_angstrom", 1.0)
    fields: Fields = {}
    for kind, prefix, angles in (("2D", "class_", ["class_psi_deg"]), ("3D", "", ["rot_deg", "tilt_deg", "psi_deg"])):
        shifts = [f"{prefix}origin_{axis}_angstrom" for axis in "xy"]
        if particles.is_empty() or any(particles[name].null_count() for name in (*angles, *shifts)):
            continue
        classes = particles["class_id"].fill_null(1).to_numpy() if kind == "2D" else np.ones(particles.height)
        slot = f"alignments{kind}"
        fields |= {
            f"{slot}/split": ("<u4", particles["half"].fill_null(1).to_numpy() - 1),
            f"{slot}/shift": (("<f4", (2,)), particles.select(shifts).to_numpy() / pixel[:, None]),
            f"{slot}/psize_A": ("<f4", pixel),
            f"{slot}/class": ("<u4", classes - 1),
            f"{slot}/class_posterior": ("<f4", _get(particles, "class_probability", 1.0) if kind == "2D" else 1.0),
            f"{slot}/pose": ("<f4", np.deg2rad(particles["class_psi_deg"].to_numpy()))
            if kind == "2D"
            else (("<f4", (3,)), compute_cs_poses(particles)),
        }
    return fields


def _describe_group(name: str, kind: str, file: str, fields: Fields, n: int) -> str:
    """Return a .csg: YAML that names, for each kind of fields, the table that holds them (`>`: beside this file)."""
    slots = sorted({field.split("/")[0] for field in fields if "/" in field})
    results = "".join(
        f"  {slot}:\n    metafile: '>{file}'\n    num_items: {n}\n    type: {kind}.{slot}\n" for slot in slots
    )
    return (
        f"created: {datetime.now(UTC):%Y-%m-%d %H:%M:%S}\n"
        f"group:\n  description: written by vitreous {__version__}\n  name: {name}\n  title: {name}\n  type: {kind}\n"
        f"results:\n{results}version: vitreous-{__version__}\n"
    )


def _write_group(staging: Path, name: str, kind: str, fields: Fields, n: int) -> None:
    write_cs(staging / f"{name}.cs", _assemble(fields, n))
    write_text(staging / f"{name}.csg", _describe_group(name, kind, f"{name}.cs", fields, n))


def _check_uids(dataset: Dataset) -> None:
    for what, names in (("micrograph", dataset.micrographs["name"]), ("particle", dataset.positives["particle_id"])):
        numbers = {make_uid(what, name) for name in names}
        assert len(numbers) == len(names), f"two {what}s have the same unique number"


def export_cryosparc(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset for CryoSPARC's "Import Result Group": `micrographs.csg`, `particles.csg`, `particles_excluded.csg`.

    Parameters and errors as of `export_cryoppp`.
    """
    dataset = gather_dataset(tables, root)
    _check_uids(dataset)
    usable, warnings = choose_usable(dataset.positives)
    counts = {"micrographs": dataset.micrographs.height, "positives": usable.height}
    counts["negatives"] = dataset.negatives.height
    with open_release(to, LAYOUT) as staging:
        link_micrographs(staging / _MICROGRAPHS, dataset)
        write_stacks(usable, root, staging / _STACKS, ".mrc")
        groups = (
            ("micrographs", "exposure", _make_micrographs(dataset.micrographs), dataset.micrographs.height),
            ("particles", "particle", _make_particles(usable), usable.height),
            ("particles_excluded", "particle", _make_particles(dataset.negatives), dataset.negatives.height),
        )
        for name, kind, fields, n in groups:
            _write_group(staging, name, kind, fields, n)
        write_card(staging, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, (*dataset.warnings, *warnings))
