"""CTF, classes and orientations of other programs in our columns: real files, and orientations by their matrices."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from scipy.spatial.transform import Rotation

from vitreous.errors import InputFileError
from vitreous.io.coordinates import read_particles
from vitreous.io.csparc import read_cs, write_cs
from vitreous.io.metadata import METADATA_SCHEMA, compute_cs_poses, describe_cs, describe_relion
from vitreous.io.micrographs import read_micrographs
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.ops.rotations import compute_euler_matrix


def get_matrices(frame: pl.DataFrame) -> np.ndarray:
    angles = torch.from_numpy(frame.select("rot_deg", "tilt_deg", "psi_deg").to_numpy(writable=True))
    return compute_euler_matrix(*angles.unbind(1)).numpy()


def test_poses_of_cryosparc_turn_backwards_by_the_right_hand_rule() -> None:
    """Its vector is that of the transposed matrix; a quarter turn about z is a psi of 90 degrees."""
    rng = np.random.default_rng(0)
    table = np.zeros(
        60, [("alignments3D/pose", "<f8", (3,)), ("alignments3D/shift", "<f4", (2,)), ("alignments3D/psize_A", "<f4")]
    )
    table["alignments3D/pose"] = rng.uniform(-1.8, 1.8, (60, 3))
    table["alignments3D/shift"], table["alignments3D/psize_A"] = (1.5, -2), 2.0
    table["alignments3D/pose"][0] = (0, 0, np.pi / 2)
    frame = describe_cs(table)
    expected = Rotation.from_rotvec(table["alignments3D/pose"]).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(get_matrices(frame), expected, atol=1e-12)
    # RELION's matrix of psi alone has sin psi in its first row.
    assert frame.select("tilt_deg", "psi_deg").row(0) == (0.0, pytest.approx(90.0))
    np.testing.assert_allclose(compute_cs_poses(frame), table["alignments3D/pose"], atol=1e-9)
    assert set(frame.select("origin_x_angstrom", "origin_y_angstrom").rows()) == {(3.0, -4.0)}


def test_two_halves_or_none() -> None:
    fields = [("pose", "<f4", (3,)), ("shift", "<f4", (2,)), ("psize_A", "<f4"), ("split", "<u4")]
    table = np.zeros(4, [(f"alignments3D/{name}", *kind) for name, *kind in fields])
    assert describe_cs(table)["half"].to_list() == [None] * 4
    table["alignments3D/split"][2:] = 1
    assert describe_cs(table)["half"].to_list() == [1, 1, 2, 2]


@pytest.mark.parametrize(("u", "v", "angle"), [(12_000.0, 11_000.0, 200.0), (11_000.0, 12_000.0, -30.0)])
def test_the_larger_defocus_is_u_and_the_ctf_stays(u: float, v: float, angle: float) -> None:
    rows = pl.DataFrame({"rlnDefocusU": [u], "rlnDefocusV": [v], "rlnDefocusAngle": [angle]})
    found = describe_relion(rows, {"particles": rows})
    u_a, v_a, angle_deg = found.select("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg").row(0)
    assert u_a > v_a
    assert 0 <= angle_deg < 180
    optics = {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
    ours, theirs = (
        compute_ctf_2d((32, 32), 3.0, *(torch.tensor(value).double() for value in values), **optics)
        for values in ((u_a, v_a, angle_deg), (u, v, angle))
    )
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_defocus_of_nothing_is_none() -> None:
    rows = pl.DataFrame({"rlnDefocusU": [0.0, 500.0], "rlnDefocusV": [0.0, 0.0], "rlnDefocusAngle": [0.0, 10.0]})
    found = describe_relion(rows, {"particles": rows})
    names = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg")
    assert found.select(names).rows() == [(None, None, None), (500.0, 0.0, 10.0)]


def test_only_positions(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 2\n3 4\n")
    frame = read_particles(tmp_path / "a.star")
    assert frame["x_px"].to_list() == [1, 3]
    assert frame.select(METADATA_SCHEMA.names()).null_count().row(0) == (2,) * len(METADATA_SCHEMA)


def test_the_template_of_a_pick_is_no_class(tmp_path: Path) -> None:
    labels = ("rlnCoordinateX", "rlnCoordinateY", "rlnClassNumber", "rlnAnglePsi", "rlnAutopickFigureOfMerit")
    head = "data_\nloop_\n" + "".join(f"_{label}\n" for label in labels)
    (tmp_path / "m_autopick.star").write_text(head + "10 20 3 45 0.5\n30 40 1 -999 0.25\n")
    frame = read_particles(tmp_path / "m_autopick.star")
    assert frame.select("micrograph", "x_px", "score").rows() == [("m", 10, 0.5), ("m", 30, 0.25)]
    assert frame.select("class_id", "class_psi_deg").null_count().row(0) == (2, 2)
    # The particles of a job name their micrograph, and have a class.
    rows = head.replace("loop_\n", "loop_\n_rlnMicrographName\n") + "MotionCorr/m.mrc 10 20 3 45 0.5\n"
    (tmp_path / "run_data.star").write_text(rows)
    assert read_particles(tmp_path / "run_data.star").select("class_id", "class_psi_deg").rows() == [(3, 45.0)]


def test_rows_of_cryoppp_in_quotes(tmp_path: Path) -> None:
    """As an entry has them whose names hold blanks: every row quoted as a whole, its quotes doubled."""
    (tmp_path / "a.star").write_text(
        "data_particles\nloop_\n_rlnImageName #1\n_rlnMicrographName #2\n_rlnCoordinateX #3\n_rlnCoordinateY #4\n"
        "_rlnAnglePsi #5\n"
        '"""000001@J/1_a b_particles.mrc"" ""J/1_a b.mrc"" 10 20 45.5"\n'
        '"""000002@J/1_a b_particles.mrc"" ""J/1_a b.mrc"" 30 40 -5"\n'
    )
    frame = read_particles(tmp_path / "a.star")
    assert frame.select("micrograph", "x_px", "y_px", "class_psi_deg").rows() == [
        ("1_a b", 10, 20, 45.5),
        ("1_a b", 30, 40, -5),
    ]


def test_labels_of_cryoppp(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(
        "X-Coordinate,Y-Coordinate,Diameter,Angle-Psi,Origin X (Ang),Origin Y (Ang),Defocus U,Defocus V,Defocus Angle,"
        "Phase Shift,CTF B Factor\n10,20,30,12.5,-1,2,12000,11000,33,0,0\n5,6,30,,,,,,,,\n"
    )
    frame = read_particles(tmp_path / "m.csv")
    names = (
        "class_psi_deg",
        "class_origin_x_angstrom",
        "class_origin_y_angstrom",
        "defocus_u_angstrom",
        "defocus_angle_deg",
    )
    assert frame.select(names).rows() == [(12.5, -1, 2, 12000, 33), (None,) * 5]


def test_micrographs_of_cryosparc(tmp_path: Path) -> None:
    table = np.zeros(
        2, [("micrograph_blob/path", "S40"), ("ctf/df1_A", "<f4"), ("ctf/df2_A", "<f4"), ("ctf/df_angle_rad", "<f4")]
    )
    table["micrograph_blob/path"] = [b"J2/motioncorrected/a.mrc", b"J2/motioncorrected/b.mrc"]
    table["ctf/df1_A"], table["ctf/df2_A"], table["ctf/df_angle_rad"] = 9000, 8000, [0.5, -0.5]
    write_cs(tmp_path / "e.cs", table)
    frame = read_micrographs(tmp_path / "e.cs")
    assert frame["micrograph"].to_list() == ["a", "b"]
    np.testing.assert_allclose(frame["defocus_angle_deg"], [np.rad2deg(0.5), 180 - np.rad2deg(0.5)], rtol=1e-6)
    write_cs(tmp_path / "p.cs", table[["ctf/df1_A"]].copy())
    with pytest.raises(InputFileError, match=r"p\.cs: found no micrographs with a defocus"):
        read_micrographs(tmp_path / "p.cs")


@pytest.mark.shared_data
def test_a_real_file_of_relion_3_1(shared_data: Path) -> None:
    frame = read_particles(shared_data / "formats" / "relion31.star")
    row = frame.row(-2, named=True)
    # Its angle is -160.39; the optics are those of the group.
    assert (row["x_px"], row["defocus_u_angstrom"], row["ctf_resolution_angstrom"]) == (3406, 12506.042289, 4.545)
    assert row["defocus_angle_deg"] == pytest.approx(180 - 160.39)
    assert (row["voltage_kv"], row["cs_mm"]) == (300, 0.01)
    assert row["rot_deg"] is not None
    assert row["class_psi_deg"] is None
    assert set(frame["half"]) <= {1, 2}


@pytest.mark.shared_data
def test_a_real_file_of_2d_classification(shared_data: Path) -> None:
    """Of RELION 1: no groups, origins in pixels of 14 µm at 39,548 times."""
    path = shared_data / "betagal-10017" / "relion_class2d.star"
    frame = read_particles(path)
    assert frame.height == 8915
    assert frame["rot_deg"].null_count() == frame.height
    assert frame["class_id"].min() >= 1  # type: ignore[operator]
    text = next(line for line in path.read_text().splitlines() if "@" in line).split()
    first = frame.row(0, named=True)
    assert first["class_origin_x_angstrom"] == pytest.approx(float(text[15]) * 14e4 / 39548)
    assert first["class_psi_deg"] == float(text[19])
    assert sorted((first["defocus_u_angstrom"], first["defocus_v_angstrom"])) == sorted(
        (float(text[1]), float(text[2]))
    )


@pytest.mark.shared_data
def test_a_real_refinement_of_cryosparc(shared_data: Path) -> None:
    table = read_cs(shared_data / "formats" / "cryosparc_P9_J209_000_particles.cs")
    frame = describe_cs(table)
    assert frame.height == 11_764
    assert set(frame.select("voltage_kv", "cs_mm", "amplitude_contrast").rows()) == {(300.0, 2.7, 0.1)}
    np.testing.assert_array_equal(frame["defocus_u_angstrom"].cast(pl.Float32), table["ctf/df1_A"])
    np.testing.assert_allclose(
        compute_cs_poses(frame) / np.linalg.norm(table["alignments3D/pose"], axis=1)[:, None],
        Rotation.from_rotvec(table["alignments3D/pose"]).as_rotvec()
        / np.linalg.norm(table["alignments3D/pose"], axis=1)[:, None],
        atol=1e-5,
    )
    np.testing.assert_allclose(frame["origin_x_angstrom"], table["alignments3D/shift"][:, 0] * 1.0273438, rtol=1e-5)
    halves = sorted(set(table["alignments3D/split"].tolist()))
    assert sorted(frame["half"].unique()) == ([1, 2] if halves == [0, 1] else [None])
