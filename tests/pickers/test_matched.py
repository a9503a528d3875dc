"""From score maps to candidates."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vitreous.pickers.matched import FindHidden, MatchSettings, compute_window_size, match_templates


def make_template(shape: tuple[int, int], angle_deg: float) -> torch.Tensor:
    """Return a dark bar of 16 x 5 pixels around element (0, 0)."""
    y = torch.fft.fftfreq(shape[0], 1 / shape[0])[:, None]
    x = torch.fft.fftfreq(shape[1], 1 / shape[1])[None, :]
    angle = np.deg2rad(angle_deg)
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    return -torch.exp(-((along / 8) ** 4) - (across / 2.5) ** 4)


SHAPE, PIXELS, ANGLES = (120, 160), torch.tensor([6.0, 5.0]), torch.tensor([0.0, 45.0, 90.0, 135.0])
SETTINGS = MatchSettings(100.0, 0.75, 0.2)


def match(image: torch.Tensor, settings: MatchSettings = SETTINGS, find_hidden: FindHidden | None = None) -> Any:
    bars = torch.stack([make_template(SHAPE, float(angle)) for angle in ANGLES])
    half = compute_window_size(settings, PIXELS) // 2
    bars = torch.roll(bars, (half, half), (1, 2))[:, : 2 * half + 1, : 2 * half + 1]
    spot = bars.amin(0, keepdim=True).square().neg()
    return match_templates(image, PIXELS, 2.0, [(spot, torch.zeros(1)), (bars, ANGLES)], settings, None, find_hidden)


def plant(strength: Callable[[int], float] = lambda i: 1.0, noise: float = 0.05) -> torch.Tensor:
    image = noise * torch.from_numpy(np.random.default_rng(0).normal(size=SHAPE)).float()
    for i, angle in enumerate(ANGLES.tolist()):
        image += strength(i) * torch.roll(make_template(SHAPE, angle), (30 + 20 * i, 25 + 35 * i), (0, 1))
    return image


def test_places_templates_and_angles_are_those_planted() -> None:
    found = match(plant())
    order = np.argsort(found.xy_px[:4, 0])
    # Pixels of 5 and 6 Å here, of 2 Å in the full micrograph.
    expected = np.array([[(25 + 35 * i) * 5 / 2, (30 + 20 * i) * 6 / 2] for i in range(4)])
    np.testing.assert_allclose(found.xy_px[:4][order], expected, atol=0.5)
    assert found.template[:4].tolist() == [1] * 4
    assert found.psi_deg[:4][order].tolist() == ANGLES.tolist()
    assert (found.ncc[:4] > 0.9).all()
    assert (np.abs(found.ncc) <= 1.001).all()
    # The score is the correlation and what contrast adds or takes.
    assert ((found.score >= SETTINGS.min_score) & (found.score <= 1.15)).all()


def test_contrast_counts_up_to_little_above_the_usual() -> None:
    found = match(plant(lambda i: (0.5, 0.25, 0.1, 5.0)[i], noise=0.2))
    places = np.array([[(25 + 35 * i) * 5 / 2, (30 + 20 * i) * 6 / 2] for i in range(4)])
    assert np.ptp(found.score / found.ncc) > 0.1
    score = [found.score[np.linalg.norm(found.xy_px - place, axis=1) < 10].max() for place in places]
    assert score[3] > score[0] > score[1] > score[2]
    # The strongest has no more than its shape and the limit say.
    assert 1 < score[3] <= 1.15


def test_power_tells_strong_ones() -> None:
    found = match(plant(lambda i: 10.0 if i == 2 else 1.0))
    strong = int(np.argmax(found.power))
    np.testing.assert_allclose(found.xy_px[strong], [(25 + 70) * 2.5, 70 * 3], atol=0.5)
    others = found.power[np.argsort(found.score)[::-1][:4]]
    # Ten times the contrast is a hundred times the power.
    assert found.power[strong] - np.median(np.delete(others, others.argmax())) == pytest.approx(2, abs=0.15)


def test_faint_fluctuations_score_less_whatever_their_shape() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=SHAPE)).float()
    # Noise of the templates' own spectrum looks like them everywhere; the quarter on the right is ten times fainter.
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) * torch.fft.rfft2(make_template(SHAPE, 0.0)), s=SHAPE)
    smooth[:, 120:] *= 0.1
    found = match(smooth, MatchSettings(100.0, 0.75, -1.0))
    column = found.xy_px[:, 0] * 2 / 5
    # Farther than the mask reaches from where the faint part begins and ends.
    faint, other = found.score[(column > 134) & (column < 146)], found.score[column < 106]
    assert len(faint) >= 2
    assert faint.max() < 0.15
    assert other.max() > 0.5


def test_beside_junk_only_what_is_none_counts() -> None:
    film = np.zeros((60, 80), bool)
    film[:, 70:] = True
    image = plant(noise=0.3)
    # A bar beside it; the rest along the edge is noise.
    image += torch.roll(make_template(SHAPE, 90.0), (70, 134), (0, 1))
    image[:, 140:] += 6
    asked = []

    def find_hidden(likeliest_px: np.ndarray, ncc: np.ndarray) -> np.ndarray:
        asked.append((likeliest_px, ncc))
        return film

    settings = MatchSettings(100.0, 0.75, -1.0)
    plain, found = match(image, settings), match(image, settings, find_hidden)
    order = np.argsort(-plain.ncc, kind="stable")
    np.testing.assert_allclose(asked[0][0], plain.xy_px[order])
    np.testing.assert_allclose(asked[0][1], plain.ncc[order])
    # In the full micrograph, columns are 5 / 2 as far.
    beside = [(one.xy_px[:, 0] > 130 * 2.5) & (one.xy_px[:, 0] < 139 * 2.5) for one in (plain, found)]
    bar = [np.linalg.norm(one.xy_px - [135.8 * 2.5, 70 * 3], axis=1) < 2 for one in (plain, found)]
    assert found.score[bar[1]] > 0.4
    assert found.score[beside[1] & ~bar[1]].max() < 0.1 < 0.35 < plain.score[beside[0] & ~bar[0]].min()
    assert found.power[beside[1]].max() < 0.5 < 1.5 < plain.power[beside[0]].min()
    assert (np.diff(found.score) <= 0).all()
    # What is far from it is as it was.
    far = [one.xy_px[:, 0] < 110 * 2.5 for one in (plain, found)]
    np.testing.assert_array_equal(found.score[far[1]], plain.score[far[0]])


def test_nothing_to_find() -> None:
    found = match(plant(), MatchSettings(100.0, 0.75, 2.1), lambda xy_px, ncc: np.ones((6, 8), bool))
    assert found.xy_px.shape == (0, 2)
    assert len(found.ncc) == len(found.score) == len(found.power) == len(found.template) == len(found.psi_deg) == 0
