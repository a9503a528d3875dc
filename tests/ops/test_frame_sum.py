"""Frames displaced by known amounts, in closed form, and the two implementations against each other."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vitreous.ops.fourier import compute_frequency_2d, compute_radial_mean, irfft2, rfft2
from vitreous.ops.frame_sum import (
    TILE_SHAPE_PX,
    _plan_steps,
    _sum_by_tiles,
    compute_kernel_transfer,
    compute_tile_centres,
    sum_frames,
)

DTYPES = [torch.uint8, torch.int16, torch.uint16, torch.float32]


def displace(shape: tuple[int, int], shifts: list[tuple[float, float]]) -> Tensor:
    """Return the same displacement for every tile."""
    tiles = compute_tile_centres(shape).shape[:2]
    return torch.tensor(shifts, dtype=torch.float64)[:, None, None].expand(-1, *tiles, 2)


def restore(frames: Tensor, displacement: Tensor) -> Tensor:
    """Return the plain sum with the kernel divided out."""
    shape = (frames.shape[1], frames.shape[2])
    total = sum_frames(frames, torch.ones(shape), displacement, torch.ones(1, len(frames)))[0]
    return irfft2(rfft2(total) / compute_kernel_transfer(shape, displacement), shape)


def make_packet(
    shape: tuple[int, int], frequency: tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Return a wave under a Gaussian, displaced by `shift`: evaluated, not interpolated."""
    y = torch.arange(shape[0], dtype=torch.float64)[:, None] - shape[0] / 2 - shift[0]
    x = torch.arange(shape[1], dtype=torch.float64)[None, :] - shape[1] / 2 - shift[1]
    envelope = torch.exp(-(y.square() + x.square()) / (2 * 30.0**2))
    return (envelope * torch.cos(2 * torch.pi * (frequency[0] * y + frequency[1] * x))).float()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(64, 128), (97, 131), (33, 65), (40, 70), (150, 90)])
def test_both_implementations_agree(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(shape[0])
    frames = torch.randint(0, 9, (5, *shape), generator=generator).to(dtype)
    gain = 1 + 0.1 * torch.randn(shape, generator=generator)
    tiles = compute_tile_centres(shape).shape
    # Far enough to read beyond every edge.
    displacement = 12 * torch.randn((5, *tiles), generator=generator, dtype=torch.float64)
    factors = torch.randn((3, 5), generator=generator)
    found = sum_frames(frames, gain, displacement, factors)
    expected = torch.zeros_like(found)
    _sum_by_tiles(frames, gain, _plan_steps(displacement), factors, expected)
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("by_tiles", [False, True], ids=["loops", "products"])
def test_a_part_is_cut_out_of_the_whole(by_tiles: bool) -> None:
    shape, part, tiles = (160, 256), (slice(32, 128), slice(64, 192)), (slice(1, 4), slice(1, 3))
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 9, (4, *shape), generator=generator).to(torch.uint8)
    gain = 1 + 0.1 * torch.randn(shape, generator=generator)
    displacement = 20 * torch.randn((4, *compute_tile_centres(shape).shape), generator=generator, dtype=torch.float64)
    factors = torch.randn((2, 4), generator=generator)
    expected = sum_frames(frames, gain, displacement, factors)[:, *part]
    found = torch.zeros_like(expected)
    if by_tiles:
        _sum_by_tiles(frames, gain, _plan_steps(displacement[:, *tiles]), factors, found, (32, 64))
    else:
        found = sum_frames(frames, gain, displacement[:, *tiles], factors, part)
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", [(96, 128), (75, 131)])
def test_whole_pixels_are_rolled_back(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(shape, generator=generator)
    shifts = [(0, 0), (3, -7), (-20, 11), (40, 70)]
    frames = torch.stack([image.roll(shift, (0, 1)) for shift in shifts])
    found = restore(frames, displace(shape, [(float(y), float(x)) for y, x in shifts]))
    # Near Nyquist, rounding errors are divided by a transfer of 1e-4.
    np.testing.assert_allclose(found, 4 * image, atol=3e-3)


def test_without_displacement_the_sum_is_the_sum() -> None:
    frames = torch.from_numpy(np.random.default_rng(2).poisson(2.0, (6, 90, 101))).to(torch.uint8)
    found = restore(frames, displace((90, 101), [(0.0, 0.0)] * 6))
    np.testing.assert_allclose(found, frames.double().sum(0), atol=0.01)


@pytest.mark.parametrize("frequency", [(0.1, 0.05), (0.3, -0.2), (0.42, 0.1), (0.05, 0.42), (0.4, -0.4), (0.42, 0.42)])
@pytest.mark.parametrize("shift", [(0.25, 0.5), (-0.5, 3.75), (2.3, -1.6)])
def test_waves_moved_by_parts_of_a_pixel_come_back(frequency: tuple[float, float], shift: tuple[float, float]) -> None:
    shape = (224, 256)
    found = restore(make_packet(shape, frequency, shift)[None], displace(shape, [shift]))
    expected = make_packet(shape, frequency)
    assert float((found - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("frequency", [(0.2, 0.1), (0.3, 0.3), (0.42, 0.0)])
def test_frames_at_many_parts_of_a_pixel_add_up(frequency: tuple[float, float]) -> None:
    shape, rng = (224, 256), np.random.default_rng(3)
    shifts = [tuple(shift) for shift in rng.uniform(-4, 4, (16, 2)).tolist()]
    frames = torch.stack([make_packet(shape, frequency, shift) for shift in shifts])
    expected = 16 * make_packet(shape, frequency)
    assert float((restore(frames, displace(shape, shifts)) - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("between_tiles", [0.0, 0.01])
def test_white_noise_stays_white(between_tiles: float) -> None:
    shape, n = (256, 256), 16
    generator = torch.Generator().manual_seed(4)
    frames = torch.randn((n, *shape), generator=generator)
    tiles = compute_tile_centres(shape).shape
    displacement = 3 * torch.rand((n, 1, 1, 2), generator=generator, dtype=torch.float64)
    displacement = displacement + between_tiles * torch.randn((n, *tiles), generator=generator, dtype=torch.float64)
    spectrum = rfft2(restore(frames, displacement)).abs().square() / (n * shape[0] * shape[1])
    rings = compute_radial_mean(spectrum, shape)
    for low in range(8, 128, 20):
        # Four standard errors of the mean of so many elements.
        assert float(rings[low : low + 20].mean()) == pytest.approx(1, abs=4 / (20 * torch.pi * (low + 10)) ** 0.5)
    if between_tiles == 0:
        ky, kx = compute_frequency_2d(shape)
        assert float(spectrum[(ky.abs() > 0.45) & (kx > 0.45)].mean()) == pytest.approx(1, abs=0.15)


def test_an_even_background_stays_even_however_tiles_move() -> None:
    shape, generator = (128, 256), torch.Generator().manual_seed(4)
    displacement = 5 * torch.rand((6, *compute_tile_centres(shape).shape), generator=generator, dtype=torch.float64)
    total = restore(torch.full((6, *shape), 1000.0), displacement)
    np.testing.assert_allclose(total, 6000.0, rtol=2e-6)


def test_each_tile_takes_its_own_displacement_and_each_sum_its_own_factors() -> None:
    shape, generator = (96, 192), torch.Generator().manual_seed(5)
    frames, gain = torch.rand((3, *shape), generator=generator), 0.5 + torch.rand(shape, generator=generator)
    tiles = compute_tile_centres(shape).shape
    displacement = torch.randint(-9, 10, (3, *tiles), generator=generator).double()
    factors = torch.tensor([[1.0, 0.0, -2.0], [0.5, 3.0, 0.25]])
    transfer = compute_kernel_transfer(shape, torch.zeros(1, 1, 1, 2))
    blurred = irfft2(rfft2(frames * gain) * transfer, shape)
    found = sum_frames(frames, gain, displacement, factors)
    high, wide = TILE_SHAPE_PX
    for i in range(tiles[0]):
        for j in range(tiles[1]):
            place = (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
            moved = torch.stack(
                [blurred[f].roll((-displacement[f, i, j].long()).tolist(), (0, 1))[place] for f in range(3)]
            )
            np.testing.assert_allclose(
                found[:, place[0], place[1]], torch.einsum("rf,fyx->ryx", factors, moved), atol=1e-5
            )


def test_centres_of_tiles() -> None:
    centres = compute_tile_centres((100, 130))
    assert centres.shape == (4, 3, 2)
    assert centres[0, 0].tolist() == [15.5, 31.5]
    assert centres[3, 2].tolist() == [111.5, 159.5]


def test_shapes_that_do_not_fit_are_refused() -> None:
    frames, factors = torch.zeros(2, 64, 64), torch.ones(1, 2)
    moved = displace((64, 64), [(0.0, 0.0)] * 2)
    for bad in (
        (frames, torch.ones(64, 63), moved, factors),
        (frames, torch.ones(64, 64), moved[:1], factors),
        (frames, torch.ones(64, 64), moved, torch.ones(1, 3)),
    ):
        with pytest.raises(ValueError, match="do not fit together"):
            sum_frames(*bad)
