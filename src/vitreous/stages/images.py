"""The extracted images of a particles table and their contrast transfer functions, for the stages that align them."""

from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from vitreous.errors import InputFileError
from vitreous.io.mrc import read_mrc
from vitreous.ops.ctf import compute_ctf_2d

__all__ = ["compute_particle_ctf", "read_particle_images"]

_DEFOCUS = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg")
_OPTICS = ("voltage_kv", "cs_mm", "amplitude_contrast")


def read_particle_images(particles: pl.DataFrame, root: Path) -> Tensor:
    """Return the images `(n, box, box)` float32 of particles with one `box_px`, in the order of the rows.

    Every stack is read once; `root` is the project's folder.

    Raises
    ------
    InputFileError
        If a stack is missing, or does not hold what the table says.
    """
    box = int(particles["box_px"][0])
    images = np.empty((particles.height, box, box), dtype=np.float32)
    numbered = particles.select("stack_path", "stack_index").with_row_index("row")
    for (name,), group in numbered.group_by("stack_path", maintain_order=True):
        path = root / str(name)
        stack = read_mrc(path)[0]
        stack = stack.reshape(-1, *stack.shape[-2:])
        index = group["stack_index"].to_numpy()
        if stack.shape[-2:] != (box, box) or int(index.max()) >= len(stack):
            raise InputFileError(
                path,
                found=f"a stack of {len(stack)} images of {stack.shape[-1]}x{stack.shape[-2]} px",
                expected=f"at least {int(index.max()) + 1} images of {box}x{box} px, as the particles table says",
                remedy="Run extract again.",
            )
        images[group["row"].to_numpy()] = stack[index]
    return torch.from_numpy(images)


def compute_particle_ctf(
    particles: pl.DataFrame, micrographs: pl.DataFrame, box_px: int, device: torch.device | str = "cpu"
) -> Tensor | None:
    """Return the CTF of each extracted image, `(n, box, box // 2 + 1)`: positive at low frequency, as protein is bright.

    1 for images without a defocus; None if no image has one.
    """
    joined = particles.join(
        micrographs.select("micrograph_id", *_OPTICS), on="micrograph_id", how="left", maintain_order="left"
    ).with_row_index("row")
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
