"""Whole-frame motion: shifts from cross-correlation with the other frames, and the sum of the shifted frames."""

import torch
from torch import Tensor

from vitreous.ops.fourier import (
    compute_frequency_2d,
    compute_radial_mean,
    compute_shift_phase,
    irfft2,
)

__all__ = ["estimate_shifts", "find_peak"]

_MAX_ITERATIONS = 12
_TOLERANCE_PX = 0.01


def find_peak(correlation: Tensor, max_shift_px: float) -> Tensor:
    """Return the sub-pixel position `(n, 2)` as (y, x) of the highest peak near the origin of periodic images.

    Parameters
    ----------
    correlation
        `(n, ny, nx)`, zero lag at element (0, 0).
    max_shift_px
        Greatest distance from zero lag.

    Notes
    -----
    A paraboloid a + b.d + d.H.d / 2 through the 3 x 3 neighbourhood by least squares; its top, at most one pixel away.
    """
    n, ny, nx = correlation.shape
    lag_y = torch.fft.fftfreq(ny, 1 / ny, device=correlation.device)
    lag_x = torch.fft.fftfreq(nx, 1 / nx, device=correlation.device)
    allowed = lag_y[:, None].square() + lag_x[None, :].square() <= max_shift_px**2
    best = correlation.masked_fill(~allowed, -torch.inf).flatten(1).argmax(dim=1)
    y, x = best // nx, best % nx
    step = torch.arange(-1, 2, device=correlation.device)
    near = correlation[
        torch.arange(n, device=correlation.device)[:, None, None],
        ((y[:, None] + step) % ny)[:, :, None],
        ((x[:, None] + step) % nx)[:, None, :],
    ].double()
    d = step.double()
    dy, dx = d[:, None].expand(3, 3), d[None, :].expand(3, 3)
    design = torch.stack([torch.ones_like(dy), dy, dx, dy * dy / 2, dx * dx / 2, dy * dx], dim=-1).reshape(9, 6)
    fit = near.reshape(n, 9) @ torch.linalg.pinv(design).T
    hessian = torch.stack([fit[:, 3], fit[:, 5], fit[:, 5], fit[:, 4]], dim=-1).reshape(n, 2, 2)
    curved = (torch.linalg.det(hessian) > 0) & (fit[:, 3] < 0)
    hessian[~curved] = -torch.eye(2, dtype=torch.float64, device=correlation.device)
    offset = -torch.linalg.solve(hessian, fit[:, 1:3, None])[..., 0]
    offset = torch.where(curved[:, None], offset.clamp(-1, 1), torch.zeros_like(offset))
    return (torch.stack([lag_y[y], lag_x[x]], dim=-1) + offset).float()


def _make_weights(spectra: Tensor, shape: tuple[int, int], pixel_size_angstrom: float, b_factor: float) -> Tensor:
    """Whiten, weigh down high frequencies, and leave out the axes, where the camera's own pattern is."""
    ky, kx = compute_frequency_2d(shape, pixel_size_angstrom, spectra.device)
    k2 = ky.square() + kx.square()
    power = compute_radial_mean(spectra.abs().square().mean(dim=0), shape)
    ring = torch.round(torch.sqrt(k2) * pixel_size_angstrom * min(shape)).long().clamp_max(len(power) - 1)
    weights = torch.exp(-b_factor * k2 / 4) / power.clamp_min(power.max() * 1e-9)[ring]
    weights[:2] = 0
    weights[-1:] = 0
    weights[:, :2] = 0
    return weights * (torch.sqrt(k2) * pixel_size_angstrom < 0.5)


def estimate_shifts(
    spectra: Tensor,
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    *,
    max_shift_angstrom: float = 60.0,
    b_factor: float = 200.0,
    n_grouped: int = 1,
) -> Tensor:
    """Return where the content of each frame lies relative to the first frame, `(n_frames, 2)` as (y, x), px.

    Parameters
    ----------
    spectra
        Half spectra of the frames, Fourier-cropped to images of `shape`, `(n_frames, ny, nx // 2 + 1)`.
    shape
        Rows and columns of the cropped images.
    pixel_size_angstrom
        Of the cropped images.
    max_shift_angstrom
        Greatest displacement of a frame from the mean of all.
    b_factor
        Weight exp(-B k² / 4) on the correlation, Å².
    n_grouped
        Odd number of neighbouring frames that are averaged to correlate one; more where the dose of a frame is low.

    Returns
    -------
    Tensor
        In pixels of the cropped image. Apply the negative to a frame to bring it onto the first.

    Raises
    ------
    ValueError
        If the number of grouped frames is even.

    Notes
    -----
    Each frame is correlated with the sum of the frames outside its own group, all shifted by what is known so far; repeated
    until no frame moves (leave-one-out correlation, as in Li et al. 2013 and Zheng et al. 2017). Leaving out the frame itself
    keeps its noise from correlating with itself at its present position.
    """
    if n_grouped % 2 == 0:
        raise ValueError(f"expected an odd number of grouped frames, found {n_grouped}")
    n_frames = len(spectra)
    position = torch.zeros(n_frames, 2, device=spectra.device)
    if n_frames == 1:
        return position
    weights = _make_weights(spectra, shape, pixel_size_angstrom, b_factor)
    weighted = spectra * weights.sqrt()
    distance = (torch.arange(n_frames)[:, None] - torch.arange(n_frames)[None, :]).abs().to(spectra.device)
    in_group = (distance <= n_grouped // 2).float()
    if n_grouped >= n_frames:
        in_group = torch.eye(n_frames, device=spectra.device)
    reach = max_shift_angstrom / pixel_size_angstrom
    for _ in range(_MAX_ITERATIONS):
        shifted = weighted * compute_shift_phase(shape, -position)
        flat = torch.view_as_real(shifted).reshape(n_frames, -1)
        groups = torch.view_as_complex((in_group @ flat).reshape(n_frames, *shifted.shape[1:], 2))
        correlation = irfft2((shifted.sum(dim=0) - groups).conj() * groups, shape)
        step = find_peak(correlation, reach)
        position = position + step
        reach = max(reach / 2, 3.0)
        if step.abs().max() < _TOLERANCE_PX:
            break
    return position - position[:1]
