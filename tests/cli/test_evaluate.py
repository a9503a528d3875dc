"""`vitreous evaluate` on the formats of other programs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from vitreous.cli.evaluate import evaluate, score
from vitreous.errors import SettingError
from vitreous.io.coordinates import read_coordinates
from vitreous.io.csparc import write_cs

POINTS = [(20.0, 30.0), (60.0, 80.0), (90.0, 10.0)]


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    path = tmp_path / "truth.csv"
    path.write_text("micrograph,x_px,y_px\n" + "".join(f"m1,{x},{y}\n" for x, y in POINTS))
    return path


def call(*words: object) -> dict[str, Any]:
    result = CliRunner().invoke(evaluate, [*map(str, words), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def write_eman(path: Path) -> Path:
    path = path / "m1_info.json"
    path.write_text(json.dumps({"boxes": [[x, y, "manual"] for x, y in POINTS]}))
    return path


def write_cbox(path: Path) -> Path:
    path = path / "m1.cbox"
    labels = "CoordinateX", "CoordinateY", "Width", "Height", "Confidence"
    head = "data_cryolo\n\nloop_\n" + "".join(f"_{label} #{i}\n" for i, label in enumerate(labels, start=1))
    path.write_text(head + "".join(f"{x - 10} {y - 8} 20 16 0.5\n" for x, y in POINTS))
    return path


def write_cryosparc(path: Path) -> Path:
    fields: list[Any] = [("location/micrograph_path", "S60"), ("location/micrograph_shape", "<u4", (2,))]
    table = np.zeros(3, [*fields, ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4")])
    table["location/micrograph_path"] = b"J1/000000000000000000012_m1_patch_aligned.mrc"
    table["location/micrograph_shape"] = (200, 100)
    table["location/center_x_frac"], table["location/center_y_frac"] = np.array(POINTS).T / [[100], [200]]
    write_cs(path / "p.cs", table)
    return path / "p.cs"


@pytest.mark.parametrize("write", [write_eman, write_cbox, write_cryosparc])
def test_every_format_finds_every_particle(write: Any, truth: Path, tmp_path: Path) -> None:
    found = call("--picks", write(tmp_path), "--truth", truth, "--radius", 0.01)
    assert (found["n_matched"], found["n_false"], found["n_missed"]) == (3, 0, 0)


def test_topaz_on_a_smaller_image(truth: Path, tmp_path: Path) -> None:
    picks = tmp_path / "p.txt"
    picks.write_text("image_name\tx_coord\ty_coord\tscore\n" + "".join(f"m1\t{x / 4}\t{y / 4}\t1\n" for x, y in POINTS))
    assert call("--picks", picks, "--truth", truth, "--radius", 1, "--picks-scale", 4)["f1"] == 1
    assert call("--picks", picks, "--truth", truth, "--radius", 1)["f1"] == 0


def test_one_radius(truth: Path) -> None:
    for words in ([], ["--radius", 1, "--diameter", 2]):
        with pytest.raises(SettingError, match="either --diameter or --radius"):
            call("--picks", truth, "--truth", truth, *words)


def test_scores_of_a_case_worked_out_by_hand(truth: Path, tmp_path: Path) -> None:
    """Two micrographs: in one 2 of 3 labels are found 3 px off and 1 pick is false; the other has 1 label and 1 pick on it."""
    truth.write_text(truth.read_text() + "m2,10,10\n")
    picks, table = tmp_path / "p.csv", tmp_path / "each.csv"
    picks.write_text("micrograph,x_px,y_px,score\nm1,23,30,0.9\nm1,60,83,0.5\nm1,5,5,0.7\nm2,10,10,0.8\n")
    found = call("--picks", picks, "--truth", truth, "--radius", 5, "--table", table)
    assert (found["precision"], found["recall"], found["f1"]) == (0.75, 0.75, 0.75)
    assert found["precision_mean_over_micrographs"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["recall_mean_over_micrographs"] == found["f1_mean_over_micrographs"] == pytest.approx((2 / 3 + 1) / 2)
    # By score: hit, hit, false, hit.
    assert found["average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 4)
    assert (found["mean_distance_px"], found["median_distance_px"]) == (2, 3)
    assert found["rms_distance_px"] == pytest.approx(np.sqrt(6))
    assert found["precision_low"] <= 0.75 <= found["precision_high"]
    rows = pl.read_csv(table)
    assert rows["micrograph"].to_list() == ["m1", "m2"]
    assert rows["n_missed"].to_list() == [1, 0]
    assert rows["mean_distance_px"].to_list() == [3, 0]
    shown = CliRunner().invoke(evaluate, ["--picks", str(picks), "--truth", str(truth), "--radius", "5"])
    assert "average precision 0.688" in shown.stdout


def make_set(rng: np.random.Generator, flipped: set[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    names, points = [f"m{i}" for i in range(20)], [rng.uniform(0, 999, (40, 2)) for _ in range(20)]
    column = {"micrograph": [name for name in names for _ in range(40)]}
    moved = [
        np.column_stack([xy[:, 0], 999 - xy[:, 1]]) if name in flipped else xy
        for name, xy in zip(names, points, strict=True)
    ]
    tables = (np.concatenate(moved), np.concatenate(points))
    first, second = (pl.DataFrame(column | {"x_px": xy[:, 0], "y_px": xy[:, 1]}) for xy in tables)
    return first, second


def test_picks_in_a_micrograph_labelled_as_empty_are_false(tmp_path: Path) -> None:
    for folder, files in {"picks": {"m": "10,10", "n": "5,5\n9,9"}, "truth": {"m": "10,10", "n": ""}}.items():
        (tmp_path / folder).mkdir()
        for name, rows in files.items():
            (tmp_path / folder / f"{name}.csv").write_text(f"x_px,y_px\n{rows}")
    words = ("--picks", tmp_path / "picks", "--truth", tmp_path / "truth", "--diameter", 8)
    found = call(*words)
    assert (found["n_micrographs"], found["n_matched"], found["n_false"], found["warnings"]) == (2, 1, 2, [])
    # Without a file nobody has said that there is nothing.
    (tmp_path / "truth" / "n.csv").unlink()
    found = call(*words)
    assert (found["n_micrographs"], found["n_false"]) == (1, 0)
    assert found["warnings"] == ["1 micrographs have picks but no labels and are left out, e.g. n"]


def test_one_mirrored_file_among_many_is_named() -> None:
    sizes = {f"m{i}": (1000.0, 1000.0) for i in range(20)}
    picks, labels = make_set(np.random.default_rng(0), {"m7"})
    found = score(picks, labels, radius_px=15, sizes=sizes)
    (warning,) = found.warnings
    assert "in 1 of 20 micrographs" in warning
    assert "mirrored in y: m7;" in warning
    picks, labels = make_set(np.random.default_rng(0), set())
    assert score(picks, labels, radius_px=15, sizes=sizes).warnings == ()
    # What fits nothing fits nothing mirrored either.
    noise = make_set(np.random.default_rng(1), set())[0]
    assert score(noise, labels, radius_px=15, sizes=sizes).warnings == ()
    picks, labels = make_set(np.random.default_rng(0), {f"m{i}" for i in range(20)})
    (warning,) = score(picks, labels, radius_px=15, sizes=sizes).warnings
    assert "F1 1.00 instead of" in warning


@pytest.mark.shared_data
@pytest.mark.parametrize(("program", "expected"), [("crYOLO", 0.90), ("topaz", 0.79), ("deepPicker", 0.34)])
def test_published_picks_of_real_micrographs(program: str, expected: float, shared_data: Path) -> None:
    data = shared_data / "betagal-10017"
    words = (
        "--picks",
        data / "picks" / program,
        "--truth",
        data / "labels",
        "--diameter",
        108,
        "--image-size",
        4096,
        4096,
    )
    found = call(*words, "--picks-y-origin", "bottom")
    assert round(found["f1"], 2) == expected
    assert found["f1_low"] < expected < found["f1_high"]
    assert found["n_micrographs"] == 12
    assert found["warnings"] == []
    assert found["average_precision"] < found["recall"]
    (warning,) = call(*words)["warnings"] if program != "deepPicker" else ["mirrored in y"]
    assert "mirrored in y" in warning


@pytest.mark.shared_data
def test_picks_with_templates_by_relion(shared_data: Path) -> None:
    """RELION's particles have coordinates of micrographs halved and cropped by 100 px, in the frame of the MRC files."""
    data = shared_data / "betagal-10017"
    halved = read_coordinates(data / "relion_class2d.star")
    picks = halved.with_columns(x_px=2 * pl.col("x_px") + 100, y_px=4096 - (2 * pl.col("y_px") + 100))
    labels = read_coordinates(data / "labels").join(picks, on="micrograph", how="semi")
    found = score(picks, labels, radius_px=54)
    assert found.n_micrographs == 5
    assert found.f1 == pytest.approx(0.86, abs=0.01)
