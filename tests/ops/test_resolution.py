import math

import pytest
import torch

from vitreous.ops.mask import compute_soft_sphere
from vitreous.ops.resolution import (
    apply_shell_filter,
    compute_corrected_fsc,
    compute_fsc,
    compute_resolution_angstrom,
    compute_shell_sums,
    irfft3,
    randomise_phases,
    rfft3,
)


def _draw(n, seed):
    return torch.randn(n, n, n, generator=torch.Generator().manual_seed(seed))


def _count_shells(n):
    """Elements of each shell of the full transform, counted one by one."""
    k = torch.fft.fftfreq(n, 1 / n)
    radius = torch.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    return torch.bincount(torch.round(radius).long().flatten())[: n // 2 + 1].double()


def test_transform_is_inverted():
    volume = _draw(12, 0)
    assert torch.allclose(irfft3(rfft3(volume), 12), volume, atol=1e-5)


def test_shell_sums_count_the_full_transform():
    volume = _draw(16, 0)
    ours = compute_shell_sums(rfft3(volume).abs().square(), 16)
    k = torch.fft.fftfreq(16, 1 / 16)
    shell = torch.round(torch.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)).long()
    full = torch.fft.fftn(volume.double()).abs().square()
    expected = torch.stack([full[shell == r].sum() for r in range(9)])
    assert torch.allclose(ours, expected, rtol=1e-5)
    assert torch.allclose(compute_shell_sums(torch.ones(16, 16, 9), 16), _count_shells(16))


def test_fsc_of_equal_and_opposite_volumes():
    volume = _draw(16, 1)
    assert torch.allclose(compute_fsc(volume, 3 * volume), torch.ones(9).double(), atol=1e-6)
    assert torch.allclose(compute_fsc(volume, -volume), -torch.ones(9).double(), atol=1e-6)
    assert torch.equal(compute_fsc(volume, torch.zeros_like(volume)), torch.zeros(9).double())
    with pytest.raises(ValueError, match="cubes"):
        compute_fsc(volume, volume[1:])


def test_fsc_of_noise_is_within_what_chance_allows():
    n = 32
    fsc = compute_fsc(_draw(n, 1), _draw(n, 2))
    independent = _count_shells(n) / 2
    assert float((fsc.abs() * independent.sqrt())[1:].max()) < 4.0


@pytest.mark.parametrize("snr", [0.3, 2.0])
def test_fsc_of_known_signal_to_noise_ratio(snr):
    n, shells = 48, slice(8, 25)
    signal = _draw(n, 3) * math.sqrt(snr)
    fsc = compute_fsc(signal + _draw(n, 4), signal + _draw(n, 5))
    assert float(fsc[shells].mean()) == pytest.approx(snr / (1 + snr), abs=0.02)


def test_resolution_is_interpolated_at_the_first_crossing():
    fsc = torch.tensor([1.0, 0.9, 0.343, 0.043, 0.5])
    assert compute_resolution_angstrom(fsc, 2.0) == pytest.approx(8 * 2.0 / (2 + 0.2 / 0.3))
    assert compute_resolution_angstrom(torch.ones(5), 2.0) == 4.0
    assert math.isinf(compute_resolution_angstrom(torch.tensor([1.0, 0.0, 1.0]), 2.0))


def test_phase_randomisation_keeps_amplitudes_and_low_shells_and_nothing_else():
    n, first = 32, 6
    volume = apply_shell_filter(_draw(n, 6), torch.exp(-torch.arange(17) / 8.0))
    random = randomise_phases(volume, first, torch.Generator().manual_seed(0))
    before, after = rfft3(volume).abs(), rfft3(random).abs()
    assert float((before - after).abs().max() / before.max()) < 1e-4
    fsc = compute_fsc(volume, random)
    assert torch.allclose(fsc[:first], torch.ones(first).double(), atol=1e-4)
    assert float(fsc[first:].abs().max()) < 0.3
    again = randomise_phases(volume, first, torch.Generator().manual_seed(0))
    assert torch.equal(random, again)


def test_correction_takes_out_what_the_mask_correlates():
    """Noise beyond shell 6 in a tight mask correlates over neighbouring shells; the corrected curve does not."""
    n, first = 32, 6
    common = apply_shell_filter(_draw(n, 7), (torch.arange(17) < first).float() * 3)
    mask = compute_soft_sphere(n, 5.0, 3.0)
    halves = [common + apply_shell_filter(_draw(n, seed), torch.ones(17)) for seed in (8, 9)]
    masked = compute_fsc(halves[0] * mask, halves[1] * mask)
    generator = torch.Generator().manual_seed(1)
    random = torch.stack(
        [compute_fsc(*(randomise_phases(half, first, generator) * mask for half in halves)) for _ in range(12)]
    ).mean(0)
    corrected = compute_corrected_fsc(masked, random, first)
    assert torch.equal(corrected[: first + 2], masked[: first + 2])
    assert float(random[first : first + 2].mean()) > 0.2  # the mask alone correlates
    assert abs(float(corrected[first + 2 :].mean())) < 0.1


def test_correction_formula():
    corrected = compute_corrected_fsc(torch.tensor([1.0, 0.9, 0.8, 0.6]), torch.tensor([1.0, 0.9, 0.5, 0.2]), 0)
    assert torch.allclose(corrected, torch.tensor([1.0, 0.9, 0.6, 0.5]))


def test_shell_filter_multiplies_a_plane_wave():
    n = 16
    wave = torch.cos(2 * torch.pi * 3 * torch.arange(n) / n).expand(n, n, n)
    factors = torch.arange(9).float() / 10
    assert torch.allclose(apply_shell_filter(wave, factors), wave * 0.3, atol=1e-5)
