"""The functions of `vitreous.ops.harmonic2d_numba` in torch, for devices that numba does not compile for."""

import math

import torch
from torch import Tensor

from vitreous.ops.polar2d import PolarGrid

__all__ = ["move_samples", "weigh_hypotheses"]


def move_samples(values: Tensor, offset_px: Tensor, phase: Tensor, precision: Tensor, grid: PolarGrid) -> Tensor:
    """Move images by minus their offsets and shifts."""
    n_rings, stride = values.shape[1], values.shape[2] // grid.n_half
    theta = grid.theta.to(values.device)
    ring = torch.arange(1, n_rings + 1, dtype=torch.float64, device=values.device)
    along = offset_px[:, :1].double() * theta.sin() + offset_px[:, 1:].double() * theta.cos()
    angle = 2 * math.pi / grid.n_px * ring * along[..., None]
    turn = torch.complex(angle.cos().float(), angle.sin().float())
    samples = torch.view_as_complex(values[:, :, ::stride].contiguous()).mT * turn * precision
    shift = torch.complex(phase[:, :, 0], phase[:, :, 1])
    return torch.view_as_real(samples.permute(1, 2, 0)[..., None] * shift[:, :, None]).movedim(-1, 0).contiguous()


def weigh_hypotheses(
    scores: Tensor,
    bias: Tensor,
    prior: Tensor,
    tables: tuple[Tensor, Tensor],
    reach: float,
    uncertainty: float,
    harmonics: Tensor,
    signal: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn scores into probabilities, and add the images to the sums by them."""
    n_classes, (n, n_shifts), n_angles = len(bias), prior.shape, scores.shape[1]
    even, odd = scores.reshape(2, n_angles, n_classes, n, n_shifts)
    base = bias[:, :, None] + prior
    match = torch.cat([even + odd, even - odd]) + base
    most = match.amax(dim=(0, 1, 3))
    match = match - most[:, None]
    kept = torch.maximum(match[:n_angles], match[n_angles:]) >= -reach
    weight = match.exp() * torch.cat([kept, kept])
    mass = weight.sum(dim=(0, 3)).T.double()
    total = mass.sum(dim=1, keepdim=True)
    tempered = (mass / total) ** (1 / uncertainty)
    share = tempered / tempered.sum(dim=1, keepdim=True)
    rows = torch.arange(n, device=scores.device)
    number = share.argmax(dim=1)
    own = match[:, number, rows]
    angle, shift = torch.unravel_index(own.permute(1, 2, 0).flatten(1).argmax(dim=1), (n_shifts, 2 * n_angles))[::-1]
    around = torch.stack([own[(angle + step) % (2 * n_angles), rows, shift] for step in (-1, 0, 1)]).double()
    curvature = (2 * around[1] - around[0] - around[2]).clamp_min(1e-12)
    beside = (0.5 * (around[2] - around[0]) / curvature).clamp(-0.5, 0.5)
    best = torch.stack([number.double(), shift.double(), angle + beside], dim=1)
    if signal is not None:
        weight = weight * (share / mass.clamp_min(1e-30)).T[None, :, :, None].float()
        sides = torch.stack([weight[:n_angles] + weight[n_angles:], weight[:n_angles] - weight[n_angles:]])
        table = torch.complex(*tables).permute(1, 2, 0)
        factor = (table @ sides.flatten(2).to(table.dtype)).reshape(2, -1, n_classes, n * n_shifts)
        turned = factor @ torch.complex(harmonics[:, :, 0], harmonics[:, :, 1]).mT
        signal += torch.view_as_real(turned).movedim(-1, -2)
    return share, best, most.double() + total[:, 0].log()
