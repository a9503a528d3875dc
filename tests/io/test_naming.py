"""Names of micrographs in other programs."""

import pytest

from vitreous.io.naming import find_micrograph_stem, match_micrographs, strip_additions


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("MotionCorr/job002/m.1.mrc", "m.1"),
        ("May08_03.05.02", "May08_03.05.02"),
        (" x.tiff ", "x"),
        ("micrographs/a b.HDF", "a b"),
    ],
)
def test_stem(name: str, stem: str) -> None:
    assert find_micrograph_stem(name) == stem


@pytest.mark.parametrize(
    ("name", "core"),
    [
        ("2397979986758697250_14sep05c_00024sq.frames_patch_aligned_doseweighted", "14sep05c_00024sq.frames"),
        ("000002397979986758697_x_rigid_aligned", "x"),
        ("20150917_05196_DNA-TET", "20150917_05196_DNA-TET"),
        ("20190415123456789_x", "20190415123456789_x"),
    ],
)
def test_what_cryosparc_adds_goes_and_dates_stay(name: str, core: str) -> None:
    assert strip_additions(name) == core


def test_names_meet_ours() -> None:
    ours = ["m1", "m 2", "m3_patch_aligned", "twin", "000000000000000000001_twin"]
    theirs = ["000000000000000000007_m1", "m_2", "m3", "twin", "000000000000000000009_twin", "other"]
    assert match_micrographs(theirs, ours) == {
        "000000000000000000007_m1": "m1",
        "m_2": "m 2",
        "m3": "m3_patch_aligned",
        "twin": "twin",
    }
