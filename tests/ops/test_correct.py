"""The whole way from frames to sums, on textures that move by known amounts."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from vitreous.ops.correct import Correction, CorrectionSettings, correct_movie
from vitreous.ops.fourier import apply_fourier_crop_2d, compute_frequency_2d, compute_shift_phase, irfft2, rfft2

SETTINGS = CorrectionSettings(pixel_size_angstrom=1.5, voltage_kv=300.0, dose_per_frame=1.7)
SHAPE = (384, 512)
HOT = ((20, 30), (200, 17), (201, 17), (383, 511), (0, 250))


def draw_texture(shape: tuple[int, int], seed: int) -> Tensor:
    """Return the spectrum of a periodic texture of 8 to 100 Å, of standard deviation 0.15."""
    ky, kx = compute_frequency_2d(shape, 1.5)
    k = torch.sqrt(ky.square() + kx.square())
    noise = rfft2(torch.randn(shape, generator=torch.Generator().manual_seed(seed)))
    spectrum = noise * ((k > 0.01) & (k < 0.125)) * torch.exp(-200 / 4 * k.square())
    return spectrum * (0.15 / irfft2(spectrum, shape).std())


def draw_gain(shape: tuple[int, int]) -> Tensor:
    return 1 + 0.03 * torch.randn(shape, generator=torch.Generator().manual_seed(99))


def draw_path(n: int) -> Tensor:
    progress = 1 - torch.exp(-3 * torch.arange(n, dtype=torch.float64) / n)
    path = progress[:, None] * torch.tensor([6.0, -4.0], dtype=torch.float64)
    path[1:] += 0.15 * torch.randn((n - 1, 2), generator=torch.Generator().manual_seed(98))
    return path


def count(path: Tensor, shape: tuple[int, int] = SHAPE, dose: float = 3.8, seed: int = 0, hot: bool = True) -> Tensor:
    """Return counted frames whose content moves along the path, of a camera with a gain and hot pixels."""
    spectrum = draw_texture(shape, seed)
    rng = np.random.default_rng(seed)
    frames = []
    for shift in path:
        expected = dose * (1 + irfft2(spectrum * compute_shift_phase(shape, shift.float()), shape)) / draw_gain(shape)
        counted = rng.poisson(expected.clamp_min(0).double().numpy())
        if hot:
            for y, x in HOT:
                counted[y % shape[0], x % shape[1]] = rng.poisson(40)
        frames.append(torch.from_numpy(counted.astype(np.uint8)))
    return torch.stack(frames)


def correct(frames: Tensor, gain: Tensor | None = None, **changes: object) -> Correction:
    gain = draw_gain((frames.shape[1], frames.shape[2])) if gain is None else gain
    return correct_movie(frames, gain, replace(SETTINGS, **changes))  # type: ignore[arg-type]


def rms(found: Tensor, truth: Tensor) -> float:
    """Root mean square error of a coordinate about the mean."""
    error = found.double() - truth
    return float((error - error.mean(dim=0)).square().mean().sqrt())


@pytest.fixture(scope="module")
def path() -> Tensor:
    return draw_path(14)


@pytest.fixture(scope="module")
def frames(path: Tensor) -> Tensor:
    return count(path)


@pytest.fixture(scope="module")
def corrected(frames: Tensor) -> Correction:
    return correct(frames, halves=True)


def test_the_path_is_found(corrected: Correction, path: Tensor) -> None:
    assert (corrected.motion.shifts_px[0] == 0).all()
    assert rms(corrected.motion.shifts_px, path) < 0.1
    assert corrected.motion.frame_shape == SHAPE


def test_the_sum_is_that_of_frames_moved_back_in_fourier_space(
    corrected: Correction, frames: Tensor, path: Tensor
) -> None:
    clean = frames.clone().float()
    for y, x in HOT:
        clean[:, y, x] = 3.8
    moved = rfft2(clean * draw_gain(SHAPE)) * compute_shift_phase(SHAPE, -corrected.motion.shifts_px.float())
    ky, kx = compute_frequency_2d(SHAPE)
    inside = torch.sqrt(ky.square() + kx.square()) < 0.4
    expected = irfft2(moved.sum(0) * inside, SHAPE)
    found = irfft2(rfft2(corrected.plain) * inside, SHAPE)
    middle = (slice(20, -20), slice(20, -20))
    if corrected.motion.is_local:
        pytest.fail("local motion was made up")
    error = (found - expected)[middle]
    assert float(error.std() / expected[middle].std()) < 0.03


# Near Nyquist, rounding errors are divided by a transfer of 1e-4: a hundredth of the noise.
def test_even_and_odd_frames_add_up(corrected: Correction) -> None:
    assert corrected.even is not None
    assert corrected.odd is not None
    np.testing.assert_allclose(
        corrected.even + corrected.odd, corrected.plain, atol=0.01 * float(corrected.plain.std())
    )
    assert float((corrected.even - corrected.odd).std()) > 0.3 * float(corrected.plain.std())


def test_binning_is_a_fourier_crop(corrected: Correction, frames: Tensor) -> None:
    small = correct(frames, bin_factor=2.0)
    assert small.plain.shape == (192, 256)
    for found, large in ((small.plain, corrected.plain), (small.weighted, corrected.weighted)):
        assert found is not None
        assert large is not None
        expected = irfft2(apply_fourier_crop_2d(rfft2(large), SHAPE, (192, 256)), (192, 256))
        np.testing.assert_allclose(found, expected, atol=1e-3 * float(expected.std()))


@pytest.mark.parametrize("shape", [(301, 387), (256, 511)])
def test_binning_of_odd_sizes(shape: tuple[int, int]) -> None:
    result = correct(count(draw_path(6), shape), bin_factor=1.7)
    assert result.plain.shape == tuple(2 * round(n / 1.7 / 2) for n in shape)
    assert float(result.plain.mean()) == pytest.approx(6 * 3.8, rel=0.02)


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (lambda a: a.flip(-2), lambda p: p * torch.tensor([-1.0, 1.0])),
        (lambda a: a.flip(-1), lambda p: p * torch.tensor([1.0, -1.0])),
        (lambda a: torch.rot90(a, 2, (-2, -1)), lambda p: -p),
        (lambda a: a.transpose(-2, -1), lambda p: p.flip(1)),
    ],
    ids=["rows", "columns", "180 degrees", "transposed"],
)
def test_turned_movies_give_turned_results(
    turn: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], corrected: Correction, frames: Tensor
) -> None:
    result = correct(turn(frames).contiguous(), turn(draw_gain(SHAPE)).contiguous())
    np.testing.assert_allclose(result.motion.shifts_px, expected(corrected.motion.shifts_px), atol=0.08)
    ky, kx = compute_frequency_2d((result.plain.shape[0], result.plain.shape[1]))
    low = torch.sqrt(ky.square() + kx.square()) < 0.1
    a, b = rfft2(result.plain)[low][1:], rfft2(turn(corrected.plain).contiguous())[low][1:]
    assert float((a.conj() * b).sum().real / a.norm() / b.norm()) > 0.99


@pytest.mark.parametrize("dtype", [torch.uint16, torch.int16, torch.float32], ids=str)
def test_every_kind_of_number_gives_the_same(dtype: torch.dtype, corrected: Correction, frames: Tensor) -> None:
    result = correct(frames.to(dtype))
    np.testing.assert_allclose(result.plain, corrected.plain, atol=1e-3 * float(corrected.plain.std()))


def test_frames_and_gain_are_as_before(frames: Tensor) -> None:
    gain = draw_gain(SHAPE)
    gain[100, 100:110] = 0
    before, gain_before = frames.clone(), gain.clone()
    correct(frames, gain)
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(gain, gain_before)


def test_defects_do_not_show(corrected: Correction) -> None:
    spread = float(corrected.plain.std())
    for y, x in HOT[:3]:
        assert abs(float(corrected.plain[y, x] - corrected.plain.mean())) < 5 * spread


def test_columns_of_a_dead_detector_part_do_not_hold_the_specimen(path: Tensor) -> None:
    frames, gain = count(path, seed=3), draw_gain(SHAPE)
    frames[:, :, 255:258], gain[:, 255:258] = 0, 0
    result = correct(frames, gain)
    assert rms(result.motion.shifts_px, path) < 0.1


def test_the_same_again_whatever_the_threads(corrected: Correction, frames: Tensor) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        result = correct(frames, halves=True)
    finally:
        torch.set_num_threads(threads)
    again = correct(frames, halves=True)
    np.testing.assert_array_equal(again.plain, corrected.plain)
    np.testing.assert_array_equal(again.motion.shifts_px, corrected.motion.shifts_px)
    np.testing.assert_allclose(result.motion.shifts_px, corrected.motion.shifts_px, atol=1e-4)
    np.testing.assert_allclose(result.plain, corrected.plain, atol=0.01 * float(corrected.plain.std()))


def test_a_flipped_gain_does_not_hold_the_specimen(path: Tensor) -> None:
    result = correct(count(path, seed=5), draw_gain(SHAPE).flip(0).contiguous())
    assert rms(result.motion.shifts_px, path) < 0.2


def test_frames_of_little_dose() -> None:
    path = draw_path(60)
    result = correct(count(path, dose=0.7, seed=6), dose_per_frame=0.3)
    assert rms(result.motion.shifts_px, path) < 0.2


def test_a_jump_of_20_angstrom() -> None:
    path = draw_path(14)
    path[7:] += torch.tensor([8.0, -10.6], dtype=torch.float64)
    assert rms(correct(count(path, seed=7)).motion.shifts_px, path) < 0.1


@pytest.mark.parametrize("seed", range(2))
def test_empty_frames_stay(seed: int) -> None:
    counts = np.random.default_rng(seed).poisson(3.8, (10, 200, 257)).astype(np.uint8)
    result = correct_movie(torch.from_numpy(counts), None, replace(SETTINGS, dose_per_frame=None))
    assert (result.motion.shifts_px == 0).all()
    assert not result.motion.is_local
    assert result.weighted is None
    np.testing.assert_allclose(result.plain, counts.sum(0), atol=0.05)


def test_without_local_motion_there_are_no_patches(frames: Tensor, path: Tensor) -> None:
    result = correct(frames, local=False)
    assert len(result.motion.patch_y_px) == 0
    assert result.motion.patch_shifts_px.shape == (0, 14, 2)
    assert rms(result.motion.shifts_px, path) < 0.1


def test_one_frame_is_itself() -> None:
    counts = torch.from_numpy(np.random.default_rng(0).poisson(20, (1, 130, 140)).astype(np.uint8))
    result = correct_movie(counts, None, replace(SETTINGS, dose_per_frame=None))
    np.testing.assert_allclose(result.plain, counts[0], atol=0.05)


def test_a_gain_of_another_shape_is_refused(frames: Tensor) -> None:
    with pytest.raises(ValueError, match="expected a gain of shape"):
        correct(frames, torch.ones(SHAPE[::-1]))
