"""The expectation step against sums over all of Fourier space in float64, with analytic images."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitreous.ops.expectation2d import Expectation, Grid, Turner, accumulate_sums, select_coefficients

N, LAST = 24, 9
ANGLES = torch.arange(8) * 45.0 + 10
SHIFTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.5, 0.5]])
BLOBS = np.array([[[5.0, 1.0, 1.0], [-3.0, 3.0, 0.7]], [[2.0, -4.0, 0.9], [-5.0, -1.0, 0.6]]])


def draw(view: int, angle_deg: float, shift: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return the view turned from +x towards +y about N // 2, then shifted (y, x)."""
    y, x = np.mgrid[:N, :N] - N // 2
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    dy, dx = (0.0, 0.0) if shift is None else shift
    image = np.zeros((N, N))
    for bx, by, height in BLOBS[view]:
        image += height * np.exp(-((x - c * bx + s * by - dx) ** 2 + (y - s * bx - c * by - dy) ** 2) / (2 * 1.5**2))
    return image


def make_ring() -> NDArray[np.int64]:
    k = np.fft.fftfreq(N, 1 / N)
    return np.round(np.hypot(k[:, None], k[None, :])).astype(int)


class Case:
    """Five noisy images with a CTF, two classes that differ between the halves, coloured noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(4)
        self.half = np.array([0, 1, 0, 1, 1])
        radius = np.hypot(np.fft.fftfreq(N)[:, None], np.fft.rfftfreq(N)[None, :])
        self.ctf = np.sin(np.linspace(20, 50, 5)[:, None, None] * radius**2 + 0.2)
        self.noise = np.linspace(0.3, 0.1, LAST + 1) * N * N
        clean = np.array([draw(i % 2, 50.0 * i, np.array([1.0, -0.5]) * (i - 2)) for i in range(5)])
        spectra = np.fft.rfft2(clean + 0.3 * rng.normal(size=clean.shape)) * self.ctf
        self.images = np.fft.irfft2(spectra, s=(N, N))
        self.offset = rng.uniform(-0.5, 0.5, (5, 2))
        self.scale = np.array([1.0, 1.3])
        averages = np.array([[scale * draw(k, 0) for k in range(2)] for scale in self.scale])
        self.data = select_coefficients(
            torch.from_numpy(self.images).float(),
            torch.from_numpy(self.ctf).float(),
            torch.from_numpy(self.half),
            LAST,
        )
        self.step = Expectation(
            self.data,
            torch.from_numpy(averages).float(),
            Grid(ANGLES, SHIFTS, LAST),
            torch.from_numpy(self.noise).float(),
            torch.from_numpy(self.offset).float(),
            3.0,
        )

    def compute(self, i: int) -> NDArray[np.float64]:
        """Return the log likelihoods `(T, K, A)` of image i up to a constant, summed over the whole of Fourier space."""
        ring = make_ring()
        inside = (ring > 0) & (ring <= LAST)
        ctf = np.fft.fft2(np.fft.irfft2(self.ctf[i], s=(N, N))).real
        image = np.fft.fft2(self.images[i])
        score = np.empty((len(SHIFTS), 2, len(ANGLES)))
        for t, k, a in np.ndindex(score.shape):
            shift = self.offset[i] + SHIFTS[t].numpy()
            model = ctf * np.fft.fft2(self.scale[self.half[i]] * draw(k, float(ANGLES[a]), shift))
            noise = self.noise[np.minimum(ring, LAST)]
            # Each coefficient of a pair counts half; its noise power is that of real and imaginary part together.
            score[t, k, a] = -0.5 * (np.abs(image - model) ** 2 / noise)[inside].sum()
            score[t, k, a] -= 2 * (np.linalg.norm(shift) / 3.0) ** 2
        return score


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_log_likelihoods_are_those_of_the_whole_sum(case: Case) -> None:
    for half in range(2):
        for index in case.step.split(half):
            score, _ = case.step.compare(half, index)
            for i, found in zip(index.tolist(), score.double().numpy(), strict=True):
                expected = case.compute(i)
                assert np.ptp(expected) > 5
                difference = found.reshape(expected.shape) - expected
                assert np.ptp(difference) < 0.05


def test_sums_are_weighted_by_the_posterior(case: Case) -> None:
    sums, best = accumulate_sums(case.step)
    ring = make_ring()[:, : N // 2 + 1]
    images, power = np.zeros((2, 2, N, N)), np.zeros((2, 2, LAST + 1))
    for i in range(5):
        score = case.compute(i)
        weight = np.exp(score - score.max())
        weight /= weight.sum()
        assert int(best[i]) == np.unravel_index(score.argmax(), score.shape)[0]
        power[case.half[i]] += weight.sum(axis=(0, 2))[:, None] * case.data.ring_power[i].numpy()
        spectrum = np.fft.rfft2(case.images[i]) * case.ctf[i] * ((ring > 0) & (ring <= LAST))
        for t, k, a in np.argwhere(weight > 1e-3):
            dy, dx = case.offset[i] + SHIFTS[t].numpy()
            angle = np.deg2rad(float(ANGLES[a]))
            y, x = np.mgrid[:N, :N] - N // 2
            at_x = math.cos(angle) * x - math.sin(angle) * y + dx + N // 2
            at_y = math.sin(angle) * x + math.cos(angle) * y + dy + N // 2
            images[case.half[i], k] += weight[t, k, a] * sample(spectrum, at_y, at_x)
    np.testing.assert_allclose(sums.power, power, rtol=0.01, atol=1e-3)
    y, x = np.mgrid[:N, :N] - N // 2
    inside = np.hypot(x, y) < N // 2 - 3
    assert np.abs(sums.images.numpy() - images)[..., inside].max() < 0.01 * np.abs(images).max()


def sample(
    spectrum: NDArray[np.complex128], at_y: NDArray[np.float64], at_x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the image of a half spectrum at any places: the sum of its waves."""
    weight = np.full(N // 2 + 1, 2.0)
    weight[0] = weight[-1] = 1
    wave_y = np.exp(2j * np.pi * np.fft.fftfreq(N)[:, None] * at_y.reshape(1, -1))
    wave_x = np.exp(2j * np.pi * np.fft.rfftfreq(N)[:, None] * at_x.reshape(1, -1))
    values = np.einsum("yx,yp,xp->p", spectrum * weight, wave_y, wave_x, optimize=True)
    return values.real.reshape(at_y.shape) / N**2


def test_turned_coefficients_are_those_of_analytic_images(case: Case) -> None:
    data, angles = case.data, torch.tensor([0.0, 33.0, -100.0])
    turner = Turner(N, data.frequency, data.weight, angles)
    found = turner.turn(torch.from_numpy(np.array([draw(0, 0), draw(1, 0)])).float())
    for k in range(2):
        for a, angle in enumerate(angles.tolist()):
            spectrum = np.fft.rfft2(np.fft.ifftshift(draw(k, angle))).reshape(-1)[data.keep.numpy()]
            assert np.abs(found[k, a].numpy() - spectrum).max() < 2e-3 * np.abs(spectrum).max()


def test_turning_back_is_the_transpose_of_turning(case: Case) -> None:
    data, generator = case.data, torch.Generator().manual_seed(0)
    turner = Turner(N, data.frequency, data.weight, ANGLES)
    images = torch.randn(3, N, N, generator=generator)
    values = torch.randn(3, len(ANGLES), len(data.keep), 2, generator=generator)
    there = (torch.view_as_real(turner.turn(images)) * values).sum(dim=-1) * data.weight / N**2
    back = images * turner.turn_back(torch.view_as_complex(values))
    torch.testing.assert_close(there.sum(dim=(1, 2)), back.sum(dim=(1, 2)), rtol=1e-3, atol=0.1)


def test_batches_hold_every_image_once_and_bound_memory(case: Case) -> None:
    n = 4000
    data = select_coefficients(torch.zeros(n, N, N), None, torch.arange(n) % 2, LAST)
    shifts = torch.zeros(200, 2)
    step = Expectation(
        data,
        torch.zeros(2, 40, N, N),
        Grid(ANGLES, shifts, LAST),
        torch.ones(LAST + 1),
        data.frequency.new_zeros(n, 2),
        3,
    )
    batches = [index for half in range(2) for index in step.split(half)]
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert max(len(index) for index in batches) * 200 * 40 * len(ANGLES) <= 24_000_000
    assert all(len(set(data.half[index].tolist())) == 1 for index in batches)


def test_angles_must_come_in_opposite_pairs(case: Case) -> None:
    with pytest.raises(ValueError, match="180"):
        Expectation(
            case.data,
            torch.zeros(2, 1, N, N),
            Grid(ANGLES[:6], SHIFTS, LAST),
            torch.ones(LAST + 1),
            torch.zeros(5, 2),
            3,
        )
