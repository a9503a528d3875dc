"""Images of strongly coloured noise, as of low-passed micrographs, are compared by what they hold and by nothing else."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray

from vitreous.ops.align2d import ClassificationSettings, classify_images
from vitreous.ops.prepare2d import measure_colour

N, WIDE = 56, 112
BAND = 6.0
SETTINGS = ClassificationSettings(4, 20, 19.0, 3.6, 6, 26, 0)


@dataclass(frozen=True)
class Truth:
    images: torch.Tensor
    number: NDArray[np.int64]
    angle_deg: NDArray[np.float64]


def filter_wide(images: NDArray[np.float64], amplitude: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply the transforms of wide images by an amplitude given at 0, 1, ... cycles per `N` px."""
    k = np.hypot(np.fft.fftfreq(WIDE)[:, None], np.fft.rfftfreq(WIDE)[None]) * N
    factor = np.interp(k, np.arange(len(amplitude)), amplitude)
    return np.fft.irfft2(np.fft.rfft2(images) * factor, s=images.shape[-2:])


def cut(wide: NDArray[np.float64]) -> NDArray[np.float64]:
    first = (WIDE - N) // 2
    return wide[:, first : first + N, first : first + N]


def make_amplitude(band: float) -> NDArray[np.float64]:
    k = np.arange(WIDE)
    return np.asarray((0.3 + 1 / np.sqrt(1 + (k / 2) ** 2)) * np.exp(-((k / band) ** 8)))


def simulate(n: int, n_views: int, seed: int) -> Truth:
    """Return turned clusters of discs in noise that is strong where it is slow, cut out of low-passed images of eight bits."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:WIDE, :WIDE] - WIDE // 2
    views = np.zeros((n_views, WIDE, WIDE))
    for view in views:
        for _ in range(5):
            r, t = 11 * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            view += np.hypot(x - r * np.cos(t), y - r * np.sin(t)) < rng.uniform(3, 5)
        centre = scipy.ndimage.center_of_mass(view)
        view[:] = scipy.ndimage.shift(view, np.array([WIDE // 2, WIDE // 2]) - centre, order=1)
    number, angle = rng.integers(0, n_views, n), rng.uniform(-180, 180, n)
    turned = np.zeros((n, WIDE, WIDE))
    for i in range(n):
        # With rows downward scipy's angle turns from +y towards +x.
        turned[i, 1:, 1:] = scipy.ndimage.rotate(views[number[i], 1:, 1:], -angle[i], reshape=False, order=1)
    passed = np.exp(-((np.arange(WIDE) / BAND) ** 8))
    signal = filter_wide(turned, passed)
    noise = filter_wide(rng.normal(size=turned.shape), make_amplitude(BAND))
    signal *= np.sqrt(2 * noise.var() / signal[:, np.hypot(x, y) < 16].var(axis=1).mean())
    images = cut(np.round((signal + noise) / noise.std() * 25))
    outside = cut((np.hypot(x, y) > 20)[None])[0]
    images -= images[:, outside].mean(axis=1)[:, None, None]
    images /= images[:, outside].std(axis=1)[:, None, None]
    return Truth(torch.from_numpy(images).float(), number, angle)


@pytest.mark.parametrize("seed", [1, 2])
def test_views_are_told_apart_where_images_were_low_passed(seed: int) -> None:
    truth = simulate(400, 3, seed)
    result = classify_images(truth.images, None, torch.arange(400) % 2, SETTINGS)
    found, right, errors = result.class_index.numpy(), 0, []
    for k in np.unique(found):
        view = np.bincount(truth.number[found == k]).argmax()
        members = (found == k) & (truth.number == view)
        right += members.sum()
        turn = np.exp(1j * np.deg2rad(result.angle_deg.numpy()[members] - truth.angle_deg[members]))
        errors.append(np.abs(np.angle(turn / turn.mean())))
    assert right > 0.9 * len(found)
    assert np.rad2deg(np.median(np.concatenate(errors))) < 8


@pytest.mark.parametrize("band", [4.5, 6.0, 9.0, 13.0])
def test_rings_end_where_images_were_low_passed(band: float) -> None:
    rng = np.random.default_rng(0)
    images = cut(np.round(60 * filter_wide(rng.normal(size=(100, WIDE, WIDE)), make_amplitude(band))))
    last = measure_colour(torch.from_numpy(images), SETTINGS).last_ring
    # The low-pass falls to 1/e at the band, and to a ten-thousandth a third beyond it; the window blurs that over a ring.
    assert band <= last < 1.33 * band + 1


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_all_rings_count_of_images_that_were_not(slope: float) -> None:
    rng = np.random.default_rng(0)
    amplitude = np.asarray((1.0 + np.arange(WIDE)) ** -slope + 0.1, np.float64)
    images = cut(filter_wide(rng.normal(size=(400, WIDE, WIDE)), amplitude))
    colour = measure_colour(torch.from_numpy(images), SETTINGS)
    assert colour.last_ring == N // 2
    ring = slice(3, 26)
    np.testing.assert_allclose(colour.amplitude[ring].numpy(), amplitude[ring], rtol=0.06)
