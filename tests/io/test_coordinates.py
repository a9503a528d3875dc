"""Coordinates of other programs, and that three of them agree on real particles."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from scipy.spatial import KDTree

from vitreous.errors import InputFileError, SettingError
from vitreous.io.coordinates import COORDINATES_SCHEMA, read_coordinates, write_coordinates
from vitreous.io.parquet import write_table

FRAME = pl.DataFrame(
    [("a.b", 10.25, 20.0, 0.5, None), ("a.b", 30.0, 40.0, 0.75, None)], schema=COORDINATES_SCHEMA, orient="row"
)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_cryoppp_csv(tmp_path: Path) -> None:
    path = write(
        tmp_path / "May08_03.05.02.csv", "X-Coordinate,Y-Coordinate,Diameter,Angle-Psi\n406,32,65,1.5\n320.5,36,65,2\n"
    )
    frame = read_coordinates(path)
    assert frame.schema == COORDINATES_SCHEMA
    assert frame.rows() == [("May08_03.05.02", 406, 32, None, 65), ("May08_03.05.02", 320.5, 36, None, 65)]


def test_csv_with_blanks_after_commas(tmp_path: Path) -> None:
    frame = read_coordinates(write(tmp_path / "m.csv", "X-Coordinate, Y-Coordinate\n406, 32\n"))
    assert frame.rows() == [("m", 406, 32, None, None)]


def test_csv_with_micrographs_named(tmp_path: Path) -> None:
    path = write(tmp_path / "all.csv", "x_px,y_px,micrograph,score\n1,2,001.mrc,0.5\n3,4,folder/May08_03.05.02,\n")
    assert read_coordinates(path).rows() == [("001", 1, 2, 0.5, None), ("May08_03.05.02", 3, 4, None, None)]


def test_star_with_micrographs_named(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.star",
        "data_optics\nloop_\n_rlnOpticsGroup #1\n1\n\ndata_particles\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
        "_rlnMicrographName #3\n_rlnAutopickFigureOfMerit #4\n1.5 2 MotionCorr/job002/m.1.mrc 0.25\n",
    )
    assert read_coordinates(path).rows() == [("m.1", 1.5, 2, 0.25, None)]


@pytest.mark.parametrize("suffix", ["", "_autopick", "_manualpick"])
def test_star_of_one_micrograph(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"m1{suffix}.star", "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n5 6\n")
    assert read_coordinates(path).rows() == [("m1", 5, 6, None, None)]


def test_our_particles_without_negatives(tmp_path: Path) -> None:
    particles = pl.DataFrame(
        {
            "particle_id": ["m-1", "m-2", "m-3"],
            "micrograph_id": "m",
            "x_px": [1.0, 2.0, 3.0],
            "y_px": [4.0, 5.0, 6.0],
            "diameter_angstrom": 100.0,
            "picker": "blob",
            "score": [0.3, 0.2, 0.1],
            "label": ["positive", "negative", "candidate"],
        }
    )
    write_table(tmp_path / "particles.parquet", "particles", particles)
    assert read_coordinates(tmp_path / "particles.parquet").rows() == [("m", 1, 4, 0.3, None), ("m", 3, 6, 0.1, None)]


def test_bottom_counts_from_the_other_side(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "x_px,y_px\n10,20\n")
    assert read_coordinates(path, y_origin="bottom", ny_px=4096)["y_px"].to_list() == [4076]
    with pytest.raises(SettingError, match="number of rows"):
        read_coordinates(path, y_origin="bottom")


def test_coordinates_of_a_smaller_image(tmp_path: Path) -> None:
    path = write(tmp_path / "p.txt", "image_name\tx_coord\ty_coord\tscore\nm\t10\t20\t1\n")
    assert read_coordinates(path, scale=4).rows() == [("m", 40, 80, 1, None)]
    # Of an image of 4096 rows reduced four times: 1024 rows, counted from the last.
    assert read_coordinates(path, scale=4, y_origin="bottom", ny_px=4096)["y_px"].to_list() == [4016]


def test_folder(tmp_path: Path) -> None:
    write(tmp_path / "m2.box", "0 0 10 10\n")
    write(tmp_path / "m1.box", "10 10 10 10 0.5\n")
    write(tmp_path / "notes.txt", "nothing")
    assert read_coordinates(tmp_path).rows() == [("m1", 15, 15, 0.5, None), ("m2", 5, 5, None, None)]
    write(tmp_path / "job_info.txt", "nothing")
    write(tmp_path / "settings.json", "{}")
    assert read_coordinates(tmp_path).height == 2
    write(tmp_path / "m1.csv", "x_px,y_px\n10,20\n")
    with pytest.raises(InputFileError, match=r"found \.box and \.csv files; expected files of one kind"):
        read_coordinates(tmp_path)


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="found no files; expected files of one kind"):
        read_coordinates(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("m.csv", "a,b\n1,2\n", "columns a, b"),
        ("m.csv", "x_px,y_px\n1,two\n", "a file that cannot be read"),
        ("m.csv", "x_px,y_px\n1,\n", "1 rows without numbers for x and y"),
        ("m.csv", "x_px,y_px\n1,nan\n", "1 rows without numbers for x and y"),
        ("m.csv", "", "a file that cannot be read"),
        ("m.star", "data_\n_rlnPixelSize 1\n", "labels rlnPixelSize"),
        ("m.star", "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n5 six\n", "a file that cannot be read"),
        ("m.txt", "1 2\n", "columns 1 2;"),
        ("m.xml", "1 2\n", r"a file named \.xml"),
        ("m.parquet", "1 2\n", "a file that cannot be read"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, text: str, found: str) -> None:
    with pytest.raises(InputFileError, match=rf"{name}: found {found}.*expected .*\. Check the path"):
        read_coordinates(write(tmp_path / name, text))


@pytest.mark.parametrize("name", ["m.csv", "m.star", "m.box", "m.parquet", "m.txt", "m.cbox", "m_info.json", "m.cs"])
def test_missing_files(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputFileError, match="no such file"):
        read_coordinates(tmp_path / name)


@pytest.mark.parametrize("suffix", [".csv", ".star", ".box", ".txt"])
@pytest.mark.parametrize("y_origin", ["top", "bottom"])
def test_round_trip(tmp_path: Path, suffix: str, y_origin: str) -> None:
    path = tmp_path / f"a.b{suffix}"
    write_coordinates(path, FRAME, box_px=24, y_origin=y_origin, ny_px=100)
    assert_frame_equal(read_coordinates(path, y_origin=y_origin, ny_px=100), FRAME)
    if y_origin == "bottom":
        assert read_coordinates(path)["y_px"].to_list() == [80, 60]


def test_scores_that_are_missing(tmp_path: Path) -> None:
    frame = FRAME.drop("score", "diameter_px")
    for name in ("a.b.csv", "a.b.star", "a.b.box"):
        write_coordinates(tmp_path / name, frame, box_px=24)
        assert read_coordinates(tmp_path / name)["score"].null_count() == 2


def test_writing_what_cannot_be(tmp_path: Path) -> None:
    two = FRAME.with_columns(micrograph=pl.Series(["a", "b"]))
    with pytest.raises(SettingError, match=r"2 micrographs; a \.box file holds those of one"):
        write_coordinates(tmp_path / "m.box", two, box_px=24)
    with pytest.raises(SettingError, match="side of the boxes"):
        write_coordinates(tmp_path / "m.box", FRAME)
    with pytest.raises(SettingError, match=r"expected a name ending in \.csv, \.star, \.txt, \.box, \.json or \.cbox"):
        write_coordinates(tmp_path / "m.cs", FRAME)


def test_what_only_centres_survive(tmp_path: Path) -> None:
    write_coordinates(tmp_path / "a.b_info.json", FRAME)
    assert read_coordinates(tmp_path / "a.b_info.json").rows() == FRAME.with_columns(score=pl.lit(None)).rows()
    write_coordinates(tmp_path / "a.b.cbox", FRAME, box_px=25)
    assert read_coordinates(tmp_path / "a.b.cbox").rows() == FRAME.with_columns(diameter_px=pl.lit(25.0)).rows()


@pytest.mark.shared_data
def test_real_folder_of_labels(shared_data: Path) -> None:
    frame = read_coordinates(shared_data / "apoferritin-10146" / "coordinates")
    stems = {path.stem for path in (shared_data / "apoferritin-10146" / "micrographs").glob("*.png")}
    assert set(frame["micrograph"]) == stems
    assert frame["x_px"].is_between(0, 1240).all()
    assert frame["y_px"].is_between(0, 1200).all()


@pytest.mark.shared_data
def test_published_star_and_csv_agree(shared_data: Path) -> None:
    folder = shared_data / "betagal-10017"
    star = read_coordinates(folder / "sample.star")
    csv = read_coordinates(folder / "original_cryoppp_Falcon_2012_06_12-14_33_35_0.csv")
    assert star.select("x_px", "y_px").rows() == csv.select("x_px", "y_px").rows()
    assert set(star["micrograph"]) == {"Falcon_2012_06_12-14_33_35_0"}
    assert set(csv["diameter_px"]) == {108}


@pytest.mark.shared_data
def test_real_boxes_meet_the_labels_only_with_the_right_origin(shared_data: Path) -> None:
    folder = shared_data / "betagal-10017"
    labels = read_coordinates(folder / "labels")

    def count_hits(picks: pl.DataFrame) -> float:
        hits = 0
        for (micrograph,), group in picks.group_by("micrograph"):
            truth = labels.filter(pl.col("micrograph") == micrograph).select("x_px", "y_px").to_numpy()
            hits += np.sum(KDTree(truth).query(group.select("x_px", "y_px").to_numpy())[0] < 30)
        return hits / picks.height

    boxes = folder / "picks" / "crYOLO"
    assert count_hits(read_coordinates(boxes, y_origin="bottom", ny_px=4096)) > 0.8
    assert count_hits(read_coordinates(boxes)) < 0.3


def test_a_row_without_its_micrograph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("micrograph,x_px,y_px\na,1,2\n,3,4\n")
    with pytest.raises(InputFileError, match=r"p\.csv: found 1 rows without a micrograph; expected the name"):
        read_coordinates(tmp_path / "p.csv")
