"""Potentials against closed forms: single atoms, structure factors summed in float64, published constants."""

import math

import pytest
import torch
from torch import Tensor

from vitreous.ops.fourier import apply_fourier_crop_2d, rfft2
from vitreous.ops.potential import (
    ICE_POTENTIAL_VOLTS,
    POTENTIAL_CONSTANT,
    compute_atom_gaussians,
    compute_interaction_constant,
    compute_potential_map,
    compute_projection_spectrum,
    compute_scattering_factor,
)

PIXEL = 1.5


def make_tables(ice: float = ICE_POTENTIAL_VOLTS) -> tuple[Tensor, Tensor]:
    kinds = [
        compute_atom_gaussians(number, b, with_hydrogens=True, ice_potential_volts=ice)
        for number, b in ((6, 40.0), (7, 50.0), (8, 60.0), (16, 30.0))
    ]
    return torch.stack([a for a, _ in kinds]), torch.stack([w for _, w in kinds])


def make_atoms(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positions = (torch.rand((n, 3), dtype=torch.float64, generator=generator) - 0.5) * 36
    return positions, torch.randint(0, 4, (n,), generator=generator)


def sum_structure_factors(positions: Tensor, kinds: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the exact half spectrum of the projection along z, and |k| in cycles per pixel."""
    amplitudes, widths = make_tables()
    ky, kx = (
        torch.fft.fftfreq(size, dtype=torch.float64)[:, None],
        torch.fft.rfftfreq(size, dtype=torch.float64)[None, :],
    )
    k = torch.sqrt(ky**2 + kx**2)
    factors = (amplitudes[:, :, None, None] * torch.exp(-widths[:, :, None, None] * (k / PIXEL) ** 2 / 4)).sum(1)
    places = positions / PIXEL + size // 2
    phases = torch.exp(-2j * math.pi * (ky * places[:, 1, None, None] + kx * places[:, 0, None, None]))
    return (factors[kinds] * phases).sum(0) / PIXEL**2, k


@pytest.mark.parametrize(("voltage_kv", "expected"), [(300, 6.526e-4), (200, 7.288e-4), (100, 9.244e-4)])
def test_interaction_constant_is_the_tabulated_one(voltage_kv: float, expected: float) -> None:
    assert compute_interaction_constant(voltage_kv) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(("number", "expected"), [(1, 0.529), (6, 2.509), (7, 2.211), (8, 1.983), (16, 5.161)])
def test_forward_scattering_is_the_published_one(number: int, expected: float) -> None:
    assert float(compute_scattering_factor(number, torch.tensor(0.0))) == pytest.approx(expected, abs=5e-3)


def test_protein_stands_out_from_ice_by_a_few_volts() -> None:
    # The mean residue of protein: 110 Da at 0.81 Da/Å³; 7.9 V inside against 4.5 V of ice.
    composition = {6: 4.95, 7: 1.36, 8: 1.48, 16: 0.04}
    total = sum(
        n * float(compute_atom_gaussians(z, 0, with_hydrogens=True, ice_potential_volts=ICE_POTENTIAL_VOLTS)[0].sum())
        for z, n in composition.items()
    )
    assert 2.5 < total / (110 / 0.81) < 4


def test_a_projected_atom_is_the_sum_of_its_gaussians() -> None:
    size, pixel = 64, 0.5
    amplitudes, widths = compute_atom_gaussians(6, 40.0, with_hydrogens=False, ice_potential_volts=0.0)
    position = torch.tensor([[0.3, -0.7, 0.1]], dtype=torch.float64)
    spectrum = compute_projection_spectrum(
        position, torch.zeros(1, dtype=torch.long), amplitudes[None], widths[None], size, pixel
    )
    image = torch.fft.irfft2(spectrum, s=(size, size))
    y, x = ((torch.arange(size)[:, None] - 32) * pixel + 0.7), ((torch.arange(size)[None, :] - 32) * pixel - 0.3)
    r_squared = (y**2 + x**2)[..., None]
    expected = (amplitudes * (4 * math.pi / widths) * torch.exp(-4 * math.pi**2 * r_squared / widths)).sum(-1)
    torch.testing.assert_close(image.double(), expected, rtol=0, atol=2e-4 * float(expected.max()))
    integral = POTENTIAL_CONSTANT * float(compute_scattering_factor(6, torch.tensor(0.0)))
    assert float(image.sum()) * pixel**2 == pytest.approx(integral, rel=1e-4)


def test_projection_matches_structure_factors() -> None:
    size = 40
    positions, kinds = make_atoms(200, seed=1)
    expected, k = sum_structure_factors(positions, kinds, size)
    actual = compute_projection_spectrum(positions, kinds, *make_tables(), size, PIXEL)
    for low, high in ((0.0, 0.2), (0.2, 0.35), (0.35, 0.499)):
        ring = (k >= low) & (k < high)
        assert float((actual - expected)[ring].abs().norm() / expected[ring].abs().norm()) < 1e-3


def test_map_summed_along_z_matches_structure_factors() -> None:
    size, oversampling = 40, 2
    positions, kinds = make_atoms(200, seed=2)
    expected, k = sum_structure_factors(positions, kinds, size)
    fine = size * oversampling
    volume = compute_potential_map(positions, kinds, *make_tables(), fine, PIXEL / oversampling)
    projection = volume.sum(0) * (PIXEL / oversampling)
    actual = apply_fourier_crop_2d(rfft2(projection), (fine, fine), (size, size))
    for low, high in ((0.0, 0.2), (0.2, 0.35), (0.35, 0.499)):
        ring = (k >= low) & (k < high)
        assert float((actual - expected)[ring].abs().norm() / expected[ring].abs().norm()) < 2e-3


def test_the_map_holds_every_atom_in_xyz_order() -> None:
    amplitudes, widths = make_tables(ice=0.0)
    positions = torch.tensor([[3.0, 0.0, -6.0]], dtype=torch.float64)
    volume = compute_potential_map(positions, torch.tensor([0]), amplitudes, widths, 32, 1.0)
    assert torch.unravel_index(volume.argmax(), volume.shape) == (10, 16, 19)
    assert float(volume.sum()) == pytest.approx(float(amplitudes[0].sum()), rel=1e-3)


def test_misfits_are_refused() -> None:
    amplitudes, widths = make_tables()
    positions = torch.tensor([[15.0, 0.0, 0.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="border"):
        compute_potential_map(positions, torch.tensor([0]), amplitudes, widths, 32, 1.0)
    with pytest.raises(ValueError, match="even"):
        compute_projection_spectrum(positions, torch.tensor([0]), amplitudes, widths, 33, 1.0)
