"""Facts and decisions: what is refused, and that they survive JSON."""

from datetime import UTC, datetime
from typing import get_args

import pytest
from pydantic import ValidationError

from vitreous.model.documents import Decision, Facts, GainOrientation
from vitreous.model.optics import Optics
from vitreous.ops.gain_orientation import ORIENTATIONS


@pytest.mark.parametrize("symmetry", ["C1", "D2", "C17", "T", "O", "I"])
def test_facts_survive_json(symmetry: str) -> None:
    facts = Facts(movies="*.tif", gain="gain.mrc", pixel_size_angstrom=0.83, total_dose=40, symmetry=symmetry)
    assert Facts.model_validate_json(facts.model_dump_json()) == facts


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "either movies or micrographs"),
        ({"movies": "*.tif", "micrographs": "*.mrc"}, "either movies or micrographs"),
        ({"micrographs": "*.mrc", "gain": "gain.mrc"}, "gain reference goes with movies"),
        ({"movies": "*.tif", "gain": "g.mrc", "gain_orientation": "rot45"}, "gain_orientation"),
        ({"movies": "*.tif", "gain": "g.mrc", "gain_polarity": "add"}, "gain_polarity"),
        ({"movies": "*.tif", "gain_orientation": "rot90"}, "no gain reference"),
        ({"movies": "*.tif", "gain_polarity": "divide"}, "no gain reference"),
        ({"movies": "*.tif", "symmetry": "C0"}, "symmetry"),
        ({"movies": "*.tif", "symmetry": "octahedral"}, "symmetry"),
        ({"movies": "*.tif", "pixel_size_angstrom": 0}, "pixel_size_angstrom"),
        ({"movies": "*.tif", "voltage_kv": 300_000}, "voltage_kv"),
        ({"movies": "*.tif", "amplitude_contrast": 7}, "amplitude_contrast"),
        ({"movies": "*.tif", "total_dose": -1}, "total_dose"),
        ({"movies": "*.tif", "colour": "blue"}, "colour"),
    ],
)
def test_facts_that_cannot_be(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Facts.model_validate(values)


def test_orientations_are_those_of_the_mathematics() -> None:
    assert get_args(GainOrientation) == ("auto", *ORIENTATIONS)


def test_facts_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Facts(movies="*.tif").title = "other"


DECISION = {
    "decision_id": "1",
    "when": datetime(2025, 1, 2, tzinfo=UTC),
    "who": "anna",
    "run": "006-classify2d",
    "kind": "class",
    "subject": "3",
    "verdict": "reject",
}


def test_decisions_survive_json() -> None:
    decision = Decision.model_validate(DECISION)
    assert Decision.model_validate_json(decision.model_dump_json()) == decision


@pytest.mark.parametrize(("name", "value"), [("kind", "volume"), ("who", ""), ("when", "yesterday"), ("mood", "good")])
def test_decisions_that_cannot_be(name: str, value: str) -> None:
    with pytest.raises(ValidationError, match=name):
        Decision.model_validate(DECISION | {name: value})


@pytest.mark.parametrize("name", ["pixel_size_angstrom", "voltage_kv", "cs_mm", "amplitude_contrast"])
def test_optics_that_cannot_be(name: str) -> None:
    optics = {"pixel_size_angstrom": 1.0, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
    Optics.model_validate(optics)
    with pytest.raises(ValidationError, match=name):
        Optics.model_validate(optics | {name: -1.0})
