"""Planted classes are found again: which, turned how, shifted where; and noise makes no detail."""

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.ndimage
import torch
from numpy.typing import NDArray

from vitreous.ops.align2d import Alignment, ClassificationSettings, classify_images
from vitreous.ops.average2d import compute_mass_centre, make_soft_circle
from vitreous.ops.ctf import compute_ctf_2d

N, PIXEL, RADIUS = 40, 4.0, 11.0


@dataclass(frozen=True)
class Truth:
    images: torch.Tensor
    ctf: torch.Tensor
    half: torch.Tensor
    views: NDArray[np.float64]
    number: NDArray[np.int64]
    angle_deg: NDArray[np.float64]
    shift_px: NDArray[np.float64]


def draw(blobs: NDArray[np.float64], angle_deg: float = 0, shift: tuple[float, float] = (0, 0)) -> NDArray[np.float64]:
    """Return blobs (x, y, width, height) about N // 2, turned from +x towards +y, then shifted (y, x)."""
    y, x = np.mgrid[:N, :N] - N // 2
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    image = np.zeros((N, N))
    for bx, by, width, height in blobs:
        cx, cy = c * bx - s * by + shift[1], s * bx + c * by + shift[0]
        image += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
    return image


def simulate(n: int, n_views: int, seed: int, snr: float = 0.1, n_junk: int = 0) -> Truth:
    """Return images of `n_views` sets of blobs with CTF and white noise; the last `n_junk` show half-empty rings instead."""
    rng = np.random.default_rng(seed)
    views = []
    for _ in range(n_views):
        r, t = RADIUS * np.sqrt(rng.uniform(0, 1, 9)), rng.uniform(0, 2 * np.pi, 9)
        width, height = rng.uniform(1.2, 2.2, 9), rng.uniform(0.5, 1.2, 9)
        x, y = r * np.cos(t), r * np.sin(t)
        mass = height * width**2 / (height * width**2).sum()
        views.append(np.stack([x - mass @ x, y - mass @ y, width, height], axis=1))
    number, angle = rng.integers(0, n_views, n), rng.uniform(-180, 180, n)
    number[n - n_junk :] = n_views
    arc = np.deg2rad(np.linspace(0, 150, 12))
    views.append(np.stack([17 * np.cos(arc), 17 * np.sin(arc), np.full(12, 1.5), np.full(12, 1.5)], axis=1))
    shift = rng.normal(0, 1, (n, 2)).clip(-2.5, 2.5)
    clean = np.array([draw(views[k], a, (s[0], s[1])) for k, a, s in zip(number, angle, shift, strict=True)])
    defocus = torch.from_numpy(rng.uniform(8000, 20000, n)).float()
    ctf = -compute_ctf_2d(
        (N, N), PIXEL, defocus, defocus - 200, torch.zeros(n), voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.1
    )
    signal = np.fft.irfft2(np.fft.rfft2(clean) * ctf.numpy(), s=(N, N))
    y, x = np.mgrid[:N, :N] - N // 2
    scale = np.sqrt(signal[number < n_views][:, np.hypot(x, y) < RADIUS + 3].var(axis=1).mean())
    images = signal / scale * np.sqrt(snr) + rng.normal(size=signal.shape)
    half = torch.from_numpy(rng.permutation(np.arange(n) % 2))
    return Truth(torch.from_numpy(images).float(), ctf, half, np.array(views[:-1]), number, angle, shift)


def classify(
    truth: Truth, n_classes: int, seed: int = 0, n_iterations: int = 20, images: torch.Tensor | None = None
) -> Alignment:
    settings = ClassificationSettings(n_classes, n_iterations, 14.0, 3.0, 6, 17, seed)
    return classify_images(truth.images if images is None else images, truth.ctf.__getitem__, truth.half, settings)


def measure_errors(result: Alignment, truth: Truth) -> tuple[float, float, float]:
    """Return purity, and the median errors of angle (degrees) and shift (px) in the frame of each class's own average."""
    found, right = result.class_index.numpy(), np.zeros(len(truth.number), bool)
    angles, shifts = [], []
    for k in np.unique(found):
        view = np.bincount(truth.number[found == k]).argmax()
        members = (found == k) & (truth.number == view)
        right |= members
        angle = np.deg2rad(result.angle_deg.numpy()[members])
        turn = np.exp(1j * (angle - np.deg2rad(truth.angle_deg[members])))
        frame = turn.mean() / abs(turn.mean())
        angles.append(np.abs(np.angle(turn / frame)))
        # The centre of the average may lie anywhere in the view, but at one place.
        error = result.shift_px.numpy()[members] - truth.shift_px[members]
        there = (error[:, 1] + 1j * error[:, 0]) * np.exp(-1j * angle)
        shifts.append(np.abs(there - np.median(there.real) - 1j * np.median(there.imag)))
    return (
        float(right.mean()),
        float(np.rad2deg(np.median(np.concatenate(angles)))),
        float(np.median(np.concatenate(shifts))),
    )


@pytest.fixture(scope="module")
def truth() -> Truth:
    return simulate(251, 3, seed=1)


@pytest.fixture(scope="module")
def result(truth: Truth) -> Alignment:
    return classify(truth, 4)


def test_planted_classes_angles_and_shifts_are_found(truth: Truth, result: Alignment) -> None:
    # Single data sets of this size scatter: true averages part 0.99 of the images, ours 0.94 to 1.
    errors = [measure_errors(result, truth)]
    for seed in (2, 3):
        other = simulate(251, 3, seed)
        errors.append(measure_errors(classify(other, 4), other))
    purity, angle, shift = np.transpose(errors)
    assert purity.mean() > 0.95
    assert purity.min() > 0.92
    assert angle.max() < 5
    assert shift.max() < 1
    assert result.probability.min() > 0
    assert result.probability.max() <= 1 + 1e-5
    assert result.n_effective.min() >= 1 - 1e-4


def test_averages_show_the_views_bright_and_centred(truth: Truth, result: Alignment) -> None:
    mask = make_soft_circle(N, 14.0, 3.0).numpy()
    for k, average in enumerate(result.averages.double().numpy()):
        members = result.class_index.numpy() == k
        if members.sum() < 30:
            continue
        view = truth.views[np.bincount(truth.number[members]).argmax()]
        best = 0.0
        for angle in np.arange(0, 360, 6):
            # Rotation by scipy, shift by hand: neither is the operator under test.
            turned = scipy.ndimage.rotate(average[1:, 1:], angle, reshape=False, order=3)
            for offset in np.ndindex(5, 5):
                moved = np.roll(turned, np.array(offset) - 2, axis=(0, 1))
                reference = (draw(view) * mask)[1:, 1:]
                best = max(best, float(np.corrcoef(moved.ravel(), reference.ravel())[0, 1]))
        assert best > 0.8
    assert result.averages.sum() > 0
    # What a few misfits show may lie anywhere.
    large = torch.bincount(result.class_index) >= 30
    assert (compute_mass_centre(result.averages[large]).norm(dim=1) < 2).all()


def test_turning_images_back_with_scipy_gives_the_average(truth: Truth, result: Alignment) -> None:
    largest = int(torch.bincount(result.class_index).argmax())
    total, weight = np.zeros((N, N // 2 + 1), complex), np.zeros((N, N // 2 + 1))
    for i in np.nonzero(result.class_index.numpy() == largest)[0]:
        corrected = np.fft.irfft2(np.fft.rfft2(truth.images[i].numpy()) * truth.ctf[i].numpy(), s=(N, N))
        centred = scipy.ndimage.shift(corrected, -result.shift_px[i].numpy(), order=3, mode="grid-wrap")
        # With rows downward scipy's positive angle turns from +y towards +x, which undoes ours.
        turned = np.zeros((N, N))
        turned[1:, 1:] = scipy.ndimage.rotate(centred[1:, 1:], float(result.angle_deg[i]), reshape=False, order=3)
        total += np.fft.rfft2(turned)
        weight += truth.ctf[i].numpy() ** 2
    average = np.fft.irfft2(total / (weight + 0.05 * weight.max()), s=(N, N))
    mask = make_soft_circle(N, 14.0, 3.0).numpy()
    low = scipy.ndimage.gaussian_filter(average, 1.0) * mask
    found = scipy.ndimage.gaussian_filter(result.averages[largest].numpy(), 1.0) * mask
    assert np.corrcoef(low.ravel(), found.ravel())[0, 1] > 0.9


def test_results_depend_on_the_seed_alone(truth: Truth) -> None:
    first = classify(truth, 3, n_iterations=5)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2 if n_threads == 1 else 1)
    try:
        second = classify(truth, 3, n_iterations=5)
    finally:
        torch.set_num_threads(n_threads)
    torch.testing.assert_close(first.averages, second.averages, rtol=0, atol=0)
    assert torch.equal(first.class_index, second.class_index)
    assert torch.equal(first.angle_deg, second.angle_deg)
    assert torch.equal(first.shift_px, second.shift_px)
    other = classify(truth, 3, n_iterations=5, seed=1)
    assert not torch.equal(first.class_index, other.class_index)


@pytest.mark.parametrize("n", [150, 400])
def test_noise_makes_no_detail(n: int) -> None:
    truth = simulate(n, 1, seed=2)
    reached = []
    for seed in range(n, n + 3):
        images = torch.randn(truth.images.shape, generator=torch.Generator().manual_seed(seed))
        reached.append(float(classify(truth, 3, images=images).resolution_ring.max()))
    # Up to ring 6 the halves share their averages, and the mask carries that a few rings further; images are compared up to 17.
    # Single sets of images scatter by a ring or two.
    assert np.median(reached) < 10.5


def test_junk_goes_to_classes_of_its_own() -> None:
    truth = simulate(300, 2, seed=3, n_junk=60)
    result = classify(truth, 4)
    junk = truth.number == 2
    share = [junk[result.class_index.numpy() == k].mean() for k in range(len(result.averages))]
    assert all(value < 0.05 or value > 0.9 for value in share)
    assert max(share) > 0.9


def test_no_view_is_left_without_a_class() -> None:
    truth = simulate(320, 5, seed=5)
    result = classify(truth, 7)
    found = [np.bincount(truth.number[result.class_index.numpy() == k]).argmax() for k in range(len(result.averages))]
    assert set(found) == set(range(5))
    assert measure_errors(result, truth)[0] > 0.93


def test_empty_classes_are_left_out() -> None:
    truth = simulate(40, 1, seed=4, snr=2.0)
    result = classify(truth, 12, n_iterations=5)
    counts = torch.bincount(result.class_index)
    assert len(result.averages) == len(result.resolution_ring) == len(counts) <= 12
    assert (counts > 0).all()
    assert torch.isfinite(result.averages).all()


def test_turning_all_images_turns_the_classes_only(truth: Truth) -> None:
    # Without its first row and column an image has an odd side, its centre at the same pixel, and can be turned exactly; with
    # rows downward, k = -1 takes +x (right) to +y (down).
    images = truth.images[:, 1:, 1:]
    settings = ClassificationSettings(4, 12, 14.0, 3.0, 6, 17, 0)
    first = classify_images(images, None, truth.half, settings)
    second = classify_images(torch.rot90(images, -1, dims=(1, 2)), None, truth.half, settings)
    assert first.averages.shape[1:] == (N - 1, N - 1)
    purity, angle, shift = measure_errors(first, truth)
    assert purity > 0.8
    assert angle < 6
    assert shift < 1.2
    pairs = np.zeros((len(first.averages), len(second.averages)))
    np.add.at(pairs, (first.class_index.numpy(), second.class_index.numpy()), 1)
    assert pairs.max(axis=1).sum() / len(images) > 0.9
    turned_purity = measure_errors(second, truth)[0]
    assert turned_purity == pytest.approx(purity, abs=0.05)


def test_likelihood_rises_over_the_full_iterations(result: Alignment) -> None:
    assert len(result.log_likelihood) == 4
    steps = np.diff(result.log_likelihood.numpy())
    assert (steps > -0.005 * abs(float(result.log_likelihood[-1]))).all()


def test_more_classes_than_images_are_refused(truth: Truth) -> None:
    with pytest.raises(ValueError, match="251 images cannot make 301 classes"):
        classify(truth, 301)
