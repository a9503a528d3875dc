"""Pick with class averages as templates: turned, seen through the micrograph's CTF, at the resolution of picking."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.model.optics import Optics
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.fourier import compute_frequency_2d, find_good_size, irfft2, rfft2
from vitreous.ops.templates import rotate_and_resample
from vitreous.ops.whitening import whiten
from vitreous.pickers.blob import reduce_micrograph
from vitreous.pickers.matched import (
    Candidates,
    FindHidden,
    MatchSettings,
    compute_window_size,
    estimate_noise,
    match_templates,
)

__all__ = ["Defocus", "TemplateSet", "pick_templates"]

_ROUND_FRACTION = 0.1
"""A template with less than this share of its variance off its rotational mean is not turned."""


_BOX_WINDOWS = 2


@dataclass(frozen=True)
class TemplateSet:
    """Class averages, protein bright."""

    images: Tensor
    """`(n, N, N)`, centred at N // 2."""
    pixel_size_angstrom: float


@dataclass(frozen=True)
class Defocus:
    """Of one micrograph."""

    u_angstrom: float
    v_angstrom: float
    angle_deg: float
    phase_shift_deg: float


def _low_pass(images: Tensor, cutoff_px: float) -> Tensor:
    shape = (images.shape[-2], images.shape[-1])
    ky, kx = compute_frequency_2d(shape, device=images.device)
    keep = torch.exp(-(((ky.square() + kx.square()) / cutoff_px**2) ** 4))
    return irfft2(rfft2(images) * keep, shape)


def _is_round(image: Tensor, scale: float) -> bool:
    """Return whether turning the image changes little of it, at the pixel size of picking."""
    angles, size = torch.arange(0, 360, 15, device=image.device), math.ceil(image.shape[-1] / scale)
    turned = rotate_and_resample(image[None], angles, scale, size)[0]
    mean = turned.mean(dim=0)
    return float((turned - mean).square().mean()) < _ROUND_FRACTION * float(mean.square().mean())


def _make_windows(
    image: Tensor, scale: float, box_px: int, angle_step_deg: float, window_px: int, ctf: Tensor | None
) -> tuple[Tensor, Tensor]:
    angles = torch.zeros(1) if _is_round(image, scale) else torch.arange(0, 360, angle_step_deg)
    turned = rotate_and_resample(image[None], angles.to(image.device), scale, box_px)[0]
    # Class averages show protein bright; in the micrograph it is dark, which the sign of the CTF says.
    seen = -turned if ctf is None else irfft2(rfft2(turned) * ctf, (box_px, box_px))
    first = box_px // 2 - window_px // 2
    return seen[:, first : first + window_px, first : first + window_px], angles


def pick_templates(
    image: Tensor,
    optics: Optics,
    defocus: Defocus | None,
    templates: TemplateSet,
    settings: MatchSettings,
    angle_step_deg: float,
    *,
    whitened: bool = True,
    find_hidden: FindHidden | None = None,
) -> Candidates:
    """Find what looks like one of the class averages, in any orientation in the plane.

    Parameters
    ----------
    image, optics, defocus
        Micrograph, and how it was taken; templates are seen through no CTF where the defocus is None.
    templates, settings
        What is looked for, and how candidates are told apart.
    angle_step_deg
        Step of the templates' turns.
    whitened
        Whether image and templates are divided by the amplitude of the micrograph's noise: the best linear detector.
    find_hidden
        Tells where junk is, beside which only what is none counts; None where nobody looks.
    """
    small, pixels = reduce_micrograph(image, optics.pixel_size_angstrom, settings.diameter_angstrom)
    pixel, window = float(pixels.mean()), compute_window_size(settings, pixels)
    # Room for the ripples that defocus makes, without which they would wrap round into the window.
    box = find_good_size(_BOX_WINDOWS * window)
    ctf = None
    if defocus is not None:
        ctf = compute_ctf_2d(
            (box, box),
            pixel,
            defocus.u_angstrom,
            defocus.v_angstrom,
            defocus.angle_deg,
            voltage_kv=optics.voltage_kv,
            cs_mm=optics.cs_mm,
            amplitude_contrast=optics.amplitude_contrast,
            phase_shift_deg=defocus.phase_shift_deg,
            device=small.device,
        )
    scale = pixel / templates.pixel_size_angstrom
    smooth = _low_pass(templates.images.to(small.device), 0.45 / max(scale, 0.9))
    matched, plain = small, None
    if whitened:
        amplitude = estimate_noise(small, settings, pixels)
        matched, plain = whiten(small, amplitude), small
        smooth = whiten(smooth, amplitude, 1 / scale)
    banks = [_make_windows(average, scale, box, angle_step_deg, window, ctf) for average in smooth]
    return match_templates(matched, pixels, optics.pixel_size_angstrom, banks, settings, plain, find_hidden)
