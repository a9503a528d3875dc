import pytest
import torch

from vitreous.ops.pose_search import FourierImages, compute_shift_phases, make_shift_grid, search_poses
from vitreous.ops.project import compute_reference, compute_slice_samples, extract_slices
from vitreous.ops.rotations import draw_rotations
from vitreous.ops.symmetry import compute_orientation_grid, compute_symmetry_operators

N, R = 32, 10


def _draw_ctf(n, generator):
    """Factors of both signs, another for every image and frequency."""
    return 2 * torch.rand(n, N, N // 2 + 1, generator=generator) - 1


def test_shift_grid_is_every_point_of_the_disc_from_the_middle_out():
    grid = make_shift_grid(2.0, 1.0)
    assert grid[0].tolist() == [0, 0]
    assert len(grid) == 13
    assert len(torch.unique(grid, dim=0)) == 13
    distance = grid.norm(dim=1)
    assert bool((distance.diff() >= 0).all())
    assert float(distance.max()) == 2.0
    assert make_shift_grid(0.0, 1.0).tolist() == [[0, 0]]


def test_phases_move_an_image_by_the_origin(blobs):
    matrices = draw_rotations(3, torch.Generator().manual_seed(0))
    origins = torch.tensor([[2.5, -1.0], [0.0, 3.0], [-1.25, 0.5]], dtype=torch.float64)
    moved = FourierImages.from_images(blobs.project(matrices, N, -origins), None, R)
    centred = FourierImages.from_images(blobs.project(matrices, N), None, R)
    ours = moved.values * compute_shift_phases(moved.samples, origins, N)
    assert float((ours - centred.values).norm() / centred.values.norm()) < 1e-5


def test_images_keep_what_lies_within_the_radius():
    generator = torch.Generator().manual_seed(1)
    images, ctf = torch.randn(5, N, N, generator=generator), _draw_ctf(5, generator)
    stack = FourierImages.from_images(images, ctf, R, batch=2)
    assert len(stack) == 5
    assert stack.count_samples(R) == len(stack.samples)
    assert stack.count_samples(4) == len(compute_slice_samples(4))
    assert stack.take(torch.tensor([3, 1])).ctf.equal(stack.ctf[[3, 1]])
    number = 17
    kx, ky = stack.samples[number].tolist()
    y, x = torch.meshgrid(torch.arange(N) - N // 2, torch.arange(N) - N // 2, indexing="ij")
    wave = torch.exp(-2j * torch.pi * (kx * x + ky * y) / N)
    assert torch.allclose(stack.values[:, number], (images * wave).sum((1, 2)), atol=1e-3)
    assert torch.equal(stack.ctf[:, number], ctf[:, ky % N, kx])
    assert int(stack.compute_shells()[number]) == round((kx**2 + ky**2) ** 0.5)


def test_scores_are_the_sum_written_out(blobs):
    generator = torch.Generator().manual_seed(2)
    matrices = draw_rotations(6, generator)
    images = blobs.project(matrices[:3], N) + torch.randn(3, N, N, generator=generator)
    stack = FourierImages.from_images(images, _draw_ctf(3, generator), R)
    m = stack.count_samples(7)
    slices = extract_slices(compute_reference(blobs.make_volume(N), 7), matrices, stack.samples[:m])
    noise = 500 + 500 * torch.rand(m, generator=generator)
    origins = torch.tensor([[0.0, 0.0], [1.0, -0.5], [0.25, 2.0]])
    shifts = make_shift_grid(1.5, 0.75)
    ours = search_poses(stack, slices, noise, origins, shifts, 6)
    expected = torch.empty(3, 6, len(shifts), dtype=torch.float64)
    for i in range(3):
        for j in range(6):
            for s, shift in enumerate(shifts):
                angle = -2 * torch.pi / N * (stack.samples[:m].double() @ (origins[i] + shift).double())
                image = stack.values[i, :m].to(torch.complex128) * torch.exp(1j * angle)
                model = stack.ctf[i, :m].double() * slices[j].to(torch.complex128)
                expected[i, j, s] = ((image.abs() ** 2 - (image - model).abs() ** 2) / noise.double()).sum()
    best, shift = expected.max(dim=2)
    order = best.argsort(dim=1, descending=True)
    assert torch.equal(ours.orientation, order)
    assert torch.allclose(ours.score.double(), best.gather(1, order), rtol=1e-4, atol=1e-3)
    assert torch.allclose(ours.origin_px, origins[:, None] + shifts[shift.gather(1, order)])


@pytest.mark.parametrize("group", ["C1", "C3"])
def test_the_planted_orientation_and_shift_are_found_in_noise(blobs, group):
    generator = torch.Generator().manual_seed(3)
    grid = compute_orientation_grid(24.0, compute_symmetry_operators(group))
    planted = torch.randint(len(grid), (20,), generator=generator)
    shifts = make_shift_grid(2.0, 1.0)
    origins = shifts[torch.randint(len(shifts), (20,), generator=generator)]
    clean = blobs.project(grid[planted], N, -origins.double())
    images = clean + 2 * clean.std() * torch.randn(clean.shape, generator=generator)
    stack = FourierImages.from_images(images, None, R)
    slices = extract_slices(compute_reference(blobs.make_volume(N), R), grid, stack.samples)
    noise = torch.full((len(stack.samples),), float((2 * clean.std() * N) ** 2))
    found = search_poses(stack, slices, noise, torch.zeros(20, 2), shifts, 3)
    assert torch.equal(found.orientation[:, 0], planted)
    assert torch.equal(found.origin_px[:, 0], origins)
    assert bool((found.score.diff(dim=1) <= 0).all())
