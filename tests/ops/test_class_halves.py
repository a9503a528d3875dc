"""Half averages against numpy and scipy, and resolution against what was planted."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from vitreous.ops.average2d import compute_ring_index, make_soft_circle
from vitreous.ops.class_halves import (
    HalfSums,
    add_images,
    average_halves,
    make_class_mask,
    make_empty_sums,
    measure_resolution,
    split_power,
)
from vitreous.ops.fourier import compute_radial_mean, irfft2, rfft2

N = 64
MASK = make_soft_circle(N, 22.0, 4.0)


def draw_smooth(rng: np.random.Generator, n: int) -> Tensor:
    """Return pictures of which nothing is beyond ring 12 or beyond 20 px."""
    y, x = np.mgrid[:N, :N] - N // 2
    pictures = []
    for _ in range(n):
        picture = np.zeros((N, N))
        for _ in range(8):
            cx, cy = rng.uniform(-9, 9, 2)
            picture += rng.uniform(0.5, 1) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 3.0**2))
        pictures.append(picture)
    return torch.from_numpy(np.array(pictures)).float()


def test_images_laid_back_give_the_average_whatever_their_batches() -> None:
    rng = np.random.default_rng(2)
    pictures = draw_smooth(rng, 2)
    n = 40
    index, half = torch.arange(n) % 2, torch.arange(n) // 2 % 2
    angle = torch.from_numpy(rng.uniform(-180, 180, n)).float()
    shift = torch.from_numpy(rng.integers(-3, 4, (n, 2))).float()
    images = []
    for k, turn, move in zip(index.tolist(), angle.tolist(), shift.tolist(), strict=True):
        c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        matrix = np.array([[c, -s], [s, c]])
        turned = scipy.ndimage.affine_transform(
            pictures[k].numpy(), matrix, np.full(2, N // 2) - matrix @ np.full(2, N // 2), order=3
        )
        images.append(np.roll(turned, [int(part) for part in move], (0, 1)))
    stack = torch.from_numpy(np.array(images)).float()
    ctf = torch.from_numpy(rng.uniform(0.5, 1.0, (n, 1, 1))).float() * torch.ones(n, N, N // 2 + 1)
    seen = irfft2(rfft2(stack) * ctf, (N, N))
    whole = add_images(make_empty_sums(2, N), seen, ctf, half, index, angle, shift)
    parts = make_empty_sums(2, N)
    for rows in torch.split(torch.arange(n), 13):
        parts = add_images(parts, seen[rows], ctf[rows], half[rows], index[rows], angle[rows], shift[rows])
    assert whole.n_images.tolist() == [[10, 10], [10, 10]]
    for name in ("spectra", "ctf_power", "image_power", "n_images"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), rtol=1e-4, atol=1e-2)
    halves, total = average_halves(whole)
    for average in (*halves, total):
        for found, truth in zip(average, pictures, strict=True):
            assert float((found - truth).abs().max()) < 0.03 * float(truth.max())
    # Of uniform CTF the sums are known: c² for every image.
    expected = torch.stack([ctf[(index == 0) & (half == h), 0, 0].square().sum() for h in (0, 1)])
    assert torch.allclose(whole.ctf_power[:, 0, 5], expected, rtol=1e-5)


def plant(ssnr: Tensor, n_images: int, seed: int, n_classes: int = 1) -> HalfSums:
    """Return sums of `n_images` whose average has a signal-to-noise ratio of `ssnr` in each ring, noise of power 1."""
    rng = np.random.default_rng(seed)
    ring = compute_ring_index(N).clamp_max(N // 2)
    parts = (n_images - n_images // 2, n_images // 2)

    def draw(*shape: int) -> Tensor:
        return rfft2(torch.from_numpy(rng.normal(size=(*shape, N, N))).float())

    signal = draw(n_classes) * (ssnr / n_images).sqrt()[ring]
    spectra = torch.stack([signal * m + draw(n_classes) * m**0.5 for m in parts])
    power = torch.tensor(parts)[:, None, None] * torch.ones(2, n_classes, N // 2 + 1)
    return HalfSums(
        spectra=spectra,
        ctf_power=power,
        image_power=power * N * N * (1 + ssnr / n_images),
        n_images=power[:, :, 0],
    )


@pytest.mark.parametrize("n_images", [1000, 60])
def test_resolution_is_where_the_signal_was_planted_to_end(n_images: int) -> None:
    rings = torch.arange(N // 2 + 1).float()
    # FRC of halves S / (S + 2) is 0.143 where S, signal over noise of the average of all, is 1/3: ring 14.
    ssnr = torch.exp(-(rings - 14.0) / 2) / 3
    sums = plant(ssnr, n_images, 5, n_classes=24)
    halves, _ = average_halves(sums)
    found = measure_resolution(sums, halves, MASK)
    assert float(found.ring.median()) == pytest.approx(14, abs=1.0)
    assert float((found.ring - 14).abs().quantile(0.9)) < 3.0
    middle = slice(6, 13)
    assert torch.allclose(found.ssnr[:, middle].mean(dim=0), ssnr[middle], rtol=0.35)


def test_what_the_mask_correlates_is_no_detail() -> None:
    n_classes = 30
    rings = torch.arange(N // 2 + 1).float()
    # Strong to ring 6, nothing beyond; a narrow mask spreads it over the next rings.
    narrow = make_soft_circle(N, 9.0, 2.0)
    sums = plant(torch.where(rings <= 6, 2000.0, 0.0), 1000, 8, n_classes)
    halves, _ = average_halves(sums)
    found = measure_resolution(sums, halves, narrow)
    assert 6 < float(found.ring.median()) < 9.5
    # Masked alone, the halves seem to agree further.
    first, second = (rfft2(half * narrow) for half in halves)
    shared = ((first * second.conj()).real * (compute_ring_index(N) == 10)).sum(dim=(1, 2))
    norm = [((one.abs() ** 2) * (compute_ring_index(N) == 10)).sum(dim=(1, 2)) for one in (first, second)]
    masked = (shared / (norm[0] * norm[1]).sqrt()).mean()
    assert float(masked) > 0.3
    assert float(found.correlation[:, 10].mean()) < 0.3 * float(masked)


@pytest.mark.parametrize("n_images", [1000, 40])
def test_noise_has_no_resolution(n_images: int) -> None:
    sums = plant(torch.zeros(N // 2 + 1), n_images, 3, n_classes=40)
    halves, _ = average_halves(sums)
    ring = measure_resolution(sums, halves, MASK).ring
    # The search begins at ring 3, of some ten coefficients under this mask: chance takes one in ten classes a ring further.
    assert float(ring.median()) < 3
    assert float(ring.quantile(0.9)) < 5


def test_power_is_split_between_the_average_and_the_rest() -> None:
    rng = np.random.default_rng(9)
    picture, other = draw_smooth(rng, 2)
    n, sigma, gain = 400, 0.2, 0.7
    # Half of the images show one picture more, the others as much less: that is left.
    sign = torch.tensor([1.0, -1.0]).repeat(n // 2)
    noise = torch.from_numpy(rng.normal(0, sigma, (n, N, N))).float()
    images = gain * (picture + sign[:, None, None] * other) + noise
    ctf = torch.full((n, N, N // 2 + 1), gain)
    zero, half = torch.zeros(n, dtype=torch.long), torch.arange(n) // 2 % 2
    sums = add_images(make_empty_sums(1, N), images, ctf, half, zero, torch.zeros(n), torch.zeros(n, 2))
    explained, left = split_power(sums)

    def measure(image: Tensor) -> Tensor:
        return compute_radial_mean(rfft2(image).abs().square(), (N, N))[1:12]

    assert torch.allclose(explained[0, 1:12], gain**2 * measure(picture), rtol=0.05, atol=0.01 * sigma**2 * N * N)
    expected = gain**2 * measure(other) + sigma**2 * N * N
    assert torch.allclose(left[0, 1:12], expected, rtol=0.05)
    assert torch.allclose(left[0, 20:30], torch.full((10,), sigma**2 * N * N), rtol=0.03)


def test_the_class_mask_holds_the_particle_and_falls_slowly() -> None:
    mask = make_class_mask(N, 15.0)
    line = mask[N // 2, N // 2 :]
    assert line[:16].tolist() == [1.0] * 16
    assert float(line[18]) == pytest.approx(0.5, abs=1e-6)
    assert float(line[21]) == 0
    assert torch.allclose(mask, mask.T)


def test_an_empty_half_shows_nothing() -> None:
    images = draw_smooth(np.random.default_rng(1), 3)
    zero = torch.zeros(3, dtype=torch.long)
    sums = add_images(make_empty_sums(1, N), images, None, zero, zero, torch.zeros(3), torch.zeros(3, 2))
    halves, total = average_halves(sums)
    assert measure_resolution(sums, halves, MASK).ring.tolist() == [1.0]
    assert torch.isfinite(total).all()
