"""What RELION, CryoSPARC and CryoPPP say of particles and micrographs beside positions: optics, CTF, classes, orientations.

All become the columns of our tables: Å and degrees, U the larger defocus and its angle from 0 to 180 degrees, classes from 1,
RELION's Euler angles and origins. CryoSPARC's pose is the vector along the axis by which RELION's matrix turns back, as long as
the angle in radians; its shifts are RELION's origins in pixels.
"""

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = [
    "METADATA_SCHEMA",
    "compute_cs_poses",
    "describe_cryoppp",
    "describe_cs",
    "describe_relion",
    "fill_metadata",
    "find_image_pixel_size",
    "join_optics",
]

METADATA_SCHEMA = pl.Schema(
    {
        "optics_group": pl.Int64(),
        "optics_group_name": pl.String(),
        **dict.fromkeys(("voltage_kv", "cs_mm", "amplitude_contrast"), pl.Float64()),
        **dict.fromkeys(("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg"), pl.Float64()),
        **dict.fromkeys(("phase_shift_deg", "ctf_score", "ctf_resolution_angstrom"), pl.Float64()),
        "half": pl.Int64(),
        "class_id": pl.Int64(),
        **dict.fromkeys(("class_psi_deg", "class_origin_x_angstrom", "class_origin_y_angstrom"), pl.Float64()),
        "class_probability": pl.Float64(),
        **dict.fromkeys(("rot_deg", "tilt_deg", "psi_deg", "origin_x_angstrom", "origin_y_angstrom"), pl.Float64()),
        "reason": pl.String(),
    }
)
"""Columns of metadata; all may be null."""

_UNDEFINED = -999.0
"""How RELION says that an angle or a score is not known."""

_RELION: Mapping[str, str] = {
    "optics_group": "rlnOpticsGroup",
    "optics_group_name": "rlnOpticsGroupName",
    "voltage_kv": "rlnVoltage",
    "cs_mm": "rlnSphericalAberration",
    "amplitude_contrast": "rlnAmplitudeContrast",
    "defocus_u_angstrom": "rlnDefocusU",
    "defocus_v_angstrom": "rlnDefocusV",
    "defocus_angle_deg": "rlnDefocusAngle",
    "phase_shift_deg": "rlnPhaseShift",
    "ctf_score": "rlnCtfFigureOfMerit",
    "ctf_resolution_angstrom": "rlnCtfMaxResolution",
    "half": "rlnRandomSubset",
    "class_id": "rlnClassNumber",
    "rot_deg": "rlnAngleRot",
    "tilt_deg": "rlnAngleTilt",
    "psi_deg": "rlnAnglePsi",
    "origin_x_angstrom": "rlnOriginXAngst",
    "origin_y_angstrom": "rlnOriginYAngst",
    "reason": "vitreousReason",
}
_CRYOPPP: Mapping[str, str] = {
    "optics_group": "optics group",
    "defocus_u_angstrom": "defocus u",
    "defocus_v_angstrom": "defocus v",
    "defocus_angle_deg": "defocus angle",
    "phase_shift_deg": "phase shift",
    "class_id": "class number",
    "class_psi_deg": "angle-psi",
    "class_origin_x_angstrom": "origin x (ang)",
    "class_origin_y_angstrom": "origin y (ang)",
}
_IN_PLANE = {
    "psi_deg": "class_psi_deg",
    "origin_x_angstrom": "class_origin_x_angstrom",
    "origin_y_angstrom": "class_origin_y_angstrom",
}
_COUNTED = ("optics_group", "half", "class_id")


def fill_metadata(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the columns of `METADATA_SCHEMA`, nulls where `frame` has none, by our conventions.

    Undefined values become null, so do numbers of classes and halves below 1 and a defocus of 0 in both directions, which is what
    programs write where they have none; U is made the larger defocus.
    """
    values = frame.with_columns(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype, strict=False).alias(name)
        for name, dtype in METADATA_SCHEMA.items()
    ).select(METADATA_SCHEMA.names())
    numbers = pl.col(pl.Float64)
    values = values.with_columns(
        pl.when(numbers.is_finite() & (numbers != _UNDEFINED)).then(numbers),
        *(pl.when(pl.col(name) >= 1).then(pl.col(name)) for name in _COUNTED),
    )
    u, v, angle = (pl.col(f"defocus_{name}") for name in ("u_angstrom", "v_angstrom", "angle_deg"))
    fitted = (u != 0) | (v != 0)
    values = values.with_columns(pl.when(fitted).then(name) for name in (u, v, angle))
    return values.with_columns(
        pl.max_horizontal(u, v).alias("defocus_u_angstrom"),
        pl.min_horizontal(u, v).alias("defocus_v_angstrom"),
        ((angle + pl.when(v > u).then(90.0).otherwise(0.0)) % 180.0).alias("defocus_angle_deg"),
    )


def find_image_pixel_size(frame: pl.DataFrame) -> pl.Expr:
    """Return Å per pixel of the particle images; 3.1 says it for a group, older files by magnification and detector."""
    if "rlnImagePixelSize" in frame.columns:
        return pl.col("rlnImagePixelSize")
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(frame.columns):
        return pl.col("rlnDetectorPixelSize") * 1e4 / pl.col("rlnMagnification")
    return pl.col("rlnPixelSize") if "rlnPixelSize" in frame.columns else pl.lit(None, pl.Float64)


def join_optics(rows: pl.DataFrame, blocks: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return particles or micrographs with what their optics group says of all of its own, since RELION 3.1."""
    optics = blocks.get("optics", pl.DataFrame())
    if not ("rlnOpticsGroup" in rows.columns and "rlnOpticsGroup" in optics.columns):
        return rows
    shared = [name for name in optics.columns if name == "rlnOpticsGroup" or name not in rows.columns]
    return rows.join(optics.select(shared), on="rlnOpticsGroup", how="left", maintain_order="left")


def describe_relion(rows: pl.DataFrame, blocks: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return the metadata of a STAR file's particles or micrographs.

    Parameters
    ----------
    rows
        The block that lists them.
    blocks
        All blocks of the file; `optics` holds what particles of a group share, since RELION 3.1.

    Notes
    -----
    Files in which nothing is tilted or turned about z are of 2D classification: psi and the origins are then those of classes.
    """
    rows = join_optics(rows, blocks)
    rows = rows.with_columns(
        (pl.col(f"rlnOrigin{axis}") * find_image_pixel_size(rows)).alias(f"rlnOrigin{axis}Angst")
        for axis in "XY"
        if f"rlnOrigin{axis}" in rows.columns and f"rlnOrigin{axis}Angst" not in rows.columns
    )
    known = rows.rename({label: name for name, label in _RELION.items() if label in rows.columns})
    turned = [pl.col(name).fill_null(0.0) != 0 for name in ("rot_deg", "tilt_deg") if name in known.columns]
    if not turned or not known.select(pl.any_horizontal(turned).any()).item():
        known = known.drop("rot_deg", "tilt_deg", strict=False).rename(_IN_PLANE, strict=False)
    return fill_metadata(known)


def describe_cryoppp(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the metadata of CryoPPP's label files, whose columns are named in small letters."""
    return fill_metadata(frame.rename({label: name for name, label in _CRYOPPP.items() if label in frame.columns}))


def _convert_poses(poses: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    # Most files have no poses, and the array engine takes seconds to import.
    import torch
    from scipy.spatial.transform import Rotation

    from vitreous.ops.rotations import compute_euler_angles

    matrices = torch.from_numpy(Rotation.from_rotvec(-poses).as_matrix())
    names = ("rot_deg", "tilt_deg", "psi_deg")
    return {name: angle.numpy() for name, angle in zip(names, compute_euler_angles(matrices), strict=True)}


def compute_cs_poses(frame: pl.DataFrame) -> NDArray[np.float64]:
    """Return CryoSPARC's pose `(n, 3)` of the orientations `rot_deg`, `tilt_deg`, `psi_deg`."""
    import torch
    from scipy.spatial.transform import Rotation

    from vitreous.ops.rotations import compute_euler_matrix

    angles = torch.from_numpy(frame.select("rot_deg", "tilt_deg", "psi_deg").to_numpy(writable=True)).unbind(1)
    poses: NDArray[np.float64] = -Rotation.from_matrix(compute_euler_matrix(*angles).numpy()).as_rotvec()
    return poses


def _describe_cs_alignments(table: NDArray[np.void], kind: str) -> dict[str, NDArray[np.float64]]:
    """Return shifts (Å) and classes (from 1) of `alignments2D` or `alignments3D`."""
    shift = table[f"{kind}/shift"].astype(np.float64) * table[f"{kind}/psize_A"].astype(np.float64)[:, None]
    prefix = "class_" if kind == "alignments2D" else ""
    found = {f"{prefix}origin_x_angstrom": shift[:, 0], f"{prefix}origin_y_angstrom": shift[:, 1]}
    if f"{kind}/class" in (table.dtype.names or ()):
        found["class_id"] = table[f"{kind}/class"] + 1.0
    return found


_CS = {
    "voltage_kv": "ctf/accel_kv",
    "cs_mm": "ctf/cs_mm",
    "amplitude_contrast": "ctf/amp_contrast",
    "defocus_u_angstrom": "ctf/df1_A",
    "defocus_v_angstrom": "ctf/df2_A",
    "ctf_score": "ctf/cross_corr_ctffind4",
    "ctf_resolution_angstrom": "ctf/ctf_fit_to_A",
    "class_probability": "alignments2D/class_posterior",
}


def describe_cs(table: NDArray[np.void]) -> pl.DataFrame:
    """Return the metadata of a .cs table, as far as it has some.

    Halves are taken where there are two; of classes those of 2D, where it has none those of 3D.
    """
    names = set(table.dtype.names or ())
    # In shortest digits: single precision is exact to seven, and 2.7 would become 2.7000000477.
    found = {"uid": np.arange(len(table), dtype=np.float64)}
    found |= {ours: np.array(table[theirs].astype(str), np.float64) for ours, theirs in _CS.items() if theirs in names}
    for ours, theirs in (("defocus_angle_deg", "ctf/df_angle_rad"), ("phase_shift_deg", "ctf/phase_shift_rad")):
        if theirs in names:
            found[ours] = np.rad2deg(table[theirs].astype(np.float64))
    if "ctf/exp_group_id" in names:
        found["optics_group"] = table["ctf/exp_group_id"].astype(np.float64)
        found["optics_group"] += found["optics_group"].min(initial=np.inf) == 0
    if "alignments3D/pose" in names:
        found |= _describe_cs_alignments(table, "alignments3D")
        found |= _convert_poses(table["alignments3D/pose"].astype(np.float64))
        split = table["alignments3D/split"] if "alignments3D/split" in names else np.zeros(len(table))
        if len(np.unique(split)) == 2:
            found["half"] = split + 1.0
    if "alignments2D/pose" in names:
        found |= _describe_cs_alignments(table, "alignments2D")
        found["class_psi_deg"] = np.rad2deg(table["alignments2D/pose"].astype(np.float64))
    return fill_metadata(pl.DataFrame(found))
