"""Where a micrograph shows what is no particle: carbon, ice, clumps. From the image itself, without training."""

import math
from typing import NamedTuple

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

__all__ = ["JUNK_KINDS", "JunkMask", "find_junk", "hide_junk", "look_up_junk"]

JUNK_KINDS = ("", "carbon", "ice", "aggregate")
"""What the values of a mask mean."""

Floats = NDArray[np.float64]

_SAMPLES = 10
"""Pixels of the mask across a particle."""
_WINDOW = 0.5
"""Standard deviation, in diameters, of the Gaussian that local means and deviations are taken under."""
_DETAIL, _FINE, _PARTICLE, _COARSE = (0.03, 0.07), (0.04, 0.09), (0.12, 0.35), (0.4, 1.0)
"""Bands: differences of two Gaussians of these standard deviations, in diameters."""
_COARSE_LIMIT = 1.1
"""Natural logarithm of local deviation over that of ice and particles, above which something else is there."""
_DETAIL_SAMPLES = 20
"""Pixels across a particle where its detail is measured."""
_CLUMP_CORE, _CLUMP_EDGE, _CLUMP_REACH, _MOST_ALONE = 2.7, 1.3, 0.7, 2.2
"""Power of detail over that of ice, in those of a particle alone. Particles side by side, as close as they can be, have 1.8 under
the window; a clump is what has more than the first, and what around it has more than the second within that many diameters."""
_NOISE_PERCENT, _KNOWN_EXCESS, _LEAST_EXCESS, _N_FIRST = 10.0, 1.3, 1.7, 10
"""Power over that of ice is known to be a particle's where it is so many times that of the median place, and the first so many
candidates do not have much more; where not, a particle is taken to have the second."""
_LEAST_BEST, _SHARE_OF_BEST = 5, 0.6
"""Of candidates so many are taken for particles at least, and of the better quarter those with this share of the first few's
correlation."""
_LEAST_COARSE, _LEAST_CLUMP, _LEAST_DARK, _LEAST_ALONE, _LEAST_WIDE = 1.2, 0.5, 1.5, 6.0, 4.0
"""Least areas of regions, in squares of the diameter, of clumps that of their cores; the last two where the best candidates do
not vary more than the rest of the micrograph: then it is not known how much particles vary, a few of them in empty ice stand
out, and junk is what is larger than they are, also as far as it has half the power of its strongest place (a particle alone: 1.3
to 2.6)."""
_KNOWN_MARGIN = 0.05
_DARK_LIMIT, _LEAST_SLOPE, _EDGE_STEEPNESS, _EDGE_SHARE = 3.0, 4.0, 0.5, 0.5
"""A dark region is junk where its edge is steep: so many fine deviations below the ice, with this share of its outline where the
mean falls by at least so many in a diameter, and by so much of what it does at a step as high as the region is dark. Thickness of
ice that changes gently has no such edge."""
_REFERENCE_PERCENT = 25.0
"""Of the deviations at the best candidates: three quarters of them may be junk before what they suggest is wrong."""
_CARBON_AREA = 6.0
_SHARP_WINDOW = 0.2
"""Standard deviation, in diameters, of the Gaussian under which the outline of a dark region is drawn."""
_SLIVER = 0.15
"""Half the width, in diameters, of what is too narrow to be anything."""
_CORE_DEPTH, _CORE_REACH = 0.3, 1.0
"""What is nearly as coarse as the coarsest place within this many diameters is the core of an edge; the rest is its blur."""
_TREND_ROUNDS, _TREND_SHARE = 20, 0.5


class JunkMask(NamedTuple):
    """Regions in a micrograph."""

    kinds: NDArray[np.uint8]
    """Index in `JUNK_KINDS` for every pixel of the reduced micrograph, `(my, mx)`, which covers all of the micrograph."""
    scale_yx: tuple[float, float]
    """Size of a mask pixel in pixels of the micrograph."""


def _reduce(image: Tensor, pixels: float) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return the image with about every `pixels` pixels averaged to one, and the exact numbers along y and x."""
    ny, nx = image.shape
    size = (max(1, round(ny / max(1.0, pixels))), max(1, round(nx / max(1.0, pixels))))
    # A Fourier transform would make an edge where a gradient of the ice wraps round.
    small = functional.adaptive_avg_pool2d((image - image.mean())[None, None], size)[0, 0]
    return small.cpu().numpy(), (ny / size[0], nx / size[1])


def _place(xy_px: Floats, scale: tuple[float, float], shape: tuple[int, ...]) -> tuple[NDArray[np.int64], ...]:
    """Return the row and the column of the reduced image that hold positions `(n, 2)` as (x, y)."""
    return tuple(
        np.clip(np.floor((xy_px[:, 1 - axis] + 0.5) / scale[axis]).astype(np.int64), 0, shape[axis] - 1)
        for axis in (0, 1)
    )


def _measure_deviation(
    image: NDArray[np.float32], band: tuple[float, float], diameter_px: float
) -> NDArray[np.float32]:
    """Return the natural logarithm of the local standard deviation of a band."""
    fine, coarse = (scipy.ndimage.gaussian_filter(image, sigma * diameter_px) for sigma in band)
    power = scipy.ndimage.gaussian_filter((fine - coarse) ** 2, _WINDOW * diameter_px)
    return np.asarray(0.5 * np.log(np.maximum(power, 1e-20)), dtype=np.float32)


def _fit_trend(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the plane through most of the values (least trimmed squares, started at their mode)."""
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in values.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), y, x], axis=-1).reshape(-1, 3)[::4]
    flat = values.ravel()[::4].astype(np.float64)
    n_kept = round(_TREND_SHARE * len(flat))
    order = np.sort(flat)
    first = int(np.argmin(order[n_kept - 1 :] - order[: len(order) - n_kept + 1]))
    plane = np.array([order[first : first + n_kept].mean(), 0.0, 0.0])
    for _ in range(_TREND_ROUNDS):
        near = np.argpartition(np.abs(flat - terms @ plane), n_kept - 1)[:n_kept]
        plane = np.linalg.lstsq(terms[near], flat[near], rcond=None)[0]
    return np.asarray(plane[0] + plane[1] * y + plane[2] * x, dtype=np.float32)


def _find_regions(inside: NDArray[np.bool_], least_px: float) -> list[NDArray[np.bool_]]:
    """Return connected regions with an area of at least `least_px`."""
    labels, n = scipy.ndimage.label(inside)
    areas = np.bincount(labels.ravel(), minlength=n + 1)
    return [labels == number for number in range(1, n + 1) if areas[number] >= least_px]


def _keep_touching(inside: NDArray[np.bool_], seeds: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the connected regions that hold a seed."""
    labels, n = scipy.ndimage.label(inside)
    seeded = np.zeros(n + 1, bool)
    seeded[labels[seeds]] = True
    seeded[0] = False
    return np.asarray(seeded[labels])


def _measure_width(values: NDArray[np.float32], region: NDArray[np.bool_], share: float) -> int:
    """Return how many pixels around the greatest value of a region are connected and have at least that share of it."""
    peak = np.unravel_index(int(np.where(region, values, -np.inf).argmax()), values.shape)
    labels, _ = scipy.ndimage.label(values >= share * values[peak])
    return int((labels == labels[peak]).sum())


def _find_clumps(
    image: Tensor, pixels: float, other: NDArray[np.bool_], diameter: float, places: tuple[NDArray[np.int64], ...]
) -> NDArray[np.bool_]:
    """Return where more detail lies on top of each other than of particles side by side.

    Detail of a tenth of a particle is what a clump has several times, and edges of carbon and crystals have little of. Powers of
    particles and noise add: less that of ice, power counts particles.

    Parameters
    ----------
    image, pixels
        Micrograph, and how many of its pixels a sample of the detail is across.
    other, diameter
        What is junk already and does not count, `(my, mx)`, and the particle's diameter in its pixels.
    places
        Rows and columns there of what probably are particles, in no junk.
    """
    detail, _ = _reduce(image, pixels)
    detail_px = diameter * math.sqrt(detail.size / other.size)
    fine, coarse = (scipy.ndimage.gaussian_filter(detail, sigma * detail_px) for sigma in _DETAIL)
    squares = functional.adaptive_avg_pool2d(torch.from_numpy((fine - coarse) ** 2)[None, None], other.shape)[0, 0]
    clear = (~other).astype(np.float32)
    power, weight = (
        scipy.ndimage.gaussian_filter(values, _WINDOW * diameter) for values in (squares.numpy() * clear, clear)
    )
    inside = np.zeros(other.shape, bool)
    level = np.log(np.maximum(power, 1e-20) / np.maximum(weight, 1e-3))
    trend = _fit_trend(level)
    power = np.exp(level - trend + trend.mean())
    noise, usual = np.percentile(power[~other], [_NOISE_PERCENT, 50])
    excess = power[places] - noise
    # Some of what probably are particles are clumps.
    middle = np.median(excess)
    alone = float(np.median(excess[excess <= max(middle, _MOST_ALONE * middle)]))
    is_known = alone >= _KNOWN_EXCESS * (usual - noise) and np.median(excess[:_N_FIRST]) <= _MOST_ALONE * alone
    particles = (power - noise) / (alone if is_known else _LEAST_EXCESS * (usual - noise))
    for core in _find_regions((particles > _CLUMP_CORE) & ~other, _LEAST_CLUMP * diameter**2):
        if is_known or _measure_width(particles, core, 0.5) >= _LEAST_WIDE * diameter**2:
            inside |= core
    reach = scipy.ndimage.distance_transform_edt(~inside) <= _CLUMP_REACH * diameter
    return _keep_touching((particles > _CLUMP_EDGE) & reach, inside)


def _has_steep_edge(region: NDArray[np.bool_], mean: NDArray[np.float32], diameter: float) -> bool:
    """Return whether the mean, taken under the window, falls at the outline of a region nearly as at a step."""
    inner = scipy.ndimage.binary_erosion(region, border_value=1)
    outline = region & ~inner
    if not outline.any():
        return False
    step = -float(np.median(mean[region])) / (math.sqrt(2 * math.pi) * _WINDOW)
    # A deep region begins before its edge does.
    slope = scipy.ndimage.maximum_filter(np.hypot(*np.gradient(mean)), 2 * round(_WINDOW * diameter) + 1)
    steep = slope[outline] * diameter > max(_LEAST_SLOPE, _EDGE_STEEPNESS * step)
    return bool(steep.mean() >= _EDGE_SHARE)


def _choose_likely(candidates_px: Floats, correlation: Floats | None) -> Floats:
    """Return the best candidates `(n, 2)`, which are best first, as far as they are nearly as good as the very best."""
    if correlation is None:
        return candidates_px
    n = max(_LEAST_BEST, len(candidates_px) // 4)
    level = _SHARE_OF_BEST * float(np.median(correlation[:_N_FIRST])) if len(correlation) else 0.0
    good: NDArray[np.bool_] = correlation[:n] >= min(level, float(correlation.max(initial=0.0)))
    return candidates_px[:n][good]


def find_junk(
    image: Tensor,
    pixel_size_angstrom: float,
    diameter_angstrom: float,
    candidates_px: Floats,
    correlation: Floats | None = None,
) -> JunkMask:
    """Find what cannot be ice with particles.

    Three signs are used, each measured under a window about as large as a particle: variations much coarser than a particle
    (edges of carbon and of crystals, lumps of ice); absorption, where its edge is steep (their interiors, in which nothing
    varies); and more detail than particles side by side can have (clumps).
    "More" is always relative to ice and to particles in the same micrograph, whichever varies more, so that particles in an
    otherwise empty field are no junk.

    Parameters
    ----------
    image
        Micrograph `(ny, nx)`, protein dark.
    pixel_size_angstrom, diameter_angstrom
        Of the micrograph and of the particle.
    candidates_px
        Where particles may be, `(n, 2)` as (x, y), best first.
    correlation
        Of each with what is looked for, `(n,)`: the best of them are taken for particles; a little junk among these does no harm.
        None where all candidates probably are particles.

    Returns
    -------
    JunkMask
        Zero where there is nothing to object to.
    """
    small, scale = _reduce(image.float(), diameter_angstrom / _SAMPLES / pixel_size_angstrom)
    diameter = diameter_angstrom / pixel_size_angstrom / float(np.sqrt(scale[0] * scale[1]))
    kinds = np.zeros(small.shape, np.uint8)
    if small.std() == 0 or min(small.shape) < 2 * diameter:
        return JunkMask(kinds, scale)
    row, column = _place(_choose_likely(candidates_px, correlation), scale, small.shape)

    def measure(band: tuple[float, float]) -> tuple[NDArray[np.float32], bool]:
        """Return the deviation over what is usual, and whether particles set what is usual."""
        deviation = _measure_deviation(small, band, diameter)
        usual = float(np.median(deviation))
        particles = float(np.percentile(deviation[row, column], _REFERENCE_PERCENT)) if len(row) else usual
        return deviation - max(usual, particles), particles > usual + _KNOWN_MARGIN

    (coarse, _), (_, known) = measure(_COARSE), measure(_PARTICLE)
    grain = float(np.exp(np.median(_measure_deviation(small, _FINE, diameter))))
    smooth = scipy.ndimage.gaussian_filter(small, _WINDOW * diameter)
    trend = _fit_trend(smooth)
    mean = (smooth - trend) / grain
    area = diameter**2
    absorbing = np.zeros(small.shape, bool)
    for region in _find_regions(mean < -_DARK_LIMIT, (_LEAST_DARK if known else _LEAST_ALONE) * area):
        if _has_steep_edge(region, mean, diameter):
            absorbing |= region
    edges = np.zeros(small.shape, bool)
    for region in _find_regions(coarse > _COARSE_LIMIT, (_LEAST_COARSE if known else _LEAST_ALONE) * area):
        if known or _measure_width(np.exp(2 * coarse), region, 0.5) >= _LEAST_WIDE * area:
            edges |= region
    kernel = 2 * round(_CORE_REACH * diameter) + 1
    core = edges & (coarse > scipy.ndimage.maximum_filter(coarse, kernel) - _CORE_DEPTH)
    sharp = scipy.ndimage.gaussian_filter(small, _SHARP_WINDOW * diameter) - trend
    shadow = (edges | absorbing) & (sharp < -_DARK_LIMIT * grain)
    both = scipy.ndimage.binary_fill_holes(
        _keep_touching(core | shadow, core | scipy.ndimage.binary_erosion(absorbing))
    )
    both = scipy.ndimage.binary_opening(both, iterations=max(1, round(_SLIVER * diameter)))
    outside = ~both[_place(candidates_px, scale, small.shape)]
    if outside.any():
        likely = _choose_likely(candidates_px[outside], None if correlation is None else correlation[outside])
        detail_pixels = diameter_angstrom / _DETAIL_SAMPLES / pixel_size_angstrom
        clumps = _find_clumps(image, detail_pixels, both, diameter, _place(likely, scale, small.shape))
        kinds[clumps] = JUNK_KINDS.index("aggregate")
    for region in _find_regions(both, 0):
        at_border = region[0].any() or region[-1].any() or region[:, 0].any() or region[:, -1].any()
        film = at_border and (region & absorbing).sum() > _CARBON_AREA * area
        kinds[region] = JUNK_KINDS.index("carbon" if film else "ice")
    return JunkMask(kinds, scale)


def hide_junk(image: Tensor, mask: JunkMask) -> Tensor:
    """Return a micrograph `(ny, nx)` with what is junk replaced by what is next to it, without its noise."""
    inside = mask.kinds > 0
    if not inside.any() or inside.all():
        return image
    small = functional.adaptive_avg_pool2d(image[None, None].float(), inside.shape)[0, 0].cpu().numpy()
    near = scipy.ndimage.distance_transform_edt(inside, return_distances=False, return_indices=True)
    smooth = scipy.ndimage.gaussian_filter(np.where(inside, small[tuple(near)], small), _WINDOW * _SAMPLES)
    fill, hidden = (
        functional.interpolate(torch.from_numpy(values)[None, None].to(image.device), image.shape, mode=mode)[0, 0]
        for values, mode in ((smooth, "bilinear"), (inside.astype(np.float32), "nearest"))
    )
    return torch.where(hidden > 0, fill.to(image.dtype), image)


def look_up_junk(mask: JunkMask, xy_px: Floats) -> NDArray[np.str_]:
    """Return what positions `(n, 2)` as (x, y) in the micrograph lie in, empty where in no junk."""
    kinds: NDArray[np.str_] = np.array(JUNK_KINDS)[mask.kinds[_place(xy_px, mask.scale_yx, mask.kinds.shape)]]
    return kinds
