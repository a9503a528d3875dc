"""Which way round a gain reference lies on the frames, and whether it multiplies or divides, found from the counts.

A pixel of sensitivity s counts s times what its neighbours do. Where the reference is laid the right way, its local deviations go
against those of the counts (it multiplies, 1 / s) or with them (it is a flat field to divide by, s), pixel by pixel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "ORIENTATIONS",
    "GainEstimate",
    "Orientation",
    "Polarity",
    "Verdict",
    "estimate_gain_orientation",
    "fit_gain",
    "invert_gain",
    "orient_gain",
]

Polarity = Literal["multiply", "divide"]
Verdict = Literal["clear", "flat", "weak", "absent", "partial", "ambiguous"]

_BOX_PX = 15
_SAMPLE_PIXELS = 200_000
_OUTLIER_SIGMA = 6.0
_FLAT = 1e-5
_SIGNIFICANT = 10.0
_SEPARATE = 5.0
_VISIBLE = 20.0
_EXPLAINED = 0.5
_NULL_SHIFTS = ((37, 91), (101, 43), (67, 131), (151, 79), (29, 163), (139, 109), (83, 19), (53, 149))


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a rectangle on its like; row 0 is on top, as RELION shows it.

    Attributes
    ----------
    name
        Short name, as on the command line.
    description
        The same in words.
    relion_rotation, relion_flip
        `--gain_rot` and `--gain_flip` of RELION, `-RotGain` and `-FlipGain` of MotionCor2: quarter turns first, then 1 for upside
        down or 2 for left to right.
    """

    name: str
    description: str
    relion_rotation: int
    relion_flip: int

    @property
    def swaps_axes(self) -> bool:
        """Whether rows become columns."""
        return self.relion_rotation % 2 == 1


ORIENTATIONS: Mapping[str, Orientation] = {
    orientation.name: orientation
    for orientation in (
        Orientation("as-is", "as it is in the file", 0, 0),
        Orientation("rot90", "turned by 90° clockwise", 1, 0),
        Orientation("rot180", "turned by 180°", 2, 0),
        Orientation("rot270", "turned by 90° counter-clockwise", 3, 0),
        Orientation("flip-x", "flipped left to right", 0, 2),
        Orientation("flip-y", "flipped upside down", 0, 1),
        Orientation("transpose", "with rows and columns exchanged", 1, 2),
        Orientation("anti-transpose", "with rows and columns exchanged and turned by 180°", 1, 1),
    )
}
"""The eight orientations by name; the first changes nothing."""


@dataclass(frozen=True)
class GainEstimate:
    """What the counts say of a gain reference.

    Attributes
    ----------
    orientation, polarity
        The best of all; to be used only where `verdict` is `clear`.
    verdict
        `clear`; `flat`: the reference has no pattern; `weak`: too few counts for its pattern to show; `absent`: its pattern would
        show and does not; `partial`: too little of it shows, so that correcting with it does harm; `ambiguous`: two orientations
        fit alike.
    significance
        How far the best correlation stands out, in standard deviations of correlations by chance.
    expected_significance
        The same if the counts held the whole pattern of the reference.
    explained
        Which part of the reference's pattern the counts hold, 1 for the right one. Below 0.5, correcting adds more pattern than
        it takes out.
    second
        The next best orientation, or the same one the other way round where there is no other.
    ratio
        Correlation of the best over that of the second.
    counted
        Whether all counts are whole numbers, as they are before a correction.
    correlations
        Signed correlation of every orientation that fits; negative for references that multiply.
    """

    orientation: str
    polarity: Polarity
    verdict: Verdict
    significance: float
    expected_significance: float
    explained: float
    second: str
    ratio: float
    counted: bool
    correlations: Mapping[str, float]


def orient_gain(gain: Tensor, orientation: str) -> Tensor:
    """Return `gain` `(ny, nx)` turned and flipped; `(nx, ny)` where rows become columns.

    Raises
    ------
    ValueError
        If there is no such orientation.
    """
    if orientation not in ORIENTATIONS:
        raise ValueError(f"orientation {orientation!r} is none of {', '.join(ORIENTATIONS)}")
    chosen = ORIENTATIONS[orientation]
    # The first row is on top, so that torch's positive turn is counter-clockwise.
    turned = torch.rot90(gain, -chosen.relion_rotation)
    return turned if chosen.relion_flip == 0 else turned.flip(chosen.relion_flip - 1)


def invert_gain(flat_field: Tensor) -> Tensor:
    """Return the factors, 1 on average, that multiply where `flat_field` divides; 0 marks a defect and stays 0."""
    good = flat_field > 0
    if not good.any():
        return torch.zeros_like(flat_field)
    factors = torch.where(good, 1 / flat_field.where(good, torch.ones_like(flat_field)), torch.zeros_like(flat_field))
    return factors / factors[good].mean(dtype=torch.float64).to(factors.dtype)


def fit_gain(gain: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a gain reference that multiplies, brought to frames of its size, of half or of twice its size.

    Four pixels that are summed into one count in proportion to 1 / gain each, so that the harmonic mean corrects their sum. A
    defect among them makes a defect.

    Parameters
    ----------
    gain
        Gain reference `(ny, nx)`, already turned as the frames are.
    shape
        Rows and columns of the frames.

    Raises
    ------
    ValueError
        If it is of another size.
    """
    ny, nx = gain.shape
    if (ny, nx) == shape:
        return gain
    if shape == (2 * ny, 2 * nx):
        return gain.repeat_interleave(2, 0).repeat_interleave(2, 1)
    if (ny, nx) != (2 * shape[0], 2 * shape[1]):
        raise ValueError(f"a gain of {nx}x{ny} pixels fits no frames of {shape[1]}x{shape[0]}")
    blocks = gain.reshape(shape[0], 2, shape[1], 2)
    good = (blocks > 0).all(dim=3).all(dim=1)
    inverse = (1 / blocks.clamp_min(torch.finfo(gain.dtype).tiny)).sum(dim=(1, 3))
    return torch.where(good, 4 / inverse, torch.zeros_like(inverse))


def _cut_middle(image: Tensor, size: int) -> Tensor:
    """Return the middle of an image, the same part however the image is turned or flipped."""
    ny, nx = (min(n, size + (n - size) % 2) for n in image.shape)
    top, left = (image.shape[0] - ny) // 2, (image.shape[1] - nx) // 2
    return image[top : top + ny, left : left + nx]


def _sum_along_rows(image: Tensor) -> Tensor:
    pad = _BOX_PX // 2
    running = functional.pad(image.double(), (pad + 1, pad)).cumsum(dim=1)
    return (running[:, _BOX_PX:] - running[:, :-_BOX_PX]).float()


def _sum_box(image: Tensor) -> Tensor:
    """Return the sum over the box about every pixel; there is nothing outside the image."""
    return _sum_along_rows(_sum_along_rows(image).T.contiguous()).T


def _sample(values: Tensor) -> Tensor:
    flat = values.flatten()
    return flat[:: max(1, flat.numel() // _SAMPLE_PIXELS)]


def _measure_spread(values: Tensor, good: Tensor) -> float:
    """Return the standard deviation of the good values without the outermost thousandth."""
    kept = _sample(values)[_sample(good)].abs()
    return float(kept[kept <= kept.quantile(0.999)].square().mean().sqrt()) if kept.numel() else 0.0


def _find_deviations(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each pixel is from the mean about it, relative to that, and which pixels count; others are 0.

    Pixels of 0 or less do not count where they stand out, nor do those far off; neither in the mean about them.
    """
    good = image > 0
    if _sample(good).float().mean() < 0.9:
        # So few counts that a pixel without any is no defect.
        good = torch.ones_like(good)
    deviation = torch.zeros_like(image)
    for _ in range(2):
        mean = _sum_box(image.where(good, torch.zeros_like(image))) / _sum_box(good.float()).clamp_min(1)
        good &= mean > 0
        deviation = (image / mean.where(mean > 0, torch.ones_like(mean)) - 1).where(good, torch.zeros_like(image))
        limit = _OUTLIER_SIGMA * _measure_spread(deviation, good)
        good &= deviation.abs() <= limit
    # The mean was taken with the outliers of the first round only: those few of the second do not change it.
    return deviation.where(good, torch.zeros_like(deviation)), good


def _correlate(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))


def _measure_chance(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of the correlation of `a` with displaced `b`, relative to that of white noise; 1 at least."""
    ny, nx = a.shape
    squares = []
    for dy, dx in _NULL_SHIFTS:
        if dy < ny // 2 and dx < nx // 2:
            first, second = a[dy:, dx:], b[: ny - dy, : nx - dx]
            norm = math.sqrt(_correlate(first, first) * _correlate(second, second))
            if norm > 0:
                squares.append(first.numel() * (_correlate(first, second) / norm) ** 2)
    return max(1.0, math.sqrt(sum(squares) / len(squares))) if squares else 1.0


def _measure_significance(a: Tensor, b: Tensor) -> float:
    norm = math.sqrt(_correlate(a, a) * _correlate(b, b))
    return 0.0 if norm == 0 else _correlate(a, b) / norm * math.sqrt(a.numel()) / _measure_chance(a, b)


def _judge(significance: float, expected: float, separation: float) -> Verdict:
    explained = significance / expected if expected > 0 else 0.0
    if explained >= _EXPLAINED and significance >= _SIGNIFICANT:
        return "clear" if separation >= _SEPARATE else "ambiguous"
    if expected < _VISIBLE:
        return "weak"
    return "absent" if significance < _SIGNIFICANT else "partial"


def estimate_gain_orientation(summed: Tensor, gain: Tensor, *, middle_px: int = 4096) -> GainEstimate:
    """Find how a gain reference lies on the frames that it belongs to, and whether it multiplies them.

    Counts and reference are divided by the mean of the 15 x 15 pixels about each pixel, which takes out beam and specimen, and
    correlated in every orientation that fits. Their correlation by chance is measured with the reference displaced.

    Parameters
    ----------
    summed
        Sum of raw frames of one or several movies, `(ny, nx)`; the mean will do, but then `counted` says nothing.
    gain
        Gain reference, of the shape of the frames or with rows and columns exchanged, or of twice or half that size; 0 marks a
        defect.
    middle_px
        Only so many rows and columns in the middle are looked at; half as many tell half as much in a quarter of the time.

    Raises
    ------
    ValueError
        If the gain fits the frames in no orientation.
    """
    shape = (summed.shape[0], summed.shape[1])
    swapped = (shape[1], shape[0])
    places = {
        (factor * target[0] // 2, factor * target[1] // 2): target
        for target in (swapped, shape)
        for factor in (1, 2, 4)
    }
    found = (gain.shape[0], gain.shape[1])
    if found not in places:
        raise ValueError(f"a gain of {found[1]}x{found[0]} pixels fits no frames of {shape[1]}x{shape[0]}")
    target = places[found]
    fitting = [
        name
        for name, orientation in ORIENTATIONS.items()
        if shape[0] == shape[1] or orientation.swaps_axes == (target == swapped)
    ]
    counted = bool((_sample(summed) == _sample(summed).round()).all())
    counts, good = _find_deviations(_cut_middle(summed.float(), middle_px))
    pattern, pattern_good = _find_deviations(_cut_middle(fit_gain(gain.float(), target), middle_px))
    n = int(good.sum())
    strength = _measure_spread(pattern, pattern_good)
    norm = math.sqrt(_correlate(counts, counts) * _correlate(pattern, pattern))
    if strength < _FLAT or norm == 0:
        name = fitting[0]
        return GainEstimate(
            name, "multiply", "flat", 0.0, 0.0, 0.0, fitting[1], 1.0, counted, dict.fromkeys(fitting, 0.0)
        )
    correlations = {name: _correlate(counts, orient_gain(pattern, name)) / norm for name in fitting}
    best, second = sorted(fitting, key=lambda name: -abs(correlations[name]))[:2]
    turned = orient_gain(pattern, best)
    unit = math.sqrt(n) / _measure_chance(counts, turned)
    significance = abs(correlations[best]) * unit
    expected = math.sqrt(_correlate(pattern, pattern) / _correlate(counts, counts)) * unit
    # What the two have in common, as the stripes of read-out columns, cannot tell them apart.
    signs = math.copysign(1, correlations[best]), math.copysign(1, correlations[second])
    differing = signs[0] * turned - signs[1] * orient_gain(pattern, second)
    return GainEstimate(
        orientation=best,
        polarity="multiply" if correlations[best] < 0 else "divide",
        verdict=_judge(significance, expected, _measure_significance(counts, differing)),
        significance=significance,
        expected_significance=expected,
        explained=significance / expected,
        second=second,
        ratio=abs(correlations[best]) / max(abs(correlations[second]), 1e-12),
        counted=counted,
        correlations=correlations,
    )
