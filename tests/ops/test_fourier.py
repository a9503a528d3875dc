"""Fourier conventions against numpy in float64 and against images whose transforms are known."""

import numpy as np
import pytest
import torch

from vitreous.ops.fourier import (
    apply_fourier_crop_2d,
    compute_frequency_2d,
    compute_half_weights,
    compute_radial_mean,
    compute_shift_phase,
    find_good_size,
    irfft2,
    rfft2,
)

SHAPES = [(8, 8), (8, 9), (9, 8), (15, 12)]


def make_images(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def make_wave(shape: tuple[int, int], ky: int, kx: int, shift_y: float = 0, shift_x: float = 0) -> torch.Tensor:
    """Return cos of a plane wave with whole numbers of periods, its crest moved to (shift_y, shift_x)."""
    y = (torch.arange(shape[0])[:, None] - shift_y) * ky / shape[0]
    x = (torch.arange(shape[1])[None, :] - shift_x) * kx / shape[1]
    return torch.cos(2 * torch.pi * (y + x))


@pytest.mark.parametrize("shape", SHAPES)
def test_transforms_are_those_of_numpy(shape: tuple[int, int]) -> None:
    images = make_images((2, *shape))
    np.testing.assert_allclose(rfft2(images).numpy(), np.fft.rfft2(images.double().numpy()), atol=2e-5)
    np.testing.assert_allclose(irfft2(rfft2(images), shape).numpy(), images.numpy(), atol=1e-6)
    assert irfft2(rfft2(images), shape).dtype == torch.float32


def test_inverse_carries_gradients() -> None:
    spectra = rfft2(make_images((6, 8))).requires_grad_()
    irfft2(spectra, (6, 8)).square().sum().backward()
    assert spectra.grad is not None
    assert spectra.grad.abs().sum() > 0


def test_good_sizes_against_a_list() -> None:
    products = {
        2 ** (a + 1) * 3**b * 5**c * 7**d for a in range(13) for b in range(9) for c in range(6) for d in range(5)
    }
    expected = sorted(products)
    for n in [*range(1, 1200), 4093, 5759, 8191]:
        assert find_good_size(n) == next(size for size in expected if size >= n)


@pytest.mark.parametrize("shape", SHAPES)
def test_frequencies_are_those_of_numpy(shape: tuple[int, int]) -> None:
    ky, kx = compute_frequency_2d(shape, 1.5)
    np.testing.assert_allclose(ky[:, 0], np.fft.fftfreq(shape[0], 1.5), rtol=1e-6)
    np.testing.assert_allclose(kx[0], np.fft.rfftfreq(shape[1], 1.5), rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_half_weights_make_sums_those_of_the_full_spectrum(shape: tuple[int, int]) -> None:
    image = make_images(shape)
    power = rfft2(image).abs() ** 2 * compute_half_weights(shape)
    assert power.sum().item() == pytest.approx(image.square().sum().item() * shape[0] * shape[1], rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shift", [(2, 0), (0, -3), (1, 2)])
def test_whole_shifts_are_rolls(shape: tuple[int, int], shift: tuple[int, int]) -> None:
    image = make_images(shape)
    moved = irfft2(rfft2(image) * compute_shift_phase(shape, torch.tensor(shift, dtype=torch.float32)), shape)
    np.testing.assert_allclose(moved, torch.roll(image, shift, (0, 1)), atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_part_shifts_move_waves_towards_larger_indices(shape: tuple[int, int]) -> None:
    shifts = torch.tensor([[0.25, -1.5], [2.75, 0.1]])
    moved = irfft2(rfft2(make_wave(shape, 2, -3)) * compute_shift_phase(shape, shifts), shape)
    for image, (shift_y, shift_x) in zip(moved, shifts.tolist(), strict=True):
        np.testing.assert_allclose(image, make_wave(shape, 2, -3, shift_y, shift_x), atol=1e-5)


def test_shift_phases_are_of_size_one_and_undo_each_other() -> None:
    shift = torch.tensor([0.3, -1.2])
    phase = compute_shift_phase((8, 10), shift)
    assert phase.shape == (8, 6)
    np.testing.assert_allclose((phase * compute_shift_phase((8, 10), -shift)).numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 36), (25, 36), (24, 35), (27, 33)])
@pytest.mark.parametrize("new_shape", [(12, 18), (14, 20)])
def test_cropping_keeps_waves_below_the_new_nyquist(shape: tuple[int, int], new_shape: tuple[int, int]) -> None:
    image = 3 + make_wave(shape, 2, 5, 0.3, 1.1) + make_wave(shape, -4, 1)
    # Coordinates scale with the number of pixels, with no shift of half a pixel.
    scale_y, scale_x = new_shape[0] / shape[0], new_shape[1] / shape[1]
    expected = 3 + make_wave(new_shape, 2, 5, 0.3 * scale_y, 1.1 * scale_x) + make_wave(new_shape, -4, 1)
    cropped = irfft2(apply_fourier_crop_2d(rfft2(image), shape, new_shape), new_shape)
    np.testing.assert_allclose(cropped, expected, atol=2e-5)


def test_cropping_drops_the_new_nyquist_and_what_is_above() -> None:
    image = make_wave((24, 24), 6, 0) + make_wave((24, 24), 0, 6) + make_wave((24, 24), 9, 8)
    spectra = apply_fourier_crop_2d(rfft2(image), (24, 24), (12, 12))
    np.testing.assert_allclose(spectra.abs(), 0, atol=1e-4)


def test_cropping_one_axis_or_none() -> None:
    image = make_wave((24, 24), 2, 3)
    rows = irfft2(apply_fourier_crop_2d(rfft2(image), (24, 24), (12, 24)), (12, 24))
    np.testing.assert_allclose(rows, make_wave((12, 24), 2, 3), atol=1e-5)
    spectra = rfft2(image)
    assert apply_fourier_crop_2d(spectra, (24, 24), (24, 24)) is spectra


@pytest.mark.parametrize("new_shape", [(26, 12), (12, 26), (11, 12), (12, 11)])
def test_cropping_refuses(new_shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="must be even and no larger"):
        apply_fourier_crop_2d(rfft2(make_images((24, 24))), (24, 24), new_shape)


@pytest.mark.parametrize("shape", [(16, 16), (16, 24), (15, 17)])
def test_radial_mean_is_that_of_the_full_spectrum(shape: tuple[int, int]) -> None:
    power = rfft2(make_images((3, *shape))).abs() ** 2
    full = np.abs(np.fft.fft2(make_images((3, *shape)).double().numpy())) ** 2
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]
    # No frequency of these shapes lies half way between two rings, where rounding would depend on the precision.
    ring = np.round(np.sqrt(ky**2 + kx**2) * min(shape))
    means = compute_radial_mean(power, shape)
    assert means.shape == (3, min(shape) // 2 + 1)
    for r in range(means.shape[1]):
        np.testing.assert_allclose(means[:, r], full[:, ring == r].mean(axis=1), rtol=1e-4)


def test_radial_mean_of_empty_rings_is_zero() -> None:
    means = compute_radial_mean(torch.ones(8, 5), (8, 8), n_shells=12)
    np.testing.assert_allclose(means, [1] * 7 + [0] * 5)
