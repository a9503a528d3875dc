"""Reconstruction: slices are put back into the transform, weighted with the CTF, and the sums are divided.

With images X = c P + noise of variance sigma² per complex sample, the map that fits best under a prior of variance tau² is
N / (D + 1 / tau²), N = sum w c X / sigma², D = sum w c² / sigma² (Scheres 2012, doi:10.1016/j.jmb.2011.11.010, Eq. 6). The
signal-to-noise ratio tau² D of a shell comes from the Fourier shell correlation. Grids are laid out as references of
`vitreous.ops.project`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.project import PAD, check_samples, compile_loop, compute_volume, run_in_chunks

__all__ = ["SliceSums", "insert_slices", "solve"]

_N_CHUNKS = 4
_LEAST_WEIGHT = 1e-3


@dataclass(frozen=True)
class SliceSums:
    """Sums N and D over slices, `(2c + 1, 2c + 1, c + 2)` complex64 and float32; they add."""

    numerator: Tensor
    weight: Tensor

    def __add__(self, other: "SliceSums") -> "SliceSums":
        return SliceSums(self.numerator + other.numerator, self.weight + other.weight)

    def __mul__(self, factor: float) -> "SliceSums":
        return SliceSums(self.numerator * factor, self.weight * factor)


@compile_loop
def _insert(
    numerator: NDArray[np.complex64],
    weight: NDArray[np.float32],
    matrices: NDArray[np.float32],
    values: NDArray[np.complex64],
    weights: NDArray[np.float32],
    samples: NDArray[np.float32],
    operators: NDArray[np.float32],
) -> None:
    c = numerator.shape[0] // 2
    for i in range(matrices.shape[0]):
        for g in range(operators.shape[0]):
            rows = matrices[i, :2] @ operators[g]
            for j in range(samples.shape[0]):
                kx, ky = samples[j, 0], samples[j, 1]
                x = 2.0 * (kx * rows[0, 0] + ky * rows[1, 0])
                y = 2.0 * (kx * rows[0, 1] + ky * rows[1, 1])
                z = 2.0 * (kx * rows[0, 2] + ky * rows[1, 2])
                value = values[i, j]
                if x < 0.0:
                    x, y, z = -x, -y, -z
                    value = value.conjugate()
                y += c
                z += c
                ix, iy, iz = int(x), int(y), int(z)
                fx, fy, fz = x - ix, y - iy, z - iz
                for dz in range(2):
                    wz = fz if dz else 1.0 - fz
                    for dy in range(2):
                        wy = wz * (fy if dy else 1.0 - fy)
                        for dx in range(2):
                            w = np.float32(wy * (fx if dx else 1.0 - fx))
                            numerator[iz + dz, iy + dy, ix + dx] += w * value
                            weight[iz + dz, iy + dy, ix + dx] += w * weights[i, j]


def insert_slices(
    matrices: Tensor, values: Tensor, weights: Tensor, samples: Tensor, r_max: int, operators: Tensor
) -> SliceSums:
    """Return the sums over slices and symmetry, on the CPU.

    Parameters
    ----------
    matrices
        Orientations A `(k, 3, 3)`.
    values, weights
        `w c X / sigma²` complex64 and `w c² / sigma²` float32 at the samples, `(k, m)`.
    samples
        `(m, 2)` as (kx, ky), one of each Friedel pair, none beyond `r_max`.
    r_max
        Cycles per box that the grid holds.
    operators
        `(g, 3, 3)`; every slice is put in at all equivalent orientations.

    Raises
    ------
    ValueError
        If a sample is beyond `r_max`.
    """
    check_samples(samples, r_max)
    c = PAD * r_max + 2
    numerators = np.zeros((_N_CHUNKS, 2 * c + 1, 2 * c + 1, c + 2), dtype=np.complex64)
    sums = np.zeros(numerators.shape, dtype=np.float32)
    rows, rotations = matrices.float().cpu().numpy(), operators.float().cpu().numpy()
    image, squares, places = values.cpu().numpy(), weights.cpu().numpy(), samples.float().cpu().numpy()

    def work(chunk: int, start: int, stop: int) -> None:
        part = slice(start, stop)
        _insert(numerators[chunk], sums[chunk], rows[part], image[part], squares[part], places, rotations)

    run_in_chunks(work, len(rows), _N_CHUNKS)
    numerator, weight = torch.from_numpy(numerators.sum(0)), torch.from_numpy(sums.sum(0))
    # What a slice's other half, at -k, adds to the plane kx = 0.
    numerator[:, :, 0] += numerator[:, :, 0].flip(0, 1).conj()
    weight[:, :, 0] += weight[:, :, 0].flip(0, 1)
    return SliceSums(numerator, weight)


def _compute_grid_shells(weight: Tensor, r_max: int) -> tuple[Tensor, Tensor]:
    """Return each grid element's radius in cycles per box and the mean weight of every shell, `(r_max + 2,)`."""
    c = weight.shape[0] // 2
    k = torch.arange(-c, c + 1, device=weight.device, dtype=torch.float32)
    x = torch.arange(c + 2, device=weight.device, dtype=torch.float32)
    radius = torch.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + x**2) / PAD
    shell = torch.round(radius).long().clamp(max=r_max + 1).flatten()
    sums = torch.zeros(r_max + 2, dtype=torch.float64, device=weight.device)
    counts = sums.clone()
    sums.index_add_(0, shell, weight.double().flatten())
    counts.index_add_(0, shell, torch.ones_like(shell, dtype=torch.float64))
    return radius, (sums / counts.clamp(min=1)).float()


def solve(sums: SliceSums, n: int, r_max: int, ssnr: Tensor | None = None) -> Tensor:
    """Return the map `(n, n, n)` of the sums, up to `r_max` cycles per box.

    Parameters
    ----------
    sums
        Of `insert_slices` with the same `r_max`.
    n
        Voxels along a side.
    r_max
        Nothing beyond it is kept.
    ssnr
        Signal-to-noise ratio of each shell 0 ... n // 2, for the Wiener filter. Without it the sums are just divided, with
        at least a thousandth of the shell's mean weight.
    """
    radius, mean_weight = _compute_grid_shells(sums.weight, r_max)
    shell = torch.round(radius).long().clamp(max=r_max + 1)
    if ssnr is None:
        divisor = torch.maximum(sums.weight, _LEAST_WEIGHT * mean_weight[shell])
    else:
        ratio = ssnr.float()[: r_max + 1].clamp(min=1e-4)
        ratio = torch.cat((ratio, ratio[-1:].expand(r_max + 2 - len(ratio))))
        divisor = sums.weight + (mean_weight / ratio)[shell]
    inside = (radius <= r_max + 0.5) & (divisor > 0)
    return compute_volume(torch.where(inside, sums.numerator / divisor.clamp(min=1e-30), 0.0), n)
