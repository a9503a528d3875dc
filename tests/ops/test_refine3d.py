import pytest
import torch

from vitreous.ops.abinitio import compute_ring_power
from vitreous.ops.mask import compute_soft_sphere
from vitreous.ops.pose_refine import Poses
from vitreous.ops.pose_search import FourierImages
from vitreous.ops.reconstruct import solve
from vitreous.ops.refine3d import RefineSettings, insert_images, refine_halves
from vitreous.ops.resolution import apply_shell_filter, compute_fsc
from vitreous.ops.rotations import draw_rotations
from vitreous.ops.symmetry import compute_symmetry_operators

N, R = 32, 14
SETTINGS = RefineSettings(radius_px=13.0, r_start=6, r_max=R, n_iterations=4, n_global=2, shift_px=2.0)


def _simulate(blobs, n, noise_ratio, seed):
    generator = torch.Generator().manual_seed(seed)
    matrices = draw_rotations(n, generator)
    origins = 0.8 * torch.randn(n, 2, generator=generator, dtype=torch.float64).clamp(-2, 2)
    ctf = torch.where(torch.rand(n, 1, 1, generator=generator) > 0.3, 1.0, -0.6).expand(-1, N, N // 2 + 1)
    clean = blobs.project(matrices, N, -origins) * ctf[:, :1, :1]
    noise = noise_ratio * clean.std() * torch.randn(clean.shape, generator=generator)
    return FourierImages.from_images(clean + noise, ctf, R), matrices, origins


def _halve(n):
    return 1 + torch.arange(n) % 2


def _find_crossing(fsc, level):
    return int((fsc[1:] < level).nonzero()[0]) + 1


def test_refined_halves_are_as_good_as_those_from_the_true_poses(make_blobs, measure_angle_deg):
    operators = compute_symmetry_operators("O")
    blobs = make_blobs(11.0, sigma=1.0, operators=operators)
    images, matrices, origins = _simulate(blobs, 200, 0.5, 0)
    truth, mask = blobs.make_volume(N), compute_soft_sphere(N, SETTINGS.radius_px, 3.0)
    told: list[float] = []
    found = refine_halves(images, _halve(200), truth, operators, SETTINGS, progress=told.append)
    ideal = []
    for half in (1, 2):
        index = torch.nonzero(_halve(200) == half).flatten()
        poses = Poses(matrices[index], origins[index], torch.zeros(100))
        noise = compute_ring_power(images).float()
        ideal.append(solve(insert_images(images.take(index), poses, noise, R, operators), N, R) * mask)
    assert _find_crossing(found.fsc, 0.8) >= _find_crossing(compute_fsc(*ideal), 0.8) - 1
    assert float(compute_fsc(found.combined * mask, truth * mask)[1:12].min()) > 0.9
    assert float(measure_angle_deg(found.poses.matrices, matrices, operators).median()) < 2.0
    assert float((found.poses.origins_px - origins).norm(dim=1).median()) < 0.15
    assert told == sorted(told)
    assert told[-1] <= 1.0
    # On the scale of the truth, whatever the CTF.
    smooth = (torch.arange(N // 2 + 1) < 8).float()
    ours, theirs = (
        apply_shell_filter(v * mask, smooth) for v in ((found.half_maps[0] + found.half_maps[1]) / 2, truth)
    )
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    assert float((ours * theirs).sum() / theirs.square().sum()) == pytest.approx(1.0, abs=0.05)


def test_halves_of_pure_noise_do_not_agree(make_blobs):
    """Both halves start from one map; past its resolution they must not correlate."""
    operators = compute_symmetry_operators("D2")
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(120, N, N, generator=generator)
    images = FourierImages.from_images(noise, None, R)
    start = make_blobs(9.0, operators=operators).make_volume(N)
    found = refine_halves(images, _halve(120), start, operators, SETTINGS)
    assert float(found.fsc[SETTINGS.r_start + 3 :].mean()) < 0.12
    assert float(found.fsc[SETTINGS.r_start + 3 :].max()) < 0.35


def test_a_half_does_not_see_the_other(make_blobs):
    operators = compute_symmetry_operators("O")
    blobs = make_blobs(9.0, operators=operators)
    images, _, _ = _simulate(blobs, 60, 1.0, 2)
    settings = RefineSettings(radius_px=13.0, r_start=6, r_max=R, n_iterations=1, n_global=1, shift_px=1.0)
    half = _halve(60)
    before = refine_halves(images, half, blobs.make_volume(N), operators, settings)
    images.values[half == 2] = torch.randn(30, len(images.samples), dtype=torch.complex64)
    after = refine_halves(images, half, blobs.make_volume(N), operators, settings)
    assert torch.equal(before.half_maps[0], after.half_maps[0])
    assert torch.equal(before.poses.matrices[half == 1], after.poses.matrices[half == 1])
    assert not torch.equal(before.half_maps[1], after.half_maps[1])


def test_images_put_back_at_their_poses_are_the_map(blobs):
    images, matrices, origins = _simulate(blobs, 300, 0.0, 3)
    noise = 1 + images.compute_shells().float()
    sums = insert_images(images, Poses(matrices, origins, torch.zeros(300)), noise, R, torch.eye(3)[None])
    fsc = compute_fsc(solve(sums, N, R), blobs.make_volume(N))
    assert float(fsc[1:13].min()) > 0.98


def test_an_empty_half_is_refused(blobs):
    images, _, _ = _simulate(blobs, 4, 0.0, 4)
    with pytest.raises(ValueError, match="each half"):
        refine_halves(images, torch.ones(4), blobs.make_volume(N), torch.eye(3)[None], SETTINGS)
