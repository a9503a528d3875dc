"""What all pickers that compare with templates share: from score maps to candidates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.blobs import MASK_FRACTION
from vitreous.ops.false_peaks import measure_noise_field
from vitreous.ops.fourier import find_good_size
from vitreous.ops.peaks import find_peaks
from vitreous.ops.template_bank import correlate_bank, make_bank, measure_local_deviation
from vitreous.ops.whitening import estimate_noise_amplitude

__all__ = ["Candidates", "MatchSettings", "compute_window_size", "estimate_noise", "match_templates"]

_TILE_DIAMETERS, _LEAST_TILE_PX = 1.6, 16
"""Side of the tiles that the noise is measured in."""

_MOST_CONTRAST = 1.15
"""Of the local deviation over its median, for the score: without a limit junk has the best scores; at 1, faint fluctuations in
micrographs full of particles are not told from them (beta-galactosidase, EMPIAR-10017)."""


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
    """Correlation, -1 to 1."""
    score: NDArray[np.float64]
    """What they are ranked by."""
    power: NDArray[np.float64]
    noise_peaks: NDArray[np.float64]
    """Expected number of peaks of pure noise in the micrograph that score as well or better; not-a-number where unknown."""
    template: NDArray[np.int64]
    psi_deg: NDArray[np.float64]


def compute_window_size(settings: MatchSettings, pixels_angstrom: Tensor) -> int:
    """Return the odd side, in pixels of the reduced micrograph, of a window that holds the mask of the matched filter."""
    return 2 * math.ceil(MASK_FRACTION * settings.diameter_angstrom / float(pixels_angstrom.mean())) + 1


def estimate_noise(image: Tensor, settings: MatchSettings, pixels_angstrom: Tensor) -> Tensor:
    """Return the amplitude of the noise of a reduced micrograph from frequency 0 to Nyquist; flat where there is no detail."""
    half = max(
        _LEAST_TILE_PX // 2, round(_TILE_DIAMETERS / 2 * settings.diameter_angstrom / float(pixels_angstrom.mean()))
    )
    try:
        return estimate_noise_amplitude(image, min(2 * half, min(image.shape) // 2 * 2))
    except ValueError:
        return torch.ones(half + 1, device=image.device)


def _predict_noise_peaks(
    score: NDArray[np.float64], n_px: int, banks: Sequence[tuple[Tensor, Tensor]], mask: Tensor
) -> NDArray[np.float64]:
    """Return how many peaks of white noise are expected to score as well as each candidate does with any template.

    The sum over templates: at most that, since templates that are alike find the same peaks.
    """
    side = find_good_size(2 * mask.shape[0])
    power = torch.ones(side, side // 2 + 1, device=mask.device)
    expected = np.zeros(len(score))
    for windows, _ in banks:
        expected += measure_noise_field(windows, mask, power, (side, side)).predict_peaks(
            score, n_px, local_deviation=False
        )
    return expected


def match_templates(
    image: Tensor,
    pixels_angstrom: Tensor,
    full_pixel_angstrom: float,
    banks: Sequence[tuple[Tensor, Tensor]],
    settings: MatchSettings,
    plain: Tensor | None = None,
) -> Candidates:
    """Find where a reduced micrograph looks like one of the templates, and as strongly.

    The score is the correlation times the local deviation over its median in the micrograph, up to a limit little above one:
    a faint fluctuation of the right shape, as every micrograph of low resolution is full of, is no particle, and what has much
    more contrast than most places is none the likelier to be one.

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
    plain
        The image before its noise was whitened, in which the local power is measured; None where it was not. How many peaks noise
        has is known only of white noise.
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
    relative = found.deviation / found.deviation.median()
    best = found.score * relative.clamp_max(_MOST_CONTRAST)
    xy, elements = find_peaks(best, apart, settings.min_score)
    y, x = torch.from_numpy(elements[:, 0]), torch.from_numpy(elements[:, 1])
    score = best[y, x].double().cpu().numpy()
    expected = np.full(len(score), np.nan)
    if plain is not None:
        deviation = measure_local_deviation(plain, mask)
        relative = deviation / deviation.median()
        expected = _predict_noise_peaks(score, image.numel(), banks, mask)
    power = 2 * torch.log10(relative[y, x])
    scale = pixels_angstrom.flip(0).double().numpy() / full_pixel_angstrom
    return Candidates(
        xy * scale,
        found.score[y, x].double().cpu().numpy(),
        score,
        power.double().cpu().numpy(),
        expected,
        which[y, x].cpu().numpy(),
        psi[y, x].double().cpu().numpy(),
    )
