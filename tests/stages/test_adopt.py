"""Adopting picks, on tables made by hand; `tests/cli/test_importing.py` runs it on projects."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from vitreous.errors import SettingError, UserError
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table, complete_table
from vitreous.stages.adopt import STAGE, AdoptParams


def make_inputs(diameter: float | None = None) -> Inputs:
    micrographs = [
        {"micrograph_id": name, "exposure_id": name, "micrograph_path": "x", "nx_px": 100, "ny_px": 80}
        | {"pixel_size_angstrom": pixel, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "optics_group": 1}
        for name, pixel in (("b", 2.0), ("a", 1.0))
    ]  # fmt: skip
    entries = pl.DataFrame([{"entry_id": "e", "symmetry": "C1", "diameter_angstrom": diameter}])
    return Inputs(
        {
            "micrographs": check_table("micrographs", pl.DataFrame(micrographs)),
            "entries": complete_table("entries", entries),
        }
    )


def adopt(tmp_path: Path, text: str, *, diameter: float | None = None, **values: object) -> Saved:
    (tmp_path / "picks.csv").write_text("micrograph,x_px,y_px,score,diameter_px\n" + text)
    params = AdoptParams.model_validate({"positives": "picks.csv"} | values)
    inputs = make_inputs(diameter)
    result = STAGE.compute(STAGE.load(inputs, params, Context(tmp_path)), params, lambda done, words: None)
    return STAGE.save(result, inputs, params, RunFolder(tmp_path, tmp_path))


def run(tmp_path: Path, text: str, **values: Any) -> pl.DataFrame:
    return check_table("particles", adopt(tmp_path, text, **values).tables["particles"])


def test_order_identifiers_diameters_and_scores(tmp_path: Path) -> None:
    found = run(tmp_path, "a,1,2,0.5,20\nb,3,4,,30\na,5,6,0.25,20\n")
    # In the order of the micrographs table; diameters in each micrograph's own pixels.
    assert found.select("particle_id", "x_px", "y_px", "score", "diameter_angstrom").rows() == [
        ("b_00001", 3, 4, None, 60.0),
        ("a_00001", 1, 2, 0.5, 20.0),
        ("a_00002", 5, 6, 0.25, 20.0),
    ]
    assert set(found["label"]) == {"positive"}


def test_rows_are_counted_by_each_micrographs_height(tmp_path: Path) -> None:
    found = run(tmp_path, "a,1,2,,20\n", y_origin="bottom")
    assert found["y_px"].to_list() == [78.0]


def test_diameters_given_win(tmp_path: Path) -> None:
    assert run(tmp_path, "a,1,2,,20\n", diameter=55.0)["diameter_angstrom"].to_list() == [55.0]
    assert run(tmp_path, "a,1,2,,\n", diameter=55.0, diameter_angstrom=70)["diameter_angstrom"].to_list() == [70.0]
    with pytest.raises(UserError, match="no particle diameter"):
        run(tmp_path, "a,1,2,,\n")


def test_a_few_outside_are_left_out_and_many_refused(tmp_path: Path) -> None:
    inside = "".join(f"a,{i},2,,20\n" for i in range(40))
    assert run(tmp_path, inside + "a,150,2,,20\n").height == 40
    # Rounded past the edge by less than a pixel: moved onto it.
    assert run(tmp_path, "a,100,-1,,20\n").select("x_px", "y_px").rows() == [(99.0, 0.0)]
    with pytest.raises(UserError, match="1 of 2 picks outside"):
        run(tmp_path, "a,1,2,,20\na,150,2,,20\n")


def test_nothing_named(tmp_path: Path) -> None:
    params = AdoptParams()
    with pytest.raises(SettingError, match="give --positives"):
        STAGE.load(make_inputs(), params, Context(tmp_path))


def test_what_is_doubtful_is_said(tmp_path: Path) -> None:
    rows = "a,1,2,,20\na,1,2,,20\nb,1,2,,20\n"
    assert "1 picks lie exactly where another lies" in adopt(tmp_path, rows).warnings
    (tmp_path / "none.csv").write_text("micrograph,x_px,y_px,diameter_px\nb,1,2,20\nb,2,2,20\n")
    warnings = adopt(tmp_path, rows, negatives="none.csv").warnings
    assert "1 places are labelled in two ways, as a particle and as none" in warnings
    assert adopt(tmp_path, "a,1,2,,20\nb,1,2,,20\n").warnings == ()


def test_picks_of_a_smaller_image_are_suspected(tmp_path: Path) -> None:
    """Both micrographs have 100 x 80 px."""
    halved = "".join(f"{'ab'[i % 2]},{i % 50},{0.7 * (i % 50)},,20\n" for i in range(60))
    (warning,) = (said for said in adopt(tmp_path, halved).warnings if "corner" in said)
    assert "--scale" in warning
    assert not any("corner" in said for said in adopt(tmp_path, halved, scale=2.0).warnings)
    assert not any("corner" in said for said in adopt(tmp_path, halved + "a,70,20,,20\n").warnings)
    assert not any("corner" in said for said in adopt(tmp_path, "a,1,2,,20\n").warnings)


def test_micrographs_without_a_ctf_among_others_are_named(tmp_path: Path) -> None:
    labels = ("rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
    head = "data_particles\nloop_\n" + "".join(f"_{label}\n" for label in labels)
    (tmp_path / "p.star").write_text(head + "a.mrc 1 2 9000 8000 10\nb.mrc 3 4 0 0 0\n")
    saved = adopt(tmp_path, "", positives="p.star", diameter=20.0)
    assert "1 of 2 micrographs with picks have no CTF, e.g. b; the others have one" in saved.warnings
    found = dict(saved.tables["micrographs"].select("micrograph_id", "defocus_u_angstrom").iter_rows())
    assert found == {"a": 9000.0, "b": None}
