"""The contrast transfer function.

CTF = -sin(chi), chi(k, a) = pi lambda k^2 D(a) - (pi/2) Cs lambda^3 k^4 + phase shift + asin(amplitude contrast), with
D(a) = (U + V)/2 + (U - V)/2 cos 2(a - a0) (Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008, Eqs. 2-4). Underfocus is
positive, so the CTF is negative at low frequency: protein is dark in the micrograph. Particle images extracted with
inverted contrast (protein bright) have the CTF +sin(chi).
"""

import math

import torch
from torch import Tensor

from vitreous.ops.fourier import compute_frequency_2d

__all__ = ["compute_chi", "compute_ctf_1d", "compute_ctf_2d", "compute_wavelength_angstrom"]


def compute_wavelength_angstrom(voltage_kv: float) -> float:
    """Return the relativistic electron wavelength in Å (0.019687 at 300 kV)."""
    volts = voltage_kv * 1e3
    return 12.2639 / math.sqrt(volts + 0.97845e-6 * volts * volts)


def compute_chi(
    k_squared: Tensor,
    defocus_angstrom: Tensor,
    *,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
    phase_shift_deg: Tensor | float = 0.0,
) -> Tensor:
    """Return the phase chi in radians for squared frequencies in 1/Å² and (directional) defocus in Å, broadcast together."""
    wavelength = compute_wavelength_angstrom(voltage_kv)
    cs_term = 0.5 * math.pi * cs_mm * 1e7 * wavelength**3
    if isinstance(phase_shift_deg, Tensor):
        offset: Tensor | float = torch.deg2rad(phase_shift_deg) + math.asin(amplitude_contrast)
    else:
        offset = math.radians(phase_shift_deg) + math.asin(amplitude_contrast)
    return (math.pi * wavelength) * k_squared * defocus_angstrom - cs_term * k_squared**2 + offset


def compute_ctf_1d(
    k: Tensor,
    defocus_angstrom: Tensor | float,
    *,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
    phase_shift_deg: Tensor | float = 0.0,
) -> Tensor:
    """Return the CTF at frequencies `k` (1/Å), broadcast with the defocus (Å, underfocus positive)."""
    defocus = torch.as_tensor(defocus_angstrom, dtype=k.dtype, device=k.device)
    return -torch.sin(
        compute_chi(
            k**2,
            defocus,
            voltage_kv=voltage_kv,
            cs_mm=cs_mm,
            amplitude_contrast=amplitude_contrast,
            phase_shift_deg=phase_shift_deg,
        )
    )


def compute_ctf_2d(
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    defocus_u_angstrom: Tensor | float,
    defocus_v_angstrom: Tensor | float,
    defocus_angle_deg: Tensor | float,
    *,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
    phase_shift_deg: Tensor | float = 0.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the CTF on the half spectrum of a `shape` image, `(..., ny, nx // 2 + 1)`.

    Parameters
    ----------
    shape
        Rows and columns of the image.
    pixel_size_angstrom
        Å per pixel.
    defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg, phase_shift_deg
        Numbers, or tensors of one shape `(...)` for a batch. Underfocus positive; the angle of U from +x towards +y.
    voltage_kv, cs_mm, amplitude_contrast
        Optics.
    device
        Where the result lives, unless the defocus is a tensor: then beside it.
    """
    if isinstance(defocus_u_angstrom, Tensor):
        device = defocus_u_angstrom.device
    ky, kx = compute_frequency_2d(shape, pixel_size_angstrom, device)
    u, v, angle, phase = (
        torch.as_tensor(value, dtype=torch.float32, device=device)[..., None, None]
        for value in (defocus_u_angstrom, defocus_v_angstrom, defocus_angle_deg, phase_shift_deg)
    )
    k_squared = ky**2 + kx**2
    azimuth = torch.atan2(ky.expand_as(k_squared), kx.expand_as(k_squared))
    defocus = 0.5 * (u + v) + 0.5 * (u - v) * torch.cos(2 * (azimuth - torch.deg2rad(angle)))
    return -torch.sin(
        compute_chi(
            k_squared,
            defocus,
            voltage_kv=voltage_kv,
            cs_mm=cs_mm,
            amplitude_contrast=amplitude_contrast,
            phase_shift_deg=phase,
        )
    )
