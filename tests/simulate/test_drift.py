"""Drift of the whole and of places: in closed form, and by what it does to an analytic image."""

import numpy as np
import pytest
from numpy.typing import NDArray

from vitreous.simulate.drift import LocalDrift, make_local_drift, make_trajectory
from vitreous.simulate.settings import SimulationSettings

SETTINGS = SimulationSettings(
    nx_px=400, ny_px=300, pixel_size_angstrom=1.5, n_frames=20, drift_angstrom=15, local_drift_angstrom=6
)


def draw_blobs(shape: tuple[int, int], drift: LocalDrift | None, frame: int, origin: int) -> NDArray[np.float64]:
    """Return Gaussian blobs whose centres are displaced one by one."""
    rng = np.random.default_rng(4)
    y, x = np.ogrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for centre in rng.uniform(30, np.array(shape) - 30, (25, 2)):
        moved = centre if drift is None else centre + drift.evaluate(frame, *(centre - origin)[:, None])[0]
        image += np.exp(-((y - moved[0]) ** 2 + (x - moved[1]) ** 2) / (2 * 4.0**2))
    return image


@pytest.mark.parametrize("n_frames", [1, 2, 40])
def test_trajectories_have_the_length_asked_for(n_frames: int) -> None:
    settings = SETTINGS.model_copy(update={"n_frames": n_frames})
    path = make_trajectory(settings, np.random.default_rng(0))
    assert path.shape == (n_frames, 2)
    assert path[0].tolist() == [0, 0]
    if n_frames > 1:
        assert np.linalg.norm(path[-1]) == pytest.approx(10)


def test_trajectories_slow_down_and_are_drawn_anew() -> None:
    path = make_trajectory(SETTINGS, np.random.default_rng(0))
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert steps[:5].mean() > 2 * steps[-5:].mean()
    assert not np.allclose(path, make_trajectory(SETTINGS, np.random.default_rng(1)))


@pytest.mark.parametrize("seed", range(5))
def test_largest_local_displacement_is_as_asked_for(seed: int) -> None:
    drift = make_local_drift(SETTINGS, np.random.default_rng(seed))
    y, x = np.meshgrid(np.arange(0, 300, 2.0), np.arange(0, 400, 2.0), indexing="ij")
    assert (drift.evaluate(0, y, x) == 0).all()
    largest = [np.linalg.norm(drift.evaluate(frame, y, x), axis=-1).max() for frame in (5, 10, 19)]
    assert largest[2] * 1.5 == pytest.approx(6, rel=0.03)
    # Fast at first: (1 - exp(-3 t)) / (1 - exp(-3)).
    for frame, size in zip((5, 10, 19), largest, strict=True):
        expected = largest[2] * (1 - np.exp(-3 * frame / 19)) / (1 - np.exp(-3))
        assert size == pytest.approx(expected)


def test_terms_of_the_displacement() -> None:
    coefficients = np.arange(10.0).reshape(5, 2)
    drift = LocalDrift(coefficients, 3, 101, 201)
    found = drift.evaluate(2, np.array([25.0, 50.0]), np.array([150.0, 100.0]))
    y, x = -0.5, 0.5
    np.testing.assert_allclose(found[0], np.array([x, y, x * y, x * x, y * y]) @ coefficients)
    np.testing.assert_allclose(found[1], [0, 0], atol=1e-12)


def test_blobs_move_as_said() -> None:
    drift, origin = make_local_drift(SETTINGS, np.random.default_rng(2)), np.array([20, 35])
    shape = (340, 470)
    still = draw_blobs(shape, None, 0, 0)
    moved = drift.apply(still.astype(np.float32), 19, (20, 35))
    expected = draw_blobs(shape, drift, 19, origin)
    assert np.abs(expected - still).max() > 0.1
    # Blobs are not deformed in `expected`; the field deforms them by a percent.
    assert np.abs(moved - expected).max() < 0.03


def test_nothing_moves_without_local_drift() -> None:
    image = np.random.default_rng(0).normal(size=(60, 80)).astype(np.float32)
    still = make_local_drift(SETTINGS.model_copy(update={"local_drift_angstrom": 0.0}), np.random.default_rng(0))
    np.testing.assert_array_equal(still.apply(image, 7, (0, 0)), image)
    moving = make_local_drift(SETTINGS, np.random.default_rng(0))
    np.testing.assert_array_equal(moving.apply(image, 0, (0, 0)), image)
