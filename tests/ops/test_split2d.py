"""Classes of one kind and of two, made from harmonics with known noise."""

import math

import pytest
import torch

from vitreous.ops.harmonic2d import PolarImages, Sums
from vitreous.ops.polar2d import PolarGrid, PolarSampler, compute_harmonics
from vitreous.ops.split2d import Split, align_members, choose_splits, compute_losses, find_split, split_classes

GRID = PolarGrid(32, 8, 40, 10)
N = 200


def draw(angle_deg: float, shift: tuple[float, float]) -> torch.Tensor:
    """Return three blobs turned from +x towards +y, then shifted (y, x)."""
    y, x = torch.meshgrid(torch.arange(32) - 16.0, torch.arange(32) - 16.0, indexing="ij")
    c, s = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    blobs = ((5.0, 1.0, 1.0), (-3.0, 3.0, 0.7), (0.0, -5.0, 0.9))
    parts = [
        height * torch.exp(-((x - c * bx + s * by - shift[1]) ** 2 + (y - s * bx - c * by - shift[0]) ** 2) / 5)
        for bx, by, height in blobs
    ]
    return torch.stack(parts).sum(dim=0)


def test_aligned_images_are_alike() -> None:
    angle, offset = torch.tensor([0.0, 40.0, -130.0]), torch.tensor([[0.0, 0.0], [1.0, -0.5], [-1.5, 1.0]])
    images = torch.stack([draw(float(a), (float(o[0]), float(o[1]))) for a, o in zip(angle, offset, strict=True)])
    values = torch.view_as_real(PolarSampler(GRID, 14.0).sample(images, None) / 32).half()
    data = PolarImages(values, torch.ones(3, 8), torch.ones(3, 8))
    aligned = align_members(data, torch.arange(3), angle, offset, GRID)
    expected = compute_harmonics(torch.view_as_complex(values[:1].float()), GRID)
    assert (aligned - expected).abs().max() < 0.01 * expected.abs().max()


def make_class(apart: float) -> tuple[PolarImages, torch.Tensor, torch.Tensor]:
    """Return images whose averages lie `apart` noise deviations (of a whole image) from each other, a third of one kind."""
    generator = torch.Generator().manual_seed(3)
    average, difference = torch.view_as_complex(torch.randn(2, 2, 10, 8, 2, generator=generator))
    ctf_power = 0.3 + torch.rand(N, 8, generator=generator)
    # White noise of unit power on every ring, in the full sum over Fourier space.
    noise = torch.view_as_complex(torch.randn(2, 10, N, 8, 2, generator=generator)) / GRID.weight.sqrt()[:, :, None]
    average *= 0.7 / GRID.weight.sqrt()
    difference *= apart / (GRID.weight.sqrt() * difference).abs().square().sum().sqrt()
    kind = torch.arange(N) % 3 == 0
    clean = average[:, :, None] + difference[:, :, None] * kind[:, None]
    return (
        PolarImages(torch.empty(0), ctf_power, torch.ones(N, 8)),
        clean * ctf_power + noise * ctf_power.sqrt(),
        kind,
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_two_kinds_are_parted_and_one_is_not(seed: int) -> None:
    gains = []
    for apart in (10.0, 0.0):
        data, aligned, kind = make_class(apart)
        half = torch.arange(N) // 2 % 2
        average = aligned.sum(dim=2) / data.ctf_power.sum(dim=0)
        generator = torch.Generator().manual_seed(seed)
        split = find_split(data, torch.arange(N), half, aligned, average, torch.ones(8), GRID, generator)
        gains.append(split.gain)
        if apart:
            truth = aligned[:, :, kind].sum(dim=2) / data.ctf_power[kind].sum(dim=0) - average
            size = (GRID.weight.sqrt() * truth).abs().square().sum().sqrt()
            small = int(split.share.argmin())
            left = (GRID.weight.sqrt() * (split.change[small] - truth)).abs().square().sum().sqrt()
            assert left < 0.4 * size
            assert float(split.share[small]) == pytest.approx(1 / 3, abs=0.05)
    assert gains[0] > 100
    assert gains[1] < 5


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
