"""Local correlation against sums in float64; discs, radial images and turned templates against their definitions."""

import numpy as np
import pytest
import torch

from vitreous.ops.templates import compute_local_correlation, make_disc, make_radial_window, rotate_and_resample


@pytest.mark.parametrize("shape", [(24, 24), (24, 31)])
def test_local_correlation_is_that_of_sums_in_float64(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(5, 3, shape) + 20 * np.linspace(0, 1, shape[1])
    template = rng.normal(2, 1, shape)
    mask = make_disc(shape, 5.2, 2.0)
    correlation, deviation = compute_local_correlation(
        torch.from_numpy(image).float(), torch.from_numpy(template).float()[None], mask
    )
    w = mask.double().numpy()
    t = template * w - (template * w).sum() / w.sum() * w
    t /= np.sqrt((t**2).sum())
    expected, spread = np.empty(shape), np.empty(shape)
    for y, x in np.ndindex(shape):
        here = np.roll(image, (-y, -x), (0, 1))
        spread[y, x] = np.sqrt((w * here**2).sum() / w.sum() - ((w * here).sum() / w.sum()) ** 2)
        expected[y, x] = (here * t).sum() / (np.sqrt(w.sum()) * spread[y, x])
    np.testing.assert_allclose(correlation[0], expected, atol=1e-4)
    np.testing.assert_allclose(deviation, spread, rtol=1e-4)


def test_a_template_finds_itself_with_correlation_one_at_any_contrast() -> None:
    shape = (40, 50)
    mask = make_disc(shape, 6.5, 1e-6)
    template = torch.from_numpy(np.random.default_rng(1).normal(size=shape)).float() * mask
    image = 7 + 0.3 * torch.roll(template, (21, 33), (0, 1)) - 2.5 * torch.roll(template, (10, 9), (0, 1))
    correlation = compute_local_correlation(image, template[None], mask)[0][0]
    assert correlation[21, 33].item() == pytest.approx(1, abs=1e-4)
    assert correlation[10, 9].item() == pytest.approx(-1, abs=1e-4)
    assert correlation.abs().max().item() < 1 + 1e-4


def test_nothing_correlates_with_a_flat_image() -> None:
    mask = make_disc((16, 16), 4)
    correlation, deviation = compute_local_correlation(torch.full((16, 16), 3.0), make_disc((16, 16), 2)[None], mask)
    assert torch.isfinite(correlation).all()
    assert deviation.max().item() < 1e-4


def test_disc_is_round_about_the_first_element_and_soft() -> None:
    disc = make_disc((20, 24), 5.0, 2.0)
    assert disc[0, 5].item() == pytest.approx(0.5)
    assert [disc[0, 3].item(), disc[0, 7].item()] == [1.0, 0.0]
    assert disc[0, 3] == disc[0, -3] == disc[3, 0] == disc[-3, 0]
    assert disc.sum().item() == pytest.approx(np.pi * 25, rel=0.02)


def test_radial_image_interpolates_a_profile() -> None:
    profile = torch.tensor([0.0, 1.0, 4.0, 2.0])
    image = make_radial_window(19, profile, 2.0)
    assert image[9, 9].item() == 0
    np.testing.assert_allclose(image[9, 10:14], [0.5, 1.0, 2.5, 4.0], atol=1e-5)
    assert image[12, 13].item() == pytest.approx(3.0, abs=1e-5)
    assert image[0, 18].item() == pytest.approx(2.0, abs=0.01)


def make_spot(n: int, x: float, y: float) -> torch.Tensor:
    step = torch.arange(n) - n // 2
    return torch.exp(-((step[None, :] - x).square() + (step[:, None] - y).square()) / (2 * 2.0**2))


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize(("scale", "size"), [(1.0, 32), (0.5, 60), (1.25, 26)])
def test_turning_goes_from_x_towards_y_and_keeps_the_centre(n: int, scale: float, size: int) -> None:
    images = torch.stack([make_spot(n, 6, 0), make_spot(n, 0, 0)])
    angles = torch.tensor([0.0, 90.0, 30.0])
    turned = rotate_and_resample(images, angles, scale, size)
    assert turned.shape == (2, 3, size, size)
    for angle, image, still in zip(angles.tolist(), turned[0], turned[1], strict=True):
        for one, radius in ((image, 6 / scale), (still, 0)):
            total = one.sum().item()
            offset = torch.arange(size) - size // 2
            x, y = (one.sum(0) * offset).sum().item() / total, (one.sum(1) * offset).sum().item() / total
            expected = radius * np.cos(np.deg2rad(angle)), radius * np.sin(np.deg2rad(angle))
            np.testing.assert_allclose((x, y), expected, atol=0.02)
