import json
from pathlib import Path

import polars as pl
import pytest

from vitreous.errors import InputFileError
from vitreous.io.gain_record import describe_gains

RECORD = {
    "source": "../camera/k3.tif",
    "description": "turned by 180°",
    "polarity": "divide",
    "evidence": {"verdict": "clear", "significance": 63.7, "expected_significance": 66.2},
}


def test_each_reference_once_and_none_without_a_record(tmp_path: Path) -> None:
    (tmp_path / "k.json").write_text(json.dumps(RECORD), encoding="utf-8")
    exposures = pl.DataFrame({"gain_path": ["k.mrc", None, "k.mrc", "of-an-earlier-version.mrc"]})
    assert describe_gains(tmp_path, exposures) == (
        "Gain reference k3.tif: turned by 180°, divides; the movies' evidence is clear (significance 64, 66 if it is theirs).",
    )


@pytest.mark.parametrize("text", ["{", "[]", json.dumps(RECORD | {"evidence": {"verdict": "clear"}})])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputFileError, match=r"k\.json: found .*expected the record of a gain reference"):
        describe_gains(tmp_path, pl.DataFrame({"gain_path": ["k.mrc"]}))
