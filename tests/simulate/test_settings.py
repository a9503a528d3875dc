"""Settings: contradictions are refused, and the demo is what it says."""

import pytest
from pydantic import ValidationError

from vitreous.simulate.settings import DEMO_SETTINGS, SimulationSettings


@pytest.mark.parametrize(
    "values",
    [
        {"defocus_min_angstrom": 20_000, "defocus_max_angstrom": 10_000},
        {"n_movies": 1, "n_carbon_movies": 2},
        {"generator": "guess"},
        {"pixel_size": 1.0},
    ],
)
def test_contradictions_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SimulationSettings.model_validate(values)


def test_every_setting_is_described() -> None:
    assert all(info.description for info in SimulationSettings.model_fields.values())


def test_the_demo_is_a_usual_exposure() -> None:
    assert 30 < DEMO_SETTINGS.dose_per_frame * DEMO_SETTINGS.n_frames < 60
