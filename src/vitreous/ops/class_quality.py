"""How much a class average looks like a particle: measures that need neither a size nor a resolution set by hand.

All are relative, to the particle's diameter or to the other classes of the same classification, so that one set of limits
serves a virus and a small enzyme. What a class is worth does not depend on how many images it has: a rare view is a view.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.average2d import compute_mass_centre, compute_ring_index
from vitreous.ops.fourier import irfft2, rfft2

__all__ = ["MEASURES", "ClassMeasures", "measure_classes", "score_classes"]

_CYCLES = 6.0
_LEVEL = 0.3
_RIM = 0.1
_TYPICAL_QUANTILE = 0.7
_LEAST_DETAIL, _LEAST_CYCLES = 0.35, 3.5

MEASURES = ("resolution", "shape", "off-centre", "strength")
"""What a class can fail by, in the order of the columns of `score_classes`."""


@dataclass(frozen=True)
class ClassMeasures:
    """Measures of each class, `(K,)` each."""

    detail: Tensor
    """Cycles per particle diameter that the average resolves."""
    solidity: Tensor
    """Share of the bright area that is in its largest piece, 0 to 1."""
    contact: Tensor
    """Share of the mask's rim that is bright, 0 to 1: a particle ends inside the mask, an edge or a neighbour does not."""
    offset: Tensor
    """Distance of the centre of mass from the centre, in particle diameters."""
    strength: Tensor
    """Contrast of the smoothed average, in deviations of the images' noise."""


def _smooth(averages: Tensor, diameter_px: float) -> Tensor:
    """Return the averages without detail finer than a sixth of the particle."""
    n_px = averages.shape[-1]
    ring = compute_ring_index(n_px, averages.device)
    last = _CYCLES * n_px / diameter_px
    return irfft2(rfft2(averages) * torch.exp(-((ring / last) ** 4)), (n_px, n_px))


def _measure_region(bright: NDArray[np.bool_], rim: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the share of the largest piece, and the share of the rim that is bright."""
    pieces, n_pieces = scipy.ndimage.label(bright)
    if n_pieces == 0:
        return 0.0, 0.0
    sizes = np.bincount(pieces.ravel())[1:]
    return float(sizes.max() / sizes.sum()), float(bright[rim].mean())


def measure_classes(
    averages: Tensor, resolution_px: Tensor, diameter_px: float, mask_radius_px: float
) -> ClassMeasures:
    """Measure class averages.

    Parameters
    ----------
    averages
        `(K, N, N)`, protein bright, on a background of mean 0 and deviation 1, masked.
    resolution_px
        Resolution of each as a wavelength in pixels, `(K,)`.
    diameter_px
        Of the particle.
    mask_radius_px
        Of the circle outside which the averages are empty.

    Raises
    ------
    ValueError
        If there is no average.
    """
    if len(averages) == 0:
        raise ValueError("there is no class average to measure")
    n_px = averages.shape[-1]
    smooth = _smooth(averages, diameter_px)
    level = _LEVEL * smooth.flatten(1).quantile(0.99, dim=1).clamp_min(1e-6)
    bright = (smooth > level[:, None, None]).cpu().numpy()
    offset = torch.arange(n_px, device=averages.device) - n_px // 2
    radius = torch.sqrt((offset[:, None].square() + offset[None, :].square()).float())
    rim = ((radius > (1 - _RIM) * mask_radius_px) & (radius <= mask_radius_px)).cpu().numpy()
    regions = torch.tensor([_measure_region(image, rim) for image in bright], device=averages.device)
    inside = radius <= mask_radius_px
    return ClassMeasures(
        detail=diameter_px / resolution_px.to(averages.device),
        solidity=regions[:, 0],
        contact=regions[:, 1],
        offset=compute_mass_centre(smooth).norm(dim=1) / diameter_px,
        strength=smooth[:, inside].std(dim=1),
    )


def _rise(values: Tensor, middle: float, width: float) -> Tensor:
    """Return a step from 0 to 1 that is one half at `middle`."""
    return torch.sigmoid((values - middle) / width)


def _find_typical(values: Tensor, weights: Tensor) -> float:
    """Return the value that the given share of the weight does not exceed."""
    ordered, order = values.sort()
    cumulative = weights[order].cumsum(0) / weights.sum()
    return float(ordered[int((cumulative < _TYPICAL_QUANTILE).sum().clamp_max(len(values) - 1))])


def score_classes(measures: ClassMeasures, n_images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the score of each class, `(K,)`, 0 to 1, and its parts `(K, 4)`, one for each of `MEASURES`.

    Parameters
    ----------
    measures
        Of each class.
    n_images
        How many images each class has, `(K,)`: says what is typical, not what is good.

    Notes
    -----
    The score is the smallest part. A part is one half at the limit: about a third of the detail of the classes that hold most
    images, and never less than three and a half cycles per diameter, since particles that are aligned badly are particles; a
    largest piece of two thirds of the bright area, and two fifths of the mask's rim bright; a centre of mass 0.2 diameters off;
    a contrast of a third or three times the typical one.
    """
    weights = n_images.to(measures.detail)
    detail = _find_typical(measures.detail, weights)
    limit = max(_LEAST_CYCLES, _LEAST_DETAIL * detail)
    sound = (measures.solidity > 0.67) & (measures.contact < 0.4) & (measures.detail > limit)
    strength = _find_typical(measures.strength, weights * sound if bool(sound.any()) else weights)
    distance = (measures.strength.clamp_min(1e-6) / max(strength, 1e-6)).log().abs()
    parts = torch.stack(
        [
            _rise(measures.detail.clamp_min(1e-6).log(), math.log(limit), 0.15),
            torch.minimum(_rise(measures.solidity, 0.67, 0.06), _rise(-measures.contact, -0.4, 0.06)),
            _rise(-measures.offset, -0.2, 0.03),
            _rise(-distance, -math.log(3.0), 0.2),
        ],
        dim=1,
    )
    return parts.amin(dim=1), parts
