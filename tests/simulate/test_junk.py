"""What is planted beside particles is where the truth says."""

import numpy as np
import pytest

from vitreous.simulate.junk import make_surroundings, place_aggregates
from vitreous.simulate.settings import SimulationSettings

CANVAS, RADIUS = (300, 400), 12.0


@pytest.mark.parametrize("seed", range(3))
def test_only_junk_absorbs_and_all_of_it_is_listed(seed: int) -> None:
    settings = SimulationSettings(n_contaminants=2, n_crystals=3, pixel_size_angstrom=4.0, seed=seed)
    made = make_surroundings(CANVAS, settings, RADIUS, seed == 1, np.random.default_rng(seed))
    assert [one.kind for one in made.junk] == ["ice"] * 2 + ["carbon"] * (seed == 1) + ["crystal"] * 3
    y, x = np.ogrid[: CANVAS[0], : CANVAS[1]]
    inside = np.zeros(CANVAS, bool)
    for one in made.junk:
        distance = np.hypot(y - one.y_px, x - one.x_px)
        # The edge of carbon is soft over some pixels.
        inside |= distance > one.radius_px - 25 if one.kind == "carbon" else distance <= one.radius_px + 1
    # Vitreous ice differs by 2 % along either axis, one way or the other.
    assert made.transmission[~inside].min() > 0.955
    for one in made.junk:
        row, column = round(one.y_px), round(one.x_px)
        if one.kind != "carbon" and 0 <= row < CANVAS[0] and 0 <= column < CANVAS[1]:
            assert made.transmission[row, column] < 0.95
            assert made.blocked[row, column]


def test_clumps_hold_their_particles_and_keep_others_away() -> None:
    blocked = np.zeros(CANVAS, bool)
    places, clumps = place_aggregates(blocked, 4, RADIUS, np.random.default_rng(0))
    assert len(clumps) == 4
    centres = np.array([(one.x_px, one.y_px) for one in clumps])
    limits = np.array([one.radius_px for one in clumps])
    distance = np.linalg.norm(places[:, None] - centres[None], axis=-1)
    assert (distance + RADIUS <= limits + 1e-6).any(axis=1).all()
    free_y, free_x = np.nonzero(~blocked)
    gap = np.hypot(free_x[:, None] - places[:, 0], free_y[:, None] - places[:, 1]).min()
    assert gap >= 2 * RADIUS - 1
    nearest = np.sort(np.linalg.norm(places[:, None] - places[None], axis=-1), axis=1)[:, 1]
    assert np.median(nearest) < 2 * RADIUS


def test_nothing_is_planted_where_nothing_is_asked_for() -> None:
    blocked = np.zeros(CANVAS, bool)
    places, clumps = place_aggregates(blocked, 0, RADIUS, np.random.default_rng(0))
    assert len(places) == 0
    assert clumps == ()
    assert not blocked.any()
