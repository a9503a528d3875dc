"""What people's marks on a micrograph come to: added, removed, moved, and joined with a picker's candidates."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitreous.ops.matching import Points, match_points

__all__ = ["Joined", "Mark", "MarkedPicks", "join_candidates", "replay_marks"]


@dataclass(frozen=True)
class Mark:
    """One act of one person, at a place (x, y), px; `to_xy_px` is where a moved pick goes."""

    who: str
    act: Literal["add", "remove", "move"]
    xy_px: tuple[float, float]
    to_xy_px: tuple[float, float] | None = None


@dataclass(frozen=True)
class MarkedPicks:
    """What people's marks on one micrograph come to.

    Attributes
    ----------
    xy_px
        Centres, `(n, 2)`: the mean of the places that people gave.
    anchor_px
        Where each was when a picker's candidate may have stood for it, `(n, 2)`; differs from the centre where it was moved.
    who
        The people who stand behind each, in the order of their marks.
    first_mark
        Index of the mark that made each.
    removed_px
        Places where people say that there is no particle, `(k, 2)`.
    removed_by
        Who said so.
    """

    xy_px: Points
    anchor_px: Points
    who: tuple[tuple[str, ...], ...]
    first_mark: NDArray[np.intp]
    removed_px: Points
    removed_by: tuple[str, ...]


@dataclass
class _Pick:
    anchor: tuple[float, float]
    first_mark: int
    places: dict[str, tuple[float, float]] = field(default_factory=dict)

    def get_centre(self) -> tuple[float, float]:
        x, y = zip(*self.places.values(), strict=True)
        return sum(x) / len(x), sum(y) / len(y)


class _Board:
    """Things with places, of which the nearest within a radius is found; in cells of the radius, so that many stay quick."""

    def __init__(self, radius_px: float) -> None:
        self._radius = radius_px
        self._cells: dict[tuple[int, int], dict[int, tuple[float, float]]] = {}

    def _get_cell(self, xy: tuple[float, float]) -> tuple[int, int]:
        return int(xy[0] // self._radius), int(xy[1] // self._radius)

    def put(self, number: int, xy: tuple[float, float]) -> None:
        self._cells.setdefault(self._get_cell(xy), {})[number] = xy

    def take(self, number: int, xy: tuple[float, float]) -> None:
        del self._cells[self._get_cell(xy)][number]

    def find(self, xy: tuple[float, float]) -> int | None:
        column, row = self._get_cell(xy)
        near = [
            ((place[0] - xy[0]) ** 2 + (place[1] - xy[1]) ** 2, number)
            for i in (column - 1, column, column + 1)
            for j in (row - 1, row, row + 1)
            for number, place in self._cells.get((i, j), {}).items()
        ]
        squared, number = min(near, default=(np.inf, -1))
        return number if squared <= self._radius**2 else None


def replay_marks(marks: Sequence[Mark], radius_px: float) -> MarkedPicks:
    """Apply the marks on one micrograph in their order.

    A mark means the nearest pick within `radius_px` of its place, whoever made it. Adding where there is one joins it: its centre
    becomes the mean of the places that its people gave, the last of each. Removing takes it away and says that there is no
    particle, until someone adds one there again. Moving gives it one new place; where people have no pick, it is a picker's
    candidate that is moved.

    Parameters
    ----------
    marks
        Oldest first.
    radius_px
        Marks nearer than this mean the same particle.

    Raises
    ------
    ValueError
        If the radius is not positive, or a move has no place to go to.
    """
    if not radius_px > 0:
        raise ValueError(f"expected a positive radius, found {radius_px}")
    picks, removed = dict[int, _Pick](), dict[int, tuple[tuple[float, float], str]]()
    standing, refused = _Board(radius_px), _Board(radius_px)

    def lift(number: int) -> _Pick:
        pick = picks.pop(number)
        standing.take(number, pick.get_centre())
        return pick

    def set_down(number: int, pick: _Pick) -> None:
        picks[number] = pick
        standing.put(number, pick.get_centre())

    for i, mark in enumerate(marks):
        found = standing.find(mark.xy_px)
        pick = _Pick(mark.xy_px, i) if found is None else lift(found)
        if mark.act == "remove":
            removed[i] = (mark.xy_px if found is None else pick.anchor, mark.who)
            refused.put(i, removed[i][0])
            continue
        while (again := refused.find(mark.xy_px)) is not None:
            refused.take(again, removed.pop(again)[0])
        if mark.act == "add":
            pick.places[mark.who] = mark.xy_px
        elif mark.to_xy_px is None:
            raise ValueError(f"mark {i} is to move a pick, and says not where to")
        else:
            pick.places = {mark.who: mark.to_xy_px}
        set_down(pick.first_mark, pick)
    ordered = [picks[number] for number in sorted(picks)]
    return MarkedPicks(
        xy_px=np.array([pick.get_centre() for pick in ordered], np.float64).reshape(-1, 2),
        anchor_px=np.array([pick.anchor for pick in ordered], np.float64).reshape(-1, 2),
        who=tuple(tuple(pick.places) for pick in ordered),
        first_mark=np.array([pick.first_mark for pick in ordered], np.intp),
        removed_px=np.array([xy for xy, _ in removed.values()], np.float64).reshape(-1, 2),
        removed_by=tuple(who for _, who in removed.values()),
    )


@dataclass(frozen=True)
class Joined:
    """Which candidates of a picker people's picks stand for, and which they refuse; -1 for none."""

    candidate_of_pick: NDArray[np.intp]
    candidate_of_removal: NDArray[np.intp]


def join_candidates(marked: MarkedPicks, candidates_px: Points, radius_px: float) -> Joined:
    """Find a picker's candidates that people's picks and removals in the same micrograph mean.

    Matched one to one, as near as possible; picks come first.

    Parameters
    ----------
    marked
        Of `replay_marks`.
    candidates_px
        Centres of the candidates, `(m, 2)`.
    radius_px
        Greatest distance.
    """
    of_pick = np.full(len(marked.xy_px), -1, np.intp)
    pick, candidate, _ = match_points(marked.anchor_px, candidates_px, radius_px)
    of_pick[pick] = candidate
    rest = np.setdiff1d(np.arange(len(candidates_px)), candidate)
    of_removal = np.full(len(marked.removed_px), -1, np.intp)
    removal, candidate, _ = match_points(marked.removed_px, candidates_px[rest], radius_px)
    of_removal[removal] = rest[candidate]
    return Joined(of_pick, of_removal)
