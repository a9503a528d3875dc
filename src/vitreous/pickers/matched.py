"""What all pickers that compare with templates share: from score maps to candidates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.blobs import MASK_FRACTION
from vitreous.ops.peaks import find_peaks
from vitreous.ops.template_bank import correlate_bank, make_bank

__all__ = ["Candidates", "MatchSettings", "compute_window_size", "match_templates"]


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


def compute_window_size(settings: MatchSettings, pixels_angstrom: Tensor) -> int:
    """Return the odd side, in pixels of the reduced micrograph, of a window that holds the mask of the matched filter."""
    return 2 * math.ceil(MASK_FRACTION * settings.diameter_angstrom / float(pixels_angstrom.mean())) + 1


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
        For each template its rotated versions, `(m, w, w)`, w as `compute_window_size` says, centred at w // 2, and their angles
        in degrees `(m,)`.
    settings
        How candidates are told apart.
    """
    pixel = float(pixels_angstrom.mean())
    size = compute_window_size(settings, pixels_angstrom)
    offset = torch.arange(size, device=image.device) - size // 2
    distance = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float())
    mask = (MASK_FRACTION * settings.diameter_angstrom / pixel - distance + 0.5).clamp(0, 1)
    bank = make_bank(torch.cat([windows for windows, _ in banks]), mask)
    apart = settings.min_distance_fraction * settings.diameter_angstrom / pixel
    found = correlate_bank(image, bank, settings.min_score, apart_px=apart)
    numbers = torch.cat([torch.full((len(angles),), number) for number, (_, angles) in enumerate(banks)])
    which = numbers.to(image.device)[found.which]
    psi = torch.cat([angles for _, angles in banks]).to(image.device)[found.which]
    best, deviation = found.score, found.deviation
    relative = deviation / deviation.median()
    best = best * relative.clamp_max(1.0)
    xy, elements = find_peaks(best, apart, settings.min_score)
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
