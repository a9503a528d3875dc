"""EER movies and lists of bad pixels, from `vitreous new` to a corrected micrograph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitreous.engine.machine import Machine
from vitreous.engine.project import create_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.engine.run import run_stage
from vitreous.errors import InputFileError
from vitreous.io.eer import EerRendering
from vitreous.io.movie import read_movie
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.model.documents import Facts

ONE = Machine(workers=1, threads=1)


def correct(root: Path, facts: Facts) -> tuple[dict[str, pl.DataFrame], np.ndarray]:
    project = create_project(root / "project", facts)
    run_stage(project, "ingest", {}, ONE)
    run_stage(project, "motion", {}, ONE)
    tables = read_current_tables(project, read_current_records(project))
    return tables, read_mrc(project.root / tables["micrographs"]["micrograph_path"][0])[0]


@pytest.mark.parametrize("upsampling", [1, 2])
def test_an_eer_movie_becomes_a_micrograph(
    tmp_path: Path, write_eer: Callable[..., None], draw_events: Callable[..., list], upsampling: int
) -> None:
    write_eer(tmp_path / "m.eer", draw_events(26, (96, 112), 0.05, 3), (96, 112))
    facts = Facts(movies=str(tmp_path / "m.eer"), pixel_size_angstrom=2.0, total_dose=26 * 0.05 / 4, eer_fractions=5,
                  eer_upsampling=upsampling)  # fmt: skip
    tables, image = correct(tmp_path, facts)
    row = tables["exposures"].row(0, named=True)
    assert (row["n_frames"], row["eer_upsampling"]) == (5, upsampling)
    assert (row["ny_px"], row["nx_px"]) == image.shape == (96 * upsampling, 112 * upsampling)
    # Five frames of the detector make a fraction; the last one of 26 fills none.
    assert row["dose_per_frame"] * 5 == pytest.approx(25 * 0.05 / 4)
    frames = read_movie(tmp_path / "m.eer", EerRendering(n_fractions=5, upsampling=upsampling))
    nodw = read_mrc(tmp_path / "project" / tables["micrographs"]["nodw_path"][0])[0]
    assert nodw.mean() == pytest.approx(frames.sum(0).mean(), rel=0.02)


def test_listed_pixels_are_replaced(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(4.0, (6, 96, 128)).astype(np.uint8)
    # A little too sensitive to be found, and seen in the sum all the same.
    counts[:, 30:33, 40:42] += 3
    write_tiff(tmp_path / "m.tif", counts)
    (tmp_path / "bad.txt").write_text("40 30 2 3\n", encoding="utf-8")
    facts = Facts(movies=str(tmp_path / "m.tif"), pixel_size_angstrom=2.0)
    _, before = correct(tmp_path / "without", facts)
    tables, after = correct(tmp_path / "with", facts.model_copy(update={"defects": str(tmp_path / "bad.txt")}))
    assert tables["exposures"]["defects_path"][0].endswith("bad.txt")
    place = (slice(30, 33), slice(40, 42))
    assert before[place].mean() > 24 + 14
    assert abs(after[place].mean() - 24) < 6
    np.testing.assert_allclose(np.delete(after, 31, 0)[:28], np.delete(before, 31, 0)[:28], atol=0.1)


def test_a_map_of_another_size_is_refused_before_any_work(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", np.random.default_rng(0).poisson(4.0, (4, 64, 80)).astype(np.uint8))
    write_mrc(tmp_path / "bad.mrc", np.zeros((50, 50), np.int8), 1.0)
    project = create_project(
        tmp_path / "project",
        Facts(movies=str(tmp_path / "m.tif"), pixel_size_angstrom=2.0, defects=str(tmp_path / "bad.mrc")),
    )
    with pytest.raises(InputFileError, match=r"bad\.mrc: found .*50"):
        run_stage(project, "ingest", {}, ONE)
    with pytest.raises(ValueError, match="bad pixels goes with movies"):
        Facts(micrographs="*.mrc", defects="bad.txt")
    assert not list((tmp_path / "project").rglob("run.json"))


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", np.ones((2, 64, 64), np.uint8))
    with pytest.raises(InputFileError, match="--defects"):
        create_project(tmp_path / "p", Facts(movies=str(tmp_path / "m.tif"), defects=str(tmp_path / "none.txt")))
    assert not (tmp_path / "p" / "project.toml").exists()
