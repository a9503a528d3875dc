"""What public pickers were trained on."""

import pytest

from vitreous.datasets.overlap import TRAINING_SETS, find_overlap


@pytest.mark.parametrize(
    ("picker", "entry", "overlap"),
    [
        ("crYOLO", "10017", "trained on it"),
        ("crYOLO-general", "EMPIAR-10081", "trained on it"),
        ("cryolo", "10345", "not trained on it"),
        ("Topaz", "10017", "unknown"),
        ("deepPicker", "10017", "unknown"),
        ("CryoSegNet", "10406", "trained on it"),
        ("CryoTransformer", "empiar 10345", "not trained on it"),
        ("crYOLO", None, "unknown"),
    ],
)
def test_overlap(picker: str, entry: str | None, overlap: str) -> None:
    assert find_overlap(picker, entry) == overlap


def test_the_public_test_split_is_in_no_training_set_of_the_pickers_trained_on_cryoppp() -> None:
    test_split = {"10017", "10028", "10081", "10093", "10345", "10532", "11056"}
    for name in ("cryosegnet", "cryotransformer"):
        entries = TRAINING_SETS[name].entries
        assert entries is not None
        assert len(entries) == 22
        assert not entries & test_split
