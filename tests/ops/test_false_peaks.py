"""False peaks counted in noise, and predicted."""

import numpy as np
import pytest
import torch

from vitreous.ops.false_peaks import measure_noise_field
from vitreous.ops.fourier import compute_frequency_2d, irfft2, rfft2
from vitreous.ops.peaks import find_peaks
from vitreous.ops.template_bank import correlate_bank, make_bank

SHAPE, N_FIELDS, SIZE = (256, 320), 12, 31
N_PX = SHAPE[0] * SHAPE[1]


def make_windows(kind: str) -> torch.Tensor:
    """Return a dark spot, a bar, or a lopsided particle in 24 turns."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    if kind == "round":
        return torch.from_numpy(-np.exp(-(x**2 + y**2) / (2 * 4.0**2)))[None].float()
    windows = []
    for angle in np.deg2rad([37.0] if kind == "bar" else np.arange(0, 360, 15)):
        along, across = np.cos(angle) * x + np.sin(angle) * y, -np.sin(angle) * x + np.cos(angle) * y
        window = -np.exp(-(along**2) / (2 * 6.0**2) - across**2 / (2 * 2.5**2))
        if kind == "turned":
            window = window - np.exp(-((along - 6) ** 2 + (across - 3) ** 2) / (2 * 3.0**2))
        windows.append(window)
    return torch.from_numpy(np.stack(windows)).float()


def make_mask() -> torch.Tensor:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    return torch.from_numpy(np.clip(14.5 - np.hypot(y, x), 0, 1)).float()


@pytest.mark.parametrize("kind", ["round", "bar", "turned"])
@pytest.mark.parametrize("colour", ["white", "coloured"])
def test_noise_has_as_many_peaks_as_predicted(kind: str, colour: str) -> None:
    windows, mask = make_windows(kind), make_mask()
    ky, kx = compute_frequency_2d(SHAPE)
    power = torch.ones(SHAPE[0], SHAPE[1] // 2 + 1)
    if colour == "coloured":
        power = 1 / (1 + (ky**2 + kx**2) / 0.08**2) ** 2 + 0.02
    field, bank = measure_noise_field(windows, mask, power, SHAPE), make_bank(windows, mask)
    counts = np.zeros(3)
    levels = np.array([2.5, 3.0, 3.5]) * field.variance**0.5
    deviations = []
    for seed in range(N_FIELDS):
        noise = torch.from_numpy(np.random.default_rng(seed).normal(size=SHAPE)).float()
        image = irfft2(rfft2(noise) * power.sqrt(), SHAPE)
        score = correlate_bank(image, bank, 0.0).score
        deviations.append(float(score.std()))
        counts += [len(find_peaks(score, 1.0, level)[0]) for level in levels]
    if len(windows) == 1:
        assert np.mean(deviations) == pytest.approx(field.variance**0.5, rel=0.08)
    expected = N_FIELDS * field.predict_peaks(levels, N_PX)
    # A peak over places and turns hides lower ones of other turns beside it.
    share = (0.1 if colour == "white" else 0.2) if len(windows) == 1 else 0.35
    for predicted, count in zip(expected, counts, strict=True):
        assert count == pytest.approx(predicted, abs=share * predicted + 3 * np.sqrt(predicted))


def test_low_scores_and_scores_of_one() -> None:
    field = measure_noise_field(make_windows("bar"), make_mask(), torch.ones(64, 33), (64, 64))
    at_two = 2 * field.variance**0.5
    counts = field.predict_peaks(np.array([-1.0, 0.0, at_two, 0.5, 1.0]), N_PX)
    assert counts[0] == counts[1] == pytest.approx(counts[2])
    assert (np.diff(counts[2:]) < 0).all()
    assert counts[-1] == 0


def test_the_spectrum_is_of_images_no_smaller_than_templates() -> None:
    with pytest.raises(ValueError, match="at least 31 pixels, found 16 x 16"):
        measure_noise_field(make_windows("bar"), make_mask(), torch.ones(16, 9), (16, 16))
