"""Shifts of analytic images, of simulated movies, and of movies in which there is nothing, or only the camera, to see."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vitreous.ops.fourier import apply_fourier_crop_2d, compute_shift_phase, irfft2, rfft2
from vitreous.ops.motion import compute_pattern_share, estimate_shifts, find_peak, smooth_trajectory

PIXEL_SIZE = 2.0


def draw_path(n: int, seed: int = 0, length: float = 6.0) -> Tensor:
    """Return a curved path that slows down, first at (0, 0)."""
    rng = np.random.default_rng(seed)
    progress = 1 - np.exp(-3 * np.arange(n) / n)
    azimuth = rng.uniform(0, 6) + rng.uniform(-0.7, 0.7) * progress
    path = length * progress[:, None] * np.stack([np.sin(azimuth), np.cos(azimuth)], axis=1)
    return torch.from_numpy(path).float()


def draw_blobs(shape: tuple[int, int], positions: Tensor, seed: int = 0) -> Tensor:
    """Return an image of Gaussian blobs for every position, evaluated in float64, not interpolated; periodic."""
    rng = np.random.default_rng(seed)
    y, x = np.arange(shape[0]), np.arange(shape[1])
    frames = []
    blobs = [(rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(2, 6), rng.normal()) for _ in range(60)]
    for shift_y, shift_x in positions.double().numpy():
        rows, columns = [], []
        for centre_y, centre_x, width, height in blobs:
            dy = (y - centre_y - shift_y + shape[0] / 2) % shape[0] - shape[0] / 2
            dx = (x - centre_x - shift_x + shape[1] / 2) % shape[1] - shape[1] / 2
            rows.append(height * np.exp(-(dy**2) / (2 * width**2)))
            columns.append(np.exp(-(dx**2) / (2 * width**2)))
        frames.append(np.stack(rows).T @ np.stack(columns))
    return torch.from_numpy(np.stack(frames)).float()


def estimate(frames: Tensor, **options: float) -> Tensor:
    shape = (frames.shape[1], frames.shape[2])
    even = (shape[0] // 2 * 2, shape[1] // 2 * 2)
    spectra = apply_fourier_crop_2d(rfft2(frames), shape, even)
    scale = torch.tensor([shape[0] / even[0], shape[1] / even[1]])
    return estimate_shifts(spectra, even, PIXEL_SIZE, **options) * scale  # type: ignore[arg-type]


def make_noisy(path: Tensor, shape: tuple[int, int] = (192, 192), noise: float = 1.5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    frames = draw_blobs(shape, path, seed)
    return frames / frames.std() + noise * torch.randn(frames.shape, generator=generator)


def rms(found: Tensor, truth: Tensor) -> float:
    """Root mean square distance, whatever the origin."""
    error = (found - found.mean(0)) - (truth - truth.mean(0))
    return float(error.square().sum(1).mean().sqrt())


@pytest.mark.parametrize("shape", [(160, 160), (161, 160), (144, 191), (151, 149)])
def test_parts_of_a_pixel_without_noise(shape: tuple[int, int]) -> None:
    path = draw_path(8)
    found = estimate(draw_blobs(shape, path))
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found, path, atol=0.01)


def test_noise_of_counting() -> None:
    path = draw_path(16, 1)
    assert rms(estimate(make_noisy(path, noise=2.0)), path) < 0.15


def test_reversed_frames_give_the_reversed_path() -> None:
    path = draw_path(12, 2)
    frames = make_noisy(path, noise=0.05)
    forward, backward = estimate(frames), estimate(frames.flip(0)).flip(0)
    np.testing.assert_allclose(backward - backward[:1], forward, atol=0.05)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (lambda frames: frames.flip(1), lambda p: torch.stack([-p[:, 0], p[:, 1]], -1)),
        (lambda frames: frames.flip(2), lambda p: torch.stack([p[:, 0], -p[:, 1]], -1)),
        (lambda frames: frames.transpose(1, 2), lambda p: p.flip(1)),
        (lambda frames: torch.rot90(frames, 1, (1, 2)), lambda p: torch.stack([-p[:, 1], p[:, 0]], -1)),
    ],
    ids=["rows", "columns", "transposed", "90 degrees"],
)
def test_turned_movies_give_turned_paths(
    turn: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor]
) -> None:
    frames = make_noisy(draw_path(10, 3), (160, 192))
    np.testing.assert_allclose(estimate(turn(frames).contiguous()), expected(estimate(frames)), atol=0.02)


def test_a_jump_of_one_frame_is_followed() -> None:
    path = draw_path(14, 4)
    path[6] += torch.tensor([8.0, -6.0])
    path[10:] += torch.tensor([-10.0, 0.0])
    found = estimate(make_noisy(path, noise=0.5))
    np.testing.assert_allclose(found - found.mean(0), path - path.mean(0), atol=0.3)


def test_long_drift_between_neighbouring_frames() -> None:
    path = torch.arange(10.0)[:, None] * torch.tensor([2.5, -3.5])
    assert rms(estimate(make_noisy(path)), path) < 0.2


@pytest.mark.parametrize("grouped", [1, 3, 5])
def test_grouping_finds_what_single_frames_do_not(grouped: int) -> None:
    """Equal weights in a group would amplify a zigzag from iteration to iteration."""
    path = draw_path(24, 5)
    assert rms(estimate(make_noisy(path, noise=4.0), n_grouped=grouped), path) < 0.4


def test_even_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        estimate(torch.zeros(4, 32, 32), n_grouped=2)


def test_one_frame_does_not_move() -> None:
    assert estimate(draw_blobs((64, 64), torch.zeros(1, 2))).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("seed", range(4))
def test_empty_frames_stay(seed: int) -> None:
    noise = torch.randn((16, 200, 200), generator=torch.Generator().manual_seed(seed))
    assert (estimate(noise + 10) == 0).all()
    assert (estimate(noise + 10, n_grouped=5) == 0).all()
    assert (estimate(torch.zeros(5, 64, 64)) == 0).all()


def test_blank_frames_are_placed_between_their_neighbours() -> None:
    path = draw_path(15, 6)
    frames = make_noisy(path, noise=1.0)
    frames[[4, 9]] = torch.randn((2, 192, 192), generator=torch.Generator().manual_seed(1))
    assert float((estimate(frames) - path).norm(dim=1).max()) < 0.6


def test_the_pattern_of_the_camera_does_not_hold_the_specimen() -> None:
    path = draw_path(16, 7, length=2.5)
    frames = make_noisy(path, noise=5.0)
    pattern = torch.randn((192, 192), generator=torch.Generator().manual_seed(3))
    with_pattern = frames + 0.7 * pattern
    share = compute_pattern_share(with_pattern.mean(0), with_pattern[::4], 16)
    assert share == pytest.approx(0.49 / (25 + 0.49), rel=0.1)
    held, free = estimate(with_pattern), estimate(with_pattern, pattern_share=share)
    assert rms(held, path) > 0.6
    assert rms(free, path) < 0.3


def test_share_of_the_pattern() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((20, 128, 128), generator=generator)
    assert compute_pattern_share(noise.mean(0), noise, 20) < 0.003
    fixed = torch.randn((128, 128), generator=generator)
    assert compute_pattern_share(fixed, fixed[None], 20) == pytest.approx(1)
    assert compute_pattern_share(torch.ones(8, 8), torch.ones(2, 8, 8), 20) == 0


def test_top_of_a_paraboloid() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    top = torch.tensor([[3.3, 35.8 - 40], [30.45 - 32, 2.1]])
    maps = []
    for centre_y, centre_x in top.tolist():
        dy, dx = (y - centre_y + 16) % 32 - 16, (x - centre_x + 20) % 40 - 20
        maps.append(50 - dy**2 - 0.7 * dx**2 + 0.3 * dy * dx)
    position, height = find_peak(torch.stack(maps), 12)
    np.testing.assert_allclose(position, top, atol=1e-4)
    np.testing.assert_allclose(height, [float(m.max() / m.std()) for m in maps], rtol=1e-5)


def test_peaks_beyond_reach_are_not_seen() -> None:
    image = torch.zeros(1, 32, 32)
    image[0, 10, 0], image[0, 2, 2] = 9.0, 1.0
    assert find_peak(image, 5)[0].round().tolist() == [[2.0, 2.0]]


def test_smoothing_follows_the_curve_and_not_the_noise() -> None:
    truth = draw_path(40, 8).double()
    noise = 0.3 * torch.randn((40, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    smooth = smooth_trajectory(truth + noise, torch.full((40, 2), 0.09, dtype=torch.float64))
    assert (smooth - truth).square().mean() < 0.4 * noise.square().mean()
    exact = smooth_trajectory(truth, torch.full((40, 2), 1e-8, dtype=torch.float64))
    np.testing.assert_allclose(exact, truth, atol=1e-3)


def test_shift_applied_back_restores_the_frame() -> None:
    path = draw_path(6, 9)
    frames = draw_blobs((96, 96), path)
    restored = irfft2(rfft2(frames) * compute_shift_phase((96, 96), -estimate(frames)), (96, 96))
    assert float((restored - frames[:1]).abs().max()) < 0.01 * float(frames.abs().max())
