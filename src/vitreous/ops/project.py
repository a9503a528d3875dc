"""Central slices of a volume's transform.

A reference is the transform of a volume `(n, n, n)`, zero-padded twofold, with its origin at voxel n // 2 and divided in real
space by the transform of the trilinear kernel that reads it: `(2c + 1, 2c + 1, c + 2)` complex64 as (kz, ky, kx), kz and ky
from -c to c and kx from 0, in half cycles per box. Slices are lists of samples at (kx, ky) in cycles per box, and the slice at
A is the reference at A^T (kx, ky, 0); images have their origin at pixel n // 2 as well.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.resolution import irfft3, rfft3

__all__ = [
    "PAD",
    "check_samples",
    "compile_loop",
    "compute_gridding_factor",
    "compute_reference",
    "compute_slice_samples",
    "compute_volume",
    "extract_slices",
    "run_in_chunks",
    "sample_images",
    "sample_reference",
]

PAD = 2
"""How many times the box is padded before its transform is sampled."""

_N_CHUNKS = 8

F = TypeVar("F", bound=Callable[..., Any])


def compile_loop(function: F) -> F:
    """Compile a function of numbers and arrays to machine code that releases the interpreter's lock."""
    compiled: Any = numba.njit(nogil=True, fastmath=True, error_model="numpy")(function)
    return cast("F", compiled)


def compute_slice_samples(r_max: int) -> Tensor:
    """Return every (kx, ky) with 0 < |k| <= `r_max` once per Friedel pair, `(m, 2)` int64, by increasing |k|."""
    axis = torch.arange(-r_max, r_max + 1)
    ky, kx = torch.meshgrid(axis, axis[r_max:], indexing="ij")
    radius2 = kx**2 + ky**2
    keep = (radius2 <= r_max**2) & (radius2 > 0) & ((kx > 0) | (ky > 0))
    samples = torch.stack((kx[keep], ky[keep]), dim=1)
    return samples[torch.argsort(radius2[keep], stable=True)]


def sample_images(spectra: Tensor, samples: Tensor) -> Tensor:
    """Return half spectra `(..., n, n // 2 + 1)` at the samples, `(..., m)`, with the origin moved to pixel n // 2."""
    n = spectra.shape[-2]
    kx, ky = samples.unbind(1)
    sign = 1.0 - 2.0 * ((kx + ky) % 2)
    return spectra[..., ky % n, kx] * sign.to(spectra.real.dtype)


def compute_gridding_factor(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Return by what trilinear interpolation of the padded transform multiplies a volume: a product of sinc², `(n, n, n)`."""
    axis = torch.sinc((torch.arange(n, device=device, dtype=torch.float32) - n // 2) / (PAD * n)) ** 2
    return axis[:, None, None] * axis[:, None] * axis


def _make_signs(size: int, device: torch.device) -> Tensor:
    k = torch.arange(-size, size + 1, device=device)
    return 1.0 - 2.0 * (k % 2).abs().float()


def compute_reference(volume: Tensor, r_max: int) -> Tensor:
    """Return the reference of a volume up to `r_max` cycles per box; see the module's description."""
    n = volume.shape[0]
    m, c = PAD * n, PAD * r_max + 2
    padded = torch.zeros(m, m, m, dtype=torch.float32, device=volume.device)
    start = m // 2 - n // 2
    window = slice(start, start + n)
    padded[window, window, window] = volume / compute_gridding_factor(n, volume.device)
    spectrum = rfft3(padded)
    k = torch.arange(-c, c + 1, device=volume.device) % m
    x = torch.arange(c + 2, device=volume.device)
    sign = _make_signs(c + 1, volume.device)
    cut = spectrum[k[:, None, None], k[None, :, None], x.clamp(max=m // 2)]
    inner = sign[1:-1]
    return cut * (inner[:, None, None] * inner[:, None] * sign[c + 1 :])


def compute_volume(grid: Tensor, n: int) -> Tensor:
    """Return the volume `(n, n, n)` of a grid laid out as a reference that slices were put into by trilinear weights.

    The adjoint of `compute_reference` but for a factor `(2 n)³`: both divide by the gridding factor, here because putting
    slices in multiplies with it.
    """
    c = grid.shape[0] // 2
    m = PAD * n
    sign = _make_signs(c + 1, grid.device)
    inner = sign[1:-1]
    signed = grid * (inner[:, None, None] * inner[:, None] * sign[c + 1 :])
    keep = min(c, m // 2 - 1)
    k = torch.arange(-keep, keep + 1, device=grid.device)
    x = torch.arange(keep + 1, device=grid.device)
    spectrum = torch.zeros(m, m, m // 2 + 1, dtype=torch.complex64, device=grid.device)
    spectrum[(k % m)[:, None, None], (k % m)[None, :, None], x] = signed[
        (k + c)[:, None, None], (k + c)[None, :, None], x
    ]
    start = m // 2 - n // 2
    window = slice(start, start + n)
    return irfft3(spectrum, m)[window, window, window] / compute_gridding_factor(n, grid.device)


@compile_loop
def sample_reference(
    reference: NDArray[np.complex64], matrix: NDArray[np.float32], kx: float, ky: float
) -> tuple[float, float]:
    """Return real and imaginary part of the reference at A^T (kx, ky, 0)."""
    c = reference.shape[0] // 2
    x = 2.0 * (kx * matrix[0, 0] + ky * matrix[1, 0])
    y = 2.0 * (kx * matrix[0, 1] + ky * matrix[1, 1])
    z = 2.0 * (kx * matrix[0, 2] + ky * matrix[1, 2])
    sign = 1.0
    if x < 0.0:
        x, y, z, sign = -x, -y, -z, -1.0
    y += c
    z += c
    ix, iy, iz = int(x), int(y), int(z)
    fx, fy, fz = x - ix, y - iy, z - iz
    real = 0.0
    imaginary = 0.0
    for dz in range(2):
        wz = fz if dz else 1.0 - fz
        for dy in range(2):
            w = wz * (fy if dy else 1.0 - fy)
            a = reference[iz + dz, iy + dy, ix]
            b = reference[iz + dz, iy + dy, ix + 1]
            real += w * (a.real * (1.0 - fx) + b.real * fx)
            imaginary += w * (a.imag * (1.0 - fx) + b.imag * fx)
    return real, sign * imaginary


@compile_loop
def _extract(
    reference: NDArray[np.complex64],
    matrices: NDArray[np.float32],
    samples: NDArray[np.float32],
    out: NDArray[np.complex64],
) -> None:
    for i in range(matrices.shape[0]):
        for j in range(samples.shape[0]):
            real, imaginary = sample_reference(reference, matrices[i], samples[j, 0], samples[j, 1])
            out[i, j] = real + 1j * imaginary


def run_in_chunks(function: Callable[[int, int, int], None], n: int, n_chunks: int = _N_CHUNKS) -> None:
    """Call `function(chunk, start, stop)` for equal parts of 0 ... n on torch's number of threads.

    How the work is cut does not depend on the number of threads, so neither do results.
    """
    edges = [n * i // n_chunks for i in range(n_chunks + 1)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(function, range(n_chunks), edges[:-1], edges[1:]))


def check_samples(samples: Tensor, r_max: float) -> None:
    """Refuse samples beyond `r_max` cycles per box: the compiled loops check no bounds.

    Raises
    ------
    ValueError
        If there is one.
    """
    reach = float(samples.double().norm(dim=1).max()) if len(samples) else 0.0
    if reach > r_max + 1e-6:
        raise ValueError(f"samples reach {reach:.2f} cycles per box, the grid only {r_max:.2f}")


def extract_slices(reference: Tensor, matrices: Tensor, samples: Tensor) -> Tensor:
    """Return the slices at orientations `(k, 3, 3)` and samples `(m, 2)`, `(k, m)` complex64, computed on the CPU.

    Raises
    ------
    ValueError
        If a sample is beyond what the reference holds.
    """
    check_samples(samples, (reference.shape[0] // 2 - 2) / PAD)
    out = torch.empty(len(matrices), len(samples), dtype=torch.complex64)
    arrays = (reference.cpu().numpy(), matrices.float().cpu().numpy(), samples.float().cpu().numpy(), out.numpy())

    def work(_: int, start: int, stop: int) -> None:
        _extract(arrays[0], arrays[1][start:stop], arrays[2], arrays[3][start:stop])

    run_in_chunks(work, len(matrices))
    return out.to(reference.device)
