import pytest
import torch

from vitreous.ops.pose_refine import refine_poses
from vitreous.ops.pose_search import FourierImages, search_poses
from vitreous.ops.project import compute_reference, extract_slices
from vitreous.ops.rotations import compute_axis_rotation, draw_rotations

N, R = 32, 13


def _simulate(blobs, n, noise_ratio, seed):
    """Images of the blobs with the noise's standard deviation `noise_ratio` times theirs; poses; noise variance."""
    generator = torch.Generator().manual_seed(seed)
    matrices = draw_rotations(n, generator)
    origins = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    clean = blobs.project(matrices, N, -origins)
    sigma = noise_ratio * float(clean.std())
    images = FourierImages.from_images(clean + sigma * torch.randn(clean.shape, generator=generator), None, R)
    noise = torch.full((len(images.samples),), max(sigma, 1e-3) ** 2 * N**2)
    return images, matrices, origins, noise, generator


def _turn(matrices, angle_deg, generator):
    axes = torch.randn(len(matrices), 3, generator=generator, dtype=torch.float64)
    return compute_axis_rotation(axes, torch.full((len(matrices),), angle_deg, dtype=torch.float64)) @ matrices


@pytest.mark.parametrize(("noise_ratio", "worst_deg", "worst_px"), [(0.0, 0.3, 0.03), (0.4, 1.0, 0.1)])
def test_poses_five_degrees_away_come_back(blobs, measure_angle_deg, noise_ratio, worst_deg, worst_px):
    images, matrices, origins, noise, generator = _simulate(blobs, 40, noise_ratio, 0)
    reference = compute_reference(blobs.make_volume(N), R)
    found = refine_poses(
        images,
        reference,
        noise,
        _turn(matrices, 5.0, generator)[:, None],
        (origins + 0.7 * torch.randn(origins.shape, generator=generator, dtype=torch.float64))[:, None],
        angle_step_deg=4.0,
        shift_step_px=0.7,
        n_levels=5,
    )
    angle = measure_angle_deg(found.matrices, matrices)
    shift = (found.origins_px - origins).norm(dim=1)
    assert float(angle.quantile(0.9)) < worst_deg
    assert float(shift.quantile(0.9)) < worst_px
    # As likely as what is found from the truth on: the noise is what is left.
    ideal = refine_poses(
        images, reference, noise, matrices[:, None], origins[:, None], angle_step_deg=1.0, shift_step_px=0.1, n_levels=5
    )
    short = (ideal.scores - found.scores).quantile(0.9)
    assert float(short) < 1 + 1e-5 * float(ideal.scores.median())
    unit = found.matrices @ found.matrices.transpose(1, 2)
    assert torch.allclose(unit, torch.eye(3).double().expand_as(unit), atol=1e-9)


def test_the_best_of_several_candidates_wins(blobs, measure_angle_deg):
    images, matrices, origins, noise, generator = _simulate(blobs, 12, 0.5, 1)
    wrong = draw_rotations(24, generator).reshape(12, 2, 3, 3)
    candidates = torch.cat((wrong, _turn(matrices, 2.0, generator)[:, None]), dim=1)
    reference = compute_reference(blobs.make_volume(N), R)
    shifts = origins[:, None].expand(-1, 3, -1)
    found = refine_poses(images, reference, noise, candidates, shifts, angle_step_deg=2.0, shift_step_px=0.3)
    assert float(measure_angle_deg(found.matrices, matrices).max()) < 1.5


def test_the_score_is_that_of_the_search_and_never_falls(blobs):
    images, matrices, origins, noise, _ = _simulate(blobs, 8, 1.0, 2)
    reference = compute_reference(blobs.make_volume(N), R)
    found = refine_poses(
        images, reference, noise, matrices[:, None], origins[:, None], angle_step_deg=1.0, shift_step_px=0.2
    )
    zero = torch.zeros(1, 2)
    for i in range(8):
        one = images.take(torch.tensor([i]))
        slices = extract_slices(reference, torch.stack((found.matrices[i], matrices[i])), images.samples)
        after = search_poses(one, slices[:1], noise, found.origins_px[i : i + 1], zero, 1).score
        before = search_poses(one, slices[1:], noise, origins[i : i + 1], zero, 1).score
        assert float(found.scores[i]) == pytest.approx(float(after), rel=1e-3, abs=0.02)
        assert float(found.scores[i]) >= float(before) - 0.02


def test_shifts_stay_within_reach(blobs):
    images, matrices, origins, noise, _ = _simulate(blobs, 6, 0.0, 3)
    found = refine_poses(
        images,
        compute_reference(blobs.make_volume(N), R),
        noise,
        matrices[:, None],
        origins[:, None] + 3.0,
        angle_step_deg=1.0,
        shift_step_px=1.0,
        reach_px=0.5,
    )
    assert float((found.origins_px - origins - 3.0).abs().max()) <= 0.5 + 1e-9


def test_a_reference_that_holds_too_little_is_refused(blobs):
    images, matrices, origins, noise, _ = _simulate(blobs, 2, 0.0, 4)
    with pytest.raises(ValueError, match="cycles per box"):
        refine_poses(
            images,
            compute_reference(blobs.make_volume(N), R - 1),
            noise,
            matrices[:, None],
            origins[:, None],
            angle_step_deg=1.0,
            shift_step_px=1.0,
        )
