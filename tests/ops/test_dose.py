"""Exposure weights against the published formulae, in float64, and what they do to noise."""

import numpy as np
import pytest
import torch

from vitreous.ops.dose import compute_critical_exposure, compute_dose_basis, compute_dose_weights

K = torch.linspace(0, 0.45, 91, dtype=torch.float64)


def critical(k: np.ndarray, factor: float) -> np.ndarray:
    """Grant & Grigorieff 2015, Eq. 3."""
    with np.errstate(divide="ignore"):
        return factor * (0.24499 * k**-1.6649 + 2.8141)


@pytest.mark.parametrize(("voltage", "factor"), [(300, 1.0), (200, 0.8), (100, 0.532), (250, 0.9), (120, 0.5856)])
def test_critical_exposure(voltage: float, factor: float) -> None:
    np.testing.assert_allclose(compute_critical_exposure(K, voltage), critical(K.numpy(), factor), rtol=1e-12)
    # 0.1 / Å at 300 kV: 0.24499 * 46.228 + 2.8141.
    assert compute_critical_exposure(torch.tensor(0.1), 300).item() == pytest.approx(14.140, abs=0.002)


@pytest.mark.parametrize(("voltage", "factor"), [(300, 1.0), (200, 0.8)])
@pytest.mark.parametrize("pre_exposure", [0.0, 3.5])
def test_weights_are_the_mean_over_the_exposure_of_a_frame(voltage: float, factor: float, pre_exposure: float) -> None:
    weights = compute_dose_weights(K, 7, 1.3, pre_exposure, voltage).numpy()
    fine = (np.arange(2000) + 0.5) / 2000
    for frame in range(7):
        exposure = pre_exposure + 1.3 * (frame + fine)
        with np.errstate(divide="ignore"):
            expected = np.exp(-exposure[:, None] / (2 * critical(K.numpy(), factor))).mean(axis=0)
        np.testing.assert_allclose(weights[frame], expected, atol=3e-7)
    assert (weights[:, 0] == 1).all()


def test_tiny_exposures_lose_nothing() -> None:
    np.testing.assert_allclose(compute_dose_weights(K, 3, 1e-9, 0.0, 300), 1.0, atol=1e-6)


def test_weighted_sum_keeps_noise_white() -> None:
    n_frames, n = 12, 128
    ky, kx = torch.fft.fftfreq(n, 1.2)[:, None], torch.fft.rfftfreq(n, 1.2)[None, :]
    k = torch.sqrt(ky**2 + kx**2)
    weights = compute_dose_weights(k, n_frames, 4.0, 0.0, 300)
    noise = torch.fft.rfft2(torch.randn(n_frames, n, n, generator=torch.Generator().manual_seed(0)))
    total = (weights * noise).sum(0) / torch.sqrt((weights**2).mean(0))
    power = total.abs().square() / n_frames / n**2
    for low in (0.02, 0.1, 0.2, 0.3):
        inside = (k > low) & (k < low + 0.08)
        assert power[inside].mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("dose", [0.0, -1.0, float("nan")])
def test_a_dose_must_be_positive(dose: float) -> None:
    with pytest.raises(ValueError, match="positive dose"):
        compute_dose_weights(K, 3, dose, 0.0, 300)


@pytest.mark.parametrize(("total", "n_frames"), [(60.0, 40), (100.0, 50), (30.0, 12)])
@pytest.mark.parametrize("voltage", [300.0, 200.0, 100.0])
@pytest.mark.parametrize("pre_exposure", [0.0, 8.0])
def test_few_sums_equal_weights_frame_by_frame(
    total: float, n_frames: int, voltage: float, pre_exposure: float
) -> None:
    k = torch.linspace(0, 0.5, 700, dtype=torch.float64)
    basis = compute_dose_basis(k, n_frames, total / n_frames, pre_exposure, voltage)
    assert len(basis.factors) <= 7
    noise = torch.randn((n_frames, 700), dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    weights = compute_dose_weights(k, n_frames, total / n_frames, pre_exposure, voltage).double()
    expected = (weights * noise).sum(0) / weights.square().mean(0).sqrt()
    sums = basis.factors.double().to(noise.dtype) @ noise
    found = (basis.weighted * sums).sum(0)
    assert float((found - expected).norm() / expected.norm()) < 2e-4
    plain = basis.plain.to(sums.dtype) @ sums
    assert float((plain - noise.sum(0)).norm() / noise.sum(0).norm()) < 2e-4
    # Ring by ring, where little is left of late frames too.
    composed = basis.factors.T.double() @ basis.weighted.double()
    exact = weights / weights.square().mean(0).sqrt()
    assert float(((composed - exact).square().mean(0).sqrt()).max()) < 2e-3


def test_one_frame_needs_one_sum() -> None:
    basis = compute_dose_basis(torch.linspace(0, 0.5, 20, dtype=torch.float64), 1, 2.0, 0.0, 300.0)
    assert basis.factors.shape == (1, 1)
    np.testing.assert_allclose(basis.factors[0, 0] * basis.weighted[0], 1, atol=1e-6)
    np.testing.assert_allclose(basis.factors[0, 0] * basis.plain[0], 1, atol=1e-6)


def test_a_finer_tolerance_takes_more_sums() -> None:
    k = torch.linspace(0, 0.5, 200, dtype=torch.float64)
    ranks = [len(compute_dose_basis(k, 50, 2.0, 0.0, 300.0, tolerance).factors) for tolerance in (1e-2, 1e-4, 1e-6)]
    assert ranks[0] < ranks[1] < ranks[2]
