"""Averaged power spectra and their polar form, on noise and on waves."""

import numpy as np
import pytest
import torch

from vitreous.ops.spectra import compute_polar_spectrum, compute_tile_spectra, compute_tile_spectrum


def draw_noise(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(256, 256), (300, 257), (128, 513)])
def test_white_noise_is_flat(shape: tuple[int, int]) -> None:
    power = compute_tile_spectrum(draw_noise(shape), 64)
    assert power.shape == (64, 33)
    inner = power[2:-2, 2:-1]
    assert inner.std() < 0.5 * inner.mean()
    for part in (inner[:20], inner[40:], inner[:, :10], inner[:, 20:]):
        assert part.mean().item() == pytest.approx(inner.mean().item(), rel=0.1)


def test_a_wave_is_where_it_belongs() -> None:
    y, x = torch.arange(256.0)[:, None], torch.arange(256.0)[None, :]
    wave = torch.cos(2 * torch.pi * (x * 12 + y * 5) / 64)
    power = compute_tile_spectrum(wave + 0.01 * draw_noise((256, 256)) + 7, 64)
    assert divmod(int(power.argmax()), 33) == (5, 12)


def test_deviating_tiles_are_left_out() -> None:
    image = draw_noise((512, 512))
    spoiled = image.clone()
    spoiled[:128, :128] *= 30
    clean, mended = compute_tile_spectrum(image, 128), compute_tile_spectrum(spoiled, 128)
    assert mended[5:-5, 5:].mean().item() == pytest.approx(clean[5:-5, 5:].mean().item(), rel=0.05)


def test_noise_of_the_mean_spectrum_is_correlated_as_said() -> None:
    """White noise, 400 images: variance of one element, and of sums of 1 to 16 of both signs, against what tiles foretell."""
    powers, tiles = [], None
    for seed in range(400):
        tiles = compute_tile_spectra(draw_noise((96, 96), seed), 64)
        powers.append(tiles.mean[4:28, 4:28])
    assert tiles is not None
    sample = torch.stack(powers)
    relative = (sample / sample.mean(dim=0) - 1) * tiles.n_looks**0.5
    lag = torch.arange(64)
    weights = [w.double()[torch.minimum(lag, 64 - lag)] for w in tiles.lag_weights]
    for period in (2, 3, 8, 24):
        sign = torch.where(torch.arange(24) % period < period / 2, 1.0, -1.0) if period < 24 else torch.ones(24)
        found = (relative * sign).sum(dim=2).square().mean() / 24
        line = torch.fft.fft(sign.double(), n=64).abs().square()
        expected = (weights[1] * line).sum() / 64 / 24 * weights[0].mean()
        assert found.item() == pytest.approx(expected.item(), rel=0.06)


def test_looks_are_those_of_the_tiles_that_are_kept() -> None:
    """Against a sum over places, with one tile in the middle left out."""
    image = draw_noise((320, 256))
    image[128:192, 128:192] *= 30
    tiles = compute_tile_spectra(image, 64)
    assert 0 < tiles.n_left_out < 16
    taper = 0.5 - 0.5 * torch.cos(torch.pi * (torch.arange(6) + 0.5) / 6)
    line = torch.cat([taper, torch.ones(52), taper.flip(0)]).double().square()
    covered = torch.zeros(320, 256, dtype=torch.float64)
    for x, y in (tiles.centres_px - 31.5).long().tolist():
        covered[y : y + 64, x : x + 64] += line[:, None] * line[None, :]
    assert tiles.n_looks == pytest.approx((covered.sum() ** 2 / (64**2 * covered.square().sum())).item())


def test_nothing_to_average_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than a tile"):
        compute_tile_spectrum(draw_noise((63, 100)), 64)
    with pytest.raises(ValueError, match="constant"):
        compute_tile_spectrum(torch.ones(128, 128), 64)


@pytest.mark.parametrize("angle_deg", [-90, -60, -30, 0, 30, 60])
def test_angles_go_from_x_towards_y(angle_deg: int) -> None:
    ky, kx = np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None, :]
    along = np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))]) * 0.25
    # A spot and its mate at -k: of those on the axis only one half lies in the half spectrum.
    spots = [np.exp(-((kx - s * along[0]) ** 2 + (ky - s * along[1]) ** 2) / (2 * 0.01**2)) for s in (1, -1)]
    k = torch.linspace(0.05, 0.45, 81)
    polar = compute_polar_spectrum(torch.from_numpy(sum(spots)).float(), k, 90)
    row, column = divmod(int(polar.argmax()), 81)
    assert (row / 90 - 0.5) * 180 == pytest.approx(angle_deg, abs=2)
    assert k[column].item() == pytest.approx(0.25, abs=0.006)


def test_unequal_pixels() -> None:
    """A ring in 1/Å is an ellipse in cycles per pixel when the two pixel sizes differ."""
    pixel_y, pixel_x = 1.5, 1.2
    ky, kx = np.fft.fftfreq(256, pixel_y)[:, None], np.fft.rfftfreq(256, pixel_x)[None, :]
    ring = np.exp(-((np.hypot(ky, kx) - 0.2) ** 2) / (2 * 0.01**2))
    k = torch.linspace(0.1, 0.3, 101)
    polar = compute_polar_spectrum(torch.from_numpy(ring).float(), k * pixel_y, 60, pixel_ratio=pixel_x / pixel_y)
    np.testing.assert_allclose(k[polar.argmax(dim=1)], 0.2, atol=0.003)
