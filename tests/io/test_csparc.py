"""CryoSPARC's tables: positions as fractions, unique numbers before names, positions in a passthrough file."""

from pathlib import Path

import numpy as np
import pytest

from vitreous.errors import InputFileError
from vitreous.io.coordinates import read_coordinates
from vitreous.io.csparc import make_uid, read_cs, read_cs_coordinates, write_cs

FIELDS = [
    ("uid", "<u8"),
    ("location/micrograph_uid", "<u8"),
    ("location/micrograph_path", "S60"),
    ("location/micrograph_shape", "<u4", (2,)),
    ("location/center_x_frac", "<f4"),
    ("location/center_y_frac", "<f4"),
    ("pick_stats/ncc_score", "<f4"),
]
ROWS = np.array(
    [
        (5, 12, b"J2/motioncorrected/000012_a_b.mrc", (3710, 3838), 0.25, 0.5, 0.75),
        (3, 13, b"J2/motioncorrected/000012_c.mrc", (3710, 3838), 0.5, 0.1, np.nan),
    ],
    dtype=FIELDS,
)


def test_fractions_of_columns_and_rows(tmp_path: Path) -> None:
    write_cs(tmp_path / "picks.cs", ROWS)
    frame = read_coordinates(tmp_path / "picks.cs")
    # The second name begins with another number than its micrograph's: it is part of the name.
    assert frame["micrograph"].to_list() == ["a_b", "000012_c"]
    np.testing.assert_allclose(frame["x_px"], [959.5, 1919])
    np.testing.assert_allclose(frame["y_px"], [1855, 371], rtol=1e-6)
    assert frame["score"].to_list() == [0.75, None]


def test_positions_in_a_passthrough_file(tmp_path: Path) -> None:
    short = np.zeros(2, dtype=[("uid", "<u8"), ("blob/idx", "<u4")])
    short["uid"] = [3, 5]
    write_cs(tmp_path / "J5_particles.cs", short)
    with pytest.raises(InputFileError, match=r"found no positions; fields uid, blob/idx;.*passthrough"):
        read_cs_coordinates(tmp_path / "J5_particles.cs")
    write_cs(tmp_path / "J5_passthrough_particles.cs", ROWS[:1])
    with pytest.raises(InputFileError, match="found no positions"):
        read_cs_coordinates(tmp_path / "J5_particles.cs")
    write_cs(tmp_path / "J5_passthrough_particles.cs", ROWS)
    assert read_cs_coordinates(tmp_path / "J5_particles.cs")["x_px"].to_list() == [1919.0, 959.5]


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"\x94CSDAT rest", "CryoSPARC's stream format"), (b"text", "a file that cannot be read"), (b"", "a file that")],
)
def test_what_is_no_such_file(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "p.cs").write_bytes(content)
    with pytest.raises(InputFileError, match=f"found {found}"):
        read_cs(tmp_path / "p.cs")


def test_an_array_without_fields(tmp_path: Path) -> None:
    write_cs(tmp_path / "p.cs", np.zeros(3))
    with pytest.raises(InputFileError, match="found an array of float64"):
        read_cs(tmp_path / "p.cs")


def test_numbers_are_the_same_for_the_same() -> None:
    assert make_uid("a", 1) == make_uid("a", 1) != make_uid("a", 2)
    assert 0 <= make_uid("x") < 2**64


@pytest.mark.shared_data
def test_real_files(shared_data: Path) -> None:
    table = read_cs(shared_data / "formats" / "cryosparc_P9_J209_000_particles.cs")
    assert len(table) == 11_764
    assert {tuple(shape) for shape in table["blob/shape"]} == {(256, 256)}
    empty = read_cs_coordinates(shared_data / "formats" / "4k_dataset.cs")
    assert empty.height == 0
    with pytest.raises(InputFileError, match="found no positions"):
        read_cs_coordinates(shared_data / "formats" / "cryosparc_P12_J24_001_particles.cs")
