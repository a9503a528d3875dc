"""What the exporters refuse, and what they only warn of."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from vitreous.errors import InputFileError, ProjectError
from vitreous.exporters.dataset import choose_usable, gather_dataset, merge_sizes
from vitreous.io.mrc import write_mrc


def test_splits_and_orders(toy_project: Any) -> None:
    dataset = gather_dataset(toy_project.tables, toy_project.root)
    assert dataset.micrographs["name"].to_list() == ["mic_a", "mic_b", "mic_empty"]
    ids = [f"mic_a-{i}" for i in range(4)] + [f"mic_b-{i}" for i in range(3)]
    assert dataset.positives["particle_id"].to_list() == ids
    assert dataset.negatives["reason"].to_list() == ["ice", "score"]
    assert dataset.candidates["particle_id"].to_list() == ["other-2"]
    assert dataset.warnings == ("1 candidates are labelled neither positive nor negative; run review",)


def test_defocus_comes_from_the_particle_or_its_micrograph(toy_project: Any) -> None:
    tables = toy_project.change("particles", "mic_a-1", defocus_u_angstrom=9_000.0)
    dataset = gather_dataset(tables, toy_project.root)
    found = dict(dataset.positives.select("particle_id", "defocus_u_angstrom").iter_rows())
    assert (found["mic_a-0"], found["mic_a-1"], found["mic_b-0"]) == (12_000, 9_000, 12_500)


def test_rejected_micrographs_take_their_particles_along(toy_project: Any) -> None:
    dataset = gather_dataset(toy_project.change("micrographs", "mic_b", accepted=False), toy_project.root)
    assert dataset.positives.height == 4
    assert dataset.rejected.height == 5
    assert "3 positives lie in rejected micrographs and are not exported as positives" in dataset.warnings
    undecided = gather_dataset(toy_project.change("micrographs", "mic_b", accepted=None), toy_project.root)
    assert undecided.positives.height == 7


@pytest.mark.parametrize(
    ("table", "key", "values", "message"),
    [
        (
            "particles",
            "mic_a-1",
            {"x_px": 159.6},
            r"1 particles outside their micrograph, such as 'mic_a-1' at x 159.6",
        ),
        ("particles", "mic_a-1", {"x_px": float("nan")}, "outside their micrograph, such as 'mic_a-1' at x nan"),
        ("particles", "other-0", {"y_px": -0.6}, "outside their micrograph, such as 'other-0'"),
        ("particles", "mic_a-1", {"micrograph_id": "mic_z"}, "not in the project, such as 'mic_a-1' of 'mic_z'"),
        ("particles", "mic_a-1", {"particle_id": "mic_a-0"}, "particle_id must be unique"),
        ("particles", "mic_a-1", {"stack_index": 0}, "share one extracted image"),
        ("particles", "mic_a-1", {"label": "maybe"}, "the label 'maybe', expected positive, negative or candidate"),
        ("particles", "mic_a-1", {"box_px": 48}, r"different sizes in one optics group \(24 px at 1.5 Å, 48 px"),
        ("particles", "mic_a-1", {"x_px": None}, "column x_px is required"),
        ("micrographs", "mic_b", {"micrograph_id": "mic_a"}, "micrograph_id must be unique"),
    ],
)
def test_contradictions_are_refused(toy_project: Any, table: str, key: str, values: Any, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        gather_dataset(toy_project.change(table, key, **values), toy_project.root)


def test_last_pixel_is_inside(toy_project: Any) -> None:
    tables = toy_project.change("particles", "mic_a-1", x_px=159.5, y_px=-0.5)
    assert gather_dataset(tables, toy_project.root).positives.height == 7


def test_missing_tables(toy_project: Any) -> None:
    for name in ("micrographs", "particles"):
        tables = {key: frame for key, frame in toy_project.tables.items() if key != name}
        with pytest.raises(ProjectError, match=f"found no {name} to export.*Run `vitreous run"):
            gather_dataset(tables, toy_project.root)
    needed = {name: toy_project.tables[name] for name in ("micrographs", "particles")}
    dataset = gather_dataset(needed, toy_project.root)
    assert dataset.volumes.is_empty()
    assert dataset.entry["entry_id"] == "entry"
    rejected = needed["micrographs"].with_columns(accepted=False)
    with pytest.raises(ProjectError, match="no accepted micrograph"):
        gather_dataset({**needed, "micrographs": rejected}, toy_project.root)


def test_damaged_and_wrong_micrographs(toy_project: Any) -> None:
    path: Path = toy_project.root / "runs" / "002-motion" / "mic_b.mrc"
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    with pytest.raises(InputFileError, match=r"mic_b.mrc: found 5000 bytes"):
        gather_dataset(toy_project.tables, toy_project.root)
    write_mrc(path, np.zeros((50, 60), np.float32), 1.5)
    with pytest.raises(InputFileError, match=r"mic_b.mrc: found 1 images of 60x50 px; expected one of 160x120"):
        gather_dataset(toy_project.tables, toy_project.root)
    path.unlink()
    with pytest.raises(InputFileError, match=r"mic_b.mrc: found no such file"):
        gather_dataset(toy_project.tables, toy_project.root)


def test_names_that_break_other_programs(toy_project: Any) -> None:
    def rename(old: str, new: str) -> dict[str, pl.DataFrame]:
        replace = pl.col("micrograph_id").replace({old: new})
        return {
            **toy_project.tables,
            "micrographs": toy_project.tables["micrographs"].with_columns(replace),
            "particles": toy_project.tables["particles"].with_columns(replace),
        }

    dataset = gather_dataset(rename("mic_b", 'mic "b" #1'), toy_project.root)
    assert dataset.micrographs["name"].to_list() == ["mic_a", "mic__b___1", "mic_empty"]
    assert any("is exported as mic__b___1" in warning for warning in dataset.warnings)
    with pytest.raises(ProjectError, match=r"'mic_a' and 'mic a', which would both be exported as mic_a"):
        gather_dataset(rename("mic_b", "mic a"), toy_project.root)


def test_merge_sizes() -> None:
    # The first two lie on both sides of where four digits would be rounded.
    sizes = pl.Series([1.06051, 1.06049, 2.0, 1.0625, 1.06049], dtype=pl.Float64)
    assert merge_sizes(sizes).to_list() == [1.06049, 1.06049, 2.0, 1.0625, 1.06049]
    assert merge_sizes(sizes.clear()).is_empty()


def test_optics_groups_are_split_by_pixel_size(toy_project: Any) -> None:
    dataset = gather_dataset(toy_project.set_pixel_size("mic_b", 1.6), toy_project.root)
    assert dataset.micrographs["group"].to_list() == [1, 2, 1]
    assert any("several optics or pixel sizes (1.5, 1.6 Å)" in warning for warning in dataset.warnings)
    rounding = toy_project.set_pixel_size("mic_b", 1.5000001)
    assert gather_dataset(rounding, toy_project.root).micrographs["group"].to_list() == [1, 1, 1]


def test_optics_groups_keep_their_names_and_no_two_are_the_same(toy_project: Any) -> None:
    def name_groups(*names: str | None) -> list[tuple[int, str]]:
        micrographs = toy_project.tables["micrographs"].with_columns(
            optics_group=pl.Series([1, 2, 3, 3]), optics_group_name=pl.Series([*names, None], dtype=pl.String)
        )
        dataset = gather_dataset({**toy_project.tables, "micrographs": micrographs}, toy_project.root)
        return dataset.micrographs.select("group", "optics_group_name").rows()

    assert name_groups("grid 1", "grid_2", None) == [(1, "grid_1"), (2, "grid_2"), (3, "opticsGroup3")]
    assert name_groups("a", "b", "a") == [(1, "a_1"), (2, "b"), (3, "a_3")]
    assert name_groups(None, "opticsGroup1", None) == [
        (1, "opticsGroup1_1"),
        (2, "opticsGroup1_2"),
        (3, "opticsGroup3"),
    ]


def test_what_shows_a_particle_is_no_false_positive(toy_project: Any) -> None:
    for reason, expected in {"duplicate": ["other-1"], "border": ["other-1"], "ice": ["other-0", "other-1"]}.items():
        dataset = gather_dataset(toy_project.change("particles", "other-0", reason=reason), toy_project.root)
        assert dataset.negatives["particle_id"].to_list() == ["other-0", "other-1"]
        assert dataset.false_positives["particle_id"].to_list() == expected
    unsaid = gather_dataset(toy_project.change("particles", "other-0", reason=None), toy_project.root)
    assert unsaid.false_positives.height == 2


def test_doubled_positions_and_no_positives_are_said(toy_project: Any) -> None:
    dataset = gather_dataset(toy_project.change("particles", "mic_a-1", x_px=40.0, y_px=30.0), toy_project.root)
    assert "2 positives lie exactly where another lies" in dataset.warnings
    none = toy_project.tables["particles"].filter(pl.col("label") == "negative")
    dataset = gather_dataset({**toy_project.tables, "particles": none}, toy_project.root)
    assert dataset.positives.is_empty()
    assert "there are no positives" in dataset.warnings


def test_choose_usable(toy_project: Any) -> None:
    positives = gather_dataset(toy_project.tables, toy_project.root).positives
    assert choose_usable(positives)[0].equals(positives)
    one = pl.col("particle_id") == "mic_a-1"
    usable, warnings = choose_usable(positives.with_columns(stack_path=pl.when(~one).then("stack_path")))
    assert usable["particle_id"].to_list() == [name for name in positives["particle_id"] if name != "mic_a-1"]
    assert "1 positives have no extracted image" in warnings[0]
    usable, warnings = choose_usable(positives.with_columns(stack_path=pl.lit(None, dtype=pl.String)))
    assert usable.height == 7
    assert warnings == ["the positives have no extracted image"]
    usable, warnings = choose_usable(positives.with_columns(defocus_u_angstrom=pl.when(one).then("defocus_u_angstrom")))
    assert usable["particle_id"].to_list() == ["mic_a-1"]
    assert "6 positives have no defocus" in warnings[0]
