"""Ingest: the tables that good files give, and what it says of bad ones."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from vitreous.engine.machine import Machine
from vitreous.engine.project import create_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.engine.run import run_stage
from vitreous.errors import InputFileError, UserError
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.model.documents import Facts
from vitreous.model.provenance import Recipe, RecipeStep, RunRecord
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import empty_table
from vitreous.stages.ingest import STAGE, IngestParams

RNG = np.random.default_rng(4)
MOVIE = RNG.integers(0, 30, (3, 16, 24)).astype(np.uint8)
IMAGE = RNG.normal(size=(16, 24)).astype(np.float32)


def ingest(root: Path, facts: Facts, params: IngestParams | None = None) -> Saved:
    """Run the stage as the engine would, with every failure raised."""
    params, inputs, context = params or IngestParams(), Inputs({}, facts=facts), Context(root)
    folder = RunFolder(root, root / "runs" / "001-ingest")
    rows, warnings = [], list[str]()
    for item in STAGE.plan(inputs, params, context):
        again = STAGE.item.model_validate_json(item.model_dump_json())
        saved = STAGE.save(STAGE.compute(STAGE.load(again, params, context), params), again, folder)
        rows.append(saved.tables["exposures"])
        warnings += saved.warnings
    tables = {"entries": empty_table("entries"), "exposures": pl.concat(rows)}
    return STAGE.collect(inputs, Saved(tables, tuple(warnings)), params)


def run(root: Path, facts: Facts) -> tuple[RunRecord, dict[str, pl.DataFrame]]:
    """Run the stage through the engine."""
    project = create_project(root, facts, Recipe(steps=(RecipeStep(stage="vitreous.stages.ingest:STAGE"),)))
    record = run_stage(project, "vitreous.stages.ingest:STAGE", {}, Machine(workers=1, threads=1))
    return record, dict(read_current_tables(project, read_current_records(project)))


def check_message(error: pytest.ExceptionInfo[InputFileError], *words: str) -> None:
    """Check that the message names file, found, expected and remedy, and holds `words`."""
    message = str(error.value)
    assert ": found " in message
    assert "; expected " in message
    assert error.value.remedy.endswith(".")
    for word in words:
        assert word in message, message


def test_movies(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    for name in ("m10", "m2", "m01"):
        write_tiff(tmp_path / "data" / f"{name}.tif", MOVIE)
    write_mrc(tmp_path / "data" / "gain.mrc", np.ones((16, 24), np.float32), 1.0)
    facts = Facts(
        title="test",
        entry_id="10146",
        source="EMPIAR-10146",
        licence="CC0-1.0",
        molecular_weight_kda=432,
        movies="../data/m*.tif",
        gain="../data/gain.mrc",
        pixel_size_angstrom=1.2,
        total_dose=30,
        diameter_angstrom=120,
        symmetry="O",
    )
    saved = ingest(root, facts)
    entry = {"entry_id": "10146", "title": "test", "source": "EMPIAR-10146", "licence": "CC0-1.0"}
    entry |= {"molecular_weight_kda": 432, "diameter_angstrom": 120, "symmetry": "O", "total_dose": 30}
    assert saved.tables["entries"].to_dicts() == [entry]
    exposures = saved.tables["exposures"]
    assert exposures["exposure_id"].to_list() == ["m01", "m2", "m10"]
    gain = exposures["gain_path"][1]
    assert gain.startswith("gain/gain-")
    np.testing.assert_array_equal(read_mrc(root / gain)[0], np.ones((16, 24)))
    assert exposures.row(1, named=True) == {
        "exposure_id": "m2",
        "movie_path": "../data/m2.tif",
        "micrograph_path": None,
        "n_frames": 3,
        "nx_px": 24,
        "ny_px": 16,
        "pixel_size_angstrom": 1.2,
        "voltage_kv": 300,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.1,
        "optics_group": 1,
        "dose_per_frame": 10,
        "pre_exposure": 0,
        "gain_path": gain,
        "defects_path": None,
        "eer_upsampling": None,
    }
    assert saved.warnings == ()


@pytest.mark.parametrize("name", ["m.mrc", "m.tif", "m.png", "m.jpg"])
def test_micrographs_of_every_format(tmp_path: Path, name: str) -> None:
    image = MOVIE[0] * 8
    if name == "m.mrc":
        write_mrc(tmp_path / name, IMAGE, 1.0)
    elif name == "m.tif":
        write_tiff(tmp_path / name, image)
    else:
        Image.fromarray(image).save(tmp_path / name)
    row = ingest(tmp_path, Facts(micrographs="m.*", pixel_size_angstrom=1.5)).tables["exposures"].row(0, named=True)
    assert row["micrograph_path"] == name
    assert row["movie_path"] is None
    assert row["dose_per_frame"] is None
    assert (row["n_frames"], row["ny_px"], row["nx_px"], row["pixel_size_angstrom"]) == (1, 16, 24, 1.5)


def test_pixel_size_of_the_header(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", IMAGE, 1.25)
    exposures = ingest(tmp_path, Facts(micrographs="*.mrc")).tables["exposures"]
    assert exposures["pixel_size_angstrom"].to_list() == [pytest.approx(1.25)]


@pytest.mark.parametrize("header", [0.0, 1.0, 1.249, 1.255])
def test_given_pixel_size_that_no_header_contradicts(tmp_path: Path, header: float) -> None:
    write_mrc(tmp_path / "m.mrc", IMAGE, header)
    exposures = ingest(tmp_path, Facts(micrographs="*.mrc", pixel_size_angstrom=1.25)).tables["exposures"]
    assert exposures["pixel_size_angstrom"].to_list() == [1.25]


def test_contradicting_pixel_size(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m.mrc", IMAGE, 1.27)
    facts = Facts(micrographs="*.mrc", pixel_size_angstrom=1.25)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, facts)
    check_message(error, "m.mrc", "1.27 Å", "1.25 Å", "--pixel-size 1.27", "max_pixel_size_difference")
    exposures = ingest(tmp_path, facts, IngestParams(max_pixel_size_difference=0.05)).tables["exposures"]
    assert exposures["pixel_size_angstrom"].to_list() == [1.25]


@pytest.mark.parametrize("header", [0.0, 1.0])
def test_no_pixel_size(tmp_path: Path, header: float) -> None:
    write_mrc(tmp_path / "m.mrc", IMAGE, header)
    with pytest.raises(InputFileError) as error:
        STAGE.plan(Inputs({}, facts=Facts(micrographs="*.mrc")), IngestParams(), Context(tmp_path))
    check_message(error, "m.mrc", "no pixel size", "--pixel-size")


def test_no_pixel_size_in_a_later_file(tmp_path: Path) -> None:
    write_mrc(tmp_path / "m1.mrc", IMAGE, 1.25)
    write_mrc(tmp_path / "m2.mrc", IMAGE, 1.0)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(micrographs="*.mrc"))
    check_message(error, "m2.mrc", "no pixel size", "--pixel-size")


def test_unreadable_first_file_does_not_stop_the_plan(tmp_path: Path) -> None:
    (tmp_path / "m1.tif").touch()
    write_tiff(tmp_path / "m2.tif", MOVIE)
    write_mrc(tmp_path / "gain.mrc", np.ones((16, 25), np.float32), 1.0)
    facts = Facts(movies="*.tif", pixel_size_angstrom=1.2)
    assert len(STAGE.plan(Inputs({}, facts=facts), IngestParams(), Context(tmp_path))) == 2
    facts = facts.model_copy(update={"gain": "gain.mrc"})
    with pytest.raises(InputFileError) as error:
        STAGE.plan(Inputs({}, facts=facts), IngestParams(), Context(tmp_path))
    check_message(error, "gain.mrc", "24x16 as m2.tif")


def test_glob_without_files(tmp_path: Path) -> None:
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(movies="*.tif"))
    check_message(error, "*.tif", "no file", "--movies")


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for name in ("a/m.tif", "b/m.tif"):
        write_tiff(tmp_path / name, MOVIE)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(movies="*/m.tif"))
    check_message(error, "b/m.tif", "a/m.tif", "Rename")


def test_gain_of_another_size(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", MOVIE)
    write_mrc(tmp_path / "gain.mrc", np.ones((16, 25), np.float32), 1.0)
    facts = Facts(movies="*.tif", gain="gain.mrc", pixel_size_angstrom=1.2)
    with pytest.raises(InputFileError) as error:
        STAGE.plan(Inputs({}, facts=facts), IngestParams(), Context(tmp_path))
    check_message(error, "gain.mrc", "25x16", "24x16 as m.tif", "--gain")


def test_gain_that_is_turned_and_tells_nothing(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", MOVIE)
    write_mrc(tmp_path / "gain.mrc", np.ones((24, 16), np.float32), 1.0)
    facts = Facts(movies="*.tif", gain="gain.mrc", pixel_size_angstrom=1.2)
    with pytest.raises(InputFileError) as error:
        STAGE.plan(Inputs({}, facts=facts), IngestParams(), Context(tmp_path))
    check_message(error, "gain.mrc", "16x24", "24x16", "90 degrees")


def test_gain_that_fits_the_first_movie_only(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m1.tif", MOVIE)
    write_tiff(tmp_path / "m2.tif", MOVIE[:, :, :20])
    write_mrc(tmp_path / "gain.mrc", np.ones((16, 24), np.float32), 1.0)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(movies="*.tif", gain="gain.mrc", pixel_size_angstrom=1.2))
    check_message(error, "gain.mrc", "24x16", "20x16 as m2.tif")


def test_missing_gain(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", MOVIE)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(movies="*.tif", gain="gain.mrc", pixel_size_angstrom=1.2))
    check_message(error, "gain.mrc", "no such file")


@pytest.mark.filterwarnings("ignore:Data array contains", "ignore:invalid value")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    image = IMAGE.copy()
    image[3, 4:6] = value
    write_mrc(tmp_path / "m.mrc", image, 1.2)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(micrographs="*.mrc"))
    check_message(error, "m.mrc", "2 pixels that are no number", "finite")


@pytest.mark.filterwarnings("ignore:Data array contains", "ignore:invalid value")
def test_last_frame_is_looked_at(tmp_path: Path) -> None:
    movie = MOVIE.astype(np.float32)
    movie[-1, 0, 0] = np.nan
    write_mrc(tmp_path / "m.mrc", movie, 1.2)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(movies="*.mrc"))
    check_message(error, "m.mrc", "1 pixels")


def test_constant_images(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 24), 7, np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(micrographs="*.png", pixel_size_angstrom=1.2))
    check_message(error, "m.png", "every pixel is 7", "varying")


@pytest.mark.parametrize("name", ["m.mrc", "m.tif"])
def test_one_frame_is_no_movie(tmp_path: Path, name: str) -> None:
    (write_tiff if name == "m.tif" else lambda path, array: write_mrc(path, array, 1.2))(tmp_path / name, IMAGE)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(movies="m.*", pixel_size_angstrom=1.2))
    check_message(error, name, "1 frame", "--micrographs")


def test_a_picture_is_no_movie(tmp_path: Path) -> None:
    Image.fromarray(MOVIE[0]).save(tmp_path / "m.png")
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(movies="m.*", pixel_size_angstrom=1.2))
    check_message(error, "m.png", "PNG", "--micrographs")


def test_a_movie_is_no_micrograph(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", MOVIE)
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(micrographs="*.tif", pixel_size_angstrom=1.2))
    check_message(error, "m.tif", "3 frames", "--movies")


def test_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("notes", encoding="utf-8")
    with pytest.raises(InputFileError) as error:
        ingest(tmp_path, Facts(micrographs="m.*", pixel_size_angstrom=1.2))
    check_message(error, "m.txt", ".txt", ".mrc")


def test_sizes_that_differ_are_warned_of(tmp_path: Path) -> None:
    for i in range(3):
        write_tiff(tmp_path / f"m{i}.tif", MOVIE)
    write_tiff(tmp_path / "m3.tif", MOVIE[:2])
    saved = ingest(tmp_path, Facts(movies="*.tif", pixel_size_angstrom=1.2))
    assert saved.tables["exposures"].height == 4
    assert saved.warnings == (
        "m3: found 24x16, 2 frames, most files are 24x16, 3 frames; check that it belongs to this data set",
    )


@pytest.mark.parametrize("turned", [False, True])
def test_gain_that_is_found_to_be_turned(tmp_path: Path, turned: bool) -> None:
    gain = (1 + 0.05 * RNG.standard_normal((160, 200)).clip(-4, 4)).astype(np.float32)
    write_tiff(tmp_path / "m.tif", RNG.poisson(6 / gain, (8, 160, 200)).astype(np.uint8))
    write_mrc(tmp_path / "gain.mrc", np.rot90(gain) if turned else gain[::-1], 1.2)
    saved = ingest(tmp_path, Facts(movies="*.tif", gain="gain.mrc", pixel_size_angstrom=1.2))
    np.testing.assert_array_equal(read_mrc(tmp_path / saved.tables["exposures"]["gain_path"][0])[0], gain)
    assert ("rot90, multiply" if turned else "flip-y, multiply") in saved.warnings[0]


def write_broken(path: Path) -> None:
    write_tiff(path, RNG.integers(0, 200, (3, 64, 64)).astype(np.uint8))
    os.truncate(path, path.stat().st_size // 2)


def test_one_broken_movie_is_a_failed_item(tmp_path: Path) -> None:
    for i in range(3):
        write_tiff(tmp_path / "data" / f"m{i}.tif", MOVIE)
    write_broken(tmp_path / "data" / "m1.tif")
    record, tables = run(
        tmp_path / "project", Facts(movies=str(tmp_path / "data" / "*.tif"), pixel_size_angstrom=1.2, total_dose=3)
    )
    assert tables["exposures"]["exposure_id"].to_list() == ["m0", "m2"]
    assert tables["exposures"]["movie_path"].to_list() == ["../data/m0.tif", "../data/m2.tif"]
    assert [item.item_id for item in record.failed] == ["m1"]
    assert "m1.tif: found" in record.failed[0].message
    assert "truncated" in record.failed[0].message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: write_broken(path),
        lambda path: write_tiff(path, MOVIE, pixel_size_angstrom=0.9),
        lambda path: write_tiff(path, MOVIE * 0),
    ],
    ids=["truncated", "pixel size", "constant"],
)
def test_all_files_bad_is_the_users_to_mend(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    for i in range(2):
        spoil(tmp_path / "data" / f"m{i}.tif")
    with pytest.raises(UserError, match=r"2 of 2 items failed:\n.*m0\.tif: found .*; expected ") as error:
        run(tmp_path / "project", Facts(movies=str(tmp_path / "data" / "*.tif"), pixel_size_angstrom=1.2))
    assert error.value.exit_code == 2


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("pattern", "n", "size"),
    [
        ("apoferritin-10146/micrographs/*.png", 12, (1200, 1240)),
        ("ribosome80s-10028/*/images/*.png", 5, (1024, 1024)),
    ],
)
def test_real_pictures(shared_data: Path, tmp_path: Path, pattern: str, n: int, size: tuple[int, int]) -> None:
    facts = Facts(micrographs=os.path.relpath(shared_data / pattern, tmp_path), pixel_size_angstrom=1.5)
    saved = ingest(tmp_path, facts)
    exposures = saved.tables["exposures"]
    assert exposures.height == n
    assert set(exposures.select("ny_px", "nx_px").rows()) == {size}
    assert all((tmp_path / path).is_file() for path in exposures["micrograph_path"])
    assert saved.warnings == ()


@pytest.mark.shared_data
def test_real_mrc_with_an_extended_header(shared_data: Path, tmp_path: Path) -> None:
    facts = Facts(micrographs=os.path.relpath(shared_data / "formats" / "fei-extended.mrc.bz2", tmp_path))
    row = ingest(tmp_path, facts).tables["exposures"].row(0, named=True)
    assert row["exposure_id"] == "fei-extended"
    assert row["pixel_size_angstrom"] == pytest.approx(0.854, abs=0.001)
