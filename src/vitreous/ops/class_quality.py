"""How much a class average looks like a particle: features that need neither a size nor a resolution set by hand.

All are relative, to the particle's diameter or to the other classes of the same classification, so that one model serves a virus
and a small enzyme. What a class is worth does not depend on how many images it has: no feature is its size.
"""

import math

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.average2d import compute_mass_centre, compute_ring_index
from vitreous.ops.boosting import BoostedTrees, explain_trees, predict_logit
from vitreous.ops.class_halves import ClassResolution, HalfSums, make_class_mask, split_power
from vitreous.ops.fourier import compute_radial_mean, irfft2, rfft2

__all__ = ["FEATURES", "REASONS", "compute_class_features", "find_reasons", "score_classes"]

Floats = NDArray[np.float64]

_CYCLES = 6.0
_LEVEL = 0.3
_RIM = 0.1
_TYPICAL_QUANTILE = 0.7
_SHARP = 0.6
_MOST_CYCLES = 10.0
_MOST_SCATTER, _UNEVEN = 2.0, 0.1
_ASIDE = 0.2

FEATURES = {
    "detail": "resolution",
    "detail_relative": "resolution",
    "correlation_2_4": "resolution",
    "correlation_4_8": "resolution",
    "fine_power": "resolution",
    "signal": "strength",
    "signal_relative": "strength",
    "coarse_expected": "strength",
    "fine_expected": "mixed",
    "correlation_expected": "mixed",
    "scatter": "mixed",
    "offset": "off-centre",
    "solidity": "shape",
    "contact": "shape",
    "area": "shape",
    "outline": "shape",
    "round": "shape",
    "round_relative": "mixed",
    "area_relative": "shape",
    "ramp": "shape",
    "dark": "shape",
    "profile": "shape",
    "outside": "surroundings",
}
"""Features in the order of their columns, and what a class fails by where one tells against it.

detail: ln of cycles per diameter that are resolved, 10 at most; detail_relative: less the typical; correlation_a_b: mean ring
correlation at a to b cycles per diameter; fine_power: ln of shared power at 2 to 5 cycles over that at 0.5 to 2; signal: ln of
1 + signal over noise of the average, summed over coefficients; signal_relative: that of one image, over the typical;
coarse_expected, fine_expected: ln of signal over noise at 0.5 to 2 and at 2 to 5 cycles, over that of so many images of the
typical class; correlation_expected: mean ring correlation at 2 to 5 cycles less theirs; scatter: what is left of one image's
power less the typical, over the typical explained, at 0.5 to 5 cycles; offset: of the centre of mass, in diameters; solidity:
share of the bright area in its largest piece; contact: share of the mask's rim that is bright; area: ln of the bright area over
that of the particle's circle; outline: length of its outline over that of a circle of its area; round: share of variance that
turning leaves; round_relative, area_relative: these less the typical; ramp: share of variance of a slope; dark: depth of the
darkest over height of the brightest; profile: correlation of the radial profile with the typical; outside: deviation beyond 0.6
diameters over that within half of one."""

REASONS = tuple(dict.fromkeys(FEATURES.values()))
"""What a class can fail by."""


def _find_quantile(values: Floats, weights: Floats, share: float) -> float:
    """Return the value that the given share of the weight does not exceed."""
    order = values.argsort(kind="stable")
    cumulative = weights[order].cumsum() / weights.sum()
    return float(values[order][min(int((cumulative < share).sum()), len(values) - 1)])


def _filter_averages(averages: Tensor, correlation: Tensor, diameter_px: float) -> Tensor:
    """Return averages without noise, by the correlation of their halves, nor detail finer than a sixth of the particle."""
    n_px = averages.shape[-1]
    ring = compute_ring_index(n_px, averages.device).clamp_max(correlation.shape[-1] - 1)
    known = correlation.clamp(0, 0.999)
    gain = 2 * known / (1 + known)
    gain[:, 0] = 0
    gain = gain * torch.exp(-((torch.arange(gain.shape[-1], device=gain.device) * diameter_px / n_px / _CYCLES) ** 4))
    return irfft2(rfft2(averages) * gain[:, ring], (n_px, n_px))


def _measure_region(bright: NDArray[np.bool_], rim: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Return solidity, contact, area (px) and outline of what is bright."""
    pieces, n_pieces = scipy.ndimage.label(bright)
    if n_pieces == 0:
        return 0.0, 0.0, 1.0, 1.0
    sizes = np.bincount(pieces.ravel())[1:]
    area = float(sizes.sum())
    # Steps between pixels overrate a slanting line by 4 / pi on average.
    steps = (bright[1:] != bright[:-1]).sum() + (bright[:, 1:] != bright[:, :-1]).sum()
    outline = steps * math.pi / 4 / (2 * math.sqrt(math.pi * area))
    return float(sizes.max() / area), float(bright[rim].mean()), area, float(outline)


def _measure_images(smooth: Tensor, diameter_px: float, mask_radius_px: float) -> dict[str, Floats]:
    n_px = smooth.shape[-1]
    offset = torch.arange(n_px, device=smooth.device) - n_px // 2
    y, x = torch.meshgrid(offset.float(), offset.float(), indexing="ij")
    radius = torch.hypot(y, x)
    inside = radius <= mask_radius_px
    masked = smooth * inside
    top = masked[:, inside].quantile(0.99, dim=1).clamp_min(1e-9)
    rim = ((radius > (1 - _RIM) * mask_radius_px) & inside).cpu().numpy()
    bright = ((masked > _LEVEL * top[:, None, None]) & inside).cpu().numpy()
    regions = np.array([_measure_region(image, rim) for image in bright])
    core, beyond = smooth[:, radius <= diameter_px / 2], smooth[:, radius > 0.6 * diameter_px]
    # Turned by the same angle everywhere, only what is the mean of its circle stays.
    ring = radius.round().long()[inside]
    values = smooth[:, inside] - smooth[:, inside].mean(dim=1, keepdim=True)
    count = torch.bincount(ring).clamp_min(1)
    profile = torch.zeros(len(smooth), len(count), device=smooth.device).index_add_(1, ring, values) / count
    total = values.square().sum(dim=1).clamp_min(1e-20)
    slopes = torch.stack([one[inside] for one in (y, x)])
    ramp = ((values @ slopes.T).square() / slopes.square().sum(dim=1)).sum(dim=1) / total
    measured = {
        "offset": compute_mass_centre(masked).norm(dim=1) / diameter_px,
        "round": (profile.square() * count).sum(dim=1) / total,
        "ramp": ramp,
        "dark": -masked[:, inside].quantile(0.01, dim=1).clamp_max(0) / top,
        "outside": (beyond.std(dim=1) / core.std(dim=1).clamp_min(1e-9)).clamp_max(10),
    }
    circle = math.pi * diameter_px**2 / 4
    return {
        **{name: one.double().cpu().numpy() for name, one in measured.items()},
        "solidity": regions[:, 0],
        "contact": regions[:, 1],
        "area": np.log(regions[:, 2] / circle),
        "outline": regions[:, 3],
        "_profile": (profile / profile.norm(dim=1, keepdim=True).clamp_min(1e-9)).double().cpu().numpy(),
    }


def _mean_between(curves: Floats, cycles: Floats, low: float, high: float) -> Floats:
    chosen = (cycles >= low) & (cycles < high)
    return np.asarray(curves[:, chosen].mean(axis=1)) if chosen.any() else np.zeros(len(curves))


def _compare_signal(ssnr: Floats, n_images: Floats, cycles: Floats, weights: Floats) -> dict[str, Floats]:
    """Return signal less what so many images of the typical class would give.

    Where a class has too few images to show any detail, none is expected.
    """
    one = ssnr / n_images[:, None].clip(1)
    expected = n_images[:, None] * np.array([_find_quantile(ring, weights, 0.5) for ring in one.T]).clip(0)
    known = ssnr.clip(0)
    n_coefficients = math.pi * np.arange(len(cycles))

    def compare(low: float, high: float) -> Floats:
        here = (cycles >= low) & (cycles < high)
        # The root of their number is how far chance takes the sum over coefficients of noise.
        chance = math.sqrt(max(float(n_coefficients[here].sum()), 1.0))
        sums = [curves[:, here] @ n_coefficients[here] for curves in (known, expected)]
        return np.asarray(np.log((sums[0] + chance) / (sums[1] + chance)))

    return {
        "coarse_expected": compare(0.5, 2),
        "fine_expected": compare(2, 5),
        "correlation_expected": _mean_between(known / (known + 2) - expected / (expected + 2), cycles, 2, 5),
    }


def _compare_scatter(sums: HalfSums, cycles: Floats, weights: Floats) -> Floats:
    """Return what a class's average leaves of its images, less what the typical class leaves, over what that explains.

    Images of one classification have much the same noise and, where they show the molecule, much the same power: the average of
    views that do not belong together leaves more, that of faint images does not.
    """
    explained, left = (part.double().cpu().numpy() for part in split_power(sums))
    # A piece of ice has a hundred times the power of a particle: no mean is typical.
    typical, noise = (
        np.array([_find_quantile(ring, weights, 0.5) for ring in part.T]).clip(1e-12) for part in (explained, left)
    )
    # As many coefficients as the ring is long, each as telling as its signal is over its noise.
    weight = np.arange(len(cycles)) * typical / noise**2 * ((cycles >= 0.5) & (cycles < 5))
    scatter = (left - noise) @ weight / max(float((typical + _UNEVEN * noise) @ weight), 1e-12)
    return np.asarray(scatter.clip(-_MOST_SCATTER, _MOST_SCATTER))


def compute_class_features(
    sums: HalfSums,
    averages: tuple[Tensor, Tensor],
    resolution: ClassResolution,
    diameter_px: float,
    mask_radius_px: float,
) -> Floats:
    """Return the features of each class, `(K, len(FEATURES))`.

    Parameters
    ----------
    sums, averages, resolution
        Of the classes of one classification, as `vitreous.ops.class_halves` makes them.
    diameter_px
        Of the particle.
    mask_radius_px
        Of the circle outside which the classification saw nothing.

    Raises
    ------
    ValueError
        If there is no class.
    """
    n_images = sums.n_images.sum(dim=0).double().cpu().numpy()
    if len(n_images) == 0:
        raise ValueError("there is no class average to measure")
    halves, total = averages
    n_px = sums.n_px
    smooth = _filter_averages(total, resolution.correlation.float(), diameter_px)
    found = _measure_images(smooth, diameter_px, mask_radius_px)
    correlation = resolution.correlation.double().cpu().numpy()
    rings = np.arange(correlation.shape[1])
    cycles = rings * diameter_px / n_px
    detail = np.log(np.minimum(resolution.ring.double().cpu().numpy() * diameter_px / n_px, _MOST_CYCLES))
    first, second = rfft2(halves * make_class_mask(n_px, mask_radius_px, halves.device))
    shared = compute_radial_mean(first.real * second.real + first.imag * second.imag, (n_px, n_px))
    power = np.maximum(shared.double().cpu().numpy(), 0) * rings
    fine, coarse = _mean_between(power, cycles, 2, 5), _mean_between(power, cycles, 0.5, 2)
    signal = (np.maximum(resolution.ssnr.double().cpu().numpy(), 0) * rings)[
        :, (cycles > 0.5) & (cycles < _CYCLES)
    ].sum(axis=1)
    per_image = np.log((signal + 1) / np.maximum(n_images, 1))
    typical = _find_quantile(detail, n_images, _TYPICAL_QUANTILE)
    sharp = n_images * (detail > typical + math.log(_SHARP))
    mean_profile = found["_profile"].T @ sharp
    profile = found.pop("_profile") @ mean_profile / max(float(np.linalg.norm(mean_profile)), 1e-9)
    found |= _compare_signal(resolution.ssnr.double().cpu().numpy(), n_images, cycles, sharp)
    found |= {
        "scatter": _compare_scatter(sums, cycles, sharp),
        "round_relative": found["round"] - _find_quantile(found["round"], sharp, 0.5),
        "area_relative": found["area"] - _find_quantile(found["area"], sharp, 0.5),
        "detail": detail,
        "detail_relative": detail - typical,
        "correlation_2_4": _mean_between(correlation, cycles, 2, 4),
        "correlation_4_8": _mean_between(correlation, cycles, 4, 8),
        "fine_power": np.log((fine + 1e-9) / (coarse + 1e-9)).clip(-8, 8),
        "signal": np.log1p(signal),
        "signal_relative": per_image - float(np.average(per_image, weights=sharp)),
        "profile": profile,
    }
    return np.stack([found[name] for name in FEATURES], axis=1)


def score_classes(trees: BoostedTrees, features: Floats) -> Floats:
    """Return the probability that each class shows particles, `(K,)`."""
    return np.asarray(1 / (1 + np.exp(-predict_logit(trees, features))))


def find_reasons(trees: BoostedTrees, features: Floats) -> list[str]:
    """Return what tells most against each class, one of `REASONS`."""
    names, reasons = list(FEATURES), list(FEATURES.values())
    told = explain_trees(trees, features)
    offset, around = names.index("offset"), names.index("round")
    # What lies aside is not round about the centre, whatever its shape.
    aside = features[:, offset] > _ASIDE
    told[aside, offset] += told[aside, around]
    told[aside, around] = 0
    return [reasons[int(worst)] for worst in told.argmin(axis=1)]
