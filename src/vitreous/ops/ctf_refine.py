"""Refine a CTF on every element of a power spectrum, with the covariance of what was found.

The mean power of tiles is modelled as B(k, a) + A(k) CTF², B and A smooth; its standard deviation is proportional to the
power itself. Gauss-Newton steps of all parameters together, weighted by that deviation, are Fisher scoring. The covariance
follows from what every element of the spectrum adds to every parameter, and from how the noise of elements is correlated.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.interpolate import BSpline
from torch import Tensor

from vitreous.ops.ctf import compute_chi, compute_wavelength_angstrom
from vitreous.ops.ctf_fit import CtfValues, FitBand
from vitreous.ops.fourier import compute_half_weights

__all__ = ["RefinedCtf", "SpectrumPixels", "list_pixels", "make_splines", "refine_ctf"]

_N_BACKGROUND, _N_ENVELOPE, _N_ANISOTROPY = 11, 7, 3
_N_STEPS = 8
_AXIS_WIDTH = 1
"""Elements beside the axes that are left out: edges and readout put power there that is not the specimen's."""
_BLOCK = 8
_CONVERGED_ANGSTROM, _LONGEST_STEP_ANGSTROM = 0.2, 300.0


@dataclass(frozen=True)
class SpectrumPixels:
    """Elements of a half spectrum between two frequencies, without the axes."""

    index: Tensor
    """Into the flattened half spectrum."""
    k: Tensor
    """1/Å."""
    azimuth: Tensor
    """Radians from +x towards +y."""
    block: Tensor
    """Number of the square block of elements that each is in."""
    spacing: float
    """Of neighbouring elements, 1/Å."""


@dataclass(frozen=True)
class RefinedCtf:
    """What was found, and how well it is known."""

    values: CtfValues
    covariance: Tensor
    """Of (mean, cos_part, sin_part, phase shift), Å and degrees, `(4, 4)`; zero for a phase shift that was given."""
    envelope: Tensor
    """A(k) over B(k) + A(k)/2 at the knots `envelope_k`: how deep the rings are."""
    envelope_k: Tensor
    significance: float
    """Of the rings, in standard errors: root of Wald's statistic for their depth, at the best defocus of those searched.

    Noise alone reaches 5.
    """
    misfit: float
    """Mean square of the residuals averaged over blocks, in units of their expected variance; 1 for a perfect model."""
    correlation_factor: float
    """Variance of the mean defocus over what it would be if elements of the spectrum were independent.

    Noise of neighbouring elements is alike; across narrow rings it cancels.
    """

    @property
    def mean_error_angstrom(self) -> float:
        """Standard error of the mean defocus."""
        return math.sqrt(float(self.covariance[0, 0]))

    @property
    def astigmatism_error_angstrom(self) -> float:
        """Standard error of U - V."""
        return 2 * math.sqrt(self._project(radial=True))

    @property
    def angle_error_deg(self) -> float:
        """Standard error of the angle of U; 52, that of an angle by chance, where the astigmatism is not significant."""
        half = 0.5 * self.values.astigmatism_angstrom
        error = math.degrees(0.5 * math.sqrt(self._project(radial=False)) / max(half, 1e-9))
        return min(error, 180 / math.sqrt(12))

    @property
    def phase_shift_error_deg(self) -> float:
        """Standard error of the phase shift; 0 where it was given."""
        return math.sqrt(float(self.covariance[3, 3]))

    def _project(self, *, radial: bool) -> float:
        double = math.radians(2 * self.values.defocus_angle_deg)
        turn = 0.0 if radial else math.pi / 2
        along = torch.tensor([math.cos(double + turn), math.sin(double + turn)], dtype=torch.float64)
        return max(float(along @ self.covariance[1:3, 1:3].cpu() @ along), 0.0)


def list_pixels(
    tile_px: int, pixel_sizes: tuple[float, float], k_min: float, k_max: float, device: torch.device | str = "cpu"
) -> SpectrumPixels:
    """Return the elements of the half spectrum of a square tile between two frequencies.

    Parameters
    ----------
    tile_px
        Side of the tile.
    pixel_sizes
        Å per pixel along y and along x.
    k_min, k_max
        1/Å.
    device
        Where the result lives.
    """
    row = torch.fft.fftfreq(tile_px, dtype=torch.float64, device=device)[:, None]
    column = torch.fft.rfftfreq(tile_px, dtype=torch.float64, device=device)[None, :]
    ky, kx = row / pixel_sizes[0], column / pixel_sizes[1]
    k = torch.hypot(ky.expand(-1, kx.shape[1]), kx.expand(len(ky), -1))
    off_axes = ((row * tile_px).abs() > _AXIS_WIDTH + 0.5) & ((column * tile_px).abs() > _AXIS_WIDTH + 0.5)
    inside = ((k >= k_min) & (k <= k_max) & off_axes).flatten()
    index = inside.nonzero()[:, 0]
    y, x = index // k.shape[1], index % k.shape[1]
    return SpectrumPixels(
        index=index,
        k=k.flatten()[index],
        azimuth=torch.atan2(ky[:, 0][y], kx[0][x]),
        block=(y // _BLOCK) * (k.shape[1] // _BLOCK + 1) + x // _BLOCK,
        spacing=1 / (tile_px * max(pixel_sizes)),
    )


def make_splines(k: Tensor, n: int, low: float, high: float) -> Tensor:
    """Return `n` cubic B-splines at `k`, `(len(k), n)`, tabulated and interpolated: there are many `k`."""
    inner = np.linspace(low, high, n - 2)
    knots = np.concatenate([[low] * 3, inner, [high] * 3])
    grid = np.linspace(low, high, 1025)
    table = torch.from_numpy(BSpline.design_matrix(grid, knots, 3).toarray()).to(k.device)
    position = ((k - low) / (high - low) * 1024).clamp(0, 1023.999)
    below = position.long()
    part = (position - below)[:, None]
    return table[below] * (1 - part) + table[below + 1] * part


def _compute_spread(k_squared: Tensor, offsets: Tensor | None, wavelength: float) -> Tensor | None:
    """Return the mean over the field of exp(2 pi i lambda k² offset) at `k_squared`: what a range of defocus leaves of rings."""
    if offsets is None:
        return None
    grid = torch.linspace(0, float(k_squared.max()), 2048, dtype=torch.float64, device=k_squared.device)
    phase = 2 * math.pi * wavelength * grid[:, None] * offsets[None, :]
    table = torch.complex(torch.cos(phase).mean(dim=1), torch.sin(phase).mean(dim=1))
    position = (k_squared / grid[1]).clamp(0, 2046.999)
    below = position.long()
    part = position - below
    return table[below] * (1 - part) + table[below + 1] * part


def _evaluate_rings(
    values: CtfValues, pixels: SpectrumPixels, band: FitBand, spread: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return CTF² averaged over the field, and its derivative with respect to chi."""
    chi = compute_chi(
        pixels.k.square(),
        values.compute_directional(pixels.azimuth),
        voltage_kv=band.voltage_kv,
        cs_mm=band.cs_mm,
        amplitude_contrast=band.amplitude_contrast,
        phase_shift_deg=values.phase_shift_deg,
    )
    cosine, sine = torch.cos(2 * chi), torch.sin(2 * chi)
    if spread is not None:
        cosine, sine = cosine * spread.real - sine * spread.imag, sine * spread.real + cosine * spread.imag
    return 0.5 - 0.5 * cosine, sine


def refine_ctf(
    power: Tensor,
    pixels: SpectrumPixels,
    start: CtfValues,
    band: FitBand,
    n_looks: float,
    lag_weights: tuple[Tensor, Tensor],
    *,
    with_phase: bool = False,
    offsets_angstrom: Tensor | None = None,
) -> RefinedCtf:
    """Refine defocus, astigmatism and (if asked) phase shift on the mean power of tiles.

    Parameters
    ----------
    power
        Half spectrum, `(tile, tile // 2 + 1)`.
    pixels
        Its elements to use.
    start
        Near the answer: within a fraction of a ring.
    band
        Optics.
    n_looks, lag_weights
        Independent spectra that `power` is worth, and how its elements are correlated (as `TileSpectra` has them).
    with_phase
        Whether the phase shift is refined, too.
    offsets_angstrom
        Defocus of the tiles less their mean, `(n_tiles,)`, where the specimen is not flat: rings of different places then
        cancel in a known way.

    Returns
    -------
    RefinedCtf
        The covariance is scaled up by the misfit where that is above 1.

    Raises
    ------
    ValueError
        If there are too few elements.
    """
    n_parameters = _N_BACKGROUND + _N_ENVELOPE + 2 * _N_ANISOTROPY + 4
    if len(pixels.index) < 4 * n_parameters:
        raise ValueError(f"only {len(pixels.index)} elements of the spectrum for {n_parameters} parameters")
    observed = power.flatten()[pixels.index].double()
    observed = observed / observed.mean()
    k, k_squared = pixels.k, pixels.k.square()
    low, high = float(k.min()), float(k.max())
    wavelength = compute_wavelength_angstrom(band.voltage_kv)
    spread = _compute_spread(k_squared, offsets_angstrom, wavelength)
    background = make_splines(k, _N_BACKGROUND, low, high)
    envelope = make_splines(k, _N_ENVELOPE, low, high)
    uneven = torch.stack([((k - low) / (high - low)) ** power for power in range(_N_ANISOTROPY)], dim=1)
    cosine, sine = torch.cos(2 * pixels.azimuth)[:, None], torch.sin(2 * pixels.azimuth)[:, None]
    smooth = torch.cat([background, uneven * cosine, uneven * sine], dim=1)
    per_angstrom = math.pi * wavelength * k_squared
    directions = torch.stack([per_angstrom, per_angstrom * cosine[:, 0], per_angstrom * sine[:, 0]], dim=1)
    if with_phase:
        directions = torch.cat([directions, torch.full_like(directions[:, :1], math.pi / 180)], dim=1)
    n_shape, n_linear = directions.shape[1], smooth.shape[1] + envelope.shape[1]

    mean_power = background @ _solve(background, observed, torch.ones_like(observed))[0]
    least = 0.05 * float(observed.median())
    values, rings, slope = start, *_evaluate_rings(start, pixels, band, spread)
    matrix = torch.cat([smooth, envelope * rings[:, None]], dim=1)
    model = mean_power
    # The first round takes the deviation from the smooth power, the second from the model of the first.
    for _ in range(2):
        deviation = model.clamp_min(least)
        linear = _solve(matrix, observed, deviation)[0]
        model = matrix @ linear
        best, damping = float(((observed - model) / deviation).square().mean()), 1e-3
        for _ in range(_N_STEPS):
            amplitude = envelope @ linear[smooth.shape[1] :]
            jacobian = torch.cat([matrix, (amplitude * slope)[:, None] * directions], dim=1)
            step, inverse = _solve(jacobian, observed - model, deviation, damping, n_shape)
            moved, part = _move(values, step[n_linear:])
            new_rings, new_slope = _evaluate_rings(moved, pixels, band, spread)
            new_matrix = torch.cat([smooth, envelope * new_rings[:, None]], dim=1)
            new_linear = linear + part * step[:n_linear]
            new_model = new_matrix @ new_linear
            misfit = float(((observed - new_model) / deviation).square().mean())
            if misfit > best:
                damping = max(damping, 1e-3) * 30
                continue
            values, matrix, linear, model, slope = moved, new_matrix, new_linear, new_model, new_slope
            best, damping = misfit, damping / 10
            if float(step[n_linear : n_linear + 3].abs().max()) < _CONVERGED_ANGSTROM:
                break
    misfit = _measure_misfit((observed - model) / deviation, pixels.block, power.shape[0], n_looks, lag_weights)
    plain = inverse[n_linear:, n_linear:]
    influence = (jacobian / deviation[:, None]) @ inverse[:, n_linear:]
    correlated = _sum_correlated(influence, pixels.index, (power.shape[0], power.shape[1]), lag_weights)
    covariance = torch.zeros(4, 4, dtype=torch.float64, device=k.device)
    covariance[:n_shape, :n_shape] = correlated / n_looks * max(1.0, misfit)
    depth, of_depth = linear[smooth.shape[1] :], slice(smooth.shape[1], n_linear)
    evidence = n_looks * float(depth @ torch.linalg.solve(inverse[of_depth, of_depth], depth))
    knots = torch.linspace(low, high, 64, dtype=torch.float64, device=k.device)
    height = make_splines(knots, _N_ENVELOPE, low, high) @ depth
    floor = make_splines(knots, _N_BACKGROUND, low, high) @ linear[:_N_BACKGROUND]
    return RefinedCtf(
        values=replace(values, phase_shift_deg=values.phase_shift_deg % 180.0) if with_phase else values,
        covariance=covariance,
        envelope=height / (floor + 0.5 * height).abs().clamp_min(1e-12),
        envelope_k=knots,
        significance=math.sqrt(max(evidence, 0.0)),
        misfit=misfit,
        correlation_factor=float(correlated[0, 0] / plain[0, 0]),
    )


def _solve(
    matrix: Tensor, target: Tensor, deviation: Tensor, damping: float = 0.0, n_damped: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the weighted least-squares solution and the inverse of the (undamped) normal matrix."""
    weighted = matrix / deviation[:, None]
    normal = weighted.T @ weighted
    scale = normal.diagonal().clamp_min(1e-30).sqrt()
    scaled = normal / (scale[:, None] * scale[None, :])
    identity = torch.eye(len(scale), dtype=torch.float64, device=matrix.device)
    right = weighted.T @ (target / deviation) / scale
    extra = torch.zeros_like(scale)
    if n_damped:
        extra[-n_damped:] = damping
    solution = torch.linalg.solve(scaled + torch.diag(extra) + 1e-10 * identity, right) / scale
    return solution, torch.linalg.inv(scaled + 1e-10 * identity) / (scale[:, None] * scale[None, :])


def _move(values: CtfValues, step: Tensor) -> tuple[CtfValues, float]:
    """Return the values moved along `step`, no farther than a fraction of a ring, and the part of the step taken."""
    change = [*step.tolist(), 0.0][:4]
    part = min(1.0, _LONGEST_STEP_ANGSTROM / max(*(abs(value) for value in change[:3]), 1e-9))
    moved = CtfValues(
        values.mean_angstrom + part * change[0],
        values.cos_part_angstrom + part * change[1],
        values.sin_part_angstrom + part * change[2],
        values.phase_shift_deg + part * change[3],
    )
    return moved, part


def _sum_correlated(
    influence: Tensor, index: Tensor, shape: tuple[int, int], lag_weights: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the covariance of `influence.T @ noise`, `(n, n)`, per look.

    The noise of a spectrum averaged over tapered tiles that overlap is correlated over a frequency or two. The double sum over
    elements is a single one over the products of transforms, by lag.

    Parameters
    ----------
    influence
        What each element of the spectrum adds to each parameter, `(n_elements, n)`.
    index
        Of the elements in the flattened half spectrum.
    shape
        Of the half spectrum.
    lag_weights
        Transform of the correlation along y and along x.
    """
    tile = shape[0]
    planes = torch.zeros(influence.shape[1], tile * shape[1], dtype=torch.float64, device=influence.device)
    planes[:, index] = influence.T
    flat = torch.fft.rfft2(planes.reshape(-1, *shape), s=(tile, tile)).flatten(1)
    lag = torch.arange(tile, device=influence.device)
    rows = lag_weights[0].double()[torch.minimum(lag, tile - lag)]
    weights = rows[:, None] * lag_weights[1].double() * compute_half_weights((tile, tile), influence.device)
    total: Tensor = ((flat * weights.flatten()) @ flat.conj().T).real / tile**2
    return total


def _expect_block(lag_weight: Tensor, tile_px: int) -> float:
    """Return the variance of the sum of a block's noise along one axis, per element, per look."""
    lag = torch.arange(tile_px, device=lag_weight.device)
    correlation = torch.fft.fft(lag_weight.double()[torch.minimum(lag, tile_px - lag)]).real / tile_px
    apart = torch.arange(1, _BLOCK, device=lag_weight.device)
    return float(correlation[0] + 2 * ((1 - apart / _BLOCK) * correlation[1:_BLOCK]).sum())


def _measure_misfit(
    relative: Tensor, block: Tensor, tile_px: int, n_looks: float, lag_weights: tuple[Tensor, Tensor]
) -> float:
    """Return the mean square of block means of relative residuals over their expected variance."""
    n = int(block.max()) + 1
    counts = torch.zeros(n, dtype=torch.float64, device=block.device).index_add_(0, block, torch.ones_like(relative))
    sums = torch.zeros_like(counts).index_add_(0, block, relative)
    full = counts >= _BLOCK**2 // 2
    expected = math.prod(_expect_block(weights, tile_px) for weights in lag_weights)
    return float((sums[full].square() / counts[full]).mean() * n_looks) / expected
