"""Small displacements of textures that stay, and of textures that only neighbouring frames share."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fine_motion import refine_motion
from vitreous.ops.fourier import compute_frequency_2d, compute_shift_phase, irfft2, rfft2
from vitreous.ops.frame_sum import compute_tile_centres
from vitreous.ops.local_motion import LocalMotionSettings

PIXEL_SIZE = 1.5
SHAPE = (256, 320)
LARGE = (512, 640)


def draw_texture(generator: torch.Generator, low: float, high: float) -> Tensor:
    """Return noise between two frequencies in cycles per pixel, of unit variance."""
    ky, kx = compute_frequency_2d(SHAPE)
    k = torch.sqrt(ky.square() + kx.square())
    image = irfft2(rfft2(torch.randn(SHAPE, generator=generator)) * ((k > low) & (k < high)), SHAPE)
    return image / image.std()


def draw_movie(path: Tensor, *, stays: float = 0.5, stirred: float = 0.0, noise: float = 1.0, seed: int = 0) -> Tensor:
    """Return frames of a texture that stays, and of one of high frequency that fades within three frames."""
    generator = torch.Generator().manual_seed(seed)
    body, water = draw_texture(generator, 0.01, 0.15), draw_texture(generator, 0.33, 0.42)
    frames = []
    for shift in path:
        moved = rfft2(stays * body + stirred * water) * compute_shift_phase(SHAPE, shift)
        frames.append(irfft2(moved, SHAPE) + noise * torch.randn(SHAPE, generator=generator))
        water = 0.7 * water + 0.51**0.5 * draw_texture(generator, 0.33, 0.42)
    return torch.stack(frames) + 10


def draw_path(n: int, seed: int = 0) -> Tensor:
    """Return a path with a jitter that no smoothing would find."""
    generator = torch.Generator().manual_seed(seed)
    path = torch.arange(n)[:, None] * torch.tensor([0.2, -0.3]) + 0.3 * torch.randn((n, 2), generator=generator)
    return path - path[:1]


def refine(frames: Tensor, start: Tensor, **options: float) -> Tensor:
    tiles = compute_tile_centres(SHAPE).shape[:2]
    moved = start.double()[:, None, None].expand(-1, *tiles, 2)
    found = refine_motion(frames, torch.ones(SHAPE), moved, start, PIXEL_SIZE, None, **options)  # type: ignore[arg-type]
    assert found.field is None
    return found.shifts_px


def rms(found: Tensor, truth: Tensor) -> float:
    error = found - truth
    return float((error - error.mean(dim=0)).square().mean().sqrt())


@pytest.mark.parametrize("n_near", [1, 3, 9])
def test_errors_of_a_start_are_taken_out(n_near: int) -> None:
    path = draw_path(10)
    start = path + 0.3 * torch.randn((10, 2), generator=torch.Generator().manual_seed(1))
    frames = draw_movie(path, noise=0.3)
    found = refine(frames, start, n_near=n_near)
    assert (found[0] == 0).all()
    assert rms(start, path) > 0.25
    assert rms(found, path) < 0.03
    # A second step, from a start that is nearly right, comes nearer still.
    assert rms(refine(frames, found, n_near=n_near), path) < 0.01


def test_what_only_neighbours_share_is_used() -> None:
    path = draw_path(16, 2)
    start = torch.arange(16)[:, None] * torch.tensor([0.2, -0.3])
    options = {"stays": 0.1, "noise": 1.0, "seed": 3}
    without, with_water = (refine(draw_movie(path, stirred=s, **options), start) for s in (0.0, 0.5))  # type: ignore[arg-type]
    assert rms(with_water, path) < 0.08
    assert rms(with_water, path) < 0.5 * rms(without, path)


def test_the_pattern_of_the_camera_does_not_hold_the_specimen() -> None:
    path = 0.3 * draw_path(16, 4)
    frames = draw_movie(path, stays=0.25, noise=1.0, seed=5)
    pattern = 0.3 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(6))
    share = 0.09 / (0.09 + 1 + 0.25**2)
    held, free = (refine(frames + pattern, path, pattern_share=s) for s in (0.0, share))
    assert rms(free, path) < 0.5 * rms(held, path)
    assert rms(free, path) < 0.06


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_does_not_lead_far(seed: int) -> None:
    start = torch.arange(20)[:, None] * torch.tensor([0.1, 0.2])
    found = refine(draw_movie(start, stays=0, noise=1, seed=seed), start)
    assert float((found - start).norm(dim=1).max()) < 1.5
    # Smooth as well: no zigzag from frame to frame.
    assert float(torch.diff(found, n=2, dim=0).abs().max()) < 0.5


def test_flipped_movies_give_flipped_paths() -> None:
    path = draw_path(8, 7)
    frames = draw_movie(path, seed=8)
    found = refine(frames, torch.zeros(8, 2))
    for axis in (0, 1):
        turned = refine(frames.flip(1 + axis).contiguous(), torch.zeros(8, 2))
        turned[:, axis] *= -1
        np.testing.assert_allclose(turned, found, atol=0.01)


def displace(y: Tensor, x: Tensor, n: int) -> Tensor:
    """Return a twist of up to 2 px at the last frame, `(n, ..., 2)`, whose mean over the frame is 0."""
    growth = (torch.arange(n) / (n - 1)).reshape(n, *[1] * y.ndim, 1)
    v, u = 2 * y / (LARGE[0] - 1) - 1, 2 * x / (LARGE[1] - 1) - 1
    return 1.4 * growth * torch.stack([u, -v], dim=-1)


@pytest.mark.parametrize("is_local", [True, False])
def test_places_that_move_are_told_from_those_that_do_not(is_local: bool) -> None:
    n, generator = 12, torch.Generator().manual_seed(10)
    ky, kx = compute_frequency_2d(LARGE)
    k = torch.sqrt(ky.square() + kx.square())
    body = irfft2(rfft2(torch.randn(LARGE, generator=generator)) * ((k > 0.01) & (k < 0.15)), LARGE)
    y, x = torch.meshgrid(*(torch.arange(float(size)) for size in LARGE), indexing="ij")
    moved = displace(y, x, n) * is_local
    frames = []
    for local in moved:
        at = (
            torch.stack([x - local[..., 1], y - local[..., 0]], dim=-1) / torch.tensor([LARGE[1] - 1, LARGE[0] - 1])
        ) * 2 - 1
        seen = functional.grid_sample(body[None, None] / body.std(), at[None], "bicubic", align_corners=True)[0, 0]
        frames.append(10 + 0.2 * seen + torch.randn(LARGE, generator=generator))
    tiles = compute_tile_centres(LARGE).shape[:2]
    found = refine_motion(
        torch.stack(frames),
        torch.ones(LARGE),
        torch.zeros(n, *tiles, 2, dtype=torch.float64),
        torch.zeros(n, 2),
        PIXEL_SIZE,
        LocalMotionSettings(patch_angstrom=190.0, early_frames=2.5),
    )
    assert rms(found.shifts_px, torch.zeros(n, 2)) < 0.05
    if not is_local:
        assert found.field is None
        assert abs(found.significance) < 4
        return
    assert found.field is not None
    assert found.significance > 10
    truth = displace(found.patch_y_px, found.patch_x_px, n)
    error = found.field.evaluate(found.patch_y_px, found.patch_x_px) - truth
    error = error - error.mean(dim=1, keepdim=True)
    assert float((error - error.mean(dim=0)).square().mean().sqrt()) < 0.1 * float(truth.square().mean().sqrt())


def test_one_frame_does_not_move() -> None:
    assert refine(draw_movie(torch.zeros(1, 2)), torch.zeros(1, 2)).tolist() == [[0, 0]]
