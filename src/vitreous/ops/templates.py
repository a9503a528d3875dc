"""Matched filters: normalised correlation of a micrograph with a template under a mask."""

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import irfft2, rfft2

__all__ = ["compute_local_correlation", "make_disc", "make_radial_window", "project_evenly", "rotate_and_resample"]

_LEAST_DEVIATION = 0.01
"""Of the whole image's, for the local deviation: where the image is flat, rounding errors would correlate with anything."""


def _compute_radius(shape: tuple[int, int], device: torch.device | str) -> Tensor:
    """Return the distance from element (0, 0) in a periodic image, px."""
    y = torch.fft.fftfreq(shape[0], 1 / shape[0], device=device)
    x = torch.fft.fftfreq(shape[1], 1 / shape[1], device=device)
    return torch.sqrt(y[:, None].square() + x[None, :].square())


def make_disc(
    shape: tuple[int, int], radius_px: float, edge_px: float = 1.0, device: torch.device | str = "cpu"
) -> Tensor:
    """Return a periodic image that is 1 within `radius_px` of element (0, 0) and falls linearly to 0 over `edge_px`."""
    disc: Tensor = ((radius_px - _compute_radius(shape, device)) / edge_px + 0.5).clamp(0, 1)
    return disc


def make_radial_window(size_px: int, profile: Tensor, step_px: float) -> Tensor:
    """Return a round image `(n, n)`, n = `size_px`, centred at n // 2, from its profile at radii 0, step, ...; then its last."""
    offset = (torch.arange(size_px, device=profile.device) - size_px // 2).square()
    position = (torch.sqrt((offset[:, None] + offset[None, :]).float()) / step_px).clamp_max(len(profile) - 1.001)
    below = position.long()
    part = position - below
    return profile[below] * (1 - part) + profile[below + 1] * part


def rotate_and_resample(images: Tensor, angles_deg: Tensor, scale: float, size_px: int) -> Tensor:
    """Rotate images about their centres, index N // 2, and change their pixel size, bilinearly.

    Parameters
    ----------
    images
        `(n, N, N)`, free of frequencies that the new pixel size cannot hold.
    angles_deg
        Rotations from +x towards +y, `(m,)`.
    scale
        New pixel size over old.
    size_px
        Side M of the results.

    Returns
    -------
    Tensor
        `(n, m, M, M)`, centred at M // 2; 0 beyond the edges of the input.
    """
    n_px = images.shape[-1]
    step = (torch.arange(size_px, device=images.device) - size_px // 2) * scale
    angle = torch.deg2rad(angles_deg.float())[:, None, None]
    # The value at a point comes from the point turned back.
    x = torch.cos(angle) * step[None, None, :] + torch.sin(angle) * step[None, :, None]
    y = -torch.sin(angle) * step[None, None, :] + torch.cos(angle) * step[None, :, None]
    grid = torch.stack([x, y], dim=-1) + n_px // 2
    grid = 2 * grid / (n_px - 1) - 1
    turned = [
        functional.grid_sample(
            image[None, None].expand(len(grid), 1, -1, -1), grid, mode="bilinear", align_corners=True
        )[:, 0]
        for image in images
    ]
    return torch.stack(turned)


def project_evenly(volume: Tensor, n_views: int) -> Tensor:
    """Return projections of a volume along directions spread evenly over the sphere, `(n_views, n, n)`.

    Parameters
    ----------
    volume
        `(n, n, n)` as (z, y, x), centred at n // 2.
    n_views
        Number of directions, a Fibonacci lattice. Opposite directions show mirror images, which no turn in the plane makes of
        each other, so that the whole sphere is used.
    """
    n = volume.shape[0]
    step = torch.arange(n, device=volume.device, dtype=torch.float32) - n // 2
    z, y, x = torch.meshgrid(step, step, step, indexing="ij")
    views = []
    for i in range(n_views):
        tilt = torch.arccos(torch.tensor(1 - (2 * i + 1) / n_views))
        rot = torch.tensor(i * torch.pi * (3 - 5**0.5))
        ct, st, cr, sr = torch.cos(tilt), torch.sin(tilt), torch.cos(rot), torch.sin(rot)
        # Where each voxel of the turned volume comes from: about y by the tilt, then about z.
        along, across = ct * x + st * z, y
        source = torch.stack([cr * along - sr * across, sr * along + cr * across, -st * x + ct * z], dim=-1)
        grid = 2 * (source + n // 2) / (n - 1) - 1
        views.append(functional.grid_sample(volume[None, None], grid[None], align_corners=True)[0, 0].sum(dim=0))
    return torch.stack(views)


def compute_local_correlation(image: Tensor, templates: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Correlate templates with every place of an image, normalised by the image's own deviation there.

    Parameters
    ----------
    image
        `(ny, nx)`.
    templates
        `(n, ny, nx)`, periodic around element (0, 0).
    mask
        Where the templates count, 0 to 1, `(ny, nx)`, periodic around element (0, 0).

    Returns
    -------
    tuple
        Correlation `(n, ny, nx)`, -1 to 1, and local standard deviation of the image under the mask, `(ny, nx)`.

    Notes
    -----
    Roseman 2003 (doi:10.1016/S0304-3991(02)00333-9): with the template of zero mean and unit length under the mask, one
    correlation gives the numerator, two with the mask the local mean and variance.
    """
    shape = (image.shape[0], image.shape[1])
    image = image - image.mean()
    n_mask = mask.sum()
    masked = templates * mask
    masked = masked - masked.sum(dim=(-2, -1), keepdim=True) / n_mask * mask
    masked = masked / masked.square().sum(dim=(-2, -1), keepdim=True).sqrt().clamp_min(1e-12)
    spectrum, mask_spectrum = rfft2(image), rfft2(mask).conj()
    mean = irfft2(spectrum * mask_spectrum, shape) / n_mask
    square = irfft2(rfft2(image.square()) * mask_spectrum, shape) / n_mask
    least = (_LEAST_DEVIATION * image.std()).square() + 1e-30
    deviation = (square - mean.square()).clamp_min(float(least)).sqrt()
    correlation = irfft2(spectrum * rfft2(masked).conj(), shape) / (n_mask.sqrt() * deviation)
    return correlation, deviation
