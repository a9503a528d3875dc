"""CryoPPP's layout: its folders, its columns, and its way of counting rows, taken from the published files themselves."""

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import polars as pl
import pytest
import starfile

from vitreous.errors import ProjectError
from vitreous.exporters.cryoppp import export_cryoppp
from vitreous.io.atomic import write_json
from vitreous.io.coordinates import read_coordinates
from vitreous.io.mrc import write_mrc
from vitreous.io.parquet import write_table
from vitreous.io.star import read_star
from vitreous.model.provenance import RunRecord
from vitreous.model.tables import complete_table

POSITIVES = {
    "mic_a": [(40.0, 30.0), (100.4, 50.0), (70.0, 90.75), (138.0, 101.0)],
    "mic_b": [(30.0, 40.0), (120.25, 33.0), (60.0, 99.4)],
}
MICROGRAPH_HEADER = (
    "X-Coordinate,Y-Coordinate,Diameter,Angle-Psi,Origin X (Ang),Origin Y (Ang),Defocus U,Defocus V,Defocus Angle,Phase Shift,"
    "CTF B Factor"
)
ENTRY_HEADER = (
    "Particles Filename,Micrographs Filename,X-Coordinate,Y-Coordinate,Angle-Psi,Origin X (Ang),Origin Y (Ang),Defocus U,"
    "Defocus V,Defocus Angle,Phase Shift,CTF B Factor,Optics Group,Class Number"
)


@pytest.fixture
def folder(toy_project: Any, tmp_path: Path) -> Path:
    summary = export_cryoppp(toy_project.tables, toy_project.root, tmp_path / "to")
    assert summary.counts == {"micrographs": 3, "positives": 7, "negatives": 2}
    assert summary.warnings == ("1 candidates are labelled neither positive nor negative; run review",)
    return tmp_path / "to" / "10017"


def test_folders(folder: Path, list_files: Callable[[Path], set[str]]) -> None:
    names = ("mic_a", "mic_b", "mic_empty")
    assert list_files(folder) == {
        *("README.md", "checksums.sha256", "croissant.json", "dataset.json", "particles.csv"),
        "gain/gain.mrc",
        *(f"micrographs/{name}.mrc" for name in names),
        *(f"particles_stack/{name}_particles.mrc" for name in names[:2]),
        *(f"ground_truth/particle_coordinates/{name}.csv" for name in names),
        *(f"ground_truth/false_positives/{name}_false_positives.csv" for name in names),
        *(
            f"ground_truth/empiar-10017_particles_{which}.{kind}"
            for which in ("selected", "excluded")
            for kind in ("star", "csv")
        ),
    }


def test_labels_of_a_micrograph(folder: Path) -> None:
    with (folder / "ground_truth" / "particle_coordinates" / "mic_a.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert ",".join(rows[0]) == MICROGRAPH_HEADER
    # 120 rows: 30 -> 90, 50 -> 70, 90.75 -> 29.25, 101 -> 19; 27 Å at 1.5 Å per pixel.
    assert [row[:3] for row in rows[1:]] == [
        ["40", "90", "18"],
        ["100", "70", "18"],
        ["70", "29", "18"],
        ["138", "19", "18"],
    ]
    assert rows[2][3:] == ["10.0", "1.5", "-3.0", "12000.0", "11500.0", "35.0", "0.0", "0.0"]
    empty = (folder / "ground_truth" / "particle_coordinates" / "mic_empty.csv").read_text()
    assert empty == MICROGRAPH_HEADER + "\n"
    wrong = pl.read_csv(folder / "ground_truth" / "false_positives" / "mic_a_false_positives.csv")
    assert wrong.select("X-Coordinate", "Y-Coordinate").rows() == [(20, 20)]


def test_our_reader_finds_the_positions_again(folder: Path) -> None:
    found = read_coordinates(folder / "ground_truth" / "particle_coordinates", y_origin="bottom", ny_px=120)
    for name, centres in POSITIVES.items():
        again = found.filter(pl.col("micrograph") == name).select("x_px", "y_px").to_numpy()
        assert np.abs(again - centres).max() <= 0.5
        np.testing.assert_array_equal(again, np.round(again))
    assert set(found["micrograph"]) == {"mic_a", "mic_b"}


def test_star_files(folder: Path) -> None:
    truth = folder / "ground_truth"
    ours = read_star(truth / "empiar-10017_particles_selected.star")
    theirs = starfile.read(truth / "empiar-10017_particles_selected.star")
    assert list(theirs["particles"].columns) == [
        "rlnImageName", "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnAnglePsi", "rlnOriginXAngst",
        "rlnOriginYAngst", "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift", "rlnCtfBfactor",
        "rlnOpticsGroup", "rlnClassNumber",
    ]  # fmt: skip
    assert theirs["particles"]["rlnCoordinateY"].tolist() == [90, 70, 29, 19, 80, 87, 21]
    assert ours["particles"]["rlnCoordinateY"].to_list() == theirs["particles"]["rlnCoordinateY"].tolist()
    assert theirs["optics"]["rlnImageSize"].tolist() == [24]
    header, *rows = (truth / "empiar-10017_particles_selected.csv").read_text().splitlines()
    assert header == ENTRY_HEADER
    assert rows[0].startswith(
        "000001@particles_stack/mic_a_particles.mrc,mic_a.mrc,40,90,0.0,1.5,-3.0,12000.0,11500.0,35.0,"
    )
    assert rows[0].endswith(",1,1")
    for name in theirs["particles"]["rlnMicrographName"]:
        assert (folder / name).is_file()
    for name in theirs["particles"]["rlnImageName"]:
        number, path = name.split("@")
        with mrcfile.open(folder / path, permissive=False) as stack:
            # The images were made alike but for a step of 0.01 per particle.
            assert stack.data[int(number) - 1, 0, 0] == pytest.approx(0.01 * (int(number) - 1))
    excluded = starfile.read(truth / "empiar-10017_particles_excluded.star")["particles"]
    assert "rlnImageName" not in excluded
    assert excluded["rlnCoordinateX"].tolist() == [20, 21]


def test_sidecar_says_how_rows_are_counted(folder: Path) -> None:
    document = json.loads((folder / "dataset.json").read_text())
    assert document["layout"] == "cryoppp-2023"
    assert document["written_by"].startswith("vitreous 0.")
    assert document["coordinates"]["y_origin"] == "bottom"
    assert (document["nx_px"], document["ny_px"], document["pixel_size_angstrom"]) == (160, 120, 1.5)
    assert document["particle_diameter_angstrom"] == 27
    assert document["counts"] == {"micrographs": 3, "positives": 7, "negatives": 2}
    assert document["negative_reasons"] == {"ice": 1, "score": 1}
    assert "no licence" in document["licence"]
    assert [(row["name"], row["positives"], row["negatives"]) for row in document["micrographs"]] == [
        ("mic_a", 4, 1), ("mic_b", 3, 1), ("mic_empty", 0, 0)
    ]  # fmt: skip
    assert "project" not in json.dumps(document)


def test_what_the_templates_were_made_of(toy_project: Any, tmp_path: Path) -> None:
    """The positives behind the classes that the last picking with templates took, in the layout's own rows."""
    now = datetime(2026, 1, 2, tzinfo=UTC)
    common = {
        "stage_version": "1",
        "vitreous_version": "0",
        "key": "k",
        "changed_params": {},
        "rows_in": {},
    }
    common |= {"started": now, "finished": now, "seconds": 0, "cpu_seconds": 0, "peak_memory_bytes": 0}
    for folder, stage, inputs in (("005-select2d", "select2d", {}), ("007-pick", "pick", {"classes": "005-select2d"})):
        of_run = {
            "folder": folder,
            "stage": stage,
            "inputs": inputs,
            "params": {"method": "template"} if inputs else {},
        }
        record = RunRecord.model_validate(common | of_run | {"outputs": {}})
        write_json(toy_project.root / "runs" / folder / "run.json", record.model_dump(mode="json"))
    earlier = toy_project.change("particles", "mic_a-1", label="negative")["particles"]
    write_table(toy_project.root / "runs" / "005-select2d" / "particles.parquet", "particles", earlier)
    summary = export_cryoppp(toy_project.tables, toy_project.root, tmp_path / "to")
    assert summary.counts["picks for templates"] == 6
    path = tmp_path / "to" / "10017" / "ground_truth" / "intermediate_data" / "empiar-10017_picks_for_templates.star"
    block = starfile.read(path)["particles"]
    assert block["rlnCoordinateY"].tolist() == [80, 87, 21, 90, 29, 19]


def test_no_image_no_class_no_defocus(toy_project: Any, tmp_path: Path) -> None:
    tables = toy_project.change("particles", "mic_a-1", stack_path=None, stack_index=None, class_id=None)
    tables = {name: tables[name] for name in ("micrographs", "particles")}
    names = [name for name in tables["micrographs"].columns if "defocus" in name]
    tables["micrographs"] = tables["micrographs"].with_columns(
        pl.lit(None, dtype=pl.Float64).alias(name) for name in names
    )
    summary = export_cryoppp(tables, toy_project.root, tmp_path / "to")
    assert any("1 positives have no extracted image" in warning for warning in summary.warnings)
    folder = tmp_path / "to" / "entry"
    labels = pl.read_csv(folder / "ground_truth" / "particle_coordinates" / "mic_a.csv")
    assert labels["X-Coordinate"].to_list() == [40, 100, 70, 138]
    assert labels["Defocus U"].null_count() == 4
    particles = starfile.read(folder / "ground_truth" / "entry_particles_selected.star")["particles"]
    assert particles["rlnCoordinateX"].tolist()[:3] == [40, 70, 138]
    assert particles["rlnImageName"].tolist()[:3] == [f"{i:06d}@particles_stack/mic_a_particles.mrc" for i in (1, 2, 3)]
    assert not {"rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"} & set(particles.columns)
    with mrcfile.open(folder / "particles_stack" / "mic_a_particles.mrc", permissive=False) as stack:
        np.testing.assert_allclose(stack.data[:, 0, 0], [0, 0.02, 0.03], atol=1e-6)


def test_again_leaves_nothing_stale(toy_project: Any, tmp_path: Path, list_files: Callable[[Path], set[str]]) -> None:
    export_cryoppp(toy_project.tables, toy_project.root, tmp_path / "to")
    before = list_files(tmp_path / "to")
    export_cryoppp(toy_project.change("micrographs", "mic_b", accepted=False), toy_project.root, tmp_path / "to")
    assert list_files(tmp_path / "to") == {name for name in before if "mic_b" not in name}
    assert (toy_project.root / "runs" / "002-motion" / "mic_b.mrc").exists()


def test_refuses_several_pixel_sizes(toy_project: Any, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"1.5, 1.6 Å per pixel, expected one pixel size.*--format relion"):
        export_cryoppp(toy_project.set_pixel_size("mic_b", 1.6), toy_project.root, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_warns_of_several_diameters(toy_project: Any, tmp_path: Path) -> None:
    tables = toy_project.change("particles", "mic_a-1", diameter_angstrom=30.0)
    summary = export_cryoppp(tables, toy_project.root, tmp_path / "to")
    assert "the positives have diameters of 18 to 20 px; the layout has usually one" in summary.warnings


@pytest.mark.shared_data
def test_published_rows_are_those_that_the_rule_gives(shared_data: Path) -> None:
    """The published picks lie on a grid of 4096/810 px that starts at pixel 0, and Y counted from 4096 lies on it too.

    Had Y been 4095 - row, no row would lie on the grid; had it been cut off instead of rounded, few columns would.
    """
    published = pl.read_csv(next((shared_data / "betagal-10017").glob("original_cryoppp_*.csv")))
    exact = np.arange(811) * 4096 / 810
    assert np.isin(published["X-Coordinate"], np.round(exact)).all()
    assert np.isin(4096 - published["Y-Coordinate"].to_numpy(), np.round(exact)).all()
    assert not np.isin(4095 - published["Y-Coordinate"].to_numpy(), np.round(exact)).any()
    assert np.isin(published["X-Coordinate"], np.floor(exact)).mean() < 0.7


@pytest.mark.shared_data
def test_published_labels_come_out_as_they_are(shared_data: Path, tmp_path: Path) -> None:
    """Labels of the paper's own micrograph go into our tables and come out in the same columns, values and order."""
    original = next((shared_data / "betagal-10017").glob("original_cryoppp_*.csv"))
    name = original.stem.removeprefix("original_cryoppp_")
    labels = read_coordinates(original, y_origin="bottom", ny_px=4096)
    root = tmp_path / "project"
    # Only the header of the micrograph is read.
    write_mrc(root / "m.mrc", np.zeros((4096, 4096), np.int8), 1.77)
    optics = {
        "pixel_size_angstrom": 1.77,
        "voltage_kv": 300.0,
        "cs_mm": 2.0,
        "amplitude_contrast": 0.1,
        "optics_group": 1,
    }
    micrograph = {"micrograph_id": name, "exposure_id": name, "micrograph_path": "m.mrc", "nx_px": 4096, "ny_px": 4096}
    particles = labels.select(
        "x_px",
        "y_px",
        particle_id=pl.int_range(pl.len()).cast(pl.String),
        micrograph_id=pl.lit(name),
        diameter_angstrom=pl.col("diameter_px") * 1.77,
        picker=pl.lit("manual"),
        label=pl.lit("positive"),
    )
    tables = {
        "micrographs": complete_table("micrographs", pl.DataFrame([micrograph | optics])),
        "particles": complete_table("particles", particles),
    }
    export_cryoppp(tables, root, tmp_path / "to")
    truth = tmp_path / "to" / "entry" / "ground_truth"
    # To the byte: nothing beside the places is known of these particles, here as there.
    assert (truth / "particle_coordinates" / f"{name}.csv").read_bytes() == original.read_bytes()
    sample = starfile.read(shared_data / "betagal-10017" / "sample.star")
    block = starfile.read(truth / "entry_particles_selected.star")["particles"]
    assert set(sample.columns) <= set(block.columns)
    n = len(sample)
    for axis in "XY":
        assert block[f"rlnCoordinate{axis}"].tolist()[:n] == sample[f"rlnCoordinate{axis}"].tolist()
    assert Path(block["rlnMicrographName"][0]).name == sample["rlnMicrographName"][0]
