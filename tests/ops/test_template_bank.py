"""The best of many templates, against every template at every pixel in float64."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

from vitreous.ops.peaks import find_peaks
from vitreous.ops.template_bank import correlate_bank, correlate_seen, fill_hidden, make_bank
from vitreous.ops.templates import rotate_and_resample

SHAPE, SIZE = (84, 98), 15


def make_case(n_images: int, n_angles: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an image with turned templates in it, the templates and their mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:31, :31] - 15
    images = []
    for _ in range(n_images):
        dots = rng.uniform(-5, 5, (6, 2))
        images.append(sum(np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * 1.8**2)) for dx, dy in dots))
    windows = rotate_and_resample(
        torch.from_numpy(np.stack(images)).float(), torch.arange(n_angles) * 360.0 / n_angles, 1.0, SIZE
    ).reshape(-1, SIZE, SIZE)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    mask = torch.from_numpy(np.clip(7.2 - np.hypot(y, x), 0, 1)).float()
    image = torch.from_numpy(rng.normal(0, 0.7, SHAPE)).float() + 3
    for number, (row, column) in enumerate([(10, 10), (37, 22), (60, 71), (15, 64), (70, 20)]):
        window = windows[number * 7 % len(windows)]
        image[row - 7 : row + 8, column - 7 : column + 8] += 2 * window * mask
    return image, windows, mask


def correlate_directly(image: torch.Tensor, windows: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Return all correlations `(n, ny, nx)`, one place at a time."""
    weight = mask.double().numpy()
    half = SIZE // 2
    places = sliding_window_view(np.pad(image.double().numpy(), half, mode="wrap"), (SIZE, SIZE))
    mean = (places * weight).sum((-2, -1)) / weight.sum()
    variance = (places**2 * weight).sum((-2, -1)) / weight.sum() - mean**2
    templates = windows.double().numpy() * weight
    templates -= templates.sum((-2, -1), keepdims=True) / weight.sum() * weight
    templates /= np.sqrt((templates**2).sum((-2, -1), keepdims=True))
    return np.einsum("yxab,nab->nyx", places, templates) / np.sqrt(weight.sum() * variance)


@pytest.mark.parametrize(("n_images", "n_angles"), [(1, 1), (3, 8)])
def test_few_templates_are_exact_everywhere(n_images: int, n_angles: int) -> None:
    image, windows, mask = make_case(n_images, n_angles)
    expected = correlate_directly(image, windows, mask)
    found = correlate_bank(image, make_bank(windows, mask), 0.0)
    np.testing.assert_allclose(found.score, expected.max(axis=0), atol=1e-4)
    assert (found.which.numpy() == expected.argmax(axis=0)).mean() > 0.999


@pytest.mark.parametrize("shape", [(84, 98), (80, 96), (82, 100)])
def test_many_templates_keep_their_peaks(shape: tuple[int, int]) -> None:
    image, windows, mask = make_case(5, 36)
    image = image[: shape[0], : min(shape[1], SHAPE[1])]
    if shape[1] > image.shape[1]:
        image = torch.cat([image, image[:, : shape[1] - image.shape[1]]], dim=1)
    bank = make_bank(windows, mask)
    assert len(bank.basis) < len(windows) / 2
    expected = correlate_directly(image, windows, mask)
    found = correlate_bank(image, bank, 0.3)
    known = found.score.numpy() > -1
    np.testing.assert_allclose(found.score.numpy()[known], expected.max(axis=0)[known], atol=0.01)
    _, peaks = find_peaks(torch.from_numpy(expected.max(axis=0)), 8.0, 0.6)
    assert len(peaks) >= 5
    for row, column in peaks:
        assert known[row, column]
        assert found.score[row, column] > expected[:, row, column].max() - 0.01
        assert expected[int(found.which[row, column]), row, column] > expected[:, row, column].max() - 0.02


def test_peaks_that_are_kept_apart_are_the_same_with_less_work() -> None:
    n_known = [0, 0]
    for seed in range(4):
        image, windows, mask = make_case(5, 36, seed)
        bank = make_bank(windows, mask)
        maps = [correlate_bank(image, bank, 0.0, apart_px=apart).score for apart in (0.0, 12.0)]
        (xy, every), (xy_apart, apart) = (find_peaks(score, 12.0, 0.5) for score in maps)
        assert len(every) >= 4
        np.testing.assert_array_equal(every, apart)
        np.testing.assert_allclose(xy, xy_apart, atol=1e-6)
        n_known = [n + int((score > -1).sum()) for n, score in zip(n_known, maps, strict=True)]
    assert n_known[1] < 0.95 * n_known[0]


def test_what_cannot_be_done_is_refused() -> None:
    image, windows, mask = make_case(1, 2)
    with pytest.raises(ValueError, match="odd size"):
        make_bank(windows[:, :14, :14], mask[:14, :14])
    with pytest.raises(ValueError, match="even sides"):
        correlate_bank(image[:83], make_bank(windows, mask), 0.0)


def test_with_nothing_hidden_places_correlate_as_in_the_whole_image() -> None:
    image, windows, mask = make_case(5, 36)
    bank = make_bank(windows, mask)
    places = torch.tensor([[10, 10], [37, 22], [0, 0], [83, 97], [50, 50]])
    expected = correlate_directly(image, windows, mask)[:, places[:, 0], places[:, 1]]
    found = correlate_seen(image, torch.zeros(SHAPE, dtype=torch.bool), bank, places)
    np.testing.assert_allclose(found.score, expected.max(axis=0), atol=0.02)


def test_what_is_hidden_does_not_matter_and_what_is_seen_does() -> None:
    image, windows, mask = make_case(1, 1)
    # The first template's place, half of it beside something much stronger.
    hidden = torch.zeros(SHAPE, dtype=torch.bool)
    hidden[:, 13:17] = True
    places = torch.tensor([[10, 10], [40, 12]])
    bank = make_bank(windows, mask)
    spoilt = [torch.where(hidden, level, image) for level in (-50.0, 80.0)]
    one, other = (correlate_seen(each, hidden, bank, places) for each in spoilt)
    for field in range(3):
        torch.testing.assert_close(one[field], other[field])
    weight = (mask.double() * ~hidden[3:18, 3:18]).numpy()
    window, template = image[3:18, 3:18].double().numpy(), bank.basis[0].double().numpy()
    centred = window - (window * weight).sum() / weight.sum()
    deviation = np.sqrt((centred**2 * weight).sum() / weight.sum())
    expected = (centred * template * (weight > 0)).sum() / np.sqrt(float(mask.sum())) / deviation
    assert float(one.score[0]) == pytest.approx(expected, abs=1e-4)
    assert float(one.score[0]) > 0.5 > correlate_bank(spoilt[0], bank, 0.0).score[10, 10]
    filled, seen_deviation = fill_hidden(spoilt[0], hidden, mask, places)
    assert float(filled[0][:, 10:14].abs().max()) == 0
    assert float(seen_deviation[0]) == pytest.approx(deviation, rel=1e-4)
    everything = fill_hidden(image, torch.ones(SHAPE, dtype=torch.bool), mask, places)
    assert not everything[0].any()
    assert not everything[1].any()
