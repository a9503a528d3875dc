"""The contrast transfer functions of extracted images, for the stages that align them."""

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vitreous.ops.ctf import compute_ctf_2d
from vitreous.stages.doubt import is_ctf_doubtful, settle_defocus

__all__ = ["compute_particle_ctf"]

_DEFOCUS = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg")
_OPTICS = ("voltage_kv", "cs_mm", "amplitude_contrast")


def _settle(micrographs: pl.DataFrame) -> pl.DataFrame | None:
    """Return for each micrograph the defocus to use and whether it is another than that of its fit; None: nowhere."""
    if "ctf_score" not in micrographs.columns:
        return None
    settled = settle_defocus(micrographs)
    changed = micrographs["defocus_u_angstrom"].is_not_null() & (
        settled["defocus_u_angstrom"].is_null() | micrographs.select(is_ctf_doubtful()).to_series()
    )
    if not changed.any():
        return None
    names = (*_DEFOCUS, "phase_shift_deg")
    return settled.select("micrograph_id", *(pl.col(name).alias(f"settled_{name}") for name in names), changed=changed)


def compute_particle_ctf(
    particles: pl.DataFrame, micrographs: pl.DataFrame, box_px: int, device: torch.device | str = "cpu"
) -> Tensor | None:
    """Return the CTF of each extracted image, `(n, box, box // 2 + 1)`: positive at low frequency, as protein is bright.

    1 for images without a defocus; None if no image has one. For the images of micrographs whose fit is doubtful it is the CTF
    that `settle_defocus` says.
    """
    optics = micrographs.select("micrograph_id", *_OPTICS)
    joined = particles.join(optics, on="micrograph_id", how="left", maintain_order="left").with_row_index("row")
    settled = _settle(micrographs)
    if settled is not None:
        joined = joined.join(settled, on="micrograph_id", how="left", maintain_order="left").with_columns(
            pl.when(pl.col("changed").fill_null(value=False)).then(f"settled_{name}").otherwise(name).alias(name)
            for name in (*_DEFOCUS, "phase_shift_deg")
        )
    known = joined.drop_nulls([*_DEFOCUS, *_OPTICS])
    if known.is_empty():
        return None
    ctf = torch.ones(particles.height, box_px, box_px // 2 + 1, device=device)
    keys = ("stack_pixel_size_angstrom", *_OPTICS)
    for values, group in known.group_by(*keys, maintain_order=True):
        pixel, voltage, cs, contrast = (float(str(value)) for value in values)
        u, v, angle, phase = (
            torch.from_numpy(group[name].fill_null(0.0).to_numpy().astype(np.float32)).to(device)
            for name in (*_DEFOCUS, "phase_shift_deg")
        )
        rows = torch.from_numpy(group["row"].to_numpy().astype(np.int64)).to(device)
        # Extraction inverts the contrast, and with it the micrograph's CTF.
        ctf[rows] = -compute_ctf_2d(
            (box_px, box_px),
            pixel,
            u,
            v,
            angle,
            voltage_kv=voltage,
            cs_mm=cs,
            amplitude_contrast=contrast,
            phase_shift_deg=phase,
        )
    return ctf
