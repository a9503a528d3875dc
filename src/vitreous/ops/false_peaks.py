"""How many peaks of noise reach a score: the expected number of maxima of a Gaussian field."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.fourier import compute_frequency_2d, compute_half_weights, rfft2

__all__ = ["NoiseField", "measure_noise_field"]

_FEW_TURNS = 8
_LEAST_LEVEL = 2.0
"""Deviations below which the formula of high levels is not good."""


@dataclass(frozen=True)
class NoiseField:
    """What the correlation of pure noise with a template, in all its turns, is like.

    At each place it is the noise filtered with the template over the noise's deviation under the mask. Over places and turns
    that is a stationary Gaussian field, whose maxima above a high level u (in its own deviations) have the expected number

        A sqrt(det L) (2 pi)^(-3/2) u exp(-u^2 / 2)            for one template,
        2 pi A sqrt(det L) R (2 pi)^(-2) (u^2 - 1) exp(-u^2 / 2)   turned,

    with the area A, the covariance L of the field's gradient over places and the deviation R of its derivative over turns.
    (Adler & Hasofer 1976; Worsley 1996, doi:10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O.) Turns in coarse steps
    have no more peaks than as many separate templates. A correlation s cannot exceed 1: with n independent values under the
    mask, n the inverse of the variance of s, the normal tail exp(-u^2 / 2) becomes (1 - s^2)^((n - 3) / 2), the density of a
    sample correlation.
    """

    variance: float
    """Of the score."""
    positions_per_px: float
    """Effective number of independent places in a pixel, sqrt(det L)."""
    turn_deviation: float
    """R: of the derivative of the field, in its own deviations, by the angle in radians."""
    n_turns: int
    """Versions of the template, evenly spread over a full turn."""

    def predict_peaks(
        self, threshold: NDArray[np.float64], n_px: int, *, local_deviation: bool = True
    ) -> NDArray[np.float64]:
        """Return the expected number of peaks with at least each score in an image of `n_px` pixels.

        Scores are over the deviation around each place, or else over one deviation for the whole image; they have no limit then,
        and the tail is the normal one.

        In white noise this is exact to a tenth or so; in strongly coloured noise (few independent values under the mask) it is up
        to a half too much at three deviations and three times too much at three and a half. Scores below two deviations of the
        field get the number at two.
        """
        deviation = math.sqrt(self.variance)
        score = np.maximum(threshold, _LEAST_LEVEL * deviation)
        level = score / deviation
        if local_deviation:
            tail = np.clip(1 - score**2, 0, None) ** max(0.0, (1 / self.variance - 3) / 2)
        else:
            tail = np.exp(-(level**2) / 2)
        flat = self.n_turns * (2 * math.pi) ** -1.5 * level
        solid = self.turn_deviation * (level**2 - 1) / (2 * math.pi)
        per_place = np.minimum(flat, solid) if self.n_turns > 1 else flat
        return np.asarray(n_px * self.positions_per_px * per_place * tail)


def measure_noise_field(turned: Tensor, mask: Tensor, power: Tensor, shape: tuple[int, int]) -> NoiseField:
    """Measure what the correlation of noise with a template is like.

    Parameters
    ----------
    turned
        The template `(m, w, w)` in m turns, evenly spread over 360°; 1 where it is round.
    mask
        Where it counts, 0 to 1, `(w, w)`.
    power
        Power spectrum of the noise, half spectrum of images of `shape`, in any unit.
    shape
        Rows and columns of any image, no smaller than the templates, that the spectrum is given for.

    Raises
    ------
    ValueError
        If the templates are larger than that shape.
    """
    size = turned.shape[-1]
    if size > min(shape):
        raise ValueError(
            f"expected a power spectrum of images of at least {size} pixels, found {shape[0]} x {shape[1]}"
        )
    # A few turns tell of all; interpolation makes them differ a little. Each is followed by its next.
    some = torch.arange(0, len(turned), -(-len(turned) // _FEW_TURNS), device=turned.device)
    masked = torch.cat([turned[some], turned[(some + 1) % len(turned)]]) * mask
    masked = masked - masked.sum(dim=(-2, -1), keepdim=True) / mask.sum() * mask
    masked = masked / masked.square().sum(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1e-12)
    weight = compute_half_weights(shape, turned.device) * power.double()
    # The mean of the image is taken out of it.
    weight[0, 0] = 0.0
    padded = turned.new_zeros((len(masked), *shape))
    padded[:, :size, :size] = masked
    spectra = rfft2(padded)
    passed = spectra.abs().double().square() * weight
    total = passed.sum(dim=(-2, -1)).clamp_min(1e-30)
    # By Parseval for a unit template; white noise makes it 1 over the mask's area.
    variance = float(total.mean() / (mask.sum() * weight.sum()))
    ky, kx = (2 * math.pi * k.double() for k in compute_frequency_2d(shape, device=turned.device))
    first = passed[0] / total[0]
    yy, xx = float((first * ky.square()).sum()), float((first * kx.square()).sum())
    # The half spectrum holds one of each pair k, -k, whose products are the same.
    yx = float((first * ky * kx).sum())
    turning = 0.0
    if len(turned) > 1:
        n = len(some)
        shared = ((spectra[:n] * spectra[n:].conj()).real.double() * weight).sum(dim=(-2, -1))
        alike = float((shared / (total[:n] * total[n:]).sqrt()).mean())
        turning = math.sqrt(max(0.0, 2 * (1 - alike))) / (2 * math.pi / len(turned))
    return NoiseField(variance, math.sqrt(max(0.0, yy * xx - yx**2)), turning, len(turned))
