"""Exhaustive search of orientations and shifts by matrix multiplication.

The score of an image X, shifted to its centre, against a slice P of the reference is how much the slice explains,
sum of (2 Re(X* c P) - c² |P|²) / sigma² over one of each Friedel pair: the log-likelihood but for a constant, where sigma² is the
variance of a complex sample. Images are given as `FourierImages`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vitreous.ops.fourier import rfft2
from vitreous.ops.project import compute_slice_samples, sample_images

__all__ = ["FourierImages", "PoseCandidates", "compute_shift_phases", "make_shift_grid", "search_poses"]

_SCORES_AT_A_TIME = 24_000_000


@dataclass(frozen=True)
class FourierImages:
    """Particle images as samples of their transforms.

    Attributes
    ----------
    samples
        `(m, 2)` int64 as (kx, ky) in cycles per box, by increasing |k|.
    values
        `(n, m)` complex64; the origin is pixel box // 2.
    ctf
        `(n, m)` float32, positive where protein is bright.
    box_px
        Side of the images.
    """

    samples: Tensor
    values: Tensor
    ctf: Tensor
    box_px: int

    @classmethod
    def from_images(cls, images: Tensor, ctf: Tensor | None, r_max: int, batch: int = 512) -> "FourierImages":
        """Transform images `(n, box, box)` and keep what lies up to `r_max`; `ctf` is `(n, box, box // 2 + 1)` or 1."""
        samples = compute_slice_samples(r_max)
        values = torch.cat([sample_images(rfft2(part.float()), samples) for part in torch.split(images, batch)])
        if ctf is None:
            factors = torch.ones(values.shape)
        else:
            kx, ky = samples.unbind(1)
            factors = ctf[:, ky % images.shape[-1], kx].float().contiguous()
        return cls(samples, values, factors, images.shape[-1])

    def __len__(self) -> int:
        return len(self.values)

    def count_samples(self, r: float) -> int:
        """Return how many samples, the first ones, have |k| <= r."""
        return int((self.samples.double().norm(dim=1) <= r + 1e-9).sum())

    def take(self, index: Tensor) -> "FourierImages":
        """Return some of the images."""
        return FourierImages(self.samples, self.values[index], self.ctf[index], self.box_px)

    def compute_shells(self) -> Tensor:
        """Return round(|k|) of every sample, `(m,)` int64."""
        return torch.round(self.samples.double().norm(dim=1)).long()


@dataclass(frozen=True)
class PoseCandidates:
    """The best hypotheses of each image, best first.

    Attributes
    ----------
    orientation
        `(n, k)` index into the orientations searched.
    origin_px
        `(n, k, 2)` as (x, y): the shift to add to the image to centre it.
    score
        `(n, k)`.
    """

    orientation: Tensor
    origin_px: Tensor
    score: Tensor


def make_shift_grid(radius_px: float, step_px: float) -> Tensor:
    """Return the points of a square grid within a radius, the nearest to zero first, `(n, 2)` as (x, y)."""
    n = int(radius_px / step_px + 1e-6)
    axis = torch.arange(-n, n + 1) * step_px
    points = torch.cartesian_prod(axis, axis)
    distance = points.norm(dim=1)
    order = torch.argsort(distance, stable=True)
    return points[order][distance[order] <= radius_px + 1e-6]


def compute_shift_phases(samples: Tensor, origins_px: Tensor, box_px: int) -> Tensor:
    """Return what moves images by `origins_px` `(..., 2)` as (x, y): exp(-2 pi i k.o / box), `(..., m)` complex64."""
    angle = -2 * torch.pi / box_px * (origins_px.float() @ samples.T.float())
    return torch.polar(torch.ones_like(angle), angle)


def search_poses(
    images: FourierImages,
    slices: Tensor,
    noise: Tensor,
    origins_px: Tensor,
    shifts_px: Tensor,
    n_best: int,
) -> PoseCandidates:
    """Score every image at every slice and shift, and keep the best shift of the `n_best` best slices.

    Parameters
    ----------
    images
        More samples than the slices have are not used.
    slices
        `(k, m)` complex64.
    noise
        Variance of a complex sample, `(m,)`.
    origins_px
        `(n, 2)` around which shifts are tried.
    shifts_px
        `(s, 2)` of `make_shift_grid`.
    n_best
        How many to keep; at most k.
    """
    m = slices.shape[1]
    device = slices.device
    samples = images.samples[:m]
    flat_slices = torch.view_as_real(slices).flatten(1)
    power = slices.abs().square()
    inverse = (1 / noise[:m]).float().to(device)
    phases = compute_shift_phases(samples, shifts_px, images.box_px).to(device)
    batch = max(1, _SCORES_AT_A_TIME // (len(slices) * len(shifts_px)))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for index in torch.split(torch.arange(len(images)), batch):
        ctf = images.ctf[index, :m].to(device)
        centred = images.values[index, :m] * compute_shift_phases(samples, origins_px[index], images.box_px)
        rows = (2 * centred.to(device) * ctf * inverse)[:, None] * phases
        cross = torch.view_as_real(rows).flatten(2).flatten(0, 1) @ flat_slices.T
        best, shift = cross.reshape(len(index), len(shifts_px), -1).max(dim=1)
        best -= (ctf.square() * inverse) @ power.T
        score, orientation = best.topk(min(n_best, len(slices)), dim=1)
        found.append((orientation.cpu(), shift.gather(1, orientation).cpu(), score.cpu()))
    orientation, shift, score = (torch.cat(parts) for parts in zip(*found, strict=True))
    return PoseCandidates(orientation, origins_px[:, None] + shifts_px[shift], score)
