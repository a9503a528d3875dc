import math
import re
import subprocess

import pytest
import torch

from vitreous.ops.rotations import compute_axis_rotation, draw_rotations
from vitreous.ops.symmetry import compute_orientation_grid, compute_symmetry_operators

GROUPS = {"C1": 1, "C5": 5, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60}


@pytest.mark.parametrize(("group", "order"), GROUPS.items())
def test_operators_form_a_group_of_the_right_order(group, order):
    operators = compute_symmetry_operators(group)
    assert operators.shape == (order, 3, 3)
    assert torch.equal(operators[0], torch.eye(3).double())
    assert torch.allclose(torch.linalg.det(operators), torch.ones(order).double())
    products = (operators[:, None] @ operators[None]).reshape(-1, 1, 3, 3)
    distance = (products - operators).abs().amax((-2, -1))
    assert float(distance.min(1).values.max()) < 1e-9
    assert int((distance < 1e-6).sum(1).max()) == 1


@pytest.mark.parametrize(
    ("group", "axis", "fold"),
    [
        ("C5", (0, 0, 1), 5),
        ("D3", (0, 0, 1), 3),
        ("D3", (1, 0, 0), 2),
        ("T", (0, 0, 1), 3),
        ("O", (0, 0, 1), 4),
        ("O", (1, 0, 0), 4),
        ("O", (1, 1, 1), 3),
        ("O", (1, 1, 0), 2),
        ("I", (0, 0, 1), 2),
        ("I", (1, 0, 0), 2),
        ("I", (1, 0, (1 + math.sqrt(5)) / 2), 5),
        ("I", (1, 1, 1), 3),
    ],
)
def test_axes_are_where_they_are_said_to_be(group, axis, fold):
    turn = compute_axis_rotation(torch.tensor(axis, dtype=torch.float64), 360 / fold)
    assert float((compute_symmetry_operators(group) - turn).abs().amax((-2, -1)).min()) < 1e-9


@pytest.mark.relion
@pytest.mark.parametrize("group", ["C3", "D2", "T", "O", "I"])
def test_operators_are_relions(group):
    printed = subprocess.run(
        ["relion_refine", "--sym", group, "--print_symmetry_ops", "--o", "x"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    theirs = torch.tensor(
        [[float(word) for word in part.split()[:9]] for part in re.split(r"R\(\d+\)=", printed)[1:]]
    ).reshape(-1, 3, 3)
    ours = compute_symmetry_operators(group).float()
    assert len(theirs) == len(ours)
    assert float((theirs[:, None] - ours).abs().amax((-2, -1)).min(1).values.max()) < 1e-4


@pytest.mark.parametrize("group", ["", "C0", "X", "C100", "I1"])
def test_unknown_groups_are_refused(group):
    with pytest.raises(ValueError, match="point group"):
        compute_symmetry_operators(group)


@pytest.mark.parametrize("group", ["C1", "D2", "O"])
def test_orientation_grid_covers_everything_once(group, measure_angle_deg):
    operators = compute_symmetry_operators(group)
    grid = compute_orientation_grid(10.0, operators)
    targets = draw_rotations(100, torch.Generator().manual_seed(0))
    distances = measure_angle_deg(targets[:, None], grid[None], operators)
    assert float(distances.min(1).values.max()) < 10.0
    everything = len(compute_orientation_grid(10.0, compute_symmetry_operators("C1")))
    assert len(grid) == pytest.approx(everything / len(operators), rel=0.4)
