"""Rotations in three dimensions.

Euler angles are ZYZ (rot, tilt, psi) as in RELION: A = Rz(psi) Ry(tilt) Rz(rot), where each factor turns the axes and not the
object (Heymann, Chagoyen & Belnap 2005, doi:10.1016/j.jsb.2005.06.001). A projection is image(x, y) = sum over z' of V(r) with
r' = A r, so its transform at (kx, ky) is the volume's at A^T (kx, ky, 0). The first two rows of A are the image's x and y axes
in the volume and the third is the direction of view. Vectors are (x, y, z); matrices `(..., 3, 3)`.
"""

import math

import torch
from torch import Tensor

__all__ = [
    "compute_axis_rotation",
    "compute_direction_grid",
    "compute_euler_angles",
    "compute_euler_matrix",
    "compute_quaternion_matrix",
    "draw_rotations",
]


def compute_euler_matrix(rot_deg: Tensor, tilt_deg: Tensor, psi_deg: Tensor) -> Tensor:
    """Return the matrices A `(..., 3, 3)` of Euler angles in degrees, broadcast together."""
    shape = (rot_deg + tilt_deg + psi_deg).shape
    rot, tilt, psi = (torch.deg2rad(angle).expand(shape) for angle in (rot_deg, tilt_deg, psi_deg))
    ca, sa, cb, sb, cg, sg = rot.cos(), rot.sin(), tilt.cos(), tilt.sin(), psi.cos(), psi.sin()
    rows = (
        (cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb),
        (-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb),
        (sb * ca, sb * sa, cb),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def compute_euler_angles(matrices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (rot, tilt, psi) in degrees of matrices `(..., 3, 3)`: rot and psi in [-180, 180], tilt in [0, 180].

    Where the tilt is 0 or 180 only the sum or difference of rot and psi is defined, and rot is 0.
    """
    sin_tilt = torch.hypot(matrices[..., 2, 0], matrices[..., 2, 1])
    tilt = torch.atan2(sin_tilt, matrices[..., 2, 2])
    polar = sin_tilt < 16 * torch.finfo(matrices.dtype).eps
    rot = torch.where(polar, 0.0, torch.atan2(matrices[..., 2, 1], matrices[..., 2, 0]))
    psi = torch.where(
        polar,
        torch.atan2(matrices[..., 0, 1], matrices[..., 1, 1]),
        torch.atan2(matrices[..., 1, 2], -matrices[..., 0, 2]),
    )
    return torch.rad2deg(rot), torch.rad2deg(tilt), torch.rad2deg(psi)


def compute_quaternion_matrix(quaternions: Tensor) -> Tensor:
    """Return the matrices of quaternions `(..., 4)` as (w, x, y, z) of any length; vectors turn by the right-hand rule."""
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def compute_axis_rotation(axis: Tensor, angle_deg: Tensor | float) -> Tensor:
    """Return the matrices that turn vectors about `axis` `(..., 3)` by the right-hand rule."""
    half = torch.deg2rad(torch.as_tensor(angle_deg, dtype=axis.dtype, device=axis.device))[..., None] / 2
    unit = axis / axis.norm(dim=-1, keepdim=True)
    vector = unit * half.sin()
    return compute_quaternion_matrix(torch.cat((half.cos().expand_as(vector[..., :1]), vector), dim=-1))


def draw_rotations(n: int, generator: torch.Generator) -> Tensor:
    """Return `n` rotations, uniform over all, `(n, 3, 3)` float64 (normalised Gaussian quaternions)."""
    return compute_quaternion_matrix(torch.randn(n, 4, generator=generator, dtype=torch.float64))


def compute_direction_grid(spacing_deg: float) -> tuple[Tensor, Tensor]:
    """Return (rot, tilt) in degrees of directions spread evenly over the sphere, about `spacing_deg` apart, float64.

    A Fibonacci lattice (González 2010, doi:10.1007/s11004-009-9257-x).

    Raises
    ------
    ValueError
        If the spacing is not between 0 and 90 degrees.
    """
    if not 0 < spacing_deg <= 90:
        raise ValueError(f"the spacing must be more than 0 and at most 90 degrees, got {spacing_deg}")
    n = math.ceil(4 * math.pi / math.radians(spacing_deg) ** 2)
    i = torch.arange(n, dtype=torch.float64)
    rot = (i * (180 * (3 - math.sqrt(5)))) % 360 - 180
    return rot, torch.rad2deg(torch.acos(1 - (2 * i + 1) / n))
