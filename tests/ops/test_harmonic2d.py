"""The expectation step against float64 sums over every hypothesis, and the promise of expectation-maximisation."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitreous.ops.harmonic2d import PolarImages, References, Search, Sums, compare_images, make_shifts
from vitreous.ops.polar2d import PolarGrid, PolarSampler, compute_harmonics, compute_ring_weights

N, LAST, K = 32, 10, 3
GRID = PolarGrid(N, LAST, 40, 12)
SHIFTS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.5, 0.5]])
MAX_SHIFT = 3.0


def draw(view: int, angle_deg: float = 0, shift: tuple[float, float] = (0, 0)) -> NDArray[np.float64]:
    blobs = [[(5, 1, 1.0), (-3, 3, 0.7)], [(2, -4, 0.9), (-5, -1, 0.6)], [(0, 5, 1.0), (1, -5, 1.0)]][view]
    y, x = np.mgrid[:N, :N] - N // 2
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    image = np.zeros((N, N))
    for bx, by, height in blobs:
        dx, dy = c * bx - s * by + shift[1], s * bx + c * by + shift[0]
        image += height * np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * 1.5**2))
    return image


class Case:
    """Noisy images with a CTF, three classes, coloured noise."""

    def __init__(self, n: int = 8) -> None:
        rng = np.random.default_rng(4)
        radius = np.hypot(np.fft.fftfreq(N)[:, None], np.fft.rfftfreq(N)[None, :])
        ctf = np.sin(np.linspace(20, 50, n)[:, None, None] * radius**2 + 0.3)
        self.view, self.angle = rng.integers(0, K, n), rng.uniform(-180, 180, n)
        self.offset = rng.uniform(-0.5, 0.5, (n, 2))
        clean = np.array([draw(v, a, tuple(o)) for v, a, o in zip(self.view, self.angle, self.offset, strict=True)])
        noisy = np.fft.irfft2(np.fft.rfft2(clean) * ctf, s=(N, N)) + 0.35 * rng.normal(size=clean.shape)
        self.images, self.ctf = torch.from_numpy(noisy).float(), torch.from_numpy(ctf).float()
        sampler = PolarSampler(GRID, 13.0)
        values = torch.view_as_real(sampler.sample(self.images, self.ctf) / N).half()
        ring = np.round(radius * N).astype(int)
        power = torch.tensor(
            np.array([[(c[ring == r] ** 2).mean() for r in range(1, LAST + 1)] for c in ctf]), dtype=torch.float32
        )
        self.data = PolarImages(values, power, torch.ones(n, LAST))
        views = torch.from_numpy(np.array([draw(k) for k in range(K)])).float()
        averages = compute_harmonics(PolarSampler(GRID, 13.0).sample(views, None) / N, GRID)
        prior = torch.tensor([0.5, 0.3, 0.2]).log()
        self.references = References(averages, prior, 1 / torch.linspace(0.3, 0.1, LAST))
        self.search = Search(GRID, SHIFTS, MAX_SHIFT)
        self.index = torch.arange(n)

    def compare(self, sums: Sums | None, search: Search | None = None) -> torch.Tensor:
        offset = torch.from_numpy(self.offset).float()
        return compare_images(self.data, self.index, offset, self.references, search or self.search, sums).log_evidence

    def compute(self, i: int) -> NDArray[np.float64]:
        """Return the log likelihoods `(K, T, 2 A)` of image i, summed over rings and directions one by one."""
        theta = GRID.theta.numpy()
        values = self.data.values[i].double().numpy()
        image = values[..., 0] + 1j * values[..., 1]
        ring = np.arange(1, LAST + 1)
        precision = self.references.precision.double().numpy()
        order, doubled = GRID.order.numpy(), compute_ring_weights(GRID).numpy()
        averages = self.references.values.numpy().astype(complex)
        n_angles = 2 * self.search.n_angles
        score = np.empty((K, len(SHIFTS), n_angles))
        area = np.pi * ring[:, None] / GRID.n_half
        for t in range(len(SHIFTS)):
            shift = self.offset[i] + SHIFTS[t].numpy()
            along = shift[1] * np.cos(theta) + shift[0] * np.sin(theta)
            moved = image * np.exp(2j * np.pi / N * ring[:, None] * along)
            for k, a in np.ndindex(K, n_angles):
                phase = np.exp(1j * order[..., None] * (theta - np.pi * a / self.search.n_angles))
                waves = np.einsum("pe,per,peh->prh", doubled, averages[:, :, k], phase).real
                turned = waves[0] + 1j * waves[1]
                # The half circle stands for the whole one.
                cross = 2 * area * precision[:, None] * moved.conj() * turned
                mean = (np.abs(turned) ** 2).mean(axis=1)
                power = 2 * np.pi * ring * precision * self.data.ctf_power[i].double().numpy() * mean
                score[k, t, a] = cross.real.sum() - 0.5 * power.sum()
                score[k, t, a] += float(self.references.log_prior[k]) - 2 * (np.linalg.norm(shift) / MAX_SHIFT) ** 2
        return score


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


def test_likelihoods_and_poses_are_those_of_the_whole_sum(case: Case) -> None:
    offset = torch.from_numpy(case.offset).float()
    poses = compare_images(case.data, case.index, offset, case.references, case.search, None)
    for i in range(len(case.view)):
        score = case.compute(i)
        most = score.max()
        expected = most + np.log(np.exp(score - most).sum())
        assert np.ptp(score) > 10
        assert float(poses.log_evidence[i]) == pytest.approx(expected, abs=0.05)
        shares = np.exp(score - expected).sum(axis=(1, 2))
        k = int(shares.argmax())
        assert int(poses.class_index[i]) == k
        assert float(poses.probability[i]) == pytest.approx(shares[k], abs=0.02)
        assert float(poses.n_effective[i]) == pytest.approx(1 / (shares**2).sum(), abs=0.05)
        t, a = np.unravel_index(score[k].argmax(), score[k].shape)
        assert int(poses.shift_index[i]) == t
        step = 180 / case.search.n_angles
        assert abs((float(poses.angle_deg[i]) - a * step + 180) % 360 - 180) <= 0.51 * step


def test_sums_are_weighted_by_the_posterior(case: Case) -> None:
    sums = Sums.make(GRID, K)
    case.compare(sums)
    signal = np.zeros((2, GRID.n_even, K, LAST), complex)
    power, weight = np.zeros((K, LAST)), np.zeros(K)
    loss, transfer = np.zeros(K), np.zeros((K, K))
    order, ring, theta = GRID.order.numpy(), np.arange(1, LAST + 1), GRID.theta.numpy()
    precision = case.references.precision.double().numpy()
    for i in range(len(case.view)):
        score = case.compute(i)
        posterior = np.exp(score - score.max())
        posterior /= posterior.sum()
        share = posterior.sum(axis=(1, 2))
        weight += share
        for k in range(K):
            without = share.sum() - share[k]
            loss[k] -= np.log(max(without, np.exp(-12)))
            transfer[k] += share * share[k] / max(without, np.exp(-12))
        power += posterior.sum(axis=(1, 2))[:, None] * case.data.ctf_power[i].numpy() * precision
        values = case.data.values[i].double().numpy()
        for t in range(len(SHIFTS)):
            shift = case.offset[i] + SHIFTS[t].numpy()
            along = shift[1] * np.cos(theta) + shift[0] * np.sin(theta)
            moved = (values[..., 0] + 1j * values[..., 1]) * np.exp(2j * np.pi / N * ring[:, None] * along)
            parts = np.stack([moved.real, moved.imag])
            harmonics = np.einsum("prh,peh->per", parts, np.exp(-1j * order[..., None] * theta)) / GRID.n_half
            angle = np.pi * np.arange(2 * case.search.n_angles) / case.search.n_angles
            turned_back = np.einsum("ka,pea->pek", posterior[:, t], np.exp(1j * order[..., None] * angle))
            signal += turned_back[..., None] * (harmonics * precision)[:, :, None]
    found = sums.signal.numpy()
    assert np.abs(found[..., 0, :] + 1j * found[..., 1, :] - signal).max() < 0.005 * np.abs(signal).max()
    np.testing.assert_allclose(sums.power, power, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(sums.weight, weight, atol=0.02)
    np.testing.assert_allclose(sums.loss, loss, rtol=0.02)
    away = ~np.eye(K, dtype=bool)
    np.testing.assert_allclose(sums.transfer.numpy()[away], transfer[away], rtol=0.05, atol=0.02)


def test_likelihood_never_falls_under_a_fixed_prior() -> None:
    """Full iterations with a Gaussian prior of fixed power on the averages and uniform classes: EM's promise."""
    case = Case(120)
    generator = torch.Generator().manual_seed(0)
    prior_power = 0.02
    weight = (2 * torch.pi * torch.arange(1, LAST + 1))[:, None, None, None] * compute_ring_weights(GRID)[..., None]
    start = torch.randn(2, GRID.n_even, K, LAST, 2, generator=generator) * 0.05
    case.references = References(torch.view_as_complex(start), torch.zeros(K), case.references.precision)
    search = Search(GRID, make_shifts(2.0, 1.0), MAX_SHIFT)
    history = []
    for _ in range(8):
        sums = Sums.make(GRID, K)
        evidence = float(case.compare(sums, search).sum())
        size = case.references.values.abs().square().permute(3, 0, 1, 2)
        history.append(evidence - 0.5 * float((weight * size).sum()) / prior_power)
        values = sums.signal / (sums.power + 1 / prior_power)[:, None]
        average = torch.complex(values[..., 0, :].contiguous(), values[..., 1, :].contiguous())
        case.references = References(average, torch.zeros(K), case.references.precision)
    steps = np.diff(history)
    assert (steps > -1e-3 * abs(history[-1] - history[0])).all()
    assert history[-1] > history[0] + 50


def test_uncertainty_flattens_classes_only(case: Case) -> None:
    offset = torch.from_numpy(case.offset).float()
    sure = compare_images(case.data, case.index, offset, case.references, case.search, None)
    unsure = Search(GRID, SHIFTS, MAX_SHIFT, uncertainty=4.0)
    flat = compare_images(case.data, case.index, offset, case.references, unsure, None)
    assert torch.equal(sure.class_index, flat.class_index)
    assert torch.equal(sure.shift_index, flat.shift_index)
    assert (flat.n_effective >= sure.n_effective - 1e-4).all()
    assert flat.n_effective.mean() > sure.n_effective.mean() + 0.05


def test_shifts_fill_a_disc() -> None:
    shifts = make_shifts(2.0, 1.0)
    assert len(shifts) == 13
    assert shifts.norm(dim=1).max() == 2
