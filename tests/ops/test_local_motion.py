"""Textures displaced by known smooth fields, and movies without local motion."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import compute_frequency_2d, irfft2, rfft2
from vitreous.ops.local_motion import LocalMotion, LocalMotionSettings, estimate_local_motion

PIXEL_SIZE = 3.0
SETTINGS = LocalMotionSettings(patch_angstrom=300.0, early_frames=3.0)
N_FRAMES = 16


def displace(shape: tuple[int, int], y: Tensor, x: Tensor, n: int, size_angstrom: float) -> Tensor:
    """Return a bowl and a twist, in px, `(n, ..., 2)`; the largest in the frame is about `size_angstrom`."""
    v, u = 2 * y / shape[0] - 1, 2 * x / shape[1] - 1
    growth = (1 - torch.exp(-3 * torch.arange(n) / n)).reshape(n, *[1] * y.ndim, 1)
    last = torch.stack([0.6 * u + 0.4 * u * v, -0.6 * v + 0.4 * u.square() - 0.3 * v.square()], dim=-1)
    return last * growth * size_angstrom / PIXEL_SIZE


def draw_movie(
    shape: tuple[int, int],
    whole: Tensor,
    local_angstrom: float = 0.0,
    signal: float = 0.25,
    seed: int = 0,
    pattern: float = 0.0,
) -> Tensor:
    """Return frames of unit noise and a texture of particle size, displaced on a twice finer grid."""
    generator = torch.Generator().manual_seed(seed)
    fine = (2 * shape[0] + 128, 2 * shape[1] + 128)
    ky, kx = compute_frequency_2d(fine, PIXEL_SIZE / 2)
    k_squared = ky.square() + kx.square()
    spectrum = rfft2(torch.randn(fine, generator=generator)) * torch.exp(-400 / 4 * k_squared)
    spectrum[k_squared < 1 / 200**2] = 0
    texture = irfft2(spectrum, fine)
    texture = signal * texture / texture.std()
    y, x = torch.meshgrid(torch.arange(float(shape[0])), torch.arange(float(shape[1])), indexing="ij")
    moved = displace(shape, y, x, len(whole), local_angstrom)
    fixed = pattern * torch.randn(shape, generator=generator)
    frames = []
    for shift, local in zip(whole.float(), moved, strict=True):
        at_y, at_x = (2 * (axis - shift[i] - local[..., i]) + 64 for i, axis in enumerate((y, x)))
        grid = torch.stack([2 * at_x / (fine[1] - 1) - 1, 2 * at_y / (fine[0] - 1) - 1], dim=-1)
        seen = functional.grid_sample(texture[None, None], grid[None], mode="bicubic", align_corners=True)[0, 0]
        frames.append(seen + fixed + torch.randn(shape, generator=generator))
    return torch.stack(frames) + 5


def draw_whole(n: int, length_px: float = 4.0) -> Tensor:
    progress = 1 - torch.exp(-3 * torch.arange(n, dtype=torch.float64) / n)
    return length_px * progress[:, None] * torch.tensor([0.6, -0.8], dtype=torch.float64)


def measure(found: LocalMotion, shape: tuple[int, int], whole: Tensor, local_angstrom: float) -> float:
    """Return the error in Å of a displacement in the frame, about its mean in time."""
    y, x = (torch.linspace(0.08, 0.92, 9, dtype=torch.float64) * n for n in shape)
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    truth = whole[:, None, None] + displace(shape, rows, columns, len(whole), local_angstrom)
    moved = found.shifts_px[:, None, None].expand(truth.shape)
    if found.field is not None:
        moved = moved + found.field.evaluate_grid(y, x)
    error = moved - truth
    return PIXEL_SIZE * float((error - error.mean(dim=0)).square().sum(-1).mean().sqrt())


@pytest.mark.parametrize("shape", [(512, 512), (384, 600), (451, 517)], ids=str)
def test_local_motion_of_5_angstrom_is_found(shape: tuple[int, int]) -> None:
    whole = draw_whole(N_FRAMES)
    frames = draw_movie(shape, whole, 5.0)
    start = whole + 0.2 * torch.randn(whole.shape, generator=torch.Generator().manual_seed(1))
    found = estimate_local_motion(frames, start, PIXEL_SIZE, SETTINGS)
    assert found.field is not None
    assert found.significance > 4
    assert (found.shifts_px[0] == 0).all()
    still = LocalMotion(whole, None, 0, found.patch_y_px, found.patch_x_px)
    assert measure(found, shape, whole, 5.0) < min(0.4, 0.6 * measure(still, shape, whole, 5.0))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(384, 384), (256, 330)], ids=["many patches", "few patches"])
def test_none_is_made_up(shape: tuple[int, int], seed: int) -> None:
    whole = draw_whole(N_FRAMES)
    found = estimate_local_motion(draw_movie(shape, whole, seed=seed), whole, PIXEL_SIZE, SETTINGS)
    assert found.significance < 3
    assert measure(found, shape, whole, 0.0) < 0.4


@pytest.mark.parametrize("local", [0.0, 5.0])
def test_the_whole_is_found_anew(local: float) -> None:
    whole = draw_whole(N_FRAMES)
    start = whole + 0.4 * torch.randn(whole.shape, generator=torch.Generator().manual_seed(2))
    found = estimate_local_motion(draw_movie((384, 384), whole, local, seed=3), start, PIXEL_SIZE, SETTINGS)
    assert measure(found, (384, 384), whole, local) < 0.4


@pytest.mark.parametrize("seed", range(3))
def test_an_empty_hole_gives_no_field_and_a_smooth_bounded_path(seed: int) -> None:
    whole = draw_whole(N_FRAMES)
    frames = draw_movie((384, 384), whole, signal=0.0, seed=seed)
    found = estimate_local_motion(frames, whole, PIXEL_SIZE, SETTINGS)
    assert found.significance < 3
    assert float((found.shifts_px - whole).norm(dim=1).max()) < 3
    assert float(torch.diff(found.shifts_px, n=2, dim=0).abs().max()) < 1.5


def test_the_pattern_of_a_wrong_gain_does_not_hold_the_patches() -> None:
    whole = draw_whole(N_FRAMES)
    frames = draw_movie((512, 512), whole, 5.0, seed=4, pattern=0.1)
    found = estimate_local_motion(frames, whole, PIXEL_SIZE, SETTINGS)
    assert found.field is not None
    assert measure(found, (512, 512), whole, 5.0) < 0.6


def test_a_jump_of_20_angstrom() -> None:
    whole = draw_whole(N_FRAMES)
    whole[9:] += torch.tensor([4.0, -5.3], dtype=torch.float64)
    start = whole + 0.2 * torch.randn(whole.shape, generator=torch.Generator().manual_seed(5))
    found = estimate_local_motion(draw_movie((512, 512), whole, 5.0, seed=6), start, PIXEL_SIZE, SETTINGS)
    assert found.field is not None
    assert measure(found, (512, 512), whole, 5.0) < 0.5


def test_many_frames_of_little_dose() -> None:
    n = 60
    whole = draw_whole(n)
    settings = LocalMotionSettings(300.0, 16.0)
    frames = draw_movie((384, 384), whole, 5.0, signal=0.12, seed=7)
    found = estimate_local_motion(frames, whole, PIXEL_SIZE, settings)
    assert measure(found, (384, 384), whole, 5.0) < 0.6


def test_few_frames_and_few_patches_move_as_a_whole() -> None:
    whole = draw_whole(3)
    assert estimate_local_motion(draw_movie((384, 384), whole), whole, PIXEL_SIZE, SETTINGS).field is None
    whole = draw_whole(N_FRAMES)
    found = estimate_local_motion(draw_movie((120, 220), whole), whole, PIXEL_SIZE, SETTINGS)
    assert found.field is None
    assert len(found.patch_y_px) == 2


def test_centres_of_patches() -> None:
    whole = draw_whole(4)
    found = estimate_local_motion(draw_movie((330, 250), whole), whole, PIXEL_SIZE, SETTINGS)
    assert sorted(set(found.patch_y_px.tolist())) == [49.5, 164.5, 279.5]
    assert sorted(set(found.patch_x_px.tolist())) == [49.5, 199.5]


def test_shifts_of_another_number_of_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="16 frames"):
        estimate_local_motion(torch.zeros(16, 64, 64), torch.zeros(5, 2), PIXEL_SIZE, SETTINGS)
