"""Fit the CTF to a power spectrum: an exhaustive search over defocus, then defocus and astigmatism together.

Both compare the logarithm of the power, less a smooth background, with CTF² (less the same kind of smooth part) by normalised
cross-correlation, as CTFFIND does with amplitudes (Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from vitreous.ops.ctf import compute_chi, compute_ctf_1d
from vitreous.ops.ctf_quality import (
    correlate,
    correlate_locally,
    find_resolution,
    make_background_basis,
    remove_background,
)

__all__ = ["CtfSearch", "CtfValues", "FitBand", "search_ctf"]

_FARTHEST = 0.4
"""What refinement may change of the defocus, and half the astigmatism, as a share of the defocus that the search found."""


@dataclass(frozen=True)
class FitBand:
    """What is compared, and with which optics."""

    k_min: float
    """1/Å."""
    k_max: float
    """1/Å."""
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float


@dataclass(frozen=True)
class CtfValues:
    """A CTF as smooth numbers: D(a) = mean + cos_part cos 2a + sin_part sin 2a."""

    mean_angstrom: float
    cos_part_angstrom: float
    sin_part_angstrom: float
    phase_shift_deg: float

    @property
    def defocus_u_angstrom(self) -> float:
        """Larger defocus."""
        return self.mean_angstrom + math.hypot(self.cos_part_angstrom, self.sin_part_angstrom)

    @property
    def defocus_v_angstrom(self) -> float:
        """Smaller defocus."""
        return self.mean_angstrom - math.hypot(self.cos_part_angstrom, self.sin_part_angstrom)

    @property
    def astigmatism_angstrom(self) -> float:
        """U less V."""
        return 2 * math.hypot(self.cos_part_angstrom, self.sin_part_angstrom)

    @property
    def defocus_angle_deg(self) -> float:
        """Of U, 0 to 180, from +x towards +y."""
        return math.degrees(0.5 * math.atan2(self.sin_part_angstrom, self.cos_part_angstrom)) % 180.0

    def compute_directional(self, azimuth: Tensor) -> Tensor:
        """Return the defocus in Å along `azimuth` (radians)."""
        a, b = self.cos_part_angstrom, self.sin_part_angstrom
        return self.mean_angstrom + a * torch.cos(2 * azimuth) + b * torch.sin(2 * azimuth)


@dataclass(frozen=True)
class CtfSearch:
    """A CTF near the right one, and the search that led to it."""

    values: CtfValues
    resolution_angstrom: float
    """Where the correlation of spectrum and CTF² falls below 0.3."""
    defocus_angstrom: Tensor
    """Searched."""
    score: Tensor
    """Correlation of the rotational mean with CTF² at each of them, at the best phase shift."""


def _optics(band: FitBand, phase_shift_deg: float) -> dict[str, float]:
    return {
        "voltage_kv": band.voltage_kv,
        "cs_mm": band.cs_mm,
        "amplitude_contrast": band.amplitude_contrast,
        "phase_shift_deg": phase_shift_deg,
    }


def _search_defocus(
    profile: Tensor, k: Tensor, basis: Tensor, defocus: Tensor, band: FitBand, phase_shift_deg: float
) -> Tensor:
    model = compute_ctf_1d(k[None, :], defocus[:, None], **_optics(band, phase_shift_deg)).square()
    return correlate(remove_background(profile, basis)[None, :], remove_background(model, basis))


def _average_equal_phase(polar: Tensor, k: Tensor, directional: Tensor, mean_defocus: float) -> Tensor:
    """Average `(n_angles, n_k)` over angles at equal D(a) k², so that astigmatism does not blur the rings."""
    source = k[None, :] * torch.sqrt(mean_defocus / directional.clamp_min(100.0))[:, None]
    position = ((source - k[0]) / (k[1] - k[0])).clamp(0, len(k) - 1.001)
    below = position.floor().long()
    part = position - below
    values = polar.gather(1, below) * (1 - part) + polar.gather(1, below + 1) * part
    return values.mean(dim=0)


def _minimise(
    misfit: Callable[[NDArray[np.float64]], float],
    simplex: NDArray[np.float64],
    x_tolerance: float,
    f_tolerance: float,
    most_calls: int,
) -> tuple[float, NDArray[np.float64]]:
    """Return the least misfit found by the downhill simplex method from the corners given, and where it is."""
    found = minimize(
        misfit,
        simplex[0],
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "xatol": x_tolerance, "fatol": f_tolerance, "maxfev": most_calls},
    )
    return float(found.fun), np.asarray(found.x)


def _refine(
    polar: Tensor, k: Tensor, angles: Tensor, start_defocus: float, band: FitBand, phase_shift_deg: float
) -> CtfValues:
    """Return the mean defocus and the two components of astigmatism that correlate best."""
    basis = make_background_basis(k)
    data = remove_background(polar, basis)
    data = data / data.norm()
    cos2, sin2 = torch.cos(2 * angles)[:, None], torch.sin(2 * angles)[:, None]
    k_squared = k.square()[None, :]

    def misfit(values: NDArray[np.float64]) -> float:
        mean, a, b = (float(value) * 1000 for value in values)
        if abs(mean - start_defocus) > _FARTHEST * start_defocus or math.hypot(a, b) > _FARTHEST * start_defocus:
            return 0.0
        chi = compute_chi(k_squared, mean + a * cos2 + b * sin2, **_optics(band, phase_shift_deg))
        model = remove_background(torch.sin(chi).square(), basis)
        return -float((data * model).sum() / model.norm().clamp_min(1e-12))

    best: tuple[float, NDArray[np.float64]] | None = None
    for a, b in ((0.0, 0.0), (0.3, 0.0), (-0.3, 0.0), (0.0, 0.3), (0.0, -0.3)):
        simplex = start_defocus / 1000 * np.array([1.0, 0, 0]) + np.array([0, a, b])
        corners = np.vstack([simplex, simplex + np.diag([0.1, 0.1, 0.1])])
        found = _minimise(misfit, corners, 2e-4, 1e-7, 60 if best is None else 25)
        if best is None or found[0] < best[0]:
            best = found
    assert best is not None
    corners = np.vstack([best[1], best[1] + np.diag([0.03, 0.03, 0.03])])
    found = _minimise(misfit, corners, 1e-4, 1e-8, 200)
    mean, a, b = (float(value) * 1000 for value in found[1])
    return CtfValues(mean, a, b, phase_shift_deg)


def search_ctf(
    polar: Tensor,
    k: Tensor,
    angles: Tensor,
    band: FitBand,
    *,
    min_defocus_angstrom: float,
    max_defocus_angstrom: float,
    step_angstrom: float = 25.0,
    phase_shifts_deg: Sequence[float] = (0.0,),
) -> CtfSearch:
    """Search for defocus and astigmatism in a polar power spectrum.

    Parameters
    ----------
    polar
        Power, `(n_angles, n_k)`, positive.
    k
        Frequencies, 1/Å, evenly spaced, `(n_k,)`, covering the band.
    angles
        Of the rows, radians from +x towards +y, `(n_angles,)`.
    band
        Frequencies to fit, and optics.
    min_defocus_angstrom, max_defocus_angstrom, step_angstrom
        Range of the exhaustive search.
    phase_shifts_deg
        Phase shifts of a phase plate to search; the best of them is kept as it is.

    Returns
    -------
    CtfSearch
        Fitted twice: over the whole band, and again up to a little beyond the resolution that the first fit reached.

    Raises
    ------
    ValueError
        If the band holds too few frequencies.
    """
    inside = (k >= band.k_min) & (k <= band.k_max)
    k, polar = k[inside].double(), torch.log(polar[:, inside].double().clamp_min(1e-30))
    angles = angles.double()
    if len(k) < 40:
        raise ValueError(f"only {len(k)} frequencies between {band.k_min:.3f} and {band.k_max:.3f} 1/Å")
    basis = make_background_basis(k)
    defocus = torch.arange(
        min_defocus_angstrom, max_defocus_angstrom, step_angstrom, dtype=torch.float64, device=k.device
    )
    profile = polar.mean(dim=0)
    searches = [_search_defocus(profile, k, basis, defocus, band, phase) for phase in phase_shifts_deg]
    best = max(range(len(searches)), key=lambda i: float(searches[i].max()))
    search, phase = searches[best], phase_shifts_deg[best]
    values = _refine(polar, k, angles, float(defocus[search.argmax()]), band, phase)
    last = _find_last(polar, k, angles, values, band)
    end = min(len(k), max(int(1.15 * last), 60))
    if end < len(k):
        values = _refine(polar[:, :end], k[:end], angles, values.mean_angstrom, band, phase)
        last = _find_last(polar, k, angles, values, band)
    return CtfSearch(values, 1 / float(k[last]), defocus, search)


def _find_last(polar: Tensor, k: Tensor, angles: Tensor, values: CtfValues, band: FitBand) -> int:
    """Return the index of the resolution that a CTF reaches."""
    spectrum = _average_equal_phase(polar, k, values.compute_directional(angles), values.mean_angstrom)
    mean = torch.as_tensor(values.mean_angstrom, dtype=k.dtype, device=k.device)
    chi = compute_chi(k.square(), mean, **_optics(band, values.phase_shift_deg))
    rings = torch.sin(chi).square()
    correlation = correlate_locally(remove_background(spectrum, make_background_basis(k)), rings, chi)
    return find_resolution(correlation, chi)
