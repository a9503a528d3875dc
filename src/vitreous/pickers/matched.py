"""What all pickers that compare with templates share: from score maps to candidates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vitreous.ops.blobs import MASK_FRACTION
from vitreous.ops.false_peaks import measure_noise_field
from vitreous.ops.fourier import find_good_size, irfft2, rfft2
from vitreous.ops.peaks import find_peaks
from vitreous.ops.template_bank import (
    BestCorrelation,
    TemplateBank,
    correlate_bank,
    correlate_seen,
    fill_hidden,
    make_bank,
    measure_local_deviation,
)
from vitreous.ops.whitening import estimate_noise_amplitude, expand_amplitude, whiten

__all__ = ["Candidates", "FindHidden", "MatchSettings", "compute_window_size", "estimate_noise", "match_templates"]

_TILE_DIAMETERS, _LEAST_TILE_PX = 1.6, 16
"""Side of the tiles that the noise is measured in."""

_MOST_CONTRAST = 1.15
"""Of the local deviation over its median, for the score: without a limit junk has the best scores; at 1, faint fluctuations in
micrographs full of particles are not told from them (beta-galactosidase, EMPIAR-10017)."""

_QUIET, _N_QUIET = 0.1, 1_000_000
"""Share of the places that are taken for noise alone, and of how many places at most it is found."""
_NOISE_SIDE_PX, _N_NOISE = 256, 20
"""Side of the noise that is searched, and how many of its best peaks tell where the tail begins."""

FindHidden = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]
"""Given positions of candidates `(n, 2)` as (x, y) in the full micrograph, those most like a template first, and their
correlation `(n,)`, tells where the micrograph shows junk, `(my, mx)`, which covers it at any resolution."""


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


def _score(image: Tensor, bank: TemplateBank, floor: float, apart_px: float) -> tuple[BestCorrelation, Tensor]:
    """Return the best correlation at each pixel, and that times the contrast up to its limit."""
    found = correlate_bank(image, bank, floor, apart_px=apart_px)
    relative = found.deviation / found.deviation.median()
    return found, found.score * relative.clamp_max(_MOST_CONTRAST)


def _measure_quiet(deviation: Tensor) -> float:
    """Return how much fainter the quietest places are than most."""
    return float(torch.quantile(deviation.flatten()[:: -(-deviation.numel() // _N_QUIET)], _QUIET) / deviation.median())


def _predict_noise_peaks(
    score: NDArray[np.float64],
    image: Tensor,
    deviation: Tensor,
    banks: Sequence[tuple[Tensor, Tensor]],
    bank: TemplateBank,
    settings: MatchSettings,
    pixels_angstrom: Tensor,
    apart_px: float,
) -> NDArray[np.float64]:
    """Return how many peaks of noise are expected to score as well as each candidate does with any template.

    Noise with the colour that whitening left is searched like the micrograph. Above the best few peaks of it the number falls as
    the sum over templates does; that sum itself is too much, since templates that are alike find the same peaks. Where most of a
    micrograph shows more than noise, what is noise has the less contrast.
    """
    seeded = torch.Generator().manual_seed(0)
    shape = (_NOISE_SIDE_PX, _NOISE_SIDE_PX)
    noise = torch.randn(shape, generator=seeded).to(bank.mask.device)
    noise = whiten(noise, estimate_noise(noise, settings, pixels_angstrom))
    left = estimate_noise(image, settings, pixels_angstrom)
    noise = irfft2(rfft2(noise) * expand_amplitude(left, shape), shape)
    found, scored = _score(noise, bank, 0.0, apart_px)
    y, x = find_peaks(scored, apart_px, 0.0)[1].T
    peaks = scored.double().cpu().numpy()[y, x]
    score = score * max(1.0, _measure_quiet(found.deviation) / _measure_quiet(deviation))
    counted = np.searchsorted(-peaks, -score, side="right") / _NOISE_SIDE_PX**2
    if len(peaks) >= _N_NOISE:
        side = find_good_size(2 * bank.mask.shape[0])
        power = expand_amplitude(left, (side, side)).square()
        fields = [measure_noise_field(windows, bank.mask, power, (side, side)) for windows, _ in banks]
        level = peaks[_N_NOISE - 1]
        summed = np.sum(
            [field.predict_peaks(np.append(score, level), 1, local_deviation=False) for field in fields], axis=0
        )
        beyond = _N_NOISE / _NOISE_SIDE_PX**2 * summed[:-1] / summed[-1]
        counted = np.where(score > level, beyond, counted)
    return np.asarray(deviation.numel() * counted)


def _mark_beside(hidden: Tensor, elements: NDArray[np.int64], size: int) -> NDArray[np.bool_]:
    """Return which places `(n, 2)` are not hidden, but something in their surroundings is."""
    near = functional.max_pool2d(hidden[None, None].float(), size, stride=1, padding=size // 2)[0, 0].bool() & ~hidden
    return near.cpu().numpy()[elements[:, 0], elements[:, 1]]


def match_templates(
    image: Tensor,
    pixels_angstrom: Tensor,
    full_pixel_angstrom: float,
    banks: Sequence[tuple[Tensor, Tensor]],
    settings: MatchSettings,
    plain: Tensor | None = None,
    find_hidden: FindHidden | None = None,
) -> Candidates:
    """Find where a reduced micrograph looks like one of the templates, and as strongly.

    The score is the correlation times the local deviation over its median in the micrograph, up to a limit little above one:
    a faint fluctuation of the right shape, as every micrograph of low resolution is full of, is no particle, and what has much
    more contrast than most places is none the likelier to be one.

    Beside junk, only what is no junk counts: its edge, half in the window, correlates with anything.

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
        has is not known then.
    find_hidden
        Tells where junk is; None where nobody looks.
    """
    pixel = float(pixels_angstrom.mean())
    size = compute_window_size(settings, pixels_angstrom)
    offset = torch.arange(size, device=image.device) - size // 2
    distance = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float())
    mask = (MASK_FRACTION * settings.diameter_angstrom / pixel - distance + 0.5).clamp(0, 1)
    bank = make_bank(torch.cat([windows for windows, _ in banks]), mask)
    apart = settings.min_distance_fraction * settings.diameter_angstrom / pixel
    found, best = _score(image, bank, settings.min_score, apart)
    strength = found.deviation if plain is None else measure_local_deviation(plain, mask)
    xy, elements = find_peaks(best, apart, settings.min_score)
    xy = xy * (pixels_angstrom.flip(0).double().numpy() / full_pixel_angstrom)
    places = torch.from_numpy(elements).to(image.device)
    y, x = places.T
    score, ncc, which = best[y, x], found.score[y, x], found.which[y, x]
    relative = (strength / strength.median())[y, x]
    if find_hidden is not None:
        by_shape = torch.argsort(ncc, descending=True, stable=True).cpu().numpy()
        junk = find_hidden(xy[by_shape], ncc.double().cpu().numpy()[by_shape])
        hidden = torch.from_numpy(junk).to(image.device)[None, None].float()
        hidden = functional.interpolate(hidden, (image.shape[0], image.shape[1]))[0, 0] > 0
        beside = torch.from_numpy(_mark_beside(hidden, elements, size)).to(image.device)
        seen = correlate_seen(image, hidden, bank, places[beside])
        ncc[beside], which[beside] = seen.score, seen.which
        score[beside] = seen.score * (seen.deviation / found.deviation.median()).clamp_max(_MOST_CONTRAST)
        shown = seen.deviation if plain is None else fill_hidden(plain, hidden, mask, places[beside])[1]
        relative[beside] = shown / strength.median()
    order = torch.argsort(score, descending=True, stable=True)
    order = order[score[order] >= settings.min_score]
    numbers = torch.cat([torch.full((len(angles),), number) for number, (_, angles) in enumerate(banks)])
    psi = torch.cat([angles for _, angles in banks])
    scores, chosen = score[order].double().cpu().numpy(), which[order].cpu()
    expected = np.full(len(scores), np.nan)
    if plain is not None:
        expected = _predict_noise_peaks(scores, image, found.deviation, banks, bank, settings, pixels_angstrom, apart)
    return Candidates(
        xy[order.cpu().numpy()],
        ncc[order].double().cpu().numpy(),
        scores,
        2 * torch.log10(relative[order].clamp_min(1e-6)).double().cpu().numpy(),
        expected,
        numbers[chosen].numpy(),
        psi.cpu()[chosen].double().numpy(),
    )
