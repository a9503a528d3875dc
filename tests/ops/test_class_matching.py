import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from vitreous.ops.class_matching import assign_averages, compare_averages, compute_divergence, lay_over

N = 48


@pytest.fixture(scope="module")
def averages() -> Tensor:
    """Five pictures without any symmetry: Gaussians at random places within the circle."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:N, :N] - N // 2
    pictures = []
    for _ in range(5):
        picture = np.zeros((N, N))
        for _ in range(7):
            cx, cy = rng.uniform(-11, 11, 2)
            picture += rng.uniform(0.5, 1.5) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.0**2))
        pictures.append(picture)
    return torch.from_numpy(np.array(pictures)).float()


def turn(image: Tensor, angle_deg: float) -> np.ndarray:
    """Turn from +x towards +y about N // 2 with splines, by a program of others."""
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    matrix = np.array([[c, -s], [s, c]])
    centre = np.full(2, N // 2)
    return scipy.ndimage.affine_transform(image.numpy(), matrix, centre - matrix @ centre, order=3)


@pytest.mark.parametrize(
    ("angle", "mirrored", "shift"), [(37.0, False, (0, 0)), (-120.0, True, (1, -2)), (200.0, False, (2, 1))]
)
def test_turn_mirror_and_shift_are_found(
    averages: Tensor, angle: float, mirrored: bool, shift: tuple[int, int]
) -> None:
    changed = averages.roll((-shift[0], -shift[1]), (1, 2))
    changed = changed.flip(2).roll(1, 2) if mirrored else changed
    second = changed[[3, 0, 4, 1, 2]]
    # first = turned(shifted(mirrored(second))); with the mirror undone first, the shift above is undone by its opposite.
    first = torch.from_numpy(np.array([turn(image, angle) for image in averages])).float()
    found = compare_averages(first, second, 3.0)
    pairs = dict(assign_averages(found.correlation.numpy(), 0.5))
    assert pairs == {3: 0, 0: 1, 4: 2, 1: 3, 2: 4}
    for i, j in pairs.items():
        assert found.correlation[i, j] > 0.95
        assert abs((float(found.angle_deg[i, j]) - angle + 180) % 360 - 180) < 5
        assert bool(found.is_mirrored[i, j]) == mirrored
        assert torch.allclose(found.shift_px[i, j], torch.tensor(shift).float(), atol=1.6)
    rows = torch.tensor(list(pairs))
    columns = torch.tensor(list(pairs.values()))
    laid = lay_over(
        second[columns],
        found.angle_deg[rows, columns],
        found.is_mirrored[rows, columns],
        found.shift_px[rows, columns],
    )
    for one, other in zip(first[rows], laid, strict=True):
        assert np.corrcoef(one.numpy().ravel(), other.numpy().ravel())[0, 1] > 0.93


def test_what_differs_correlates_less_than_what_is_the_same(averages: Tensor) -> None:
    found = compare_averages(averages, averages, 0.0).correlation
    assert torch.allclose(found.diagonal(), torch.ones(5), atol=1e-4)
    assert float((found - 2 * torch.eye(5)).max()) < 0.85
    # An average lies over another as that over it, up to the grid of angles.
    assert torch.allclose(found, found.T, atol=0.05)


def test_assignment_is_the_best_in_total_and_leaves_out_what_is_too_unlike() -> None:
    correlation = np.array([[0.9, 0.8, 0.1], [0.85, 0.2, 0.1]])
    # Each taking its best in turn would give 0.9 + 0.2.
    assert assign_averages(correlation, 0.3) == [(0, 1), (1, 0)]
    assert assign_averages(correlation, 0.86) == [(0, 0)]
    assert assign_averages(correlation, 0.95) == []


def test_divergence() -> None:
    one, other = np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 5.0])
    assert compute_divergence(one, one * 7) == pytest.approx(0)
    assert compute_divergence(one, other) == pytest.approx(1)
    half = np.array([0.5, 0.5])
    # By hand: H(3/4, 1/4) - 1/2.
    assert compute_divergence(half, np.array([1.0, 0.0])) == pytest.approx(0.8112781 - 0.5)
    with pytest.raises(ValueError, match="two distributions"):
        compute_divergence(one, np.zeros(3))


def test_sizes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="squares of one even size"):
        compare_averages(torch.zeros(1, 32, 32), torch.zeros(1, 34, 34), 1.0)
