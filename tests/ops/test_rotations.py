import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from vitreous.ops.rotations import (
    compute_axis_rotation,
    compute_direction_grid,
    compute_euler_angles,
    compute_euler_matrix,
    compute_quaternion_matrix,
    draw_rotations,
)
from vitreous.simulate.particles import compute_rotations


def _draw_angles(n):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(n, 3, generator=generator, dtype=torch.float64) - 0.5) * torch.tensor([360.0, 360.0, 360.0])


def test_euler_matrix_is_the_product_of_three_turns_of_the_axes():
    a, b, c = math.radians(25.0), math.radians(70.0), math.radians(-130.0)

    def about_z(angle):
        return torch.tensor(
            [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
        ).double()

    about_y = torch.tensor([[math.cos(b), 0, -math.sin(b)], [0, 1, 0], [math.sin(b), 0, math.cos(b)]]).double()
    expected = about_z(c) @ about_y @ about_z(a)
    angles = (torch.tensor(x, dtype=torch.float64) for x in (25.0, 70.0, -130.0))
    assert torch.allclose(compute_euler_matrix(*angles), expected, atol=1e-6)


def test_euler_matrix_is_scipys_intrinsic_zyz_inverted():
    angles = _draw_angles(50)
    expected = Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).inv().as_matrix()
    assert torch.allclose(compute_euler_matrix(*angles.T), torch.from_numpy(expected), atol=1e-12)


def test_euler_matrix_agrees_with_the_simulator():
    angles = _draw_angles(50)
    assert torch.allclose(compute_euler_matrix(*angles.T), torch.from_numpy(compute_rotations(angles.numpy())))


@pytest.mark.parametrize(
    ("angles", "matrix"),
    [
        # Operators and Euler angles as RELION 3.1.3 prints them.
        ((0.0, 90.0, 90.0), [[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
        ((90.0, 90.0, 180.0), [[0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        (
            (-58.2825, 36.0, 121.717),
            [[0.5, 0.80902, 0.30902], [-0.80902, 0.30902, 0.5], [0.30902, -0.5, 0.80902]],
        ),
        (
            (20.9052, 60.0, -159.095),
            [[-0.30902, -0.5, 0.80902], [0.5, -0.80902, -0.30902], [0.80902, 0.30902, 0.5]],
        ),
    ],
)
def test_euler_matrix_is_relions(angles, matrix):
    ours = compute_euler_matrix(*(torch.tensor(x, dtype=torch.float64) for x in angles))
    assert torch.allclose(ours, torch.tensor(matrix, dtype=torch.float64), atol=2e-5)


def test_euler_angles_are_the_inverse_also_at_the_poles():
    generator = torch.Generator().manual_seed(2)
    matrices = draw_rotations(100, generator)
    psi = torch.tensor([30.0, -170.0], dtype=torch.float64)
    poles = compute_euler_matrix(torch.tensor(0.0).double(), torch.tensor([0.0, 180.0]).double(), psi)
    matrices = torch.cat((matrices, poles))
    rot, tilt, psi = compute_euler_angles(matrices)
    assert torch.allclose(compute_euler_matrix(rot, tilt, psi), matrices, atol=1e-9)
    assert float(tilt.min()) >= 0
    assert float(tilt.max()) <= 180


def test_quaternions_and_axes_turn_by_the_right_hand_rule():
    generator = torch.Generator().manual_seed(3)
    quaternions = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    expected = Rotation.from_quat(quaternions.numpy()[:, [1, 2, 3, 0]]).as_matrix()
    assert torch.allclose(compute_quaternion_matrix(quaternions), torch.from_numpy(expected), atol=1e-12)
    turned = compute_axis_rotation(torch.tensor([0.0, 0.0, 2.0]), 90.0) @ torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(turned, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize("angle", [1e-4, 0.3, 90.0, 179.9])
def test_axis_rotations_turn_by_their_angle(angle, measure_angle_deg):
    first = draw_rotations(5, torch.Generator().manual_seed(4))
    turn = compute_axis_rotation(torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), angle)
    assert torch.allclose(
        measure_angle_deg(first, turn @ first), torch.full((5,), angle).double(), rtol=1e-6, atol=1e-9
    )


def test_drawn_rotations_are_uniform(measure_angle_deg):
    matrices = draw_rotations(20_000, torch.Generator().manual_seed(5))
    angle = torch.deg2rad(measure_angle_deg(matrices, torch.eye(3).double()))
    # The angle of a uniform rotation has the distribution function (a - sin a) / pi.
    uniform = ((angle - angle.sin()) / math.pi).sort().values
    steps = (torch.arange(20_000) + 0.5) / 20_000
    assert float((uniform - steps).abs().max()) < 1.63 / math.sqrt(20_000)  # Kolmogorov-Smirnov, 1 %


def test_direction_grid_is_even():
    rot, tilt = compute_direction_grid(5.0)
    directions = compute_euler_matrix(rot, tilt, torch.zeros_like(rot))[:, 2]
    assert float(directions.mean(0).norm()) < 1e-3
    cosine = directions @ directions.T
    cosine.fill_diagonal_(-1)
    nearest = torch.rad2deg(torch.acos(cosine.max(1).values))
    assert float(nearest.min()) > 3.5
    assert float(nearest.max()) < 6.5
    with pytest.raises(ValueError, match="spacing"):
        compute_direction_grid(0.0)
