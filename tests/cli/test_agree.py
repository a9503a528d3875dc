"""`vitreous agree` on annotators made from a known truth, and on real picks."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from vitreous.cli.agree import agree
from vitreous.errors import SettingError
from vitreous.io.coordinates import read_coordinates, write_coordinates

SENSITIVITY, N_FALSE = {"ann": 0.9, "ben": 0.75, "cid": 0.85}, {"ann": 4, "ben": 1, "cid": 2}


def call(*words: object) -> Result:
    return CliRunner().invoke(agree, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def marks(tmp_path: Path) -> dict[str, Path]:
    """Twelve micrographs of 80 particles on a grid; false marks lie between its lines."""
    rng = np.random.default_rng(8)
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(8)), axis=-1).reshape(-1, 2) * 50 + 20.0
    paths = {}
    for name, sensitivity in SENSITIVITY.items():
        parts = []
        for i in range(12):
            seen = grid[rng.random(80) < sensitivity]
            false = grid[rng.choice(80, N_FALSE[name], replace=False)] + 25 + 5 * len(paths)
            xy = np.concatenate([seen + rng.uniform(-1.5, 1.5, seen.shape), false])
            parts.append(pl.DataFrame({"micrograph": [f"m{i}"] * len(xy), "x_px": xy[:, 0], "y_px": xy[:, 1]}))
        paths[name] = tmp_path / f"{name}.csv"
        pl.concat(parts).write_csv(paths[name])
    return paths


def test_rates_sets_and_disagreements(marks: dict[str, Path], tmp_path: Path) -> None:
    words = [f"{name}={path}" for name, path in marks.items()]
    result = call(*words, "--radius", 5, "--at", "0.1,1", "--to", tmp_path / "to", "--json")
    found = json.loads(result.stdout)
    assert result.stderr == ""
    assert found["n_expected"] == pytest.approx(960, rel=0.03)
    for one in found["annotators"]:
        assert one["sensitivity"] == pytest.approx(SENSITIVITY[one["name"]], abs=0.04)
        assert one["false_discovery"] == pytest.approx(12 * N_FALSE[one["name"]] / one["n_marks"], abs=0.03)
    near, far = found["pairs"][:3], found["pairs"][3:]
    assert [pair["radius_px"] for pair in found["pairs"]] == [1, 1, 1, 10, 10, 10]
    assert all(one["f1"] < other["f1"] for one, other in zip(near, far, strict=True))
    for pair in far:
        assert pair["f1_low"] < pair["f1"] < pair["f1_high"]
        assert set(pair["f1_by_micrograph"]) == {f"m{i}" for i in range(12)}
    for name, count in found["consensus"].items():
        assert read_coordinates(tmp_path / "to" / f"consensus_{name}.csv").height == count
    assert found["consensus"]["both"] < found["consensus"]["expected"] < found["consensus"]["either"]
    disputed = pl.read_csv(tmp_path / "to" / "disagreements.csv")
    assert disputed["doubt_bits"].is_sorted(descending=True)
    assert disputed.height == found["consensus"]["either"] - found["consensus"]["both"]
    assert (tmp_path / "to" / "agreement.png").stat().st_size > 5000
    assert json.loads((tmp_path / "to" / "agreement.json").read_text()) == found


def test_one_pair_by_hand(tmp_path: Path) -> None:
    for name, rows in {"a": "m,10,10\nm,50,50\nn,5,5\n", "b": "m,12,10\nm,80,80\nk,1,1\n"}.items():
        (tmp_path / f"{name}.csv").write_text("micrograph,x_px,y_px\n" + rows)
    result = call(tmp_path / "a.csv", tmp_path / "b.csv", "--diameter", 8, "--at", "0.5", "--json")
    found = json.loads(result.stdout)
    # They share one micrograph, and in it one of two marks each.
    assert found["micrographs"] == ["m"]
    assert found["positive_agreement"] == {"4": 0.5}
    assert found["consensus"]["both"] == 1
    assert found["consensus"]["either"] == 3
    assert "two annotators cannot tell" in result.stderr


def test_what_is_refused(tmp_path: Path) -> None:
    for name, micrograph in {"a": "m", "b": "n"}.items():
        (tmp_path / f"{name}.csv").write_text(f"micrograph,x_px,y_px\n{micrograph},1,1\n")
    with pytest.raises(SettingError, match="two or more annotators"):
        call(tmp_path / "a.csv", "--radius", 4)
    with pytest.raises(SettingError, match="no micrograph in common"):
        call(tmp_path / "a.csv", tmp_path / "b.csv", "--radius", 4)
    with pytest.raises(SettingError, match="expected numbers with commas"):
        call(tmp_path / "a.csv", tmp_path / "b.csv", "--radius", 4, "--at", "x")


@pytest.mark.shared_data
def test_real_picks(shared_data: Path) -> None:
    folder = shared_data / "betagal-10017" / "picks"
    words = [f"{name}={folder / name}" for name in ("crYOLO", "topaz", "deepPicker")]
    found = json.loads(call(*words, "--diameter", 108, "--at", "0.5", "--json").stdout)
    # Against the labels of the entry crYOLO has a recall of 0.95, DeepPicker of 0.25 and a precision of 0.51.
    rates = {one["name"]: one for one in found["annotators"]}
    assert rates["crYOLO"]["sensitivity"] > 0.85
    assert rates["deepPicker"]["sensitivity"] == pytest.approx(0.25, abs=0.05)
    assert rates["deepPicker"]["false_discovery"] > 0.25


@pytest.mark.shared_data
def test_real_marks_in_two_frames_are_said_and_turned(shared_data: Path, tmp_path: Path) -> None:
    """The boxes count rows as the MRC files, the labels from the other side."""
    folder = shared_data / "betagal-10017"
    words = [
        f"crYOLO={folder / 'picks' / 'crYOLO'}",
        f"labels={folder / 'labels'}",
        "--diameter",
        108,
        "--at",
        "0.5",
        "--json",
    ]
    (warning,) = json.loads(call(*words).stdout)["warnings"]
    assert warning.startswith(
        "the marks of crYOLO fit those of labels far better when mirrored in y (F1 0.90 instead of 0.40)"
    )
    assert warning.endswith("see --bottom NAME")
    words += ["--bottom", "labels", "--image-size", 4096, 4096]
    found = json.loads(call(*words).stdout)
    assert found["warnings"] == []
    assert found["pairs"][0]["f1"] == pytest.approx(0.90, abs=0.005)
    assert found["pairs"][0]["f1_low"] < 0.9 < found["pairs"][0]["f1_high"]
    assert len(found["pairs"][0]["f1_by_micrograph"]) == 12
    # Halved by one of them, and given the factor.
    halved = tmp_path / "halved.csv"
    labels = read_coordinates(folder / "labels").with_columns(pl.col("x_px", "y_px") / 2)
    write_coordinates(halved, labels)
    words[1], words[-3:] = f"labels={halved}", ["--image-size", 4096, 4096, "--scaled", "labels=2"]
    assert json.loads(call(*words).stdout)["pairs"] == found["pairs"]


def test_a_micrograph_that_one_found_empty_counts(tmp_path: Path) -> None:
    for name, files in {
        "a": {"m": "10,10", "n": "5,5", "k": "", "only_a": "1,1"},
        "b": {"m": "10,10", "n": "", "k": ""},
    }.items():
        (tmp_path / name).mkdir()
        for micrograph, row in files.items():
            (tmp_path / name / f"{micrograph}.csv").write_text(f"x_px,y_px\n{row}")
    result = call(tmp_path / "a", tmp_path / "b", "--diameter", 8, "--at", "0.5", "--json")
    found = json.loads(result.stdout)
    assert found["micrographs"] == ["k", "m", "n"]
    assert found["pairs"][0]["f1_by_micrograph"] == {"k": None, "m": 1.0, "n": 0.0}
    assert found["positive_agreement"] == {"4": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bottom", "c"), "'c' is none of the names that were given: a, b"),
        (("--scaled", "c=2"), "'c' is none of the names"),
        (("--scaled", "a=x"), "--scaled a=x: expected NAME=FACTOR"),
        (("--scaled", "2"), "--scaled 2: expected NAME=FACTOR|'' is none of"),
    ],
)
def test_what_is_said_of_nobody(tmp_path: Path, words: tuple[str, str], message: str) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("micrograph,x_px,y_px\nm,1,1\n")
    with pytest.raises(SettingError, match=message):
        call(tmp_path / "a.csv", tmp_path / "b.csv", "--radius", 4, *words)
