"""Point groups of rotations.

Axes as in RELION: Cn has its axis on z; Dn also a 2-fold on x; T a 3-fold on z and a 2-fold at (0, sqrt 2, 1); O 4-folds on x,
y and z; I (RELION's I and I2) 2-folds on x, y and z with 5-folds in the xz plane nearer to z, at (1, 0, golden ratio).

An operator g leaves the map unchanged, V(g r) = V(r), so orientations A and A g of an image are equivalent.
"""

import math
import re

import torch
from torch import Tensor

from vitreous.ops.rotations import compute_axis_rotation, compute_direction_grid, compute_euler_matrix

__all__ = ["compute_orientation_grid", "compute_symmetry_operators"]

_GOLDEN = (1 + math.sqrt(5)) / 2
# A direction on no symmetry axis or plane of any group; its images' nearest neighbourhoods are the asymmetric units.
_GENERIC = (0.1712, 0.0613, 0.9833)


def _list_generators(group: str) -> list[tuple[tuple[float, float, float], int]]:
    match = re.fullmatch(r"([CD])([1-9][0-9]?)", group)
    if match:
        cyclic = ((0.0, 0.0, 1.0), int(match[2]))
        return [cyclic] if match[1] == "C" else [cyclic, ((1.0, 0.0, 0.0), 2)]
    polyhedral = {
        "T": [((0.0, 0.0, 1.0), 3), ((0.0, math.sqrt(2), 1.0), 2)],
        "O": [((0.0, 0.0, 1.0), 4), ((1.0, 1.0, 1.0), 3)],
        "I": [((0.0, 0.0, 1.0), 2), ((1.0, 1.0, 1.0), 3), ((1.0, 0.0, _GOLDEN), 5)],
    }
    if group not in polyhedral:
        raise ValueError(f"unknown point group {group!r}; expected Cn, Dn, T, O or I")
    return polyhedral[group]


def compute_symmetry_operators(group: str) -> Tensor:
    """Return the rotations of a point group, `(n, 3, 3)` float64, the identity first.

    Raises
    ------
    ValueError
        If the group is not Cn, Dn, T, O or I.
    """
    generators = [
        compute_axis_rotation(torch.tensor(axis, dtype=torch.float64), 360.0 / fold)
        for axis, fold in _list_generators(group)
    ]
    operators = [torch.eye(3, dtype=torch.float64)]
    for operator in operators:  # grows while it is walked, until the group is closed
        for generator in generators:
            product = operator @ generator
            if all(float((product - known).abs().max()) > 1e-6 for known in operators):
                operators.append(product)
    return torch.stack(operators)


def compute_orientation_grid(spacing_deg: float, operators: Tensor) -> Tensor:
    """Return orientations A about `spacing_deg` apart that cover the asymmetric unit, `(n, 3, 3)` float64.

    Parameters
    ----------
    spacing_deg
        Between neighbouring directions, and between in-plane angles.
    operators
        `(n_operators, 3, 3)` of `compute_symmetry_operators`.
    """
    rot, tilt = compute_direction_grid(spacing_deg)
    directions = compute_euler_matrix(rot, tilt, torch.zeros_like(rot))[:, 2]
    generic = torch.tensor(_GENERIC, dtype=torch.float64)
    images = operators @ generic
    # How far past the border with each neighbouring unit, in terms of the distance between the two centres; a quarter of a
    # step is kept on the far side so that the border has no gaps.
    past = directions @ (images - images[0]).T
    margin = (images - images[0]).norm(dim=1) * math.sin(math.radians(spacing_deg) / 4)
    inside = (past <= margin + 1e-9).all(dim=1)
    n_psi = math.ceil(360 / spacing_deg)
    psi = torch.arange(n_psi, dtype=torch.float64) * (360 / n_psi)
    return compute_euler_matrix(rot[inside, None], tilt[inside, None], psi).flatten(0, 1)
