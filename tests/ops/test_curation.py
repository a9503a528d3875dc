"""Appearance of micrographs: noise has none, blobs have the one of their size."""

import pytest
import torch
from torch.nn import functional

from vitreous.ops.curation import measure_appearance


def draw(period_angstrom: float | None, pixel: float, side: int = 512) -> torch.Tensor:
    """Return white noise, with a random pattern around one period on it."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(side, side, generator=generator)
    if period_angstrom is None:
        return image
    k = torch.hypot(torch.fft.fftfreq(side, pixel)[:, None], torch.fft.rfftfreq(side, pixel)[None])
    ring = torch.exp(-((k * period_angstrom - 1) ** 2) / 0.02)
    pattern = torch.fft.irfft2(torch.fft.rfft2(torch.randn(side, side, generator=generator)) * ring, s=(side, side))
    return image + 3 * pattern / pattern.std()


@pytest.mark.parametrize(("pixel", "side"), [(8.0, 512), (2.0, 2048)])
def test_patterns_are_told_by_their_size(pixel: float, side: int) -> None:
    nothing, particles, coarse = (measure_appearance(draw(p, pixel, side), pixel) for p in (None, 70.0, 220.0))
    assert nothing is not None
    assert particles is not None
    assert coarse is not None
    assert abs(nothing.coarseness) < 0.3
    assert particles.structure > nothing.structure + 1.5
    assert particles.coarseness < -1
    assert coarse.coarseness > 1.5


def test_brightness_and_contrast_do_not_matter() -> None:
    image = draw(70.0, 8.0)
    first, second = measure_appearance(image, 8.0), measure_appearance(1000 - 30 * image, 8.0)
    assert first == pytest.approx(second, abs=1e-3)


def test_small_and_constant_images_have_none() -> None:
    assert measure_appearance(torch.randn(100, 100), 8.0) is None
    assert measure_appearance(torch.ones(512, 512), 8.0) is None
    assert measure_appearance(functional.pad(torch.ones(1, 512), (0, 511)), 8.0) is None
