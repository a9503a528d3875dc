"""Whole-frame motion: where the specimen stands in every frame, from correlations between the frames."""

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import compute_frequency_2d, compute_radial_mean, compute_shift_phase, irfft2

__all__ = ["compute_pattern_share", "estimate_shifts", "find_peak", "smooth_by_precision", "smooth_trajectory"]

_MAX_SEARCHES = 8
_MAX_REFINEMENTS = 8
_SEARCH_TOLERANCE_PX = 0.1
_TOLERANCE_PX = 0.002
_CAUTION = 1.4
_UNKNOWN_PX = 10.0
_SIGNIFICANT = 5.0
"""Height of a peak in standard deviations of its map; the highest of noise alone is 2.5 to 4.5."""


def find_peak(correlation: Tensor, max_shift_px: float) -> tuple[Tensor, Tensor]:
    """Return where the highest peak near the origin of periodic images is, and how high.

    Parameters
    ----------
    correlation
        `(n, ny, nx)`, zero lag at element (0, 0).
    max_shift_px
        Greatest distance from zero lag.

    Returns
    -------
    position
        `(n, 2)` as (y, x), with part of a pixel, float64.
    height
        `(n,)`, in standard deviations of the image.

    Notes
    -----
    A paraboloid a + b.d + d.H.d / 2 through the 3 x 3 neighbourhood by least squares; its top, at most one pixel away.
    """
    n, ny, nx = correlation.shape
    lag_y = torch.fft.fftfreq(ny, 1 / ny, device=correlation.device)
    lag_x = torch.fft.fftfreq(nx, 1 / nx, device=correlation.device)
    allowed = lag_y[:, None].square() + lag_x[None, :].square() <= max_shift_px**2
    highest, best = correlation.masked_fill(~allowed, -torch.inf).flatten(1).max(dim=1)
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
    spread = correlation.flatten(1).double().std(dim=1)
    height = torch.where(spread > 0, highest.double() / spread, torch.zeros_like(spread))
    return torch.stack([lag_y[y], lag_x[x]], dim=-1).double() + offset, height


def compute_pattern_share(mean_frame: Tensor, frames: Tensor, n_frames: int) -> float:
    """Return the share (0 to 1) of a frame's pixel noise that is the same in all frames: the camera's own pattern.

    It shows in how much less than noise would the finest detail is averaged away; specimens have hardly any there.

    Parameters
    ----------
    mean_frame
        Mean of all frames before alignment, `(ny, nx)`.
    frames
        Some of the frames, `(n, ny, nx)`.
    n_frames
        How many frames the mean is of.
    """
    in_mean, in_frame = (
        float(torch.diff(torch.diff(images, n=2, dim=-1), n=2, dim=-2).square().mean())
        for images in (mean_frame, frames)
    )
    if n_frames < 2 or in_frame == 0:
        return 0.0
    return min(1.0, max(0.0, (n_frames * in_mean / in_frame - 1) / (n_frames - 1)))


def smooth_trajectory(measured: Tensor, variance: Tensor) -> Tensor:
    """Return the trajectory that explains measured positions best, `(n, 2)`.

    Parameters
    ----------
    measured
        `(n, 2)`.
    variance
        Of each coordinate, `(n, 2)`.
    """
    return smooth_by_precision(measured, torch.diag_embed(variance.reciprocal().T))


def smooth_by_precision(measured: Tensor, precision: Tensor) -> Tensor:
    """Return the trajectory that explains measured positions best, `(n, 2)`, where their errors may go together.

    Parameters
    ----------
    measured
        `(n, 2)`.
    precision
        Inverse of the covariance of each coordinate, `(2, n, n)`; may be singular, as where only differences are known.

    Notes
    -----
    Least is the sum of squared residuals over their variance plus a multiple of the squared second differences, which count less
    in the first quarter: there the beam sets the specimen moving. The multiple is the one with the least estimated error of
    prediction: a jump is followed, noise is not. The estimate is Mallows' Cp with each degree of freedom counted 1.4 times, which
    guards against following noise (Kim & Gu 2004, doi:10.1046/j.1369-7412.2003.05316.x).
    """
    n = len(measured)
    if n < 4:
        return measured
    second = torch.diff(torch.eye(n, dtype=measured.dtype, device=measured.device), n=2, dim=0)
    rise = ((torch.arange(n - 2, device=measured.device) + 0.5) * (4 / n)).clamp_max(1)
    second = second * rise[:, None]
    roughness = second.T @ second
    scale = precision.diagonal(dim1=-2, dim2=-1).mean()
    ridge = 1e-9 * scale * torch.eye(n, dtype=measured.dtype, device=measured.device)
    origin = measured.mean(dim=0)
    centred = (measured - origin).T[..., None]
    best, least = measured, float("inf")
    for exponent in range(-12, 13):
        strength = scale * 10.0 ** (exponent / 2)
        hats = torch.linalg.solve(precision + ridge + strength * roughness, precision)
        smooth = hats @ centred
        rest = centred - smooth
        misfit = (rest.transpose(1, 2) @ precision @ rest).sum()
        risk = float(misfit + 2 * _CAUTION * hats.diagonal(dim1=-2, dim2=-1).sum())
        if risk < least:
            best, least = smooth[..., 0].T + origin, risk
    return best


def _interpolate(positions: Tensor, known: Tensor) -> Tensor:
    """Return `positions` `(n, 2)` with those not known taken from the nearest known before and after, linearly."""
    frames = torch.arange(len(positions), device=positions.device)
    good = torch.nonzero(known)[:, 0]
    after = torch.searchsorted(good, frames).clamp_max(len(good) - 1)
    before = (torch.searchsorted(good, frames, right=True) - 1).clamp_min(0)
    gap = (good[after] - good[before]).clamp_min(1)
    part = ((frames - good[before]) / gap).clamp(0, 1)[:, None].double()
    return torch.lerp(positions[good[before]], positions[good[after]], part)


def _combine(matrix: Tensor, spectra: Tensor) -> Tensor:
    """Return sums over frames `(n, ...)` with real factors `(n, n)`."""
    flat = torch.view_as_real(spectra).reshape(len(spectra), -1)
    return torch.view_as_complex((matrix @ flat).reshape(len(matrix), *spectra.shape[1:], 2))


class _Correlator:
    """Cross spectra of each frame, or group of frames, with the sum of the others, all brought to where they may stand."""

    def __init__(
        self, spectra: Tensor, shape: tuple[int, int], pixel_size: float, b_factor: float, share: float
    ) -> None:
        self.shape, self.n = shape, len(spectra)
        ky, kx = compute_frequency_2d(shape, device=spectra.device)
        k = torch.sqrt(ky.square() + kx.square())
        rings = compute_radial_mean(spectra.abs().square().mean(dim=0), shape)
        # The mean of the image is so much stronger than all else that it must not set the scale.
        floor = max(float(rings[2:].max()) * 1e-9, torch.finfo(rings.dtype).tiny) if len(rings) > 2 else 1.0
        power = rings.clamp_min(floor)[torch.round(k * min(shape)).long().clamp_max(len(rings) - 1)]
        weights = torch.exp(-b_factor * (k / pixel_size).square() / 4) / power * (k < 0.5)
        # Rows and columns of the camera show on the axes.
        weights[:2], weights[-1:], weights[:, :2] = 0, 0, 0
        self.used = weights > 0
        self._angular = [(2 * torch.pi * axis).expand_as(weights) for axis in (ky, kx)]
        self._ring = torch.round(k * min(shape)).long()
        self._spectra = spectra * weights.sqrt()
        self._pattern = share * power * weights

    def list_angular_frequencies(self) -> tuple[Tensor, Tensor]:
        """Return 2 pi k_y and 2 pi k_x, radians per pixel, of the elements used, float64."""
        angular_y, angular_x = (axis[self.used].double() for axis in self._angular)
        return angular_y, angular_x

    def weigh_by_signal(self, position: Tensor) -> None:
        """Weigh every ring by what it can tell: S / (N (S + N / n)), from the powers S of what frames share and N of the rest.

        This is a Wiener-filtered reference over the noise of a frame.
        """
        shifted = self._spectra * compute_shift_phase(self.shape, -position.float())
        n_rings = int(self._ring.max()) + 1
        power, in_sum = (
            compute_radial_mean(values, self.shape, n_rings)
            for values in (shifted.abs().square().mean(dim=0), shifted.sum(dim=0).abs().square() / self.n)
        )
        shared = (in_sum - power) / (self.n - 1)
        noise = (power - shared).clamp_min(0.01 * power)
        shared = functional.avg_pool1d(shared[None], 5, 1, padding=2, count_include_pad=False)[0].clamp_min(0)
        gain = shared / (noise * (shared + noise / self.n)).clamp_min(torch.finfo(noise.dtype).tiny)
        gain = torch.where(power > 0, gain, torch.zeros_like(gain))[self._ring]
        self._spectra = self._spectra * gain.sqrt()
        self._pattern = self._pattern * gain
        self.used = self.used & (gain > 0)

    def compute(self, position: Tensor, half_group: int) -> Tensor:
        """Return conj(sum of the frames outside the group) * group, `(n, ny, nx // 2 + 1)`, less what the camera's pattern gives.

        A group is a frame with its `half_group` neighbours on both sides, of falling weight.
        """
        phase = compute_shift_phase(self.shape, -position.float())
        shifted = self._spectra * phase
        if half_group == 0:
            cross = (shifted.sum(dim=0) - shifted).conj() * shifted
            if self._pattern.any():
                cross -= self._pattern * ((phase.sum(dim=0) - phase).conj() * phase)
            return cross
        frames = torch.arange(self.n, device=position.device)
        distance = (frames[:, None] - frames[None, :]).abs()
        grouping = (1 - distance / (half_group + 1)).clamp_min(0).float()
        outside = (distance > half_group).float()
        cross = _combine(outside, shifted).conj() * _combine(grouping, shifted)
        if self._pattern.any():
            cross -= self._pattern * (_combine(outside, phase).conj() * _combine(grouping, phase))
        return cross


def _search(correlator: _Correlator, half_group: int, reach_px: float) -> Tensor | None:
    """Return positions from the peaks of correlation maps, None where no two frames have a peak that stands out."""
    position = torch.zeros(correlator.n, 2, dtype=torch.float64, device=correlator.used.device)
    leeway = torch.ones_like(position)
    for _ in range(_MAX_SEARCHES):
        correlation = irfft2(correlator.compute(position, half_group), correlator.shape)
        step, height = find_peak(correlation, reach_px)
        known = height > _SIGNIFICANT
        if known.sum() < 2:
            return None
        found = _interpolate(position + step, known)
        leeway = torch.where(known, _SIGNIFICANT / height, _UNKNOWN_PX).square()[:, None].expand(-1, 2)
        moved = (found - position).abs().max()
        position = found
        reach_px = max(reach_px / 2, 3.0)
        if moved < _SEARCH_TOLERANCE_PX:
            break
    # Peaks picked out of noise agree with each other; leeway lets the trajectory come off them.
    return smooth_trajectory(position, leeway)


def _refine(correlator: _Correlator, position: Tensor) -> Tensor:
    """Return positions improved by Newton steps on the correlation of every frame with the others, smoothed by their errors."""
    correlator.weigh_by_signal(position)
    angular_y, angular_x = correlator.list_angular_frequencies()
    for _ in range(_MAX_REFINEMENTS):
        cross = correlator.compute(position, 0)[:, correlator.used]
        real, imaginary = cross.real.double().mean(dim=0), cross.imag.double()
        slope = -torch.stack([imaginary @ angular_y, imaginary @ angular_x], dim=-1)
        mixed = (real * angular_y * angular_x).sum()
        curvature = torch.stack(
            [(real * angular_y.square()).sum(), mixed, mixed, (real * angular_x.square()).sum()]
        ).reshape(2, 2)
        if torch.linalg.eigvalsh(curvature)[0] <= 0:
            break
        inverse = torch.linalg.inv(curvature)
        # The terms of the slope are independent and, at the right position, zero on average.
        scatter = imaginary.square() @ torch.stack([angular_y.square(), angular_x.square()], dim=-1)
        variance = scatter @ inverse.square()
        step = (slope @ inverse).clamp(-2, 2)
        found = smooth_trajectory(position + step, variance.clamp_min(1e-12))
        moved = (found - position).abs().max()
        position = found
        if moved < _TOLERANCE_PX:
            break
    return position


def estimate_shifts(
    spectra: Tensor,
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    *,
    max_shift_angstrom: float = 60.0,
    b_factor: float = 200.0,
    n_grouped: int = 1,
    pattern_share: float = 0.0,
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
        Odd number of neighbouring frames that are averaged to find one; more where the dose of a frame is low.
    pattern_share
        Share of the noise of a frame that is the camera's pattern, from `compute_pattern_share`.

    Returns
    -------
    Tensor
        In pixels of the cropped image. Apply the negative to a frame to bring it onto the first. All zero where the frames have
        nothing in common.

    Raises
    ------
    ValueError
        If the number of grouped frames is even.

    Notes
    -----
    First a search: each group of frames is correlated with the sum of the frames outside it, all shifted by what is known so far
    (leave-one-out correlation, as in Li et al. 2013 and Zheng et al. 2017, doi:10.1038/nmeth.4193). Leaving out the frame itself
    keeps its noise from correlating with itself at its present position. A frame without a peak that stands out of the noise
    is placed between its neighbours. Neighbours weigh less than the frame itself in a group: with equal weights the
    iteration would amplify a zigzag. Then Newton steps of single frames, smoothed in time as their errors demand.

    The camera's pattern stays where it is while the specimen moves. Its expected part of the cross spectrum, a white pattern seen
    from the positions of the frames, is subtracted.
    """
    if n_grouped % 2 == 0:
        raise ValueError(f"expected an odd number of grouped frames, found {n_grouped}")
    n_frames = len(spectra)
    zero = torch.zeros(n_frames, 2, device=spectra.device)
    if n_frames == 1:
        return zero
    half_group = min(n_grouped // 2, (n_frames - 1) // 4)
    correlator = _Correlator(spectra, shape, pixel_size_angstrom, b_factor, pattern_share)
    position = _search(correlator, half_group, max_shift_angstrom / pixel_size_angstrom)
    if position is None:
        return zero
    position = _refine(correlator, position)
    return (position - position[:1]).float()
