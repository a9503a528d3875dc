"""Scores of true particles against defocus, from images."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vitreous.ops.matching import match_points
from vitreous.ops.scores import calibrate_scores
from vitreous.pickers.blob import learn_profile, pick_blobs
from vitreous.pickers.matched import MatchSettings

DIAMETER = 100.0


def test_calibrated_scores_of_true_particles_do_not_follow_the_defocus(plant: Callable[..., Any]) -> None:
    defocus = np.linspace(8_000, 26_000, 10)
    planted = [
        plant(DIAMETER, shape=(320, 400), noise=1.0, seed=i, defocus=float(one), strength=2.0)
        for i, one in enumerate(defocus)
    ]
    pixel = planted[0].pixel_size_angstrom
    profile = learn_profile([one.image for one in planted[::3]], pixel, DIAMETER)
    scores, group = [], []
    for number, one in enumerate(planted):
        found = pick_blobs(one.image, pixel, profile, MatchSettings(DIAMETER, 0.75, 0.0))
        hits = match_points(found.xy_px, one.xy_px, DIAMETER / pixel / 2)[0]
        assert len(hits) >= 0.8 * len(one.xy_px)
        scores.append(found.score[hits])
        group.append(np.full(len(hits), number))
    values, numbers = np.concatenate(scores), np.concatenate(group)
    calibrated = calibrate_scores(values, numbers, np.ones(len(values), bool), defocus)
    raw, left = (float(np.corrcoef(one, defocus[numbers])[0, 1]) for one in (values, calibrated))
    assert raw > 0.5
    # Three standard errors of the correlation of independent values.
    assert abs(left) < 3 / np.sqrt(len(values))
