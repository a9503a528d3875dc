"""`vitreous evaluate` on the formats of other programs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from vitreous.cli.evaluate import evaluate
from vitreous.errors import SettingError
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
