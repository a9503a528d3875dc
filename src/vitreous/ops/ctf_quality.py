"""How far and how well a CTF fits a spectrum, and what the spectrum says about the ice."""

import math

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

__all__ = [
    "compute_ice_ring_score",
    "correlate",
    "correlate_locally",
    "find_resolution",
    "find_strict_resolution",
    "make_background_basis",
    "remove_background",
    "scale_to_unit",
]

_BACKGROUND_INTERVALS = 7
_CORRELATION_LIMIT = 0.3
_HALF_WINDOW = 0.75 * math.pi
"""Of chi: rings of CTF² are pi apart."""
_STAYS_BELOW = 6
_ICE_RING = (1 / 3.9, 1 / 3.5)
_BESIDE_RING = ((1 / 4.8, 1 / 4.2), (1 / 3.35, 1 / 3.15))


def make_background_basis(k: Tensor) -> Tensor:
    """Return an orthonormal basis, `(n_k, n)`, of the smooth curves: cubic splines in k."""
    degree = 3
    low, high = float(k[0]), float(k[-1])
    inner = np.linspace(low, high, _BACKGROUND_INTERVALS + 1)
    knots = np.concatenate([[low] * degree, inner, [high] * degree])
    design = BSpline.design_matrix(np.clip(k.double().cpu().numpy(), low, high), knots, degree).toarray()
    basis: Tensor = torch.linalg.qr(torch.from_numpy(design))[0]
    return basis.to(k.device)


def remove_background(curves: Tensor, basis: Tensor) -> Tensor:
    """Return `curves` `(..., n_k)` less their projection on the basis."""
    smooth: Tensor = (curves @ basis) @ basis.T
    return curves - smooth


def correlate(first: Tensor, second: Tensor) -> Tensor:
    """Return the normalised scalar product over the last axis."""
    lengths = torch.linalg.vector_norm(first, dim=-1) * torch.linalg.vector_norm(second, dim=-1)
    correlation: Tensor = (first * second).sum(-1) / lengths.clamp_min(1e-12)
    return correlation


def correlate_locally(first: Tensor, second: Tensor, chi: Tensor) -> Tensor:
    """Return the correlation of two curves around each point, over a window of one and a half rings of CTF²."""
    place = torch.arange(len(first), device=first.device)
    window = (chi[:, None] - chi[None, :]).abs() <= _HALF_WINDOW
    window = (window | ((place[:, None] - place[None, :]).abs() <= 5)).to(first.dtype)
    counts = window.sum(1)
    mean_first, mean_second = window @ first / counts, window @ second / counts
    product = window @ (first * second) - counts * mean_first * mean_second
    power_first = window @ first.square() - counts * mean_first.square()
    power_second = window @ second.square() - counts * mean_second.square()
    return (product / (power_first * power_second).clamp_min(1e-24).sqrt()).clamp(-1, 1)


def find_resolution(correlation: Tensor, chi: Tensor) -> int:
    """Return the index where the correlation first stays below 0.3.

    The first tenth is not judged, and neither is what follows it until the correlation first exceeds 0.3, if that is within a
    ring and a half: all windows there contain the start of the spectrum, where the shape of particles hides rings.

    Parameters
    ----------
    correlation
        Of `correlate_locally`, `(n_k,)`.
    chi
        Phase of the CTF, radians.
    """
    first = len(correlation) // 10
    below = (correlation < _CORRELATION_LIMIT).tolist()
    start = next((i for i in range(first, len(below)) if not below[i]), first)
    if abs(float(chi[start] - chi[first])) > 2 * _HALF_WINDOW:
        start = first
    for i in range(start, len(below)):
        if all(below[i : i + _STAYS_BELOW]):
            return max(i, 1)
    return len(below) - 1


def find_strict_resolution(correlation: Tensor) -> int:
    """Return the index where the fit ends by CTFFIND's rule (Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008).

    The first point below 0.1 once more than three have been above it, or below 0.5 once more than three have been above 0.66;
    the first tenth is not judged.
    """
    values = correlation.tolist()
    above_low = above_high = 0
    for i in range(len(values) // 10, len(values)):
        if (values[i] < 0.1 and above_low > 3) or (values[i] < 0.5 and above_high > 3):
            return max(i, 1)
        above_low += values[i] > 0.1
        above_high += values[i] > 0.66
    return len(values) - 1 if above_low > 3 else max(len(values) // 10, 1)


def compute_ice_ring_score(power: Tensor, pixel_sizes: tuple[float, float]) -> float | None:
    """Return the power between 3.9 and 3.5 Å over what its neighbours lead to expect; None where pixels are too large.

    About 1 without ice; vitreous ice has a broad low ring there, crystalline ice a sharp high one.

    Parameters
    ----------
    power
        Half spectrum, `(tile, tile // 2 + 1)`.
    pixel_sizes
        Å per pixel along y and along x.
    """
    if _BESIDE_RING[1][1] > 0.49 / max(pixel_sizes):
        return None
    tile = power.shape[0]
    ky = torch.fft.fftfreq(tile, pixel_sizes[0], device=power.device)[:, None]
    kx = torch.fft.rfftfreq(tile, pixel_sizes[1], device=power.device)[None, :]
    k = torch.hypot(ky.expand(-1, kx.shape[1]), kx.expand(tile, -1))
    ring, inner, outer = (
        float(power[(k >= low) & (k <= high)].mean().log()) for low, high in (_ICE_RING, *_BESIDE_RING)
    )
    middle, (left, right) = sum(_ICE_RING) / 2, (sum(band) / 2 for band in _BESIDE_RING)
    part = (middle - left) / (right - left)
    return math.exp(ring - (inner * (1 - part) + outer * part))


def scale_to_unit(curve: Tensor) -> Tensor:
    """Return the curve with its 2nd and 98th percentile at 0 and 1."""
    low, high = torch.quantile(curve, torch.tensor([0.02, 0.98], dtype=curve.dtype, device=curve.device))
    scaled: Tensor = ((curve - low) / (high - low).clamp_min(1e-12)).clamp(-0.5, 1.5)
    return scaled
