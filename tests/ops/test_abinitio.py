import torch

from vitreous.ops.abinitio import AbInitioSettings, compute_initial_map, compute_ring_power
from vitreous.ops.pose_search import FourierImages
from vitreous.ops.resolution import compute_fsc
from vitreous.ops.rotations import draw_rotations
from vitreous.ops.symmetry import compute_symmetry_operators

N, R = 32, 10


def test_ring_power_of_noise_is_its_variance():
    noise = 3 * torch.randn(200, N, N, generator=torch.Generator().manual_seed(0))
    power = compute_ring_power(FourierImages.from_images(noise, None, R))
    assert torch.allclose(power, torch.full_like(power, 9.0 * N**2), rtol=0.1)


def test_ring_power_is_the_mean_over_each_ring():
    images = FourierImages.from_images(torch.randn(3, N, N, generator=torch.Generator().manual_seed(1)), None, 4)
    power, radius = images.values.abs().square().double().mean(0), images.samples.double().norm(dim=1)
    ring = (radius > 2.5) & (radius < 3.5)
    assert torch.allclose(compute_ring_power(images)[ring], power[ring].mean())


def test_the_map_is_found_from_random_orientations(make_blobs):
    """Octahedral, so that the frame is fixed up to the hand and a quarter turn."""
    operators = compute_symmetry_operators("O")
    blobs = make_blobs(10.0, sigma=1.5, operators=operators, seed=2)
    generator = torch.Generator().manual_seed(2)
    matrices = draw_rotations(200, generator)
    origins = 0.7 * torch.randn(200, 2, generator=generator, dtype=torch.float64)
    clean = blobs.project(matrices, N, -origins)
    images = FourierImages.from_images(
        clean + 0.7 * clean.std() * torch.randn(clean.shape, generator=generator), None, R
    )
    settings = AbInitioSettings(
        radius_px=13.0, r_start=5, r_end=R, n_starts=3, n_iterations=10, batch=100, shift_px=2.0
    )
    told = []
    found = compute_initial_map(images, operators, settings, torch.Generator().manual_seed(0), progress=told.append)
    truth = blobs.make_volume(N)
    # The other hand: through the origin, which an octahedral group makes the same as in a mirror.
    hands = [truth, truth.flip(0, 1, 2).roll((1, 1, 1), (0, 1, 2))]
    curves = [compute_fsc(found, hand)[1:] for hand in hands]
    reached = max(int((curve < 0.5).nonzero()[0]) for curve in curves)
    assert reached >= 8
    assert told == sorted(told)
    assert told[-1] <= 1.0
    again = compute_initial_map(images, operators, settings, torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
