"""Classes of one kind and of two, drawn in space with noise of known power."""

import math

import pytest
import torch

from vitreous.ops.harmonic2d import PolarImages, Search, Sums
from vitreous.ops.polar2d import PolarGrid, PolarSampler, compute_harmonics
from vitreous.ops.split2d import Split, choose_splits, compute_losses, find_split, split_classes

N_PX, N = 32, 240
GRID = PolarGrid(N_PX, 8, 40, 16)
KINDS = (
    ((5.0, 1.0, 1.0), (-3.0, 3.0, 0.7), (0.0, -5.0, 0.9)),
    ((6.0, 0.0, 0.8), (-6.0, 1.0, 0.8), (0.0, 0.0, 0.9)),
)


def draw(kind: int, angle_deg: float, shift: tuple[float, float]) -> torch.Tensor:
    """Return three blobs turned from +x towards +y, then shifted (y, x)."""
    y, x = torch.meshgrid(torch.arange(N_PX) - 16.0, torch.arange(N_PX) - 16.0, indexing="ij")
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    parts = [
        height * torch.exp(-((x - c * bx + s * by - shift[1]) ** 2 + (y - s * bx - c * by - shift[0]) ** 2) / 5)
        for bx, by, height in KINDS[kind]
    ]
    return torch.stack(parts).sum(dim=0)


def make_class(n_second: int, generator: torch.Generator) -> tuple[PolarImages, torch.Tensor, torch.Tensor]:
    """Return images at any angle in white noise, where they lie, and the spectra of both kinds, unturned, on the grid."""
    angle = (360 * torch.rand(N, generator=generator)).tolist()
    offset = 2 * torch.rand(N, 2, generator=generator) - 1
    clean = [draw(int(i < n_second), angle[i], (float(offset[i, 0]), float(offset[i, 1]))) for i in range(N)]
    images = torch.stack(clean) + torch.randn(N, N_PX, N_PX, generator=generator)
    sampler = PolarSampler(GRID, 14.0)
    values = torch.view_as_real(sampler.sample(images, None) / N_PX).half()
    truth = sampler.sample(torch.stack([draw(kind, 0.0, (0.0, 0.0)) for kind in range(2)]), None) / N_PX
    return PolarImages(values, torch.ones(N, 8), torch.ones(N, 8)), offset, truth


def correlate(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the greatest correlation of harmonics `(2, E, R)` over angles."""
    angle = torch.deg2rad(torch.arange(0, 360, 3.0))
    phase = GRID.order[..., None, None] * angle
    turned = second[..., None] * torch.complex(phase.cos(), phase.sin())
    weight = GRID.weight[..., None]
    match = (weight * first[..., None].conj() * turned).real.sum(dim=(0, 1, 2)).max()
    norms = [(GRID.weight * one.abs().square()).sum().sqrt() for one in (first, second)]
    return float(match / norms[0] / norms[1])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("n_second", [80, 0])
def test_two_kinds_at_unknown_angles_are_parted_and_one_is_not(seed: int, n_second: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    data, offset, truth = make_class(n_second, generator)
    kinds = compute_harmonics(truth, GRID)
    # What a class holds that took both kinds for one, the second at an angle of no meaning.
    share = n_second / N
    average = (1 - share) * kinds[:, :, 0] + share * kinds[:, :, 1]
    search = Search(GRID, torch.zeros(1, 2), 3.0)
    half = torch.arange(N) // 2 % 2
    split = find_split(data, torch.arange(N), half, offset, average, torch.ones(8), search, 11.0, generator)
    if n_second:
        small = int(split.share.argmin())
        assert split.gain > 100
        assert float(split.share[small]) == pytest.approx(share, abs=0.08)
        assert correlate(average + split.change[small], kinds[:, :, 1]) > 0.9
        assert correlate(average + split.change[1 - small], kinds[:, :, 0]) > 0.9
    else:
        # Two averages of one kind, half a step of the angles tried apart, match a little better than one.
        assert split.gain < 30


def test_a_duplicate_is_no_loss_and_an_only_class_is() -> None:
    # 10 images that classes 0 and 1 explain alike, and 5 that are sure of class 2.
    shares = torch.zeros(15, 3, dtype=torch.float64)
    shares[:10, :2] = 0.5
    shares[10:, 2] = 1
    others = (1 - shares).clamp_min(math.exp(-12))
    sums = Sums.make(GRID, 3)
    sums.weight += shares.sum(dim=0).float()
    sums.loss -= others.log().sum(dim=0).float()
    sums.transfer += ((shares / others).T @ shares).float()
    torch.testing.assert_close(compute_losses(sums), torch.tensor([0.0, 0.0, 60.0]), atol=1e-3, rtol=0)


def test_what_gains_most_takes_the_place_of_what_is_needed_least() -> None:
    sums = Sums.make(GRID, 5)
    sums.weight += 10
    sums.loss += torch.tensor([50.0, 0.0, 1000.0, 10.0, 30.0])
    assert choose_splits({2: 200.0, 0: 100.0, 4: 2.0}, sums, 2) == [(2, 1), (0, 3)]
    assert choose_splits({2: 200.0, 0: 100.0}, sums, 1) == [(2, 1)]
    assert choose_splits({2: 4.0, 0: -3.0}, sums, 2) == [(2, 1)]
    assert choose_splits({1: 20.0}, sums, 2) == [(1, 3)]
    sums.loss += 2
    assert choose_splits({2: 4.0, 0: -3.0}, sums, 2) == []


def test_of_two_classes_alike_one_stays() -> None:
    sums = Sums.make(GRID, 4)
    sums.weight += 10
    sums.loss += torch.tensor([10 * math.log(2), 10 * math.log(2), 500, 500])
    assert choose_splits({2: 200.0, 3: 100.0}, sums, 2) == [(2, 0), (3, 1)]
    sums.transfer[0, 1] = sums.transfer[1, 0] = 10
    assert choose_splits({2: 200.0, 3: 100.0}, sums, 2) == [(2, 0)]


def test_parted_sums_make_both_averages() -> None:
    generator = torch.Generator().manual_seed(0)
    fold = Sums.make(GRID, 3)
    fold.signal += torch.randn(fold.signal.shape, generator=generator)
    fold.power += 2 + torch.rand(fold.power.shape, generator=generator)
    fold.weight += 10
    change = torch.view_as_complex(torch.randn(2, 2, 6, 5, 2, generator=generator))
    (found,) = split_classes([fold], [(2, 0)], {2: Split(1.0, torch.tensor([0.75, 0.25]), change)})
    assert found.weight.tolist() == [2.5, 10, 7.5]
    torch.testing.assert_close(found.power[2] + found.power[0], fold.power[2])
    assert torch.equal(found.signal[:, :, 1], fold.signal[:, :, 1])
    before = fold.signal[:, :, 2] / fold.power[2]
    for j, k in enumerate((2, 0)):
        moved = torch.view_as_complex((found.signal[:, :, k] / found.power[k] - before).movedim(-2, -1).contiguous())
        torch.testing.assert_close(moved[:, :6, :5], change[j], atol=1e-5, rtol=1e-5)
        assert moved[:, 6:].abs().max() < 1e-5
