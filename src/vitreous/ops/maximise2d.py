"""The maximisation step of 2D classification: sums over images become references, resolution and noise.

The images are parted into folds, and none is compared with a reference that holds its own fold: an image's noise is in the
average that it was added to, and would make it sure of its class. Folds 0 to F / 2 - 1 are the first half set, the others the
second.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from vitreous.ops.average2d import find_resolution_ring, make_soft_circle
from vitreous.ops.harmonic2d import References, Sums
from vitreous.ops.polar2d import (
    PolarGrid,
    compute_mask_operator,
    compute_ring_weights,
    find_mass_centre,
    shift_harmonics,
)

__all__ = ["Maximiser", "Model", "blend_sums", "move_classes", "total_sums"]

_TRUSTED_RINGS = 3
_FLOOR = 0.02
_PRIOR_COUNT = 1.0


@dataclass(frozen=True)
class Model:
    """What the maximisation returns."""

    references: Tensor
    """`(F, 2, E, K, R)` complex: what the images of each fold are compared with."""
    average: Tensor
    """`(2, E, K, R)` complex: of all images."""
    correlation: Tensor
    """`(K, R)`, of the halves, for rings 1 to R."""
    share: Tensor
    """`(K,)`: of the images."""

    def make_references(self, fold: int, precision: Tensor) -> References:
        """Return what the images of a fold are compared with."""
        return References(self.references[fold], self.share.log(), precision)

    def find_reached_ring(self, share: float) -> float:
        """Return the ring that the better quarter of the classes resolves; only classes of a share of the images count."""
        reached = [
            find_resolution_ring(torch.cat([torch.ones(1), curve]))
            for curve, part in zip(self.correlation, self.share, strict=True)
            if float(part) > share
        ]
        return sorted(reached)[len(reached) * 3 // 4] if reached else 0.0


def total_sums(folds: list[Sums]) -> Sums:
    """Return the sums over all folds."""
    return Sums(*(torch.stack([getattr(fold, part.name) for fold in folds]).sum(dim=0) for part in fields(Sums)))


def _subtract(whole: Sums, part: Sums) -> Sums:
    return replace(
        whole,
        signal=whole.signal - part.signal,
        power=(whole.power - part.power).clamp_min(0),
        weight=(whole.weight - part.weight).clamp_min(0),
    )


def _divide(sums: Sums) -> Tensor:
    """Return averages `(2, E, K, R)` complex, without noise control but for rings that hardly any image speaks of."""
    floor = _FLOOR * sums.power.amax(dim=1, keepdim=True) + 1e-12
    values = sums.signal / torch.maximum(sums.power, floor)[:, None]
    return torch.complex(values[..., 0, :].contiguous(), values[..., 1, :].contiguous())


class Maximiser:
    """Turns sums into models.

    Parameters
    ----------
    grid
        Of the sums.
    mask_radius_px, edge_px
        Soft circle that averages are under.
    shared_ring
        Up to this ring both halves are compared with the average of both, which holds them in one position; beyond, each with
        its own, so that noise that images were aligned to is not common to both and their correlation is that of what is there.
    recentre_threshold
        What exceeds this part of an average's peak counts for its mass centre.
    amplitude
        `(R,)`: what rings of the images were divided by, and averages are multiplied by for their mass centres.
    """

    def __init__(
        self,
        grid: PolarGrid,
        mask_radius_px: float,
        edge_px: float,
        shared_ring: int,
        recentre_threshold: float,
        amplitude: Tensor,
    ) -> None:
        self.grid, self.mask_radius_px, self.shared_ring = grid, mask_radius_px, shared_ring
        self.recentre_threshold, self.amplitude = recentre_threshold, amplitude
        self._operator = compute_mask_operator(grid, mask_radius_px, edge_px).flatten(0, 1)
        self._mask_power = float(make_soft_circle(grid.n_px, mask_radius_px, edge_px).square().mean())
        self._ring_weight = compute_ring_weights(grid)[..., None, None]

    def apply_mask(self, values: Tensor) -> Tensor:
        """Put averages `(2, E, K, R)` under the circle."""
        flat = torch.view_as_real(values.flatten(0, 1)).permute(0, 2, 1, 3).flatten(2)
        masked = torch.bmm(self._operator, flat).reshape(*flat.shape[:2], -1, 2).permute(0, 2, 1, 3)
        return torch.view_as_complex(masked.contiguous()).reshape(values.shape)

    def correlate(self, halves: list[Sums], strict: bool) -> Tensor:
        """Return the ring correlation `(K, R)` of the averages of both halves, smoothed over three rings.

        An average over many angles has little noise left but in the lowest harmonics, which would correlate by chance; if
        `strict`, the power of each is taken to be no less than what the images' noise gives where they are aligned.
        """
        first, second = (self.apply_mask(_divide(half)) for half in halves)

        def ring_sum(one: Tensor, two: Tensor) -> Tensor:
            return (self._ring_weight * (one.real * two.real + one.imag * two.imag)).sum(dim=(0, 1))

        cross = ring_sum(first, second)
        power = (ring_sum(first, first) * ring_sum(second, second)).sqrt()
        noise = strict * self._mask_power / (halves[0].power * halves[1].power).sqrt().clamp_min(1e-12)
        raw = cross / torch.maximum(power, cross.abs() + noise).clamp_min(1e-30)
        padded = torch.nn.functional.pad(raw[:, None], (1, 1), mode="replicate")[:, 0]
        return 0.25 * padded[:, :-2] + 0.5 * padded[:, 1:-1] + 0.25 * padded[:, 2:]

    def maximise(self, folds: list[Sums], strict: bool) -> Model:
        """Return the model of the sums of all folds; `strict` as of `correlate`."""
        n_half = len(folds) // 2
        halves = [total_sums(folds[:n_half]), total_sums(folds[n_half:])]
        whole = total_sums(halves)
        correlation = self.correlate(halves, strict)
        own_gain = correlation.clamp(0, 0.999)
        full_gain = 2 * own_gain / (1 + own_gain)
        # The lowest rings are kept in any case, or a weak class would vanish.
        full_gain[:, :_TRUSTED_RINGS] = 1
        ring = torch.arange(1, self.grid.n_rings + 1)
        references = []
        for i, fold in enumerate(folds):
            shared = _divide(_subtract(whole, fold)) * full_gain
            own = _divide(_subtract(halves[i // n_half], fold)) * own_gain
            references.append(self.apply_mask(torch.where(ring <= self.shared_ring, shared, own)))
        share = whole.weight + _PRIOR_COUNT
        average = self.apply_mask(_divide(whole) * full_gain)
        return Model(torch.stack(references), average, correlation, share / share.sum())

    def compute_residual(self, sums: Sums, references: Tensor, precision: Tensor, image_power: Tensor) -> Tensor:
        """Return the sum over images of the mean power of what their references leave, `(R,)`.

        Parameters
        ----------
        sums
            Of the images, made with the references.
        references
            `(2, E, K, R)`.
        precision
            `(R,)`, that the sums were made with.
        image_power
            `(R,)`: sum over the images of their mean power.
        """
        signal = torch.complex(sums.signal[..., 0, :].contiguous(), sums.signal[..., 1, :].contiguous())
        weight = self._ring_weight
        cross = (weight * (signal.real * references.real + signal.imag * references.imag)).sum(dim=(0, 1, 2))
        power = (weight * (references.real.square() + references.imag.square())).sum(dim=(0, 1))
        model = (sums.power * power).sum(dim=0)
        return image_power + (model - 2 * cross) / precision.clamp_min(1e-30)

    def find_centres(self, average: Tensor) -> Tensor:
        """Return where the mass of averages `(2, E, K, R)` lies, `(K, 2)` as (y, x), px."""
        return find_mass_centre(average * self.amplitude, self.grid, self.mask_radius_px, self.recentre_threshold)


def blend_sums(old: list[Sums], new: list[Sums], kept: float, scale: float) -> list[Sums]:
    """Return `kept` times the old sums plus `scale` times the new ones."""
    return [
        Sums(*(kept * getattr(before, part.name) + scale * getattr(after, part.name) for part in fields(Sums)))
        for before, after in zip(old, new, strict=True)
    ]


def move_classes(folds: list[Sums], shift_px: Tensor, grid: PolarGrid) -> list[Sums]:
    """Move every class by a shift, `(K, 2)` as (y, x)."""
    moved = []
    for fold in folds:
        signal = torch.complex(fold.signal[..., 0, :].contiguous(), fold.signal[..., 1, :].contiguous())
        shifted = shift_harmonics(signal, shift_px, grid)
        moved.append(replace(fold, signal=torch.stack([shifted.real, shifted.imag], dim=-2)))
    return moved
