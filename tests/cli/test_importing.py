"""`vitreous import`: published entries and picks of other programs become projects that can be exported again."""

from pathlib import Path

import mrcfile
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vitreous.cli.importing import import_dataset
from vitreous.cli.projects import export
from vitreous.engine.project import Project, open_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.errors import InputFileError, SettingError, UserError
from vitreous.io.coordinates import write_coordinates
from vitreous.io.csparc import write_cs
from vitreous.io.star import write_star

NX, NY = 150, 130
CENTRES = {"m1": [(30.0, 40.0), (100.0, 90.0), (60.0, 20.0)], "m 2": [(75.0, 65.0)]}


def call(*words: object) -> Result:
    result = CliRunner().invoke(import_dataset, [str(word) for word in (*words, "--workers", 1)])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def read_particles(root: Path) -> tuple[Project, pl.DataFrame]:
    project = open_project(root)
    return project, read_current_tables(project, read_current_records(project))["particles"]


def get_positions(particles: pl.DataFrame, label: str = "positive") -> dict[str, list[tuple[float, float]]]:
    chosen = particles.filter(pl.col("label") == label)
    parts = chosen.partition_by("micrograph_id", as_dict=True, maintain_order=True)
    return {str(key[0]): part.select("x_px", "y_px").rows() for key, part in parts.items()}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "micrographs"
    folder.mkdir()
    for i, name in enumerate(CENTRES):
        with mrcfile.new(folder / f"{name}.mrc") as mrc:
            mrc.set_data(np.random.default_rng(i).normal(0, 1, (NY, NX)).astype(np.float32))
            mrc.voxel_size = 2.0
    return folder


def test_an_entry_of_cryoppp(images: Path, tmp_path: Path) -> None:
    labels = tmp_path / "ground_truth" / "particle_coordinates"
    wrong = tmp_path / "ground_truth" / "false_positives"
    labels.mkdir(parents=True)
    wrong.mkdir()
    for name, centres in CENTRES.items():
        rows = "".join(f"{x:.0f},{NY - y:.0f},20\n" for x, y in centres)
        (labels / f"{name}.csv").write_text("X-Coordinate,Y-Coordinate,Diameter\n" + rows)
    (wrong / "m1_false_positives.csv").write_text("X-Coordinate,Y-Coordinate,Diameter\n10,0,20\n")
    call(tmp_path / "p", tmp_path)
    project, particles = read_particles(tmp_path / "p")
    assert get_positions(particles) == CENTRES
    # Row 0 of the labels is just past the last in memory.
    assert get_positions(particles, "negative") == {"m1": [(10.0, NY - 1.0)]}
    assert set(particles["diameter_angstrom"]) == {40.0}
    assert [step.stage for step in project.recipe.steps][:4] == ["ingest", "motion", "adopt", "ctf"]
    # An entry whose false positives are only in the file of all, under CryoSPARC's names.
    (wrong / "m1_false_positives.csv").unlink()
    block = {
        "rlnMicrographName": "J2/imported/000000000000000000012_m1.mrc",
        "rlnCoordinateX": 12,
        "rlnCoordinateY": 30,
    }
    write_star(tmp_path / "ground_truth" / "empiar-1_particles_excluded.star", {"particles": pl.DataFrame([block])})
    call(tmp_path / "q", tmp_path)
    assert get_positions(read_particles(tmp_path / "q")[1], "negative") == {"m1": [(12.0, NY - 30.0)]}


def test_an_entry_of_cryoppp_lite_is_read_as_it_lies(tmp_path: Path) -> None:
    (tmp_path / "e" / "micrographs").mkdir(parents=True)
    labels = tmp_path / "e" / "ground_truth" / "particle_coordinates"
    labels.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (NY, NX)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "e" / "micrographs" / "m1.jpg")
    (labels / "m1.csv").write_text("X-Coordinate,Y-Coordinate,Diameter\n30,40,20\n")
    call(tmp_path / "p", tmp_path / "e", "--pixel-size", 2)
    project, particles = read_particles(tmp_path / "p")
    assert get_positions(particles) == {"m1": [(30.0, 40.0)]}
    assert "ctf" not in {step.stage for step in project.recipe.steps}


def test_picks_of_cryosparc_with_its_names_and_facts(images: Path, tmp_path: Path) -> None:
    fields = [("uid", "<u8"), ("location/micrograph_path", "S80"), ("location/micrograph_shape", "<u4", (2,))]
    fields += [(f"location/{name}", "<f4") for name in ("center_x_frac", "center_y_frac", "micrograph_psize_A")]
    fields += [("ctf/accel_kv", "<f4"), ("ctf/cs_mm", "<f4"), ("ctf/amp_contrast", "<f4")]
    table = np.zeros(2, fields)
    table["location/micrograph_path"] = [
        b"J2/motioncorrected/000000000000000000012_m1_patch_aligned_doseweighted.mrc",
        b"J2/motioncorrected/000000000000000000013_m_2_patch_aligned_doseweighted.mrc",
    ]
    table["location/micrograph_shape"] = (NY, NX)
    table["location/center_x_frac"], table["location/center_y_frac"] = 0.5, [0.25, 0.75]
    table["location/micrograph_psize_A"], table["ctf/accel_kv"] = 2.0, 200
    table["ctf/cs_mm"], table["ctf/amp_contrast"] = 1.4, 0.07
    write_cs(tmp_path / "picks.cs", table)
    call(tmp_path / "p", tmp_path / "picks.cs", "--micrographs", images / "*.mrc", "--diameter", 50, "--picker", "blob")
    project, particles = read_particles(tmp_path / "p")
    assert get_positions(particles) == {"m1": [(75.0, 32.5)], "m 2": [(75.0, 97.5)]}
    assert set(particles["picker"]) == {"blob"}
    facts = project.facts
    assert (facts.voltage_kv, facts.cs_mm, facts.amplitude_contrast) == (200, 1.4, 0.07)


def test_picks_of_a_smaller_image(images: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("image_name\tx_coord\ty_coord\tscore\nm1\t10\t20\t0.5\nother\t1\t1\t0\n")
    result = call(tmp_path / "p", tmp_path / "p.txt", "--micrographs", images / "*.mrc", "--scale", 4, "--diameter", 50)
    assert get_positions(read_particles(tmp_path / "p")[1]) == {"m1": [(40.0, 80.0)]}
    assert "1 micrographs are left out, which are not here, e.g. other" in result.stderr
    assert "1 of 2 micrographs have no picks" in result.stderr


@pytest.mark.parametrize("suffix", [".box", ".cbox", "_info.json", "_autopick.star"])
def test_picks_of_each_micrograph(images: Path, tmp_path: Path, suffix: str) -> None:
    """EMAN, EMAN2, crYOLO and RELION: a folder with a file for each micrograph, of the names that these programs give."""
    for name, centres in CENTRES.items():
        frame = pl.DataFrame({"micrograph": name, "x_px": [x for x, _ in centres], "y_px": [y for _, y in centres]})
        write_coordinates(tmp_path / "picks" / f"{name}{suffix}", frame, box_px=20)
    call(tmp_path / "p", tmp_path / "picks", "--micrographs", images / "*.mrc", "--diameter", 50)
    project, particles = read_particles(tmp_path / "p")
    assert get_positions(particles) == CENTRES
    assert "ctf" in {step.stage for step in project.recipe.steps}


def test_facts_of_a_star_file(images: Path, tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text(
        "data_optics\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n_rlnMicrographOriginalPixelSize #3\n1 200 2.0\n\n"
        "data_particles\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n5 6 MotionCorr/m1.mrc\n"
    )
    call(tmp_path / "p", tmp_path / "p.star", "--micrographs", images / "*.mrc", "--diameter", 50, "--cs", 1)
    facts = open_project(tmp_path / "p").facts
    assert (facts.voltage_kv, facts.cs_mm, facts.pixel_size_angstrom) == (200, 1, 2)


def test_what_is_refused(images: Path, tmp_path: Path) -> None:
    picks = tmp_path / "p.csv"
    picks.write_text("micrograph,x_px,y_px\nm1,500,20\nm1,5,5\n")
    with pytest.raises(SettingError, match="give their micrographs with --micrographs"):
        call(tmp_path / "a", picks)
    with pytest.raises(InputFileError, match="no such file"):
        call(tmp_path / "a", tmp_path / "nothing.star")
    words = ("--micrographs", images / "*.mrc", "--diameter", 50)
    with pytest.raises(UserError, match="1 of 2 picks outside their micrograph, such as x 500"):
        call(tmp_path / "b", picks, *words)
    picks.write_text("micrograph,x_px,y_px\nm1,5,5\n")
    with pytest.raises(UserError, match="no particle diameter in the picks"):
        call(tmp_path / "c", picks, *words[:2])
    picks.write_text("micrograph,x_px,y_px\nelse,5,5\n")
    with pytest.raises(UserError, match="named else, expected names like m"):
        call(tmp_path / "d", picks, *words)


@pytest.mark.shared_data
def test_a_real_entry_comes_out_as_it_went_in(shared_data: Path, tmp_path: Path) -> None:
    folder, name = shared_data / "betagal-10017", "Falcon_2012_06_12-14_33_35_0"
    original = folder / f"original_cryoppp_{name}.csv"
    labels = tmp_path / "10017" / "ground_truth" / "particle_coordinates"
    labels.mkdir(parents=True)
    (labels / f"{name}.csv").write_bytes(original.read_bytes())
    (tmp_path / "10017" / "micrographs").mkdir()
    # The picture counts rows as the labels do; in memory they run the other way.
    picture = np.asarray(Image.open(folder / "micrographs" / f"{name}.jpg").convert("L"))
    with mrcfile.new(tmp_path / "10017" / "micrographs" / f"{name}.mrc") as mrc:
        mrc.set_data(picture[::-1].astype(np.int16))
        mrc.voxel_size = 1.77
    call(tmp_path / "p", tmp_path / "10017")
    words = [str(tmp_path / "p"), "--format", "cryoppp", "--to", str(tmp_path / "to")]
    assert CliRunner().invoke(export, words, catch_exceptions=False).exit_code == 0
    written = tmp_path / "to" / "entry" / "ground_truth" / "particle_coordinates" / f"{name}.csv"
    assert written.read_bytes() == original.read_bytes()
    # Upside down it is refused.
    call(tmp_path / "q", tmp_path / "10017", "--y-origin", "top")
    words[0] = str(tmp_path / "q")
    result = CliRunner().invoke(export, words)
    assert "only with rows counted from the other side" in str(result.exception)
