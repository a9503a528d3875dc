"""Fourier shell correlation and resolution.

Volumes are `(n, n, n)` as (z, y, x), n even. Shell r holds the elements of the transform with round(|k|) == r, k in cycles per
box; shells run to Nyquist, r = 0 ... n // 2. Sums count each element as often as it stands in the full transform.
"""

import math

import scipy.fft
import torch
from torch import Tensor

from vitreous.ops.fourier import compute_half_weights

__all__ = [
    "apply_shell_filter",
    "compute_corrected_fsc",
    "compute_fsc",
    "compute_resolution_angstrom",
    "compute_shell_sums",
    "irfft3",
    "randomise_phases",
    "rfft3",
]


def rfft3(volume: Tensor) -> Tensor:
    """Return the half spectrum `(n, n, n // 2 + 1)` of a real volume, unnormalised."""
    if volume.device.type == "cpu":
        return torch.from_numpy(scipy.fft.rfftn(volume.numpy(), workers=torch.get_num_threads()))
    result: Tensor = torch.fft.rfftn(volume)
    return result


def irfft3(spectrum: Tensor, n: int) -> Tensor:
    """Return the real volume `(n, n, n)` of a half spectrum; the inverse of `rfft3`."""
    if spectrum.device.type == "cpu":
        return torch.from_numpy(scipy.fft.irfftn(spectrum.numpy(), s=(n, n, n), workers=torch.get_num_threads()))
    result: Tensor = torch.fft.irfftn(spectrum, s=(n, n, n))
    return result


def _compute_radius(n: int, device: torch.device) -> Tensor:
    """Return |k| in cycles per box on the half spectrum, `(n, n, n // 2 + 1)`."""
    k = torch.fft.fftfreq(n, 1 / n, device=device)
    kx = torch.fft.rfftfreq(n, 1 / n, device=device)
    return torch.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + kx**2)


def compute_shell_sums(values: Tensor, n: int) -> Tensor:
    """Return the sums over shells of a real half-spectrum quantity `(n, n, n // 2 + 1)`, `(n // 2 + 1,)` float64."""
    shell = torch.round(_compute_radius(n, values.device)).long().flatten()
    weighted = (values * compute_half_weights((n, n), values.device)).double().flatten()
    sums = torch.zeros(int(shell.max()) + 1, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, shell, weighted)[: n // 2 + 1]


def compute_fsc(first: Tensor, second: Tensor) -> Tensor:
    """Return the Fourier shell correlation of two volumes, `(n // 2 + 1,)` float64 (Harauz & van Heel 1986).

    A shell in which a volume is empty has 0.

    Raises
    ------
    ValueError
        If the volumes are not cubes of one size.
    """
    n = first.shape[0]
    if first.shape != (n, n, n) or second.shape != first.shape:
        raise ValueError(f"expected two cubes of one size, got {tuple(first.shape)} and {tuple(second.shape)}")
    a, b = rfft3(first), rfft3(second)
    cross = compute_shell_sums(a.real * b.real + a.imag * b.imag, n)
    power = compute_shell_sums(a.abs().square(), n) * compute_shell_sums(b.abs().square(), n)
    return torch.where(power > 0, cross / power.clamp(min=1e-300).sqrt(), 0.0)


def compute_resolution_angstrom(fsc: Tensor, pixel_size_angstrom: float, threshold: float = 0.143) -> float:
    """Return where a curve first falls below the threshold, in Å, interpolated between shells.

    Infinity if it is below from shell 1 on; the Nyquist resolution if it never falls.
    """
    n = 2 * (len(fsc) - 1)
    curve: list[float] = fsc.tolist()
    for shell in range(1, len(curve)):
        if curve[shell] < threshold:
            if shell == 1:
                return math.inf
            before, here = curve[shell - 1], curve[shell]
            return n * pixel_size_angstrom / (shell - 1 + (before - threshold) / (before - here))
    return 2 * pixel_size_angstrom


def randomise_phases(volume: Tensor, first_shell: int, generator: torch.Generator) -> Tensor:
    """Return the volume with random phases from `first_shell` on; amplitudes stay as they are.

    The phases are those of the transform of real white noise, so that the result is real without any care for symmetry.
    """
    n = volume.shape[0]
    spectrum = rfft3(volume)
    noise = rfft3(torch.randn(volume.shape, generator=generator, dtype=volume.dtype).to(volume.device))
    random = spectrum.abs() * (noise / noise.abs().clamp(min=1e-20))
    beyond = torch.round(_compute_radius(n, volume.device)) >= first_shell
    return irfft3(torch.where(beyond, random, spectrum), n)


def compute_corrected_fsc(fsc_masked: Tensor, fsc_random: Tensor, first_shell: int) -> Tensor:
    """Return the masked curve freed of what the mask itself correlates: (F - R) / (1 - R) (Chen et al. 2013, Eq. 4).

    From two shells past `first_shell`, where randomisation starts, so that the mask's spreading over the edge does not
    count (doi:10.1016/j.ultramic.2013.06.004); below that the masked curve itself.
    """
    random = fsc_random.clamp(max=0.999)
    corrected = (fsc_masked - random) / (1 - random)
    shells = torch.arange(len(fsc_masked), device=fsc_masked.device)
    return torch.where(shells < first_shell + 2, fsc_masked, corrected)


def apply_shell_filter(volume: Tensor, factors: Tensor) -> Tensor:
    """Multiply the transform by one factor per shell, `(n // 2 + 1,)`, interpolated between shells; 0 beyond Nyquist."""
    n = volume.shape[0]
    radius = _compute_radius(n, volume.device)
    padded = torch.cat((factors.to(volume.dtype), torch.zeros(2, dtype=volume.dtype, device=volume.device)))
    low = radius.floor().long().clamp(max=n // 2 + 1)
    high = (low + 1).clamp(max=n // 2 + 1)
    fraction = (radius - low).clamp(0, 1)
    filtered = rfft3(volume) * (padded[low] * (1 - fraction) + padded[high] * fraction)
    return irfft3(filtered, n)
