"""Noise of a known amplitude, measured beside particles and divided out."""

import numpy as np
import pytest
import torch

from vitreous.ops.template_bank import correlate_bank, make_bank
from vitreous.ops.whitening import estimate_noise_amplitude, expand_amplitude, whiten

SHAPE, TILE, SIZE = (256, 320), 32, 31


def compute_amplitude(k: np.ndarray) -> np.ndarray:
    return 0.1 + 0.9 / (1 + (k / 0.08) ** 2)


def make_noise(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    white = np.random.default_rng(seed).normal(size=shape)
    return np.fft.irfft2(np.fft.rfft2(white) * compute_amplitude(np.hypot(ky, kx)), shape)


def make_particle() -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    return -np.exp(-(x**2) / (2 * 6.0**2) - y**2 / (2 * 3.0**2)) - np.exp(-((x - 4) ** 2 + (y - 5) ** 2) / (2 * 1.5**2))


def whiten_directly(image: np.ndarray, amplitude: np.ndarray) -> np.ndarray:
    """Divide with the full transform, in float64."""
    ky, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")
    k = np.minimum(np.hypot(ky, kx), 0.5)
    divisor = np.interp(k, np.linspace(0, 0.5, len(amplitude)), amplitude)
    return np.fft.ifft2(np.fft.fft2(image) / divisor).real


@pytest.mark.parametrize("with_particles", [False, True])
def test_the_amplitude_is_that_of_the_noise(with_particles: bool) -> None:
    estimates = []
    for seed in range(4):
        image = make_noise(seed)
        if with_particles:
            for row in range(10, 220, 60):
                for column in range(10, 280, 60):
                    image[row : row + SIZE, column : column + SIZE] += make_particle()
        estimates.append(estimate_noise_amplitude(torch.from_numpy(image).float(), TILE).numpy())
    estimate = np.mean(estimates, axis=0)
    assert len(estimate) == TILE // 2 + 1
    assert estimate.max() == pytest.approx(1)
    expected = compute_amplitude(np.arange(TILE // 2 + 1) / TILE)
    # Tapered tiles blur what is steep in the first two rings; what is left of particles in the quietest tiles is there too.
    ratio = estimate[3:] / estimate[-4:].mean() / (expected[3:] / expected[-4:].mean())
    np.testing.assert_allclose(ratio, 1, atol=0.2 if with_particles else 0.1)


def test_whitening_is_a_division_of_the_spectrum() -> None:
    image, amplitude = make_noise(0, (84, 98)), compute_amplitude(np.arange(9) / 16)
    found = whiten(torch.from_numpy(image).float(), torch.from_numpy(amplitude).float())
    np.testing.assert_allclose(found.numpy(), whiten_directly(image, amplitude), atol=1e-4)


def test_the_pixel_size_of_templates_may_be_another() -> None:
    amplitude = torch.from_numpy(compute_amplitude(np.arange(17) / 32))
    expanded = expand_amplitude(amplitude, (64, 64), 0.5)
    # At half the pixel size, column 16 of 64 is 0.25 cycles per pixel, which is 0.5 of the other: past the last but one value.
    assert float(expanded[0, 8]) == pytest.approx(compute_amplitude(np.array(0.25)), rel=1e-3)
    assert float(expanded[0, 32]) == pytest.approx(compute_amplitude(np.array(0.5)), rel=1e-2)


def test_correlation_of_whitened_images_against_sums_in_float64() -> None:
    image, amplitude = make_noise(1, (84, 98)), compute_amplitude(np.arange(17) / 32)
    image[20 : 20 + SIZE, 40 : 40 + SIZE] += 2 * make_particle()
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    mask = np.clip(14.5 - np.hypot(y, x), 0, 1)
    box = np.zeros((63, 63))
    box[16 : 16 + SIZE, 16 : 16 + SIZE] = make_particle()
    template = whiten_directly(box, amplitude)[16 : 16 + SIZE, 16 : 16 + SIZE]
    values = torch.from_numpy(amplitude).float()
    windows = whiten(torch.from_numpy(box).float(), values)[None, 16 : 16 + SIZE, 16 : 16 + SIZE]
    found = correlate_bank(
        whiten(torch.from_numpy(image).float(), values), make_bank(windows, torch.from_numpy(mask).float()), 0.0
    ).score
    padded = np.pad(whiten_directly(image, amplitude), SIZE // 2, mode="wrap")
    template = (template - (template * mask).sum() / mask.sum()) * mask
    for row, column in [(35, 55), (0, 0), (83, 97), (60, 20), (35, 56), (10, 80)]:
        window = padded[row : row + SIZE, column : column + SIZE]
        mean = (window * mask).sum() / mask.sum()
        deviation = np.sqrt((window**2 * mask).sum() / mask.sum() - mean**2)
        expected = (window * template).sum() / np.linalg.norm(template) / np.sqrt(mask.sum()) / deviation
        assert float(found[row, column]) == pytest.approx(expected, abs=1e-4)
    assert int(found.argmax()) == 35 * 98 + 55


def test_no_linear_detector_is_better() -> None:
    """Signal over noise of the filter's output at the particle, against theory."""
    shape = (64, 64)
    particle = np.zeros(shape)
    particle[:SIZE, :SIZE] = make_particle()
    amplitude = torch.from_numpy(compute_amplitude(np.arange(33) / 64))
    power = expand_amplitude(amplitude, shape).square().numpy()
    power = np.concatenate([power, np.roll(power[::-1, 1:-1][:, ::-1], 1, axis=0)], axis=1)
    square = np.abs(np.fft.fft2(particle)) ** 2
    best, other = np.sqrt((square / power).mean()), square.mean() / np.sqrt((square * power).mean())
    assert other < 0.9 * best
    signal = whiten(torch.from_numpy(particle), amplitude)
    noise = np.stack([make_noise(seed, shape) for seed in range(600)])
    plain = (noise * particle).sum((1, 2))
    whitened = (whiten(torch.from_numpy(noise), amplitude) * signal).sum((1, 2)).numpy()
    assert float(signal.square().sum()) / whitened.std() == pytest.approx(best, rel=0.1)
    assert (particle**2).sum() / plain.std() == pytest.approx(other, rel=0.1)


def test_nothing_is_raised_beyond_where_images_were_low_passed() -> None:
    amplitude = torch.tensor([1.0, 1.0, 0.5, 1e-6, 1e-6])
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 64)))
    assert float(whiten(image, amplitude).std()) < 20 * float(image.std())


def test_an_image_without_detail_has_no_noise() -> None:
    with pytest.raises(ValueError, match="constant"):
        estimate_noise_amplitude(torch.zeros(64, 64), TILE)
