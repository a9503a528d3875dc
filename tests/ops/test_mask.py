import pytest
import torch

from vitreous.ops.mask import compute_density_region, compute_soft_mask, compute_soft_sphere


def _measure_distance(n, centre=(0.0, 0.0, 0.0)):
    axis = torch.arange(n).float() - n // 2
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)


def test_soft_sphere_is_one_inside_half_at_the_middle_of_the_edge_and_zero_outside():
    mask, distance = compute_soft_sphere(32, 8.0, 4.0), _measure_distance(32)
    assert torch.equal(mask[distance <= 8], torch.ones(int((distance <= 8).sum())))
    assert float(mask[distance >= 12].abs().max()) < 1e-6
    assert float(mask[16, 16, 26]) == pytest.approx(0.5, abs=1e-6)


def test_density_region_is_the_largest_piece_with_holes_filled():
    n = 40
    shell = ((_measure_distance(n) < 11) & (_measure_distance(n) > 5)).float()
    speck = (_measure_distance(n, (14, 0, 0)) < 1.5).float() * 0.9
    noise = 0.05 * torch.randn(n, n, n, generator=torch.Generator().manual_seed(0))
    region = compute_density_region(shell + speck + noise, 1.0, 18.0, low_pass_angstrom=3.0)
    truth = _measure_distance(n) < 11
    assert float((region & truth).sum() / (region | truth).sum()) > 0.85
    assert bool(region[n // 2, n // 2, n // 2])
    assert not bool(region[n // 2 + 14, n // 2, n // 2])


def test_density_region_of_nothing_is_the_sphere():
    region = compute_density_region(torch.zeros(16, 16, 16), 1.0, 5.0)
    assert torch.equal(region, _measure_distance(16) <= 5.0)


def test_soft_mask_extends_and_falls_off():
    region = _measure_distance(32) <= 5
    mask = compute_soft_mask(region, 2.0, 4.0)
    assert [float(mask[16, 16, 16 + x]) for x in (5, 7, 9, 11)] == pytest.approx([1.0, 1.0, 0.5, 0.0], abs=1e-6)
