"""False peaks counted in noise, and predicted."""

import numpy as np
import pytest
import torch

from vitreous.ops.false_peaks import predict_false_peaks
from vitreous.ops.fourier import compute_frequency_2d, irfft2, rfft2
from vitreous.ops.peaks import find_peaks
from vitreous.ops.templates import compute_local_correlation, make_disc

SHAPE, N_FIELDS = (256, 320), 12


def make_template(kind: str) -> torch.Tensor:
    y = torch.fft.fftfreq(SHAPE[0], 1 / SHAPE[0])[:, None]
    x = torch.fft.fftfreq(SHAPE[1], 1 / SHAPE[1])[None, :]
    if kind == "round":
        return -torch.exp(-(x**2 + y**2) / (2 * 4.0**2))
    along, across = 0.8 * x + 0.6 * y, -0.6 * x + 0.8 * y
    return -torch.exp(-(along**2) / (2 * 6.0**2) - across**2 / (2 * 2.5**2))


@pytest.mark.parametrize("kind", ["round", "bar"])
@pytest.mark.parametrize("colour", ["white", "coloured"])
def test_noise_has_as_many_peaks_as_predicted(kind: str, colour: str) -> None:
    template, mask = make_template(kind), make_disc(SHAPE, 14.0)
    ky, kx = compute_frequency_2d(SHAPE)
    power = torch.ones(SHAPE[0], SHAPE[1] // 2 + 1)
    if colour == "coloured":
        power = 1 / (1 + (ky**2 + kx**2) / 0.08**2) ** 2 + 0.02
    counts = np.zeros(3)
    # The deviation of the filtered noise, from the prediction's own formula, sets levels that differ between the cases.
    levels = (2.5, 3.0, 3.5)
    sigma = None
    for seed in range(N_FIELDS):
        noise = torch.from_numpy(np.random.default_rng(seed).normal(size=SHAPE)).float()
        image = irfft2(rfft2(noise) * power.sqrt(), SHAPE)
        score = compute_local_correlation(image, template[None], mask)[0][0]
        if sigma is None:
            sigma = float(score.std())
        counts += [len(find_peaks(score, 1.0, level * sigma)[0]) for level in levels]
    assert sigma is not None
    share = 0.1 if colour == "white" else 0.2
    for level, count in zip(levels, counts, strict=True):
        expected = N_FIELDS * predict_false_peaks(template, mask, power, SHAPE, level * sigma)
        assert count == pytest.approx(expected, abs=share * expected + 3 * np.sqrt(expected))


def test_a_threshold_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="positive threshold"):
        predict_false_peaks(
            make_template("bar"), make_disc(SHAPE, 14.0), torch.ones(SHAPE[0], SHAPE[1] // 2 + 1), SHAPE, 0.0
        )
