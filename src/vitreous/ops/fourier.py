"""Fourier conventions in one place.

Images are `(..., ny, nx)`, transforms are `torch.fft.rfft2` half spectra `(..., ny, nx // 2 + 1)`; the centre of a box of
n pixels is element n // 2. Frequencies are in 1/Å when a pixel size is given, else in cycles per pixel.
"""

from functools import lru_cache

import scipy.fft
import torch
from torch import Tensor

__all__ = [
    "apply_fourier_crop_2d",
    "compute_frequency_2d",
    "compute_half_weights",
    "compute_radial_mean",
    "compute_shift_phase",
    "find_good_size",
    "irfft2",
    "rfft2",
]


def find_good_size(n: int) -> int:
    """Return the smallest even length >= `n` whose only prime factors are 2, 3, 5 and 7."""
    size = n + n % 2
    while True:
        rest = size
        for factor in (2, 3, 5, 7):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return size
        size += 2


def rfft2(images: Tensor) -> Tensor:
    """Return the half spectrum of real `images` over the last two axes, unnormalised."""
    spectra: Tensor = torch.fft.rfft2(images)
    return spectra


def irfft2(spectra: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the real images `(..., ny, nx)` of half spectra; the inverse of `rfft2`.

    On the CPU pocketfft is two to three times faster than torch's complex-to-real transform.
    """
    if spectra.device.type == "cpu" and not spectra.requires_grad:
        images = scipy.fft.irfft2(spectra.numpy(), s=shape, workers=torch.get_num_threads())
        return torch.from_numpy(images)
    result: Tensor = torch.fft.irfft2(spectra, s=shape)
    return result


@lru_cache(maxsize=32)
def _frequency_axes(ny: int, nx: int) -> tuple[Tensor, Tensor]:
    return torch.fft.fftfreq(ny), torch.fft.rfftfreq(nx)


def compute_frequency_2d(
    shape: tuple[int, int], pixel_size_angstrom: float = 1.0, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Return `(k_y, k_x)` of a half spectrum, shapes `(ny, 1)` and `(1, nx // 2 + 1)`, in 1/Å (or cycles per pixel)."""
    ky, kx = _frequency_axes(*shape)
    return (ky[:, None] / pixel_size_angstrom).to(device), (kx[None, :] / pixel_size_angstrom).to(device)


def compute_half_weights(shape: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Return how often each element of a half spectrum stands in the full one: `(1, nx // 2 + 1)`, values 1 and 2.

    Every sum over a half spectrum takes these weights.
    """
    nx = shape[1]
    weights = torch.full((1, nx // 2 + 1), 2.0, device=device)
    weights[0, 0] = 1.0
    if nx % 2 == 0:
        weights[0, -1] = 1.0
    return weights


def compute_shift_phase(shape: tuple[int, int], shifts_px: Tensor) -> Tensor:
    """Return the factors that move content by `shifts_px`, `(..., 2)` as (y, x): exp(-2 pi i k.t), `(..., ny, nx // 2 + 1)`."""
    ky, kx = compute_frequency_2d(shape, device=shifts_px.device)
    shift_y, shift_x = shifts_px[..., 0, None, None], shifts_px[..., 1, None, None]
    phase_y = torch.polar(torch.ones_like(ky * shift_y), -2 * torch.pi * ky * shift_y)
    phase_x = torch.polar(torch.ones_like(kx * shift_x), -2 * torch.pi * kx * shift_x)
    return phase_y * phase_x


def apply_fourier_crop_2d(spectra: Tensor, shape: tuple[int, int], new_shape: tuple[int, int]) -> Tensor:
    """Crop half spectra of `shape` images to those of `new_shape` images, keeping the mean value of the image.

    Pixel centres stay at integers, so that a coordinate x becomes x * new_nx / nx with no half-pixel shift. The rows and
    the column at the new Nyquist frequency are dropped (set to zero): their phases are ambiguous.

    Raises
    ------
    ValueError
        If the new shape is larger than the old, or odd.
    """
    (ny, nx), (my, mx) = shape, new_shape
    if my > ny or mx > nx or my % 2 or mx % 2:
        raise ValueError(f"cannot crop {shape} to {new_shape}: the new shape must be even and no larger")
    if (my, mx) == (ny, nx):
        return spectra
    cropped = torch.cat((spectra[..., : my // 2, : mx // 2 + 1], spectra[..., ny - my // 2 :, : mx // 2 + 1]), dim=-2)
    cropped = cropped * (my * mx / (ny * nx))
    if my < ny:
        cropped[..., my // 2, :] = 0
    if mx < nx:
        cropped[..., :, mx // 2] = 0
    return cropped


def compute_radial_mean(values: Tensor, shape: tuple[int, int], n_shells: int | None = None) -> Tensor:
    """Return the mean of a half-spectrum quantity over rings, `(..., n_shells)`; every element counts as in the full spectrum.

    Ring r holds the elements with round(|k| * min(ny, nx)) == r, k in cycles per pixel; the default number of rings goes up to
    Nyquist, min(ny, nx) // 2 + 1. An empty ring is 0.
    """
    n = min(shape)
    n_shells = n // 2 + 1 if n_shells is None else n_shells
    ky, kx = compute_frequency_2d(shape, device=values.device)
    ring = torch.round(torch.sqrt(ky**2 + kx**2) * n).long().flatten()
    weights = compute_half_weights(shape, values.device).expand(shape[0], -1).flatten()
    inside = ring < n_shells
    ring, weights = ring[inside], weights[inside]
    flat = values.flatten(-2)[..., inside].double() * weights
    sums = torch.zeros((*values.shape[:-2], n_shells), dtype=torch.float64, device=values.device)
    sums.index_add_(-1, ring, flat)
    counts = torch.zeros(n_shells, dtype=torch.float64, device=values.device).index_add_(0, ring, weights.double())
    return (sums / counts.clamp(min=1)).to(values.dtype)
