"""Soft masks in three dimensions. Volumes are `(n, n, n)` as (z, y, x); the centre is voxel n // 2."""

import math

import numpy as np
import scipy.ndimage
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.ops.resolution import apply_shell_filter

__all__ = ["compute_density_region", "compute_soft_mask", "compute_soft_sphere"]


def _compute_distance(n: int, device: torch.device | str) -> Tensor:
    axis = torch.arange(n, device=device, dtype=torch.float32) - n // 2
    return torch.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)


def _fall_off(distance: Tensor, width: float) -> Tensor:
    """Return a raised cosine: 1 up to distance 0, 0 from `width` on."""
    return 0.5 + 0.5 * torch.cos(math.pi * (distance / max(width, 1e-6)).clamp(0, 1))


def compute_soft_sphere(n: int, radius_px: float, edge_px: float, device: torch.device | str = "cpu") -> Tensor:
    """Return a sphere of ones that falls to 0 over `edge_px` outside the radius, `(n, n, n)`."""
    return _fall_off(_compute_distance(n, device) - radius_px, edge_px)


def _find_threshold(values: NDArray[np.float32]) -> float:
    """Return the level that parts the values into two classes with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    mean_below = sums / np.maximum(below, 1)
    mean_above = (sums[-1] - sums) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (mean_above - mean_below) ** 2))])


def compute_density_region(
    volume: Tensor, pixel_size_angstrom: float, radius_angstrom: float, low_pass_angstrom: float = 15.0
) -> Tensor:
    """Return where the molecule is, `(n, n, n)` bool: the largest piece above an automatic threshold, holes filled.

    Parameters
    ----------
    volume
        Protein bright.
    pixel_size_angstrom
        Å per voxel.
    radius_angstrom
        Of the sphere within which the threshold is sought and the molecule lies.
    low_pass_angstrom
        Resolution to which the map is smoothed first (Gaussian, 1/e at that frequency).
    """
    n = volume.shape[0]
    k = torch.arange(n // 2 + 1, device=volume.device) / (n * pixel_size_angstrom)
    smooth = apply_shell_filter(volume, torch.exp(-((k * low_pass_angstrom) ** 2)))
    inside = (_compute_distance(n, volume.device) <= radius_angstrom / pixel_size_angstrom).cpu().numpy()
    values = smooth.cpu().numpy()
    labels, n_pieces = scipy.ndimage.label(inside & (values > _find_threshold(values[inside])))
    if n_pieces == 0:
        return torch.from_numpy(inside).to(volume.device)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    region = scipy.ndimage.binary_fill_holes(labels == int(sizes.argmax()))
    return torch.from_numpy(np.asarray(region)).to(volume.device)


def compute_soft_mask(region: Tensor, extend_px: float, edge_px: float) -> Tensor:
    """Return a mask of ones up to `extend_px` round a region, falling to 0 over the next `edge_px`, `(n, n, n)` float32."""
    distance = scipy.ndimage.distance_transform_edt(~region.cpu().numpy())
    outside = torch.from_numpy(np.asarray(distance, dtype=np.float32)).to(region.device)
    return _fall_off(outside - extend_px, edge_px)
