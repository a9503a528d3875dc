import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitreous.io.mrc import write_mrc
from vitreous.model.tables import complete_table
from vitreous.reports.motion_section import MAX_MOVIES, _gather_patches, _make_track, draw_motion

OPTICS = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "optics_group": 1}


def write_movie(root: Path, name: str, local_px: float, significance: float) -> dict[str, object]:
    """Write a micrograph that is reduced twofold from a movie of 800x600 px at 0.75 Å, and the motion."""
    image = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float16)
    write_mrc(root / f"{name}.mrc", image, 1.5)
    motion = {
        "shift_x_px": [0.0, 3.0, 6.0],
        "shift_y_px": [0.0, 4.0, 8.0],
        "patch_x_px": [200.0, 600.0],
        "patch_y_px": [150.0, 450.0],
        "patch_shift_x_px": [[0.0, 0.0, local_px], [0.0, 0.0, 0.0]],
        "patch_shift_y_px": [[0.0, 0.0, 0.0], [0.0, 0.0, -local_px / 2]],
        "local_motion": local_px > 0,
        "local_motion_significance": significance,
        "pixel_size_angstrom": 0.75,
    }
    (root / f"{name}.json").write_text(json.dumps(motion))
    row = {
        "micrograph_id": name,
        "exposure_id": name,
        "micrograph_path": f"{name}.mrc",
        "trajectory_path": f"{name}.json",
    }
    return row | {"nx_px": 400, "ny_px": 300, "pixel_size_angstrom": 1.5, **OPTICS}


def make_table(rows: list[dict[str, object]]) -> dict[str, pl.DataFrame]:
    return {"micrographs": complete_table("micrographs", pl.DataFrame(rows))}


def test_patches_lie_in_the_frame_of_the_shrunk_micrograph(tmp_path: Path) -> None:
    row = write_movie(tmp_path, "m", 4.0, 7.0)
    document = json.loads((tmp_path / "m.json").read_text())
    track = _make_track("m", document)
    assert (track.total_angstrom, track.local_angstrom) == (pytest.approx(7.5), pytest.approx(3.0))
    patches = _gather_patches(tmp_path, row, document, track)
    ny, nx = patches.image.shape
    np.testing.assert_allclose(patches.patch_x_px / nx, [0.25, 0.75])
    np.testing.assert_allclose(patches.patch_y_px / ny, [0.25, 0.75])
    assert patches.pixel_size_angstrom * nx == pytest.approx(600)
    assert patches.patch_x_angstrom[0, -1] == pytest.approx(3.0)
    assert patches.patch_y_angstrom[1, -1] == pytest.approx(-1.5)


def test_the_largest_local_motion_is_drawn_first_and_said(tmp_path: Path) -> None:
    sizes = [1.0, 6.0, 0.0, 2.0, 4.0]
    rows = [write_movie(tmp_path, f"m{i}", size, 3.5 + i) for i, size in enumerate(sizes)]
    captions = [caption for caption, _ in draw_motion(tmp_path, make_table(rows))]
    assert len(captions) == 1 + MAX_MOVIES
    assert "5 movies" in captions[0]
    assert "7.5 Å" in captions[0]
    assert "corrected in 4 of them (significance 3.5 to 7.5 standard errors), by 4.5 Å" in captions[0]
    assert [caption.split(":")[0] for caption in captions[1:]] == ["m1", "m4", "m3"]
    assert "local motion of up to 4.5 Å in 2 patches, significance 4.5" in captions[1]
    assert "60 nm wide" in captions[1]


def test_whole_frames_only(tmp_path: Path) -> None:
    captions = [caption for caption, _ in draw_motion(tmp_path, make_table([write_movie(tmp_path, "m", 0.0, 1.0)]))]
    assert len(captions) == 1
    assert captions[0].endswith("Local motion was corrected in none of them.")


def test_finished_micrographs_have_no_motion(tmp_path: Path) -> None:
    assert draw_motion(tmp_path, make_table([write_movie(tmp_path, "m", 0.0, 1.0) | {"trajectory_path": None}])) == []


def test_the_gain_reference_and_its_evidence_are_said(tmp_path: Path) -> None:
    row = write_movie(tmp_path, "m", 0.0, 0.0)
    exposure = {"exposure_id": "m", "n_frames": 3, "nx_px": 800, "ny_px": 600, "pixel_size_angstrom": 0.75, **OPTICS}
    exposures = [
        exposure | {"gain_path": "gain/k.mrc"},
        exposure | {"exposure_id": "other", "gain_path": "gain/unknown.mrc"},
    ]
    record = {
        "source": "../k3.tif",
        "description": "turned by 180 degrees",
        "polarity": "divide",
        "evidence": {"verdict": "clear", "significance": 63.7, "expected_significance": 66.4},
    }
    (tmp_path / "gain").mkdir()
    (tmp_path / "gain" / "k.json").write_text(json.dumps(record))
    tables = make_table([row]) | {"exposures": complete_table("exposures", pl.DataFrame(exposures))}
    caption = draw_motion(tmp_path, tables)[0][0]
    assert "Gain reference k3.tif: turned by 180 degrees, divides" in caption
    assert "clear (significance 64, 66 if it is theirs)" in caption
    assert "unknown" not in caption
    assert "Gain" not in draw_motion(tmp_path, make_table([row]))[0][0]
