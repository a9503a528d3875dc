"""Turning and averaging against analytic images, torch.rot90 and float64 sums."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitreous.ops.average2d import (
    average_images,
    compute_mass_centre,
    compute_power,
    compute_ring_correlation,
    compute_ring_index,
    find_resolution_ring,
    make_soft_circle,
    multiply_complex,
    run_single_threaded,
    shift_spectra,
    sum_turned_back,
)
from vitreous.ops.fourier import irfft2, rfft2

N = 32
BLOBS = np.array([[7.0, 1.0, 1.0], [-3.0, 5.0, 0.7], [-4.0, -6.0, 0.8], [2.0, -3.0, 0.5]])


def draw(angle_deg: float, shift_yx: tuple[float, float] = (0, 0), sigma: float = 1.8) -> torch.Tensor:
    """Return blobs (x, y, height) about N // 2, turned from +x towards +y, then shifted."""
    y, x = np.mgrid[:N, :N] - N // 2
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    image = np.zeros((N, N))
    for bx, by, height in BLOBS:
        cx, cy = c * bx - s * by + shift_yx[1], s * bx + c * by + shift_yx[0]
        image += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return torch.from_numpy(image).float()


@pytest.mark.parametrize("angle", [-170.0, -33.0, 0.0, 12.5, 90.0])
def test_an_image_turned_back_is_the_analytic_one(angle: float) -> None:
    index = torch.zeros(1, dtype=torch.long)
    shift = torch.tensor([[1.5, -2.25]])
    image, power = sum_turned_back(draw(20 + angle, (1.5, -2.25))[None], None, index, torch.tensor([angle]), shift)
    y, x = np.mgrid[:N, :N] - N // 2
    # Corners show the periodic image's neighbours.
    inside = torch.from_numpy(np.hypot(x, y) < N // 2)
    assert (image - draw(20))[inside].abs().max() < 0.003
    assert (power == 1).all()


def test_work_is_done_in_order_by_single_threads() -> None:
    before = torch.get_num_threads()
    found = run_single_threaded(lambda i: (i, torch.get_num_threads()), range(5))
    assert found == [(i, 1) for i in range(5)]
    assert torch.get_num_threads() == before


def test_rings() -> None:
    ring = compute_ring_index(8)
    assert ring[0].tolist() == [0, 1, 2, 3, 4]
    assert ring[7, 0] == ring[1, 0] == 1
    assert ring[2, 2] == 3


def test_ring_correlation_is_that_of_full_transforms_in_float64() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 16, 16))
    b += a
    fa, fb = np.fft.fft2(a), np.fft.fft2(b)
    k = np.fft.fftfreq(16, 1 / 16)
    ring = np.round(np.hypot(k[:, None], k[None, :])).astype(int)
    expected = [
        (fa * fb.conj())[ring == r].real.sum()
        / np.sqrt((np.abs(fa[ring == r]) ** 2).sum() * (np.abs(fb[ring == r]) ** 2).sum())
        for r in range(9)
    ]
    found = compute_ring_correlation(rfft2(torch.from_numpy(a)), rfft2(torch.from_numpy(b)), 16)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_shift_and_products_are_those_of_numpy() -> None:
    a, b = torch.randn(2, 5, 7, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(multiply_complex(a, b).numpy(), a.numpy() * b.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(compute_power(a).numpy(), np.abs(a.numpy()) ** 2, rtol=1e-5)
    moved = irfft2(shift_spectra(rfft2(draw(30)), torch.tensor([1.5, -2.25])), (N, N))
    torch.testing.assert_close(moved, draw(30, (1.5, -2.25)), atol=2e-3, rtol=0)


def test_resolution_is_where_the_curve_first_crosses() -> None:
    assert find_resolution_ring(torch.tensor([1.0, 0.9, 0.5, 0.1, 0.9]), 0.3) == pytest.approx(2.5)
    assert find_resolution_ring(torch.ones(6)) == 5


def test_mass_centre_and_circle() -> None:
    centres = compute_mass_centre(torch.stack([draw(0), draw(0, (2.0, -1.0))]))
    torch.testing.assert_close(centres[1] - centres[0], torch.tensor([2.0, -1.0]), atol=0.01, rtol=0)
    circle = make_soft_circle(N, 8.0, 4.0)
    line = circle[N // 2, N // 2 :]
    assert (line[:9] == 1).all()
    assert line[10] == pytest.approx(0.5)
    assert (line[12:] < 1e-6).all()


def simulate(n: int, ctf: NDArray[np.float32], noise: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images, angles and shifts of the blobs with a CTF `(n, N, N // 2 + 1)` and white noise."""
    rng = np.random.default_rng(3)
    angles, shifts = rng.uniform(-180, 180, n), rng.uniform(-2, 2, (n, 2))
    images = []
    for i in range(n):
        clean = draw(float(angles[i]), (float(shifts[i, 0]), float(shifts[i, 1]))).double().numpy()
        images.append(np.fft.irfft2(np.fft.rfft2(clean) * ctf[i], s=(N, N)) + noise * rng.normal(size=(N, N)))
    return (
        torch.from_numpy(np.array(images)).float(),
        torch.from_numpy(angles).float(),
        torch.from_numpy(shifts).float(),
    )


def make_ctf(n: int) -> NDArray[np.float32]:
    """Return curves that change sign at different rings, so that only their sum has no zero."""
    radius = np.hypot(np.fft.fftfreq(N)[:, None], np.fft.rfftfreq(N)[None, :])
    scale = np.linspace(20, 60, n)[:, None, None]
    return np.sin(scale * radius**2 + 0.3).astype(np.float32)


def test_average_undoes_turn_shift_and_ctf() -> None:
    n = 60
    ctf = make_ctf(n)
    images, angle, shift = simulate(n, ctf, 0.0)
    average, correlation = average_images(
        images,
        torch.from_numpy(ctf).__getitem__,
        torch.arange(n) % 2,
        torch.zeros(n, dtype=torch.long),
        angle,
        shift,
        torch.ones(N, N),
    )
    assert correlation[0, 1:8].min() > 0.99
    assert (average[0] - draw(0)).abs().max() < 0.05


def test_classes_are_averaged_apart_and_noise_is_filtered_away() -> None:
    n = 80
    images, angle, shift = simulate(n, np.ones((n, N, N // 2 + 1), np.float32), 0.3)
    images[n // 2 :] = torch.from_numpy(np.random.default_rng(9).normal(size=(n // 2, N, N))).float()
    number = torch.arange(n) // (n // 2)
    mask = make_soft_circle(N, 13.0, 3.0)
    average, correlation = average_images(images, None, torch.arange(n) % 2, number, angle, shift, mask)
    truth = draw(0) * mask
    assert np.corrcoef(average[0].flatten(), truth.flatten())[0, 1] > 0.99
    assert find_resolution_ring(correlation[0]) > 6
    # Noise aligned without looking at it does not correlate.
    assert abs(correlation[1, 4:14].mean()) < 0.15
    assert average[1].std() < 0.3 * average[0].std()


def test_an_empty_half_leaves_a_blurred_average() -> None:
    n = 20
    images, angle, shift = simulate(n, np.ones((n, N, N // 2 + 1), np.float32), 0.1)
    number = torch.zeros(n, dtype=torch.long)
    average, correlation = average_images(images, None, number, number, angle, shift, torch.ones(N, N))
    assert torch.isfinite(average).all()
    assert find_resolution_ring(correlation[0]) < 1
    assert average.std() > 0.05
