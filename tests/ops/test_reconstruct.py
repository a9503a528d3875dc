import subprocess

import polars as pl
import pytest
import torch

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.star import write_star
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.fourier import irfft2, rfft2
from vitreous.ops.pose_search import FourierImages, compute_shift_phases
from vitreous.ops.project import compute_gridding_factor, compute_reference, compute_slice_samples, sample_images
from vitreous.ops.reconstruct import SliceSums, insert_slices, solve
from vitreous.ops.resolution import compute_fsc
from vitreous.ops.rotations import compute_euler_angles, draw_rotations
from vitreous.ops.symmetry import compute_symmetry_operators

N, R = 32, 15
IDENTITY = torch.eye(3)[None]


def _correlate(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def _insert(images, matrices, operators=IDENTITY):
    samples = compute_slice_samples(R)
    values = sample_images(rfft2(images), samples)
    return insert_slices(matrices, values, torch.ones(values.shape), samples, R, operators)


def _make_ctf(n, pixel, generator):
    """Protein-bright CTFs, several zeros within Nyquist."""
    u = 10_000 + 10_000 * torch.rand(n, generator=generator)
    angle = 180 * torch.rand(n, generator=generator)
    optics = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
    return u, angle, -compute_ctf_2d((N, N), pixel, u, u - 300, angle, **optics)


def test_projections_at_exact_poses_give_back_the_map(blobs):
    matrices = draw_rotations(500, torch.Generator().manual_seed(0))
    ours = solve(_insert(blobs.project(matrices, N), matrices), N, R)
    truth = blobs.make_volume(N)
    fsc = compute_fsc(ours, truth)
    assert float(fsc[1:14].min()) > 0.99
    assert float(fsc[1:16].min()) > 0.9


@pytest.mark.parametrize("distance", [0.0, 6.0, 12.0])
def test_a_point_keeps_its_height_wherever_it_is(blobs, distance):
    place = torch.tensor([[2.0, -1.0, 2.0]], dtype=torch.float64) * distance / 3
    point = type(blobs)(place.round(), torch.ones(1, dtype=torch.float64), 1.2)
    matrices = draw_rotations(1500, torch.Generator().manual_seed(1))
    ours = solve(_insert(point.project(matrices, N), matrices), N, R)
    x, y, z = (int(c) + N // 2 for c in place.round()[0])
    # The slices leave out the mean.
    truth = point.make_volume(N)
    assert float(ours[z, y, x]) == pytest.approx(float(truth[z, y, x] - truth.mean()), abs=0.01)


@pytest.mark.parametrize("ssnr", [0.25, 3.0])
def test_wiener_filter_of_evenly_filled_sums(blobs, ssnr):
    truth = blobs.make_volume(N)
    weight = torch.full((2 * 32 + 1, 2 * 32 + 1, 34), 5.0)
    sums = SliceSums(compute_reference(truth * compute_gridding_factor(N) ** 2, R) * weight, weight)
    ours = solve(sums, N, R, torch.full((N // 2 + 1,), ssnr))
    assert torch.allclose(ours, solve(sums, N, R) * ssnr / (1 + ssnr), atol=1e-5)
    assert torch.allclose(solve(sums, N, R), truth, atol=5e-3)


def test_a_sure_prior_changes_nothing_and_none_leaves_nothing(blobs):
    matrices = draw_rotations(300, torch.Generator().manual_seed(2))
    sums = _insert(blobs.project(matrices, N), matrices)
    plain = solve(sums, N, 10)
    sure = solve(sums, N, 10, torch.full((N // 2 + 1,), 1e6))
    assert float((sure - plain).norm() / plain.norm()) < 0.02
    assert float(solve(sums, N, 10, torch.zeros(N // 2 + 1)).norm() / plain.norm()) < 1e-3


def test_contrast_transfer_is_undone_and_protein_is_bright(blobs):
    generator = torch.Generator().manual_seed(3)
    matrices = draw_rotations(600, generator)
    _, _, ctf = _make_ctf(600, 2.5, generator)
    images = irfft2(rfft2(blobs.project(matrices, N)) * ctf, (N, N))
    samples = compute_slice_samples(R)
    kx, ky = samples.unbind(1)
    c = ctf[:, ky % N, kx]
    sums = insert_slices(matrices, sample_images(rfft2(images), samples) * c, c**2, samples, R, IDENTITY)
    ours, truth = solve(sums, N, R), blobs.make_volume(N)
    assert _correlate(ours, truth) > 0.98
    assert float(compute_fsc(ours, truth)[1:13].min()) > 0.97


def test_symmetry_puts_every_slice_at_all_equivalent_orientations():
    generator = torch.Generator().manual_seed(4)
    operators = compute_symmetry_operators("D2")
    matrices, samples = draw_rotations(6, generator), compute_slice_samples(5)
    values = torch.randn(6, len(samples), dtype=torch.complex64, generator=generator)
    ours = insert_slices(matrices, values, values.abs(), samples, 5, operators)
    turned = (matrices[:, None] @ operators).flatten(0, 1)
    repeated = values.repeat_interleave(4, dim=0)
    one_by_one = insert_slices(turned, repeated, repeated.abs(), samples, 5, IDENTITY)
    assert torch.allclose(ours.numerator, one_by_one.numerator, atol=1e-4)
    assert torch.allclose(ours.weight, one_by_one.weight, atol=1e-4)
    volume = solve(ours, 16, 5)
    # A 2-fold on z, with the axis through voxel 8.
    assert torch.allclose(volume[:, 1:, 1:], volume[:, 1:, 1:].flip(1, 2), atol=1e-4 * float(volume.abs().max()))


def test_sums_add(blobs):
    matrices = draw_rotations(8, torch.Generator().manual_seed(5))
    images = blobs.project(matrices, N)
    both = _insert(images[:4], matrices[:4]) + _insert(images[4:], matrices[4:])
    whole = _insert(images, matrices)
    assert torch.allclose(both.numerator, whole.numerator, atol=1e-2)
    assert torch.allclose((both * 2.0).weight, whole.weight * 2, atol=1e-4)


def test_samples_beyond_the_grid_are_refused():
    samples = compute_slice_samples(6)
    with pytest.raises(ValueError, match="cycles per box"):
        insert_slices(IDENTITY, torch.zeros(1, len(samples)), torch.zeros(1, len(samples)), samples, 5, IDENTITY)


@pytest.mark.relion
def test_the_map_is_relions(blobs, tmp_path):
    """The same images, Euler angles, origins and CTF parameters."""
    n, pixel = 400, 2.5
    generator = torch.Generator().manual_seed(6)
    matrices = draw_rotations(n, generator)
    origins = 2 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    u, angle, ctf = _make_ctf(n, pixel, generator)
    images = irfft2(rfft2(blobs.project(matrices, N, -origins)) * ctf, (N, N))
    write_mrc(tmp_path / "stack.mrcs", images.numpy(), pixel)
    rot, tilt, psi = compute_euler_angles(matrices)
    optics = {
        "rlnOpticsGroupName": ["one"],
        "rlnOpticsGroup": [1],
        "rlnImagePixelSize": [pixel],
        "rlnImageSize": [N],
        "rlnImageDimensionality": [2],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
    }
    particles = {
        "rlnImageName": [f"{i + 1:06d}@stack.mrcs" for i in range(n)],
        "rlnMicrographName": ["m.mrc"] * n,
        "rlnOpticsGroup": [1] * n,
        "rlnDefocusU": u.tolist(),
        "rlnDefocusV": (u - 300).tolist(),
        "rlnDefocusAngle": angle.tolist(),
        "rlnAngleRot": rot.tolist(),
        "rlnAngleTilt": tilt.tolist(),
        "rlnAnglePsi": psi.tolist(),
        "rlnOriginXAngst": (origins[:, 0] * pixel).tolist(),
        "rlnOriginYAngst": (origins[:, 1] * pixel).tolist(),
    }
    write_star(tmp_path / "particles.star", {"optics": pl.DataFrame(optics), "particles": pl.DataFrame(particles)})
    command = "relion_reconstruct --i particles.star --o map.mrc --ctf --pad 2"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    theirs = torch.from_numpy(read_mrc(tmp_path / "map.mrc")[0]).float()
    stack = FourierImages.from_images(images, ctf, R)
    centred = stack.values * compute_shift_phases(stack.samples, origins, N)
    ours = solve(insert_slices(matrices, centred * stack.ctf, stack.ctf**2, stack.samples, R, IDENTITY), N, R)
    truth = blobs.make_volume(N)
    assert _correlate(ours, truth) > 0.98
    assert _correlate(ours, theirs) > 0.99
