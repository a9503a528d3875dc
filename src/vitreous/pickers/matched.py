"""What all pickers that compare with templates share: from score maps to candidates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.blobs import MASK_FRACTION
from vitreous.ops.peaks import find_peaks
from vitreous.ops.templates import compute_local_correlation, make_disc

__all__ = ["Candidates", "MatchSettings", "match_templates"]


@dataclass(frozen=True)
class MatchSettings:
    """How candidates are told apart."""

    diameter_angstrom: float
    min_distance_fraction: float
    min_score: float


@dataclass(frozen=True)
class Candidates:
    """Candidates of one micrograph, best first; positions in pixels of the full micrograph."""

    xy_px: NDArray[np.float64]
    ncc: NDArray[np.float64]
    power: NDArray[np.float64]
    template: NDArray[np.int64]
    psi_deg: NDArray[np.float64]


def match_templates(
    image: Tensor,
    pixels_angstrom: Tensor,
    full_pixel_angstrom: float,
    banks: Sequence[tuple[Tensor, Tensor]],
    settings: MatchSettings,
) -> Candidates:
    """Find where a reduced micrograph looks like one of the templates, and as strongly.

    The local deviation that normalises the correlation is never less than its median in the micrograph: a faint fluctuation of
    the right shape, as every micrograph of low resolution is full of, is no particle.

    Parameters
    ----------
    image
        Reduced micrograph, `(ny, nx)`.
    pixels_angstrom
        Its pixel sizes, (y, x).
    full_pixel_angstrom
        Of the full micrograph.
    banks
        For each template its rotated versions, `(m, ny, nx)`, periodic around element (0, 0), and their angles in degrees `(m,)`.
    settings
        How candidates are told apart.
    """
    pixel = float(pixels_angstrom.mean())
    mask = make_disc(
        (image.shape[0], image.shape[1]), MASK_FRACTION * settings.diameter_angstrom / pixel, device=image.device
    )
    best = torch.full_like(image, -2.0)
    which, psi = torch.zeros_like(image, dtype=torch.long), torch.zeros_like(image)
    deviation = image
    for number, (templates, angles) in enumerate(banks):
        for template, angle in zip(templates, angles, strict=True):
            correlation, deviation = compute_local_correlation(image, template[None], mask)
            better = correlation[0] > best
            best = torch.where(better, correlation[0], best)
            which[better] = number
            psi[better] = angle
    relative = deviation / deviation.median()
    best = best * relative.clamp_max(1.0)
    xy, elements = find_peaks(
        best, settings.min_distance_fraction * settings.diameter_angstrom / pixel, settings.min_score
    )
    y, x = torch.from_numpy(elements[:, 0]), torch.from_numpy(elements[:, 1])
    power = 2 * torch.log10(relative[y, x])
    scale = pixels_angstrom.flip(0).double().numpy() / full_pixel_angstrom
    return Candidates(
        xy * scale,
        best[y, x].double().cpu().numpy(),
        power.double().cpu().numpy(),
        which[y, x].cpu().numpy(),
        psi[y, x].double().cpu().numpy(),
    )
