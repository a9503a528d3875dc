"""Contrast, from images whose answer is known."""

import numpy as np
import pytest

from vitreous.ops.contrast import compare_rows, measure_darkness, stretch_contrast


def draw(xy: np.ndarray, shape: tuple[int, int], radius: float, seed: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.random.default_rng(seed).normal(0, 1, shape)
    for x, y in xy:
        image -= 2 * (np.hypot(rows - y, columns - x) < radius)
    return image


def test_percentiles_become_the_ends() -> None:
    image = np.random.default_rng(1).permutation(np.arange(10_000, dtype=np.float32)).reshape(100, 100)
    found = stretch_contrast(image)
    assert found.dtype == np.uint8
    # Half a percent and half a step.
    assert (found == 0).sum() == pytest.approx(0.005 * 10_000 + 0.5 * 9_900 / 255, abs=1)
    order = np.argsort(image.ravel())
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all()
    # In between it is a straight line.
    straight = (np.arange(100, 9900) - 0.005 * 9999) * 255 / (0.99 * 9999)
    np.testing.assert_allclose(found.ravel()[order][100:9900], straight, atol=0.51)


def test_an_image_without_contrast() -> None:
    assert not stretch_contrast(np.full((4, 5), 7.0, np.float16)).any()
    assert (measure_darkness(np.ones((8, 8)), np.array([[3.0, 3.0]]), 4) == 0).all()


def test_darkness_at_particles_and_beside_them() -> None:
    xy = np.array([[40.0, 30.0], [120.0, 90.0], [80.0, 60.0]])
    image = draw(xy, (120, 160), 8)
    assert (measure_darkness(image, xy, 16) > 2.5).all()
    assert (np.abs(measure_darkness(image, np.array([[20.0, 95.0], [140.0, 20.0]]), 16)) < 1.5).all()


def test_rows_from_the_other_side() -> None:
    xy = np.random.default_rng(2).uniform(15, [145, 55], (12, 2))
    image = draw(xy, (120, 160), 6)
    given, turned = compare_rows(image, xy, 12)
    assert given.mean() > 1.5
    assert abs(turned.mean()) < 0.7
    np.testing.assert_allclose(compare_rows(image[::-1], xy, 12)[1], given, atol=1e-4)
