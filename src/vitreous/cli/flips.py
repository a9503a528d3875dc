"""Say where positions fit others far better once they are mirrored, as files do that count rows from the other side."""

from collections.abc import Sequence

import numpy as np

from vitreous.cli.sources import Sizes
from vitreous.ops.matching import ImageCounts, Points, count_flips, score_counts

__all__ = ["describe_flips", "find_sizes"]

_CLEARLY_BETTER = 0.2
_SIGNIFICANT = 4.0
"""Standard deviations by which mirrored picks of a single micrograph must match better to be no chance."""


def find_sizes(names: Sequence[str], points: Sequence[Points], sizes: Sizes) -> tuple[list[tuple[float, float]], bool]:
    """Return the size of each micrograph, and whether it is known.

    Where it is not, the extent of all positions stands in for it, with an equal margin on both sides: picks often keep away from
    the edges, and positions that are mirrored about a line far from the middle would fit nothing.
    """
    if all(name in sizes for name in names):
        return [sizes[name] for name in names], True
    places = np.concatenate(points)
    last, first = places.max(axis=0, initial=0.0), places.min(axis=0, initial=np.inf)
    extent = np.ceil(np.maximum(last + 1, np.where(np.isfinite(first), first, 0.0) + last))
    return [(float(extent[0]), float(extent[1]))] * len(names), False


def _describe_flip(flip: str) -> str:
    return "transposed" if flip == "transposed" else f"mirrored in {flip}"


def describe_flips(
    names: Sequence[str],
    picks: Sequence[Points],
    truth: Sequence[Points],
    plain: Sequence[ImageCounts],
    radius_px: float,
    sizes: Sequence[tuple[float, float]],
    *,
    subject: str,
    remedy: str,
) -> list[str]:
    """Return a warning where mirrored picks fit far better, all of them or those of single micrographs.

    Parameters
    ----------
    names
        The micrographs.
    picks, truth
        Positions in each, px.
    plain
        What matches of them as they are.
    radius_px
        Radius of the matching, px.
    sizes
        Columns and rows of each micrograph.
    subject, remedy
        What fits what (`the picks fit the labels`), and what to do.
    """
    mirrored = count_flips(picks, truth, radius_px, sizes)
    f1 = np.nan_to_num(score_counts(plain).f1)
    totals = {flip: np.nan_to_num(score_counts(counts).f1) for flip, counts in mirrored.items()}
    best = max(totals, key=lambda flip: totals[flip])
    if totals[best] > f1 + _CLEARLY_BETTER:
        return [
            f"{subject} far better when {_describe_flip(best)} (F1 {totals[best]:.2f} instead of {f1:.2f}): one of the two "
            f"probably counts rows or columns from the other side; {remedy}"
        ]
    warnings = []
    for flip, counts in mirrored.items():
        better = [
            name
            for name, one, other in zip(names, plain, counts, strict=True)
            if other.n_matched - one.n_matched > _SIGNIFICANT * np.sqrt(other.n_matched + one.n_matched)
            and score_counts([other]).f1 > np.nan_to_num(score_counts([one]).f1) + _CLEARLY_BETTER
        ]
        if better:
            warnings.append(
                f"in {len(better)} of {len(plain)} micrographs {subject} far better when {_describe_flip(flip)}: "
                f"{', '.join(better[:5])}{', ...' if len(better) > 5 else ''}; one of the two probably counts rows or columns "
                f"from the other side; {remedy}"
            )
    return warnings
