"""Layouts of other programs: our readers find the same positions, and so do the programs' own libraries where they exist."""

import contextlib
import gc
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import webdataset
from PIL import Image
from pycocotools.coco import COCO

from vitreous.exporters.coco import export_coco
from vitreous.exporters.cryolo import export_cryolo
from vitreous.exporters.cryosparc import export_cryosparc
from vitreous.exporters.eman import export_eman
from vitreous.exporters.lite import export_lite
from vitreous.exporters.topaz import export_topaz
from vitreous.exporters.webdataset import export_webdataset
from vitreous.io.coordinates import read_coordinates
from vitreous.io.csparc import read_cs
from vitreous.io.mrc import read_mrc

Export = Callable[[dict[str, pl.DataFrame], Path, Path], Any]


def get_positions(frame: pl.DataFrame) -> dict[str, np.ndarray]:
    return {
        str(key[0]): part.sort("x_px").select("x_px", "y_px").to_numpy()
        for key, part in frame.partition_by("micrograph", as_dict=True).items()
    }


def expect(toy_project: Any) -> dict[str, np.ndarray]:
    own = toy_project.tables["particles"].filter(pl.col("label") == "positive")
    return get_positions(own.rename({"micrograph_id": "micrograph"}))


def check(found: pl.DataFrame, toy_project: Any, tolerance: float = 0.01) -> None:
    positions, expected = get_positions(found), expect(toy_project)
    assert positions.keys() == expected.keys()
    for name, xy in expected.items():
        np.testing.assert_allclose(positions[name], xy, atol=tolerance)


def count_negatives(shard: Path) -> int:
    with tarfile.open(shard) as tar:
        streams = [tar.extractfile(member) for member in tar if member.name.endswith("negatives.npy")]
        return sum(len(np.load(io.BytesIO(stream.read()))) for stream in streams if stream is not None)


def run(export: Export, toy_project: Any, to: Path) -> Path:
    summary = export(toy_project.tables, toy_project.root, to)
    assert summary.counts["micrographs"] == 3
    assert summary.counts["positives"] == 7
    for name in ("dataset.json", "croissant.json", "README.md"):
        assert len(list(to.rglob(name))) == 1
    return to


def test_cryosparc(toy_project: Any, tmp_path: Path) -> None:
    to = run(export_cryosparc, toy_project, tmp_path / "to")
    check(read_coordinates(to / "particles.cs"), toy_project)
    table = read_cs(to / "particles.cs")
    assert len(set(table["uid"])) == 7
    micrographs = read_cs(to / "micrographs.cs")
    assert set(table["location/micrograph_uid"]) <= set(micrographs["uid"])
    assert {path.decode() for path in micrographs["micrograph_blob/path"]} == {
        path.relative_to(to).as_posix() for path in (to / "micrographs").iterdir()
    }
    np.testing.assert_allclose(micrographs["ctf/df1_A"], [12_000, 12_500, 13_000])
    np.testing.assert_allclose(micrographs["ctf/df_angle_rad"], np.deg2rad(35))
    # Each particle's image is where the table says.
    own = toy_project.tables["particles"].filter(pl.col("label") == "positive").to_dicts()
    by_place = {(row["micrograph_id"], round(row["x_px"])): row for row in own}
    for row in table:
        image = read_mrc(to / row["blob/path"].decode())[0][row["blob/idx"]]
        name = Path(row["location/micrograph_path"].decode()).stem
        source = by_place[name, round(float(row["location/center_x_frac"]) * 160)]
        np.testing.assert_array_equal(
            image, read_mrc(toy_project.root / source["stack_path"])[0][source["stack_index"]]
        )
    text = (to / "particles.csg").read_text()
    assert "  location:\n    metafile: '>particles.cs'\n    num_items: 7\n    type: particle.location\n" in text
    assert len(read_cs(to / "particles_excluded.cs")) == 2


def test_topaz(toy_project: Any, tmp_path: Path) -> None:
    to = run(export_topaz, toy_project, tmp_path / "to")
    parts = [read_coordinates(to / f"particles_{split}.txt") for split in ("train", "validation", "test")]
    check(pl.concat(parts), toy_project)
    images = pl.concat(
        pl.read_csv(to / f"images_{split}.txt", separator="\t") for split in ("train", "validation", "test")
    )
    assert set(images["image_name"]) == {"mic_a", "mic_b", "mic_empty"}
    assert all((to / path).is_file() for path in images["path"])
    assert read_coordinates(to / "negatives.txt").height == 2


def test_eman(toy_project: Any, tmp_path: Path) -> None:
    to = run(export_eman, toy_project, tmp_path / "to")
    check(read_coordinates(to / "info"), toy_project)
    check(read_coordinates(to / "boxes"), toy_project)
    assert json.loads((to / "info" / "mic_empty_info.json").read_text()) == {"boxes": []}
    assert json.loads((to / "info" / "project.json").read_text())["global.apix"] == 1.5
    # 18 px of diameter: boxes of one and a half times that, even.
    first = (to / "boxes" / "mic_b.box").read_text().splitlines()[0].split()
    assert first == ["16.00", "26.00", "28", "28"]


def test_cryolo(toy_project: Any, tmp_path: Path) -> None:
    to = run(export_cryolo, toy_project, tmp_path / "to")
    check(read_coordinates(to / "CBOX"), toy_project)
    check(pl.concat(read_coordinates(folder) for folder in sorted(to.glob("*_annot"))), toy_project)
    for path in to.glob("*_annot/*.box"):
        assert (to / path.parent.name.replace("annot", "image") / f"{path.stem}.mrc").is_file()


def test_coco(toy_project: Any, tmp_path: Path) -> None:
    to = run(export_coco, toy_project, tmp_path / "to")
    rows, names, numbers = [], set(), []
    for split in ("train", "validation", "test"):
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(to / "annotations" / f"{split}.json")
        for image in coco.loadImgs(coco.getImgIds()):
            names.add(Path(image["file_name"]).stem)
            with Image.open(to / "images" / image["file_name"]) as picture:
                assert picture.size == (image["width"], image["height"]) == (160, 120)
            for one in coco.loadAnns(coco.getAnnIds(imgIds=image["id"], catIds=coco.getCatIds(catNms=["particle"]))):
                x, y, width, height = one["bbox"]
                assert (width, height, one["area"]) == (18, 18, 324)
                assert set(one["attributes"]) == {"picker", "annotator", "reason"}
                assert one["attributes"]["picker"]
                numbers.append(one["id"])
                rows.append((Path(image["file_name"]).stem, x + width / 2, y + height / 2))
    assert names == {"mic_a", "mic_b", "mic_empty"}
    assert len(set(numbers)) == 7
    check(pl.DataFrame(rows, schema=["micrograph", "x_px", "y_px"], orient="row"), toy_project)


def test_lite_counts_rows_as_its_pictures_do(toy_project: Any, tmp_path: Path) -> None:
    to = run(export_lite, toy_project, tmp_path / "to") / "10017"
    found = read_coordinates(to / "ground_truth" / "particle_coordinates")
    check(found.with_columns(y_px=120 - pl.col("y_px")), toy_project, tolerance=0.5)
    with Image.open(to / "micrographs" / "mic_a.jpg") as picture:
        pixels = np.asarray(picture, dtype=np.float64)
    memory = read_mrc(toy_project.root / "runs" / "002-motion" / "mic_a.mrc")[0]
    assert np.corrcoef(pixels.ravel(), memory[::-1].ravel())[0, 1] > 0.8
    assert abs(np.corrcoef(pixels.ravel(), memory.ravel())[0, 1]) < 0.3


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(toy_project: Any, tmp_path: Path) -> None:
    to = run(export_webdataset, toy_project, tmp_path / "to")
    shards = sorted(str(path) for path in to.glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("l8"))
    # The package leaves files open; they must be closed while that is expected.
    gc.collect()
    rows = []
    for sample in samples:
        name = sample["json"]["micrograph"]
        assert sample["png"].shape == (120, 160)
        memory = read_mrc(toy_project.root / "runs" / "002-motion" / f"{name}.mrc")[0]
        clipped = np.clip(memory, *np.percentile(memory, [0.5, 99.5]))
        assert np.corrcoef(sample["png"].ravel(), clipped.ravel())[0, 1] > 0.99
        assert (sample["positives.npy"][:, 2] == 18).all()
        rows += [(name, float(x), float(y)) for x, y, _ in sample["positives.npy"]]
    assert {sample["json"]["micrograph"] for sample in samples} == {"mic_a", "mic_b", "mic_empty"}
    check(pl.DataFrame(rows, schema=["micrograph", "x_px", "y_px"], orient="row"), toy_project)


def test_cryosparc_tools_read_ours(toy_project: Any, tmp_path: Path) -> None:
    dataset = pytest.importorskip("cryosparc.dataset", reason="cryosparc-tools is not installed")
    to = run(export_cryosparc, toy_project, tmp_path / "to")
    found = dataset.Dataset.load(to / "particles.cs")
    names = [Path(path).stem for path in found["location/micrograph_path"]]
    shape = np.asarray(found["location/micrograph_shape"], np.float64)
    x, y = found["location/center_x_frac"] * shape[:, 1], found["location/center_y_frac"] * shape[:, 0]
    check(pl.DataFrame({"micrograph": names, "x_px": x, "y_px": y}), toy_project)
    np.testing.assert_allclose(np.rad2deg(found["alignments2D/pose"]), [0, 10, 20, 30, 0, 10, 20], atol=1e-4)


def test_topaz_reads_ours(toy_project: Any, tmp_path: Path) -> None:
    files = pytest.importorskip("topaz.utils.files", reason="topaz-em is not installed (see the test extra)")
    to = run(export_topaz, toy_project, tmp_path / "to")
    parts = [files.read_coordinates(str(path)) for path in sorted(to.glob("particles_*.txt"))]
    rows = [
        row for part in parts for row in part[["image_name", "x_coord", "y_coord"]].itertuples(index=False, name=None)
    ]
    check(pl.DataFrame(rows, schema=["micrograph", "x_px", "y_px"], orient="row"), toy_project)


@pytest.mark.parametrize(
    ("export", "read"),
    [
        (export_topaz, lambda to: pl.read_csv(to / "negatives.txt", separator="\t").height),
        (export_lite, lambda to: sum(pl.read_csv(path).height for path in to.rglob("*_false_positives.csv"))),
        (export_coco, lambda to: sum(path.read_text().count("bbox") for path in to.rglob("*_negatives.json"))),
        (export_webdataset, lambda to: sum(map(count_negatives, to.glob("*.tar")))),
    ],
)
def test_no_positive_is_trained_against(export: Export, read: Any, toy_project: Any, tmp_path: Path) -> None:
    """Of two picks of one particle one is a positive: the other is labelled a duplicate, but shows the particle as well."""
    tables = toy_project.change("particles", "other-0", reason="duplicate", x_px=41.0, y_px=30.0)
    summary = export(tables, toy_project.root, tmp_path / "to")
    assert read(tmp_path / "to") == summary.counts["negatives"] == 1


@pytest.mark.parametrize("export", [export_topaz, export_eman, export_cryolo, export_cryosparc])
def test_names_are_safe_and_rejected_micrographs_stay_away(export: Export, toy_project: Any, tmp_path: Path) -> None:
    export(toy_project.tables, toy_project.root, tmp_path / "to")
    assert not [path for path in (tmp_path / "to").rglob("*") if "mic_bad" in path.name]
