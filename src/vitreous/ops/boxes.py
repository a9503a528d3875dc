"""Cut particles out of micrographs."""

import torch
from torch import Tensor
from torch.nn import functional

from vitreous.ops.fourier import apply_fourier_crop_2d, compute_shift_phase, irfft2, rfft2

__all__ = ["extract_boxes", "normalise_boxes", "remove_outliers"]


def remove_outliers(image: Tensor, n_sigma: float) -> Tensor:
    """Return the micrograph with pixels beyond `n_sigma` deviations of the whole set to that limit."""
    mean, deviation = image.mean(), image.std()
    return image.clamp(float(mean - n_sigma * deviation), float(mean + n_sigma * deviation))


def extract_boxes(image: Tensor, xy_px: Tensor, box_px: int, out_px: int) -> Tensor:
    """Cut boxes around positions, centred exactly, and reduce them in Fourier space.

    Parameters
    ----------
    image
        `(ny, nx)`.
    xy_px
        Centres as (x, y), `(n, 2)`, sub-pixel; pixel centres at integers.
    box_px
        Side of the boxes in the micrograph, even.
    out_px
        Side of the results, even, no larger.

    Returns
    -------
    Tensor
        `(n, out_px, out_px)`; the position lies on element out_px // 2. Beyond the edges the micrograph is mirrored.

    Raises
    ------
    ValueError
        If a side is odd, or the micrograph is smaller than half a box.
    """
    if box_px % 2 or out_px % 2 or out_px > box_px:
        raise ValueError(f"expected even sides, the second no larger, found {box_px} and {out_px}")
    half = box_px // 2
    if min(image.shape) <= half + 1:
        raise ValueError(f"a micrograph of {tuple(image.shape)} is too small for boxes of {box_px}")
    margin = half + 1
    padded = functional.pad(image[None, None], (margin, margin, margin, margin), mode="reflect")[0, 0]
    whole = torch.floor(xy_px + 0.5)
    rest = xy_px - whole
    corner = (whole.long() + margin - half).tolist()
    limit_y, limit_x = padded.shape[0] - box_px, padded.shape[1] - box_px
    boxes = [
        padded[y : y + box_px, x : x + box_px]
        for x, y in ((min(max(x, 0), limit_x), min(max(y, 0), limit_y)) for x, y in corner)
    ]
    if not boxes:
        return torch.zeros(0, out_px, out_px, device=image.device)
    spectra = rfft2(torch.stack(boxes)) * compute_shift_phase((box_px, box_px), -rest.flip(1).float())
    return irfft2(apply_fourier_crop_2d(spectra, (box_px, box_px), (out_px, out_px)), (out_px, out_px))


def normalise_boxes(boxes: Tensor, radius_px: float) -> Tensor:
    """Subtract the plane through what is outside `radius_px` of the centre, N // 2, and divide by the deviation there.

    Afterwards the ring outside has mean 0 and standard deviation 1. Where a box has no variation at all, it becomes 0.

    Raises
    ------
    ValueError
        If fewer than 16 pixels lie outside.
    """
    n = boxes.shape[-1]
    offset = torch.arange(n, device=boxes.device, dtype=torch.float64) - n // 2
    y, x = torch.meshgrid(offset, offset, indexing="ij")
    outside = (torch.sqrt(y.square() + x.square()) > radius_px).flatten()
    if int(outside.sum()) < 16:
        raise ValueError(f"a radius of {radius_px} px leaves nothing of a box of {n} px outside")
    design = torch.stack(
        [torch.ones(n * n, dtype=torch.float64, device=boxes.device), y.flatten() / n, x.flatten() / n], dim=1
    )
    flat = boxes.double().flatten(1)
    plane = flat[:, outside] @ torch.linalg.pinv(design[outside]).T
    flat = flat - plane @ design.T
    deviation = flat[:, outside].square().sum(dim=1, keepdim=True) / (int(outside.sum()) - 1)
    scaled = torch.where(deviation > 1e-24, flat / deviation.clamp_min(1e-24).sqrt(), torch.zeros_like(flat))
    return scaled.reshape(boxes.shape).float()
