"""How many peaks of noise reach a score: the expected number of maxima of a Gaussian field."""

import math

from torch import Tensor

from vitreous.ops.fourier import compute_frequency_2d, compute_half_weights, rfft2

__all__ = ["predict_false_peaks"]


def predict_false_peaks(
    template: Tensor, mask: Tensor, power: Tensor, shape: tuple[int, int], threshold: float
) -> float:
    """Predict how many peaks the correlation of pure noise with one template has above a threshold.

    The score is the noise filtered with the template over the noise's deviation under the mask. The filtered noise is a
    stationary Gaussian field, whose maxima above a high level u (in its own deviations) have the expected number

        A sqrt(det L) (2 pi)^(-3/2) u exp(-u^2 / 2),

    with the area A and the covariance L of the field's gradient: A sqrt(det L) is the effective number of independent positions.
    (Adler & Hasofer 1976; Worsley 1996, doi:10.1002/(SICI)1097-0193(1996)4:1<58::AID-HBM4>3.0.CO;2-O.) A
    correlation s cannot exceed 1: with n independent values under the mask, n the inverse of the variance of s, the normal tail
    exp(-u^2 / 2) becomes (1 - s^2)^((n - 3) / 2), the density of a sample correlation. For many templates the sum over them is an
    upper bound.

    In white noise this is exact to some per cent; in strongly coloured noise (few independent values under the mask) it is up to
    a half too much at three deviations and three times too much at three and a half.

    Parameters
    ----------
    template
        `(ny, nx)`, periodic around element (0, 0).
    mask
        Where it counts, as `compute_local_correlation` takes it.
    power
        Power spectrum of the noise, `(ny, nx // 2 + 1)`, in any unit.
    shape
        Rows and columns of the image that is searched.
    threshold
        Correlation; only where it is at least two of the field's deviations is the formula good.

    Returns
    -------
    float
        Expected number of peaks.

    Raises
    ------
    ValueError
        If the threshold is not positive.
    """
    if threshold <= 0:
        raise ValueError(f"expected a positive threshold, found {threshold}")
    size = (template.shape[0], template.shape[1])
    masked = template * mask
    masked = masked - masked.sum() / mask.sum() * mask
    masked = masked / masked.square().sum().sqrt()
    weight = compute_half_weights(size, template.device) * power.double()
    # The mean of the image is taken out of it.
    weight[0, 0] = 0.0
    variance_of_noise = weight.sum()
    passed = rfft2(masked).abs().double().square() * weight
    # By Parseval for a unit template; white noise makes it 1 over the mask's area.
    variance = float(passed.sum() / (mask.sum() * variance_of_noise))
    ky, kx = (2 * math.pi * k.double() for k in compute_frequency_2d(size, device=template.device))
    total = passed.sum()
    yy, xx = float((passed * ky.square()).sum() / total), float((passed * kx.square()).sum() / total)
    # The half spectrum holds one of each pair k, -k, whose products are the same.
    yx = float((passed * ky * kx).sum() / total)
    level = threshold / math.sqrt(variance)
    positions = shape[0] * shape[1] * math.sqrt(max(0.0, yy * xx - yx**2))
    if threshold >= 1:
        return 0.0
    tail = (1 - threshold**2) ** max(0.0, (1 / variance - 3) / 2)
    return float(positions * (2 * math.pi) ** -1.5 * level * tail)
