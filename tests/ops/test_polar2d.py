"""Polar samples and harmonics against sums of plane waves in float64 and analytic images."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitreous.ops.average2d import make_soft_circle
from vitreous.ops.polar2d import (
    PolarGrid,
    PolarSampler,
    compute_harmonics,
    compute_mask_operator,
    compute_ring_weights,
    find_mass_centre,
    shift_harmonics,
)

BLOBS = np.array([[5.0, 1.0, 1.0], [-3.0, 4.0, 0.7], [-2.0, -5.0, 0.8]])


def draw(n: int, angle_deg: float = 0, shift: tuple[float, float] = (0, 0), sigma: float = 1.6) -> NDArray[np.float64]:
    """Return blobs about n // 2, turned from +x towards +y, then shifted (y, x)."""
    y, x = np.mgrid[:n, :n] - n // 2
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    image = np.zeros((n, n))
    for bx, by, height in BLOBS:
        cx, cy = c * bx - s * by + shift[1], s * bx + c * by + shift[0]
        image += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return image


def sample(images: NDArray[np.float64], grid: PolarGrid) -> torch.Tensor:
    """Return samples of images that are small enough for the mask not to touch them."""
    return PolarSampler(grid, grid.n_px).sample(torch.from_numpy(images).float(), None)


def transform(image: NDArray[np.float64], grid: PolarGrid) -> NDArray[np.complex128]:
    n = grid.n_px
    y, x = np.mgrid[:n, :n] - n // 2
    theta = grid.theta.numpy()
    out = np.empty((grid.n_rings, grid.n_half), complex)
    for r, h in np.ndindex(out.shape):
        phase = 2 * np.pi * (r + 1) / n * (x * np.cos(theta[h]) + y * np.sin(theta[h]))
        out[r, h] = (image * np.exp(-1j * phase)).sum()
    return out


@pytest.mark.parametrize("n", [32, 33])
def test_samples_are_sums_of_plane_waves(n: int) -> None:
    grid = PolarGrid(n, n // 2 - 1, 20, 8)
    sampler = PolarSampler(grid, 12.0)
    rng = np.random.default_rng(0)
    image = draw(n) + 0.2 * rng.normal(size=(n, n))
    expected = transform(image * sampler.mask.double().numpy(), grid)
    found = sampler.sample(torch.from_numpy(image[None]).float(), None)[0].numpy()
    assert np.abs(found - expected).max() < 3e-3 * np.abs(expected).max()
    ctf = torch.linspace(-1, 1, n // 2 + 1).expand(1, n, -1)
    changed = np.fft.irfft2(np.fft.rfft2(image * sampler.mask.double().numpy()) * ctf[0].numpy(), s=(n, n))
    found = sampler.sample(torch.from_numpy(image[None]).float(), ctf)[0].numpy()
    assert np.abs(found - transform(changed, grid)).max() < 3e-3 * np.abs(expected).max()


def test_rings_beyond_the_box_are_refused() -> None:
    with pytest.raises(ValueError, match="16 rings do not fit in images of 32 px"):
        PolarSampler(PolarGrid(32, 16, 20, 8), 12.0)


def test_turning_multiplies_harmonics_by_a_phase() -> None:
    grid = PolarGrid(40, 14, 48, 14)
    harmonics = compute_harmonics(sample(np.array([draw(40), draw(40, 37.0)]), grid), grid)
    turn = torch.exp(-1j * torch.deg2rad(torch.tensor(37.0)) * grid.order)[..., None]
    torch.testing.assert_close(
        harmonics[:, :, 1], harmonics[:, :, 0] * turn, atol=2e-3 * float(harmonics.abs().max()), rtol=0
    )


def test_ring_weights_give_the_mean_power_of_a_ring() -> None:
    grid = PolarGrid(40, 14, 48, 14)
    samples = sample(draw(40)[None], grid)
    harmonics = compute_harmonics(samples, grid)[:, :, 0]
    power = (compute_ring_weights(grid)[..., None] * harmonics.abs().square()).sum(dim=(0, 1))
    torch.testing.assert_close(power, samples[0].abs().square().mean(dim=1), rtol=1e-3, atol=1e-3)
    y, x = np.mgrid[:40, :40] - 20
    spectrum = np.abs(np.fft.fft2(draw(40))) ** 2
    ring = np.hypot(np.fft.fftfreq(40, 1 / 40)[:, None], np.fft.fftfreq(40, 1 / 40)[None])
    # A step of one ring is coarse where the power changes fastest.
    inside = (ring > 3.5) & (ring < 14.5)
    total = (grid.weight * harmonics.abs().square())[..., 3:].sum()
    assert float(total) == pytest.approx(spectrum[inside].sum(), rel=0.02)


def test_shifted_harmonics_are_those_of_the_shifted_image() -> None:
    grid = PolarGrid(40, 14, 64, 20)
    shift = (1.5, -2.0)
    harmonics = compute_harmonics(sample(np.array([draw(40), draw(40, 0, shift)]), grid), grid)
    found = shift_harmonics(harmonics[:, :, :1], torch.tensor([shift]), grid)
    assert (found - harmonics[:, :, 1:]).abs().max() < 3e-3 * harmonics.abs().max()


def test_mask_operator_masks_in_real_space() -> None:
    grid = PolarGrid(48, 20, 96, 40)
    image = draw(48, 0, (6.0, 3.0), sigma=2.5)
    mask = make_soft_circle(48, 8.0, 4.0).double().numpy()
    before, after = compute_harmonics(sample(np.array([image, image * mask]), grid), grid).unbind(2)
    operator = compute_mask_operator(grid, 8.0, 4.0)
    found = torch.complex(*(torch.einsum("perq,peq->per", operator, part) for part in (before.real, before.imag)))
    # Ring 0 is not kept: the masked image lacks its mean, spread over the mask.
    high = slice(3, None)
    assert (found - after)[..., high].abs().max() < 0.02 * after.abs().max()


def test_mass_centre_is_that_of_the_blobs() -> None:
    grid = PolarGrid(48, 20, 96, 40)
    images = np.array([draw(48), draw(48, 0, (2.0, -1.0))])
    centres = find_mass_centre(compute_harmonics(sample(images, grid), grid), grid, 12.0, 0.2)
    torch.testing.assert_close(centres[1] - centres[0], torch.tensor([2.0, -1.0]), atol=0.05, rtol=0)
