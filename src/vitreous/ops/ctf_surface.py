"""A smooth defocus surface over a micrograph, fitted to all tiles together.

For every tile the log likelihood of each defocus is tabulated: how much of its spectrum, averaged along lines of equal phase,
the rings of that defocus explain. A surface's likelihood is the sum over the tiles. A plane is searched exhaustively, first on
low frequencies, where rings are wide; polynomials of higher degree follow while the Bayesian information criterion falls.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vitreous.ops.ctf import compute_ctf_1d, compute_wavelength_angstrom
from vitreous.ops.ctf_fit import CtfValues, FitBand
from vitreous.ops.ctf_refine import RefinedCtf, SpectrumPixels, make_splines

__all__ = ["DefocusSurface", "Profiles", "average_equal_phase", "compute_surface", "fit_surface"]

_BINS_PER_PIXEL = 2
_N_BACKGROUND = 9
_TABLE_STEP_ANGSTROM = 10.0
_STEEPEST = math.tan(math.radians(55))
_MOST_DEGREE = 4
_COARSE_K = (1 / 8, 1 / 5.5)
_TILE_DEVIATION = 0.253
"""Standard deviation of places in a tile, weighted by the square of its taper, over its side."""
_LOUDEST = 4.0
"""Times the median: what one tile may say at most."""


class Profiles(NamedTuple):
    """Spectra of tiles averaged over angles along lines of equal phase."""

    k: Tensor
    """1/Å, evenly spaced, `(n_k,)`."""
    power: Tensor
    """`(n_tiles, n_k)`."""
    counts: Tensor
    """Elements in every bin, `(n_k,)`."""


@dataclass(frozen=True)
class DefocusSurface:
    """Local less mean defocus, as Legendre polynomials over the image; its mean over the image is 0.

    The polynomials are P_i(v) P_j(u), u and v from -1 to 1 along x and y, in the order of `list_terms(degree)`.
    """

    degree: int
    """0: flat."""
    coefficients: Tensor
    """Å, float64, `(n_terms,)`."""
    covariance: Tensor
    """Of the coefficients, Å², `(n_terms, n_terms)`."""
    shape: tuple[int, int]
    """Rows and columns of the image in the pixels that coordinates are given in."""
    constant_angstrom: float
    """What the tiles say of the mean defocus."""
    constant_error_angstrom: float
    """Its standard error."""
    tile_defocus_angstrom: Tensor
    """Best defocus of every tile on its own, `(n_tiles,)`."""
    tile_error_angstrom: Tensor
    """Its standard error."""

    def compute_offsets(self, xy_px: Tensor) -> Tensor:
        """Return local less mean defocus, Å, at `xy_px` `(n, 2)`."""
        return compute_surface(self.degree, self.coefficients, self.shape, xy_px)

    def compute_errors(self, xy_px: Tensor) -> Tensor:
        """Return the standard errors of `compute_offsets`, Å."""
        terms = _compute_terms(self.degree, self.shape, xy_px)
        return ((terms @ self.covariance) * terms).sum(-1).clamp_min(0).sqrt()

    def compute_tilt(self, pixel_size_angstrom: float) -> tuple[float, float, float]:
        """Return tilt, direction of the axis (0 to 180, from +x towards +y) and standard error of the tilt, degrees.

        Of the plane nearest to the surface. The axis lies where the defocus stays the same.
        """
        if self.degree == 0:
            return 0.0, 0.0, 0.0
        ny, nx = self.shape
        scale = torch.tensor([2 / (nx * pixel_size_angstrom), 2 / (ny * pixel_size_angstrom)], dtype=torch.float64)
        index = [list_terms(self.degree).index(term) for term in ((0, 1), (1, 0))]
        slope = self.coefficients.cpu()[index] * scale
        covariance = self.covariance.cpu()[index][:, index] * scale[:, None] * scale[None, :]
        steepness = float(slope.norm())
        along = slope / max(steepness, 1e-12)
        error = math.degrees(math.sqrt(max(float(along @ covariance @ along), 0.0)) / (1 + steepness**2))
        axis = math.degrees(math.atan2(float(slope[1]), float(slope[0]))) + 90.0
        return math.degrees(math.atan(steepness)), axis % 180.0, error


def list_terms(degree: int) -> list[tuple[int, int]]:
    """Return the degrees (along y, along x) of the polynomials of a surface, without the constant."""
    return [(total - j, j) for total in range(1, degree + 1) for j in range(total, -1, -1)]


def _compute_terms(degree: int, shape: tuple[int, int], xy_px: Tensor) -> Tensor:
    ny, nx = shape
    u, v = (2 * xy_px[:, 0] + 1) / nx - 1, (2 * xy_px[:, 1] + 1) / ny - 1
    along = [[torch.ones_like(w), w] for w in (v, u)]
    for n in range(1, degree):
        for axis, w in zip(along, (v, u), strict=True):
            axis.append(((2 * n + 1) * w * axis[n] - n * axis[n - 1]) / (n + 1))
    terms = [along[0][i] * along[1][j] for i, j in list_terms(degree)]
    return torch.stack(terms, dim=-1) if terms else torch.zeros(len(xy_px), 0, dtype=xy_px.dtype, device=xy_px.device)


def _average_terms(shape: tuple[int, int], centres_px: Tensor, tile_px: float) -> Tensor:
    """Return all terms averaged over tapered tiles: at two points along each axis that have the taper's variance."""
    steps = [(sx * _TILE_DEVIATION * tile_px, sy * _TILE_DEVIATION * tile_px) for sx in (-1, 1) for sy in (-1, 1)]
    return torch.stack(
        [_compute_terms(_MOST_DEGREE, shape, centres_px + centres_px.new_tensor(s)) for s in steps]
    ).mean(0)


def compute_surface(degree: int, coefficients: Tensor, shape: tuple[int, int], xy_px: Tensor) -> Tensor:
    """Return local less mean defocus, Å, of a surface at `xy_px` `(n, 2)`; coordinates of pixel centres, (0, 0) the first."""
    offsets: Tensor = _compute_terms(degree, shape, xy_px.double()) @ coefficients.double()
    return offsets


def average_equal_phase(power: Tensor, pixels: SpectrumPixels, values: CtfValues, band: FitBand) -> Profiles:
    """Average the spectra of tiles over angles where astigmatism leaves the phase the same.

    Parameters
    ----------
    power
        `(n_tiles, tile, tile // 2 + 1)`.
    pixels
        Elements to use.
    values
        The astigmatism.
    band
        Optics.
    """
    wavelength = compute_wavelength_angstrom(band.voltage_kv)
    quartic = 0.5 * band.cs_mm * 1e7 * wavelength**2
    directional, mean = values.compute_directional(pixels.azimuth), values.mean_angstrom
    k_squared = pixels.k.square()
    # mean q - quartic q² = directional k² - quartic k⁴, solved for q, the squared frequency of the same phase.
    phase = directional * k_squared - quartic * k_squared.square()
    root = (mean**2 - 4 * quartic * phase).clamp_min(0).sqrt()
    equal = 2 * phase / (mean + root)
    k = torch.where(root > 0.1 * mean, equal.clamp_min(0).sqrt(), pixels.k)
    low = float(pixels.k.min())
    spacing = pixels.spacing / _BINS_PER_PIXEL
    n = int((float(pixels.k.max()) - low) / spacing)
    bins = ((k - low) / spacing).floor().long()
    inside = (bins >= 0) & (bins < n)
    bins = bins[inside]
    sums = torch.zeros(len(power), n, dtype=power.dtype, device=power.device)
    sums.index_add_(1, bins, power.flatten(-2)[:, pixels.index[inside]])
    counts = torch.bincount(bins, minlength=n)
    middle = low + (torch.arange(n, dtype=torch.float64, device=k.device) + 0.5) * spacing
    return Profiles(middle, sums.double() / counts.clamp_min(1), counts.double())


class _Tables(NamedTuple):
    """Log likelihood of every tile at evenly spaced defocus, with two derivatives: `(n_tiles, n_defocus)`."""

    first: float
    step: float
    value: Tensor
    slope: Tensor
    curvature: Tensor

    def look_up(self, table: Tensor, defocus: Tensor) -> Tensor:
        """Return a table at one defocus for each tile, `(..., n_tiles)`; constant beyond its ends."""
        position = ((defocus - self.first) / self.step).clamp(0, table.shape[1] - 1.001)
        below = position.long()
        part = position - below
        tiles = torch.arange(len(table), device=table.device).expand_as(below)
        return table[tiles, below] * (1 - part) + table[tiles, below + 1] * part


def _tabulate(
    profiles: Profiles, depth: Tensor, defocus: Tensor, band: FitBand, phase_deg: float, k_max: float
) -> _Tables:
    """Return the log likelihoods of the tiles, one look each."""
    use = (profiles.k <= k_max) & (profiles.counts > 0)
    k, root = profiles.k[use], profiles.counts[use].sqrt()
    basis = make_splines(k, _N_BACKGROUND, float(k[0]), float(k[-1]))
    power = profiles.power[:, use]
    typical = power.mean(dim=0)
    weights = root / typical
    # Every tile has its own background: least squares, weighted by the deviation of its bins.
    design = torch.linalg.qr(basis * weights[:, None])
    own = ((power * weights) @ design.Q @ torch.linalg.inv(design.R).T) @ basis.T
    data = (power / own.clamp_min(0.05 * typical) - 1) * root
    smooth = torch.linalg.qr(basis * root[:, None]).Q
    rings = compute_ctf_1d(
        k[None, :],
        defocus[:, None],
        voltage_kv=band.voltage_kv,
        cs_mm=band.cs_mm,
        amplitude_contrast=band.amplitude_contrast,
        phase_shift_deg=phase_deg,
    ).square()
    model = rings * (depth[use] * root)
    model = model - (model @ smooth) @ smooth.T
    model = model / torch.linalg.vector_norm(model, dim=-1, keepdim=True).clamp_min(1e-12)
    value = 0.5 * ((data - (data @ smooth) @ smooth.T) @ model.T).clamp_min(0).square()
    loudest = value.amax(dim=1)
    value = value * (_LOUDEST * loudest.median() / loudest.clamp_min(1e-12)).clamp_max(1.0)[:, None]
    step = float(defocus[1] - defocus[0])
    slope = torch.zeros_like(value)
    slope[:, 1:-1] = (value[:, 2:] - value[:, :-2]) / (2 * step)
    curvature = torch.zeros_like(value)
    curvature[:, 1:-1] = (value[:, 2:] - 2 * value[:, 1:-1] + value[:, :-2]) / step**2
    return _Tables(float(defocus[0]), step, value, slope, curvature)


def _climb(tables: _Tables, terms: Tensor, start: Tensor) -> tuple[Tensor, float, Tensor]:
    """Return the coefficients of greatest likelihood near `start`, that likelihood, and the information matrix."""

    def judge(coefficients: Tensor) -> float:
        return float(tables.look_up(tables.value, terms @ coefficients).sum())

    current, value, damping = start, judge(start), 1e-2
    information = torch.eye(terms.shape[1], dtype=torch.float64, device=terms.device)
    for _ in range(40):
        defocus = terms @ current
        slope = tables.look_up(tables.slope, defocus)
        bend = -tables.look_up(tables.curvature, defocus)
        bend = bend.clamp_min(0.05 * float(bend.clamp_min(0).median()) + 1e-12)
        information = (terms * bend[:, None]).T @ terms
        damped = information + damping * torch.diag(information.diagonal())
        # Where all tiles lie in a row nothing tells of the slope across it: the shortest step leaves it alone.
        step = (
            torch.linalg.lstsq(damped.cpu(), (terms.T @ slope)[:, None].cpu(), driver="gelsd").solution[:, 0].to(terms)
        )
        moved = current + step
        new = judge(moved)
        if new < value:
            damping *= 8
            if damping > 1e6:
                break
            continue
        current, value, damping = moved, new, max(damping / 6, 1e-6)
        if float((terms @ step).abs().max()) < 0.05:
            break
    return current, value, information


def _search_plane(tables: _Tables, terms: Tensor, mean: float, extent: tuple[float, float], ring: float) -> Tensor:
    """Return the best of all planes up to the steepest: (constant, along the first term, along the second)."""
    step = ring / 3
    axes = [
        torch.arange(-math.ceil(reach / step), math.ceil(reach / step) + 1, device=terms.device) * step
        for reach in extent
    ]
    shifts = torch.arange(-3, 4, device=terms.device, dtype=torch.float64) * ring / 3
    gradients = torch.cartesian_prod(axes[0].double(), axes[1].double())
    best, found = -math.inf, torch.tensor([mean, 0.0, 0.0], dtype=torch.float64, device=terms.device)
    for shift in shifts:
        totals = tables.look_up(tables.value, mean + shift + gradients @ terms[:, 1:3].T).sum(-1)
        index = int(totals.argmax())
        if float(totals[index]) > best:
            best = float(totals[index])
            found = torch.cat([(mean + shift)[None], gradients[index]])
    return found


def fit_surface(
    profiles: Profiles,
    centres_px: Tensor,
    tile_px: float,
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    refined: RefinedCtf,
    band: FitBand,
    n_looks: float,
    k_max: float,
) -> DefocusSurface:
    """Fit a defocus surface to the spectra of tiles.

    Parameters
    ----------
    profiles
        Of the tiles.
    centres_px, tile_px, shape, pixel_size_angstrom
        Where the tiles are, `(n_tiles, 2)` as (x, y), and their side, in an image of `shape`.
    refined
        The CTF of the whole.
    band
        Optics.
    n_looks
        Independent spectra that all tiles are worth.
    k_max
        Highest frequency with rings, 1/Å.

    Returns
    -------
    DefocusSurface
        Flat unless the evidence for a slope is strong; standard errors scaled up by the misfit of `refined`.
    """
    mean, phase = refined.values.mean_angstrom, refined.values.phase_shift_deg
    depth = _interpolate(profiles.k, refined.envelope_k, refined.envelope).clamp_min(0.02)
    ny, nx = shape
    half = (0.5 * nx * pixel_size_angstrom, 0.5 * ny * pixel_size_angstrom)
    all_terms = torch.cat([torch.ones_like(centres_px[:, :1]), _average_terms(shape, centres_px, tile_px)], dim=1)
    # The first two terms are u and v.
    spread = [float(all_terms[:, i].abs().max()) for i in (1, 2)]
    reach = min(_STEEPEST * (half[0] * spread[0] + half[1] * spread[1]) + 500, 0.7 * mean)
    defocus = torch.arange(
        mean - reach, mean + reach, _TABLE_STEP_ANGSTROM, dtype=torch.float64, device=centres_px.device
    )
    share = n_looks / len(centres_px) / max(1.0, refined.misfit)
    wavelength = compute_wavelength_angstrom(band.voltage_kv)
    limits = [*(k for k in _COARSE_K if k < 0.9 * k_max), k_max]
    flat = torch.tensor([mean], dtype=torch.float64, device=centres_px.device)
    plane = torch.cat([flat, flat.new_zeros(2)])
    for i, limit in enumerate(limits):
        tables = _tabulate(profiles, depth, defocus, band, phase, limit)
        flat = _climb(tables, all_terms[:, :1], flat)[0]
        if i == 0 and len(centres_px) >= 4:
            steepest = (_STEEPEST * half[0], _STEEPEST * half[1])
            plane = _search_plane(tables, all_terms, mean, steepest, 0.5 / (wavelength * limit**2))
        plane = _climb(tables, all_terms[:, :3], plane)[0]
    coefficients, value, information = _climb(tables, all_terms[:, :1], flat)
    best, degree = 2 * share * value, 0
    cost = max(math.log(max(n_looks, 1.0)), 4.0)
    start = plane
    for trial in range(1, _MOST_DEGREE + 1):
        n_terms = 1 + len(list_terms(trial))
        if n_terms > 0.5 * n_looks + 1:
            break
        starts = [torch.cat([start, start.new_zeros(n_terms - len(start))])]
        if trial == 1:
            starts.append(torch.cat([flat, flat.new_zeros(2)]))
        found = max((_climb(tables, all_terms[:, :n_terms], s) for s in starts), key=lambda climbed: climbed[1])
        evidence = 2 * share * found[1] - cost * (n_terms - 1)
        if evidence > best:
            best, degree, (coefficients, value, information) = evidence, trial, found
        start = found[0]
    at_tiles = all_terms[:, : len(coefficients)] @ coefficients
    covariance = torch.linalg.inv(
        information + 1e-12 * torch.eye(len(information), dtype=torch.float64, device=information.device)
    )
    covariance = covariance * (refined.correlation_factor / share)
    alone = tables.value.argmax(dim=1)
    bend = -tables.look_up(tables.curvature, at_tiles)
    return DefocusSurface(
        degree=degree,
        coefficients=coefficients[1:],
        covariance=covariance[1:, 1:],
        shape=shape,
        constant_angstrom=float(coefficients[0]),
        constant_error_angstrom=math.sqrt(float(covariance[0, 0])),
        tile_defocus_angstrom=defocus[alone],
        tile_error_angstrom=bend.clamp_min(0.05 * float(bend.clamp_min(0).median()) + 1e-12).rsqrt(),
    )


def _interpolate(at: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Return `values` at evenly spaced `knots`, linearly interpolated."""
    position = ((at - knots[0]) / (knots[1] - knots[0])).clamp(0, len(knots) - 1.001)
    below = position.long()
    part = position - below
    return values[below] * (1 - part) + values[below + 1] * part
