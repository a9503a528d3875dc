import subprocess

import numpy as np
import pytest
import scipy.ndimage
import torch

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.ops.fourier import compute_half_weights, rfft2
from vitreous.ops.project import (
    compute_gridding_factor,
    compute_reference,
    compute_slice_samples,
    compute_volume,
    extract_slices,
    sample_images,
)
from vitreous.ops.reconstruct import insert_slices
from vitreous.ops.resolution import apply_shell_filter
from vitreous.ops.rotations import compute_euler_matrix, draw_rotations

N = 32


def _correlate(a, b):
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def _make_images(slices, samples, n):
    """Real images of slices: the samples and their conjugates are put where the full transform has them."""
    full = torch.zeros(len(slices), n, n, dtype=torch.complex64)
    kx, ky = samples.unbind(1)
    signed = slices * (1.0 - 2.0 * ((kx + ky) % 2))
    full[:, ky % n, kx % n] = signed
    full[:, -ky % n, -kx % n] = signed.conj()
    return torch.fft.ifft2(full).real


def _smooth_noise(n, radius_px):
    """A map with detail everywhere in a sphere and nothing beyond a third of Nyquist."""
    noise = torch.randn(n, n, n, generator=torch.Generator().manual_seed(3))
    axis = torch.arange(n).float() - n // 2
    distance = torch.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    return apply_shell_filter(
        noise * torch.sigmoid(2 * (radius_px - distance)), torch.exp(-((torch.arange(n // 2 + 1) / 6) ** 2))
    )


def test_samples_are_one_of_each_friedel_pair_and_complete():
    samples = compute_slice_samples(7)
    radius = samples.double().norm(dim=1)
    assert bool((radius.diff() >= 0).all())
    mirrored = torch.cat((samples, -samples))
    assert len(torch.unique(mirrored, dim=0)) == len(mirrored)
    axis = np.arange(-7, 8)
    assert len(mirrored) == np.count_nonzero(np.hypot(*np.meshgrid(axis, axis)) <= 7) - 1


def test_sampled_images_hold_all_power_and_have_their_origin_in_the_middle():
    image = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = compute_slice_samples(7)
    ours = sample_images(rfft2(image), samples)
    k = torch.fft.fftfreq(16, 1 / 16)
    inside = (k[:, None] ** 2 + k[:9] ** 2 <= 49) & (k[:, None] ** 2 + k[:9] ** 2 > 0)
    weights = compute_half_weights((16, 16))
    power = (rfft2(image).abs().square() * weights)[0][inside].sum()
    assert float(2 * ours.abs().square().sum()) == pytest.approx(float(power), rel=1e-5)
    point = torch.zeros(1, 16, 16)
    point[0, 8, 8] = 1
    assert torch.allclose(sample_images(rfft2(point), samples), torch.ones(1, len(samples), dtype=torch.complex64))


def test_slices_are_the_transform_of_the_blobs_and_of_their_projections(blobs):
    matrices = draw_rotations(12, torch.Generator().manual_seed(1))
    samples = compute_slice_samples(14)
    ours = extract_slices(compute_reference(blobs.make_volume(N), 14), matrices, samples)
    k = samples.double() @ matrices[:, :2]
    exact = blobs.transform(k, N).to(torch.complex64)
    # Linear interpolation of a transform padded twice is good to a few per cent at this size of particle in the box.
    assert float((ours - exact).norm() / exact.norm()) < 0.02
    scale = torch.vdot(exact.flatten(), ours.flatten()) / exact.norm() ** 2
    assert abs(complex(scale) - 1) < 2e-3
    images = sample_images(rfft2(blobs.project(matrices, N)), samples)
    assert float((images - exact).norm() / exact.norm()) < 1e-3
    assert float((ours - images).norm() / images.norm()) < 0.02


def test_slices_are_projections_in_real_space():
    n = 40
    volume = _smooth_noise(n, 13.0)
    matrices = draw_rotations(5, torch.Generator().manual_seed(2))
    samples = compute_slice_samples(18)
    ours = _make_images(extract_slices(compute_reference(volume, 18), matrices, samples), samples, n)
    axis = np.arange(n) - n // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    for matrix, image in zip(matrices.numpy(), ours, strict=True):
        # r' = A r, so the voxel of the turned map at r' is the map at A^T r'.
        turned = np.stack((x, y, z), -1) @ matrix
        values = scipy.ndimage.map_coordinates(volume.numpy(), np.moveaxis(turned[..., ::-1], -1, 0) + n // 2, order=3)
        assert _correlate(image, torch.from_numpy(values.sum(0))) > 0.999


def test_projection_and_back_projection_are_adjoint():
    generator = torch.Generator().manual_seed(4)
    n, r_max = 16, 6
    volume = torch.randn(n, n, n, generator=generator)
    matrices, samples = draw_rotations(20, generator), compute_slice_samples(r_max)
    slices = torch.randn(20, len(samples), dtype=torch.complex64, generator=generator)
    ours = extract_slices(compute_reference(volume, r_max), matrices, samples)
    forward = 2 * (slices.conj() * ours).real.double().sum()
    identity = torch.eye(3)[None]
    sums = insert_slices(matrices, slices, torch.ones(slices.shape), samples, r_max, identity)
    backward = (2 * n) ** 3 * (volume.double() * compute_volume(sums.numerator, n)).sum()
    scale = float(ours.norm() * slices.norm())
    assert abs(float(forward - backward)) / scale < 1e-5


def test_volume_undoes_the_reference_but_for_two_gridding_factors(blobs):
    volume = blobs.make_volume(N)
    factor = compute_gridding_factor(N)
    assert torch.allclose(compute_volume(compute_reference(volume * factor**2, 15), N), volume, atol=5e-3)
    # The transform of a triangle one element wide either side of its middle is a squared sinc.
    k = torch.linspace(-1, 1, 20_001).double()
    waves = torch.cos(2 * torch.pi * k * 10 / (2 * N))
    assert float(factor[16, 16, 26]) == pytest.approx(float(torch.trapezoid((1 - k.abs()) * waves, k)), abs=1e-6)


def test_results_do_not_depend_on_the_number_of_threads(blobs):
    matrices, samples = draw_rotations(9, torch.Generator().manual_seed(5)), compute_slice_samples(10)
    reference = compute_reference(blobs.make_volume(N), 10)
    one = extract_slices(reference, matrices, samples)
    sums = insert_slices(matrices, one, one.abs(), samples, 10, torch.eye(3)[None])
    torch.set_num_threads(2)
    try:
        assert torch.equal(extract_slices(reference, matrices, samples), one)
        again = insert_slices(matrices, one, one.abs(), samples, 10, torch.eye(3)[None])
        assert torch.equal(again.numerator, sums.numerator)
    finally:
        torch.set_num_threads(1)


def test_samples_beyond_the_reference_are_refused(blobs):
    reference = compute_reference(blobs.make_volume(N), 8)
    with pytest.raises(ValueError, match=r"9\.00 cycles per box, the grid only 8\.00"):
        extract_slices(reference, torch.eye(3)[None], compute_slice_samples(9))


@pytest.mark.relion
@pytest.mark.parametrize(
    ("rot", "tilt", "psi", "x", "y"), [(20.0, 60.0, -150.0, 0.0, 0.0), (-75.0, 110.0, 33.0, 3.0, -2.0)]
)
def test_slices_are_relions_projections(blobs, tmp_path, rot, tilt, psi, x, y):
    write_mrc(tmp_path / "map.mrc", blobs.make_volume(N).numpy(), 2.0, volume=True)
    angles = ["--rot", rot, "--tilt", tilt, "--psi", psi, "--xoff", x, "--yoff", y]
    command = ["relion_project", "--i", "map.mrc", "--o", "image.mrc", *map(str, angles)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    theirs = torch.from_numpy(read_mrc(tmp_path / "image.mrc")[0].astype(np.float32)).reshape(N, N)
    samples = compute_slice_samples(15)
    matrix = compute_euler_matrix(*(torch.tensor([angle], dtype=torch.float64) for angle in (rot, tilt, psi)))
    slices = extract_slices(compute_reference(blobs.make_volume(N), 15), matrix, samples)
    ours = _make_images(slices, samples, N)[0]
    # An origin is added to centre a particle, so the particle lies at minus the origin.
    moved = torch.roll(ours, (-round(y), -round(x)), (0, 1))
    assert _correlate(moved, theirs) > 0.999
