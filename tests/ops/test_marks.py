"""People's marks: what a sequence of them comes to, and how they join a picker's candidates."""

import numpy as np
import pytest

from vitreous.ops.marks import Mark, join_candidates, replay_marks

RADIUS = 10.0


def add(x: float, y: float, who: str = "ada") -> Mark:
    return Mark(who, "add", (x, y))


def remove(x: float, y: float, who: str = "ada") -> Mark:
    return Mark(who, "remove", (x, y))


def move(start: tuple[float, float], end: tuple[float, float], who: str = "ada") -> Mark:
    return Mark(who, "move", start, end)


def test_marks_add_up() -> None:
    found = replay_marks([add(10, 10), add(50, 50), add(90, 10), remove(52, 49), move((91, 12), (95, 15))], RADIUS)
    assert found.xy_px.tolist() == [[10, 10], [95, 15]]
    assert found.anchor_px.tolist() == [[10, 10], [90, 10]]
    assert found.first_mark.tolist() == [0, 2]
    assert found.who == (("ada",), ("ada",))
    assert found.removed_px.tolist() == [[50, 50]]
    assert found.removed_by == ("ada",)


def test_people_who_mean_the_same_particle_share_it() -> None:
    found = replay_marks([add(10, 10), add(14, 10, "bob"), add(12, 16, "cy"), add(30, 10, "bob")], RADIUS)
    assert found.xy_px.tolist() == [[12, 12], [30, 10]]
    assert found.who == (("ada", "bob", "cy"), ("bob",))
    # The last word of a person counts; a move is everybody's.
    found = replay_marks([add(10, 10), add(14, 10, "bob"), add(10, 12), move((12, 11), (15, 15), "bob")], RADIUS)
    assert found.xy_px.tolist() == [[15, 15]]
    assert found.who == (("bob",),)


def test_adding_again_takes_back_a_removal_and_removing_again_an_addition() -> None:
    assert len(replay_marks([remove(10, 10), add(12, 10)], RADIUS).removed_px) == 0
    assert len(replay_marks([remove(10, 10), remove(11, 10, "bob"), add(12, 10)], RADIUS).removed_px) == 0
    found = replay_marks([add(10, 10), remove(12, 10, "bob"), add(10, 10), remove(10, 10)], RADIUS)
    assert len(found.xy_px) == 0
    assert found.removed_px.tolist() == [[10, 10]]
    assert found.removed_by == ("ada",)


def test_the_nearest_is_meant_as_an_exhaustive_search_finds_it() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(-200, 800, (400, 2))
    marks = [add(x, y, f"p{i}") for i, (x, y) in enumerate(places)]
    standing: list[tuple[float, float]] = []
    for x, y in places:
        distance = [np.hypot(x - a, y - b) for a, b in standing]
        # Lone marks only, so that no mean moves.
        if not distance or min(distance) > RADIUS:
            standing.append((x, y))
    assert len(standing) > 200
    kept = [mark for mark in marks if mark.xy_px in set(standing)]
    assert replay_marks(kept, RADIUS).xy_px.tolist() == [list(xy) for xy in standing]
    goals = rng.permutation(len(standing))[:50]
    removals = [remove(*(np.array(standing[i]) + rng.uniform(-3, 3, 2))) for i in goals]
    left = list(standing)
    for mark in removals:
        distance = [np.hypot(mark.xy_px[0] - a, mark.xy_px[1] - b) for a, b in left]
        if min(distance) <= RADIUS:
            left.pop(int(np.argmin(distance)))
    assert replay_marks([*kept, *removals], RADIUS).xy_px.tolist() == [list(xy) for xy in left]


def test_candidates_are_taken_over_moved_and_refused() -> None:
    candidates = np.array([[10.0, 10], [50, 50], [90, 90], [130, 10]])
    marked = replay_marks([add(12, 10), move((52, 50), (80, 50)), remove(91, 90), add(200, 200)], RADIUS)
    joined = join_candidates(marked, candidates, RADIUS)
    assert joined.candidate_of_pick.tolist() == [0, 1, -1]
    assert joined.candidate_of_removal.tolist() == [2]
    assert marked.xy_px.tolist() == [[12, 10], [80, 50], [200, 200]]


def test_a_removal_does_not_take_what_a_pick_stands_for() -> None:
    marked = replay_marks([remove(10, 10), add(25, 10)], RADIUS)
    joined = join_candidates(marked, np.array([[18.0, 10]]), RADIUS)
    assert joined.candidate_of_pick.tolist() == [0]
    assert joined.candidate_of_removal.tolist() == [-1]


def test_no_marks() -> None:
    found = replay_marks([], RADIUS)
    assert found.xy_px.shape == found.removed_px.shape == (0, 2)
    assert join_candidates(found, np.zeros((3, 2)), RADIUS).candidate_of_pick.shape == (0,)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="radius"):
        replay_marks([], 0)
    with pytest.raises(ValueError, match="where to"):
        replay_marks([Mark("ada", "move", (0, 0))], 1)
