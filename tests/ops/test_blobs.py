"""Discs and rings of known size."""

import numpy as np
import pytest
import torch

from vitreous.ops.blobs import find_outer_diameter, measure_radial_profile, resample_for_picking, score_diameters


def make_waves(shape: tuple[int, int], pixel: float, wavelength: float) -> torch.Tensor:
    x = torch.arange(shape[1], dtype=torch.float64) * pixel
    return torch.cos(2 * torch.pi * x / wavelength)[None, :].expand(shape[0], -1).float().contiguous()


def test_resampling_keeps_what_is_between_the_two_limits() -> None:
    shape, pixel = (200, 300), 2.0
    # 600 Å is the width: whole numbers of waves.
    wanted = make_waves(shape, pixel, 60.0)
    noise = 3 * make_waves(shape, pixel, 600.0) + make_waves(shape, pixel, 7.5)
    small, pixels = resample_for_picking(wanted + noise + 5, pixel, 5.0, 120.0)
    assert small.shape == (80, 120)
    np.testing.assert_allclose(pixels, [5.0, 5.0])
    expected = make_waves((80, 120), 5.0, 60.0)
    assert np.corrcoef(small.flatten(), expected.flatten())[0, 1] > 0.995
    assert small.mean().item() == pytest.approx(0, abs=1e-4)
    assert small.std().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shape", [(101, 75), (100, 74)])
def test_resampling_never_makes_a_finer_image_and_knows_its_pixel_size(shape: tuple[int, int]) -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float()
    small, pixels = resample_for_picking(image, 4.0, 3.0, 100.0)
    assert small.shape == (100, 74)
    np.testing.assert_allclose(pixels, [4.0 * shape[0] / 100, 4.0 * shape[1] / 74])


def test_resampling_clips_outliers() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(64, 64))).float()
    image[20, 30] = 1e3
    assert resample_for_picking(image, 1.0, 1.0, 1e4)[0].max().item() == 6.0


def make_micrograph(diameter_px: float, *, sign: float = -1.0, noise: float = 1.0, n_px: int = 360) -> torch.Tensor:
    """Return discs on a lattice, jittered, in noise and slowly varying ice."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:n_px, :n_px]
    image = noise * rng.normal(size=(n_px, n_px)) + 1.5 * np.sin(2 * np.pi * (x + 0.3 * y) / n_px)
    pitch = 2.2 * diameter_px
    for cy in np.arange(pitch / 2, n_px - pitch / 3, pitch):
        for cx in np.arange(pitch / 2, n_px - pitch / 3, pitch):
            jitter = rng.uniform(-0.4, 0.4, 2) * diameter_px
            distance = np.hypot(y - cy - jitter[0], x - cx - jitter[1])
            image += sign * np.clip(diameter_px / 2 - distance + 0.5, 0, 1)
    return torch.from_numpy(image).float()


@pytest.mark.parametrize("diameter_px", [14, 24, 40])
def test_the_planted_diameter_stands_out(diameter_px: int) -> None:
    diameters = np.geomspace(20, 160, 14)
    scores = score_diameters(make_micrograph(diameter_px), 2.0, diameters.tolist())
    assert diameters[int(scores.argmax())] == pytest.approx(2.0 * diameter_px, rel=0.15)


def test_noise_and_bright_discs_do_not_stand_out() -> None:
    diameters = np.geomspace(25, 160, 7).tolist()
    dark = score_diameters(make_micrograph(24), 2.0, diameters)
    noise = score_diameters(torch.from_numpy(np.random.default_rng(1).normal(size=(360, 360))).float(), 2.0, diameters)
    assert noise.abs().max() < 0.2 * dark.max()
    bright = score_diameters(make_micrograph(24, sign=1.0), 2.0, diameters)
    assert bright.max() < 0.3 * dark.max()
    # The image turned to its negative only changes the sign.
    np.testing.assert_allclose(score_diameters(-make_micrograph(24), 2.0, diameters), -dark, atol=1e-4)


def test_flat_image_has_no_diameter() -> None:
    assert torch.isfinite(score_diameters(torch.full((128, 128), 3.0), 2.0, [40.0, 60.0])).all()


def test_radial_profile_is_the_mean_over_rings_and_places() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(60, 70))
    elements = np.array([[20, 30], [33, 41], [2, 30], [30, 68]])
    profile = measure_radial_profile(torch.from_numpy(image).float(), elements, 8)
    y, x = np.mgrid[-8:9, -8:9]
    ring = np.round(np.hypot(y, x))
    # The two nearer than the radius to an edge are left out.
    cut = np.stack([image[a - 8 : a + 9, b - 8 : b + 9] for a, b in elements[:2]]).mean(axis=0)
    np.testing.assert_allclose(profile, [cut[ring == r].mean() for r in range(9)], atol=1e-5)


def test_radial_profile_without_a_place_is_zero() -> None:
    assert measure_radial_profile(torch.ones(30, 30), np.array([[1, 1]]), 5).tolist() == [0.0] * 6


def test_outer_diameter_is_between_crossing_and_top_of_the_fringe() -> None:
    # Dark to radius 5, zero at 5.5, fringe highest at 7.
    profile = torch.tensor([-1.0, -1.2, -1.5, -1.4, -1.0, -0.5, 0.5, 0.9, 0.4, 0.1, 0.0])
    assert find_outer_diameter(profile, 10.0) == pytest.approx((5.5 + 7) * 10)
    # Hollow particles are bright in the middle.
    hollow = torch.tensor([0.3, 0.1, -0.5, -1.4, -1.0, -0.5, 0.5, 0.9, 0.4, 0.1, 0.0])
    assert find_outer_diameter(hollow, 10.0) == pytest.approx((5.5 + 7) * 10)


@pytest.mark.parametrize(
    "profile", [[1.0, 0.5, 0.2, 0.1], [-1.0, -0.5, -0.2, -0.1], [0.5, 0.2, -0.1, -0.6], [0.0, 0.0, 0.0, 0.0]]
)
def test_no_dark_particle_no_diameter(profile: list[float]) -> None:
    assert find_outer_diameter(torch.tensor(profile), 10.0) is None
