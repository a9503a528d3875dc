"""`vitreous compare` on hand-made picks, and on real picks of three programs."""

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from PIL import Image

from vitreous.cli.compare import compare, parse_named
from vitreous.errors import SettingError
from vitreous.io.coordinates import read_coordinates, write_coordinates


def write(path: Path, rows: list[tuple[str, float, float]]) -> Path:
    path.write_text("micrograph,x_px,y_px\n" + "".join(f"{name},{x},{y}\n" for name, x, y in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    truth = [("a", 10, 10), ("a", 50, 50), ("b", 20, 20), ("b", 60, 60)]
    return {
        "truth": write(tmp_path / "truth.csv", truth),
        "good": write(tmp_path / "good.csv", [(name, x + 1, y) for name, x, y in truth]),
        "half": write(tmp_path / "half.csv", [*truth[:2], ("b", 90, 5)]),
    }


def test_table_json_and_plot(files: dict[str, Path], tmp_path: Path) -> None:
    words = [f"Topaz={files['half']}", f"cryolo={files['good']}", "--truth", str(files["truth"]), "--radius", "3"]
    words += ["--empiar", "EMPIAR-10025", "--plot", str(tmp_path / "plot.png")]
    table = CliRunner().invoke(compare, words, catch_exceptions=False)
    assert table.exit_code == 0
    lines = [line for line in table.stdout.splitlines() if "│" in line]
    assert ["cryolo" in lines[0], "Topaz" in lines[1]] == [True, True]
    assert "trained on it" in lines[0]
    assert "cryolo: its public model was trained on EMPIAR-10025" in table.stderr
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 200
    result = CliRunner().invoke(compare, [*words, "--json"], catch_exceptions=False)
    document = json.loads(result.stdout)
    scores = {row["picker"]: row["scores"] for row in document["pickers"]}
    assert scores["cryolo"]["f1"] == 1
    assert (scores["Topaz"]["n_matched"], scores["Topaz"]["n_false"], scores["Topaz"]["n_missed"]) == (2, 1, 2)
    assert scores["Topaz"]["f1"] == pytest.approx(4 / 7)
    assert [row["training_overlap"] for row in document["pickers"]] == ["trained on it", "unknown"]


def test_words() -> None:
    assert parse_named("a/b.c.star") == ("b.c", Path("a/b.c.star"))
    assert parse_named("x=p=q") == ("x", Path("p=q"))
    with pytest.raises(SettingError, match="expected NAME=PATH"):
        parse_named("=p")


def test_two_of_one_name(files: dict[str, Path]) -> None:
    words = [f"a={files['good']}", f"a={files['half']}", "--truth", str(files["truth"]), "--radius", "3"]
    with pytest.raises(SettingError, match="'a' names two sets of picks"):
        CliRunner().invoke(compare, words, catch_exceptions=False)


def test_pickers_in_frames_of_their_own(files: dict[str, Path], tmp_path: Path) -> None:
    """One picker counts rows from the last, another worked on halved images."""
    picks = read_coordinates(files["good"])
    write_coordinates(tmp_path / "turned.csv", picks.with_columns(y_px=500 - pl.col("y_px")))
    write_coordinates(tmp_path / "halved.csv", picks.with_columns(pl.col("x_px", "y_px") / 2))
    words = [f"good={files['good']}", *(f"{name}={tmp_path / name}.csv" for name in ("turned", "halved"))]
    words += ["--truth", str(files["truth"]), "--radius", "3", "--image-size", "600", "500", "--json"]
    words += ["--bottom", "turned", "--scaled", "halved=2"]
    found = json.loads(CliRunner().invoke(compare, words, catch_exceptions=False).stdout)["pickers"]
    assert len({row["scores"]["n_matched"] for row in found}) == 1
    assert {row["picker"] for row in found} == {"good", "turned", "halved"}


@pytest.mark.shared_data
def test_three_programs_on_real_micrographs(shared_data: Path) -> None:
    folder = shared_data / "betagal-10017"
    words = [f"{path.name}={path}" for path in sorted((folder / "picks").iterdir())]
    words += ["--truth", str(folder / "labels"), "--diameter", "108", "--image-size", "4096", "4096"]
    words += ["--picks-y-origin", "bottom", "--empiar", "10017", "--json"]
    result = CliRunner().invoke(compare, words, catch_exceptions=False)
    found = {row["picker"]: row for row in json.loads(result.stdout)["pickers"]}
    assert list(found) == ["crYOLO", "topaz", "deepPicker"]
    for name, f1 in {"crYOLO": 0.90, "topaz": 0.79, "deepPicker": 0.34}.items():
        assert found[name]["scores"]["f1"] == pytest.approx(f1, abs=0.01)
        assert found[name]["scores"]["n_micrographs"] == 12
    assert found["crYOLO"]["training_overlap"] == "trained on it"
