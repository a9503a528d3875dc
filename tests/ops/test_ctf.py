"""The CTF against its formula in float64, published values, and its symmetries."""

import math

import numpy as np
import pytest
import torch

from vitreous.ops.ctf import compute_chi, compute_ctf_1d, compute_ctf_2d, compute_wavelength_angstrom
from vitreous.ops.fourier import compute_frequency_2d

OPTICS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}


def compute_expected(ky: np.ndarray, kx: np.ndarray, u: float, v: float, angle: float, phase: float = 0) -> np.ndarray:
    """Return the CTF in float64, with the defocus along a direction from its two principal axes."""
    wavelength = compute_wavelength_angstrom(300)
    k2 = kx**2 + ky**2
    a = math.radians(angle)
    along, across = kx * math.cos(a) + ky * math.sin(a), -kx * math.sin(a) + ky * math.cos(a)
    # Defocus times k squared is a quadratic form with the eigenvalues U and V.
    focus = u * along**2 + v * across**2
    chi = math.pi * wavelength * focus - math.pi / 2 * 2.7e7 * wavelength**3 * k2**2
    return -np.sin(chi + math.radians(phase) + math.asin(0.1))


@pytest.mark.parametrize(
    ("voltage_kv", "wavelength"), [(100, 0.037014), (120, 0.033492), (200, 0.025079), (300, 0.019687), (1000, 0.008719)]
)
def test_wavelengths_as_tabulated(voltage_kv: float, wavelength: float) -> None:
    # h / sqrt(2 m e V (1 + e V / (2 m c^2))) with CODATA 2018 constants.
    energy = voltage_kv * 1e3 * 1.602176634e-19
    rest = 9.1093837015e-31 * 299792458**2
    exact = 6.62607015e-34 * 299792458 / math.sqrt(energy * (energy + 2 * rest)) * 1e10
    assert compute_wavelength_angstrom(voltage_kv) == pytest.approx(exact, rel=5e-5)
    assert compute_wavelength_angstrom(voltage_kv) == pytest.approx(wavelength, abs=2e-6)


@pytest.mark.parametrize("phase", [0.0, 90.0])
def test_1d_against_float64(phase: float) -> None:
    k = torch.linspace(0, 0.4, 500)
    ctf = compute_ctf_1d(k, 15000.0, **OPTICS, phase_shift_deg=phase)
    expected = compute_expected(np.zeros(500), k.double().numpy(), 15000, 15000, 0, phase)
    np.testing.assert_allclose(ctf, expected, atol=2e-4)


def test_starts_at_minus_the_amplitude_contrast_and_goes_down_in_underfocus() -> None:
    ctf = compute_ctf_1d(torch.linspace(0, 0.02, 50), 10000.0, **OPTICS)
    assert ctf[0].item() == pytest.approx(-0.1, abs=1e-6)
    assert (ctf.diff() < 0).all()


def test_first_zero_where_the_phase_is_pi() -> None:
    defocus, wavelength = 20000.0, compute_wavelength_angstrom(300)
    # chi = pi as a quadratic equation for k^2, smaller root.
    a = -math.pi / 2 * 2.7e7 * wavelength**3
    b, c = math.pi * wavelength * defocus, math.asin(0.1) - math.pi
    k = math.sqrt((-b + math.sqrt(b * b - 4 * a * c)) / (2 * a))
    assert k == pytest.approx(1 / 20.3, rel=0.03)
    assert compute_ctf_1d(torch.tensor([k], dtype=torch.float64), defocus, **OPTICS).item() == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize("shape", [(32, 32), (30, 41)])
@pytest.mark.parametrize("angle", [0.0, 30.0, 135.0])
def test_2d_against_float64(shape: tuple[int, int], angle: float) -> None:
    ctf = compute_ctf_2d(shape, 1.5, 16000.0, 14000.0, angle, **OPTICS, phase_shift_deg=20.0)
    ky, kx = np.fft.fftfreq(shape[0], 1.5)[:, None], np.fft.rfftfreq(shape[1], 1.5)[None, :]
    np.testing.assert_allclose(ctf, compute_expected(ky, kx, 16000, 14000, angle, 20), atol=5e-4)


def test_angle_of_u_is_from_x_towards_y() -> None:
    along_x = compute_ctf_2d((64, 64), 1.5, 18000.0, 12000.0, 0.0, **OPTICS)
    _, kx = compute_frequency_2d((64, 64), 1.5)
    np.testing.assert_allclose(along_x[0], compute_ctf_1d(kx[0], 18000.0, **OPTICS), atol=1e-4)
    along_y = compute_ctf_2d((64, 64), 1.5, 18000.0, 12000.0, 90.0, **OPTICS)
    np.testing.assert_allclose(along_y[:33, 0].abs(), along_x[0].abs(), atol=1e-3)
    diagonal = compute_ctf_2d((64, 64), 1.5, 18000.0, 12000.0, 45.0, **OPTICS)
    k = math.hypot(*(10 / 64 / 1.5,) * 2)
    assert diagonal[10, 10].item() == pytest.approx(
        compute_ctf_1d(torch.tensor([k]), 18000.0, **OPTICS).item(), abs=1e-3
    )
    assert diagonal[-10, 10].item() == pytest.approx(
        compute_ctf_1d(torch.tensor([k]), 12000.0, **OPTICS).item(), abs=1e-3
    )


def test_batches_are_their_members() -> None:
    u, v, angle = torch.tensor([15000.0, 22000.0]), torch.tensor([14000.0, 21500.0]), torch.tensor([10.0, 170.0])
    batch = compute_ctf_2d((24, 20), 2.0, u, v, angle, **OPTICS)
    assert batch.shape == (2, 24, 11)
    for i in range(2):
        alone = compute_ctf_2d((24, 20), 2.0, u[i].item(), v[i].item(), angle[i].item(), **OPTICS)
        torch.testing.assert_close(batch[i], alone)


def test_amplitude_contrast_is_a_phase_shift() -> None:
    k = torch.linspace(0, 0.3, 100, dtype=torch.float64)
    settings = {"voltage_kv": 300.0, "cs_mm": 2.7}
    with_contrast = compute_ctf_1d(k, 15000.0, **settings, amplitude_contrast=0.1)
    with_phase = compute_ctf_1d(
        k, 15000.0, **settings, amplitude_contrast=0.0, phase_shift_deg=math.degrees(math.asin(0.1))
    )
    torch.testing.assert_close(with_contrast, with_phase)


def test_phase_as_a_tensor_and_as_a_number() -> None:
    k2, defocus = torch.tensor([0.01, 0.04]), torch.tensor(15000.0)
    number = compute_chi(k2, defocus, **OPTICS, phase_shift_deg=30.0)
    tensor = compute_chi(k2, defocus, **OPTICS, phase_shift_deg=torch.tensor(30.0))
    torch.testing.assert_close(number, tensor)
