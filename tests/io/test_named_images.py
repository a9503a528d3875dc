"""Where the images are that particle files name."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vitreous.io.coordinates import read_particles
from vitreous.io.csparc import write_cs

HEAD = "data_optics\nloop_\n_rlnOpticsGroup #1\n_rlnImagePixelSize #2\n_rlnCtfDataAreCtfPremultiplied #3\n1 3.5 0\n2 1.25 1\n\n"
LABELS = "data_particles\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n_rlnImageName\n_rlnOpticsGroup\n"


def get_rows(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    return frame.select("stack_path", "stack_index", "stack_pixel_size_angstrom", "is_premultiplied").rows()


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_a_star_file_names_them_from_the_folder_that_relion_ran_in(tmp_path: Path) -> None:
    here = touch(tmp_path / "relion" / "Extract" / "job007" / "Movies" / "m.mrcs")
    star = tmp_path / "relion" / "Extract" / "job007" / "particles.star"
    star.write_text(
        HEAD + LABELS + "1 2 m.mrc 000012@Extract/job007/Movies/m.mrcs 1\n3 4 m.mrc 1@Extract/job007/gone.mrcs 2\n"
        f"5 6 m.mrc {here} 1\n"
    )
    assert get_rows(read_particles(star)) == [
        (str(here), 11, 3.5, False),
        (None, 0, 1.25, True),
        (str(here), 0, 3.5, False),
    ]


def test_the_pixel_size_of_files_before_3_1(tmp_path: Path) -> None:
    stack = touch(tmp_path / "x.mrcs")
    labels = LABELS.replace("_rlnOpticsGroup", "_rlnMagnification\n_rlnDetectorPixelSize")
    (tmp_path / "p.star").write_text(labels + "1 2 m.mrc 3@x.mrcs 40000 14\n")
    assert get_rows(read_particles(tmp_path / "p.star")) == [(str(stack), 2, 3.5, False)]


def test_cryosparc_names_them_from_its_project_or_beside(tmp_path: Path) -> None:
    beside, job = touch(tmp_path / "P1" / "J7" / "a.mrc"), touch(tmp_path / "P1" / "J5" / "extract" / "b.mrc")
    fields: list[Any] = [("location/micrograph_path", "S60"), ("location/micrograph_shape", "<u4", (2,))]
    fields += [("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4")]
    table = np.zeros(3, [*fields, ("blob/path", "S60"), ("blob/idx", "<u4"), ("blob/psize_A", "<f4")])
    table["location/micrograph_path"], table["location/micrograph_shape"] = b"m.mrc", (100, 200)
    table["blob/path"] = [b">a.mrc", b"J5/extract/b.mrc", b"J5/extract/gone.mrc"]
    table["blob/idx"], table["blob/psize_A"] = [0, 7, 1], 2.7
    write_cs(tmp_path / "P1" / "J7" / "particles.cs", table)
    found = get_rows(read_particles(tmp_path / "P1" / "J7" / "particles.cs"))
    assert found == [(str(beside), 0, 2.7, False), (str(job), 7, 2.7, False), (None, 1, 2.7, False)]
    write_cs(tmp_path / "picks.cs", table[[name for name in table.dtype.names or () if not name.startswith("blob")]])
    assert get_rows(read_particles(tmp_path / "picks.cs")) == [(None, None, None, None)] * 3
