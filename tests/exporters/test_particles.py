"""Columns with gaps, and stacks that hold exactly the rows' images."""

from typing import Any

import mrcfile
import numpy as np
import polars as pl
import pytest

from vitreous.errors import InputFileError
from vitreous.exporters.dataset import gather_dataset
from vitreous.exporters.particles import StarColumn, name_images, tabulate, write_stacks
from vitreous.io.mrc import read_mrc, read_mrc_header, write_mrc


def test_tabulate() -> None:
    frame = pl.DataFrame(
        {"whole": [1, 2], "gap": [1, None], "never": [None, None]},
        schema=dict.fromkeys(("whole", "gap", "never"), pl.Int64),
    )
    columns = {
        "a": StarColumn(pl.col("whole")),
        "b": StarColumn(pl.col("gap")),
        "c": StarColumn(pl.col("gap"), 0),
        "d": StarColumn(pl.col("never"), 0),
        "e": StarColumn(pl.col("never")),
    }
    table, gaps = tabulate(frame, columns)
    assert table.to_dict(as_series=False) == {"a": [1, 2], "c": [1, 0]}
    assert table.schema == {"a": pl.Int64, "c": pl.Int64}
    assert gaps == {"b": 1, "c": 1}
    odd = pl.DataFrame(
        {"whole": [1.0, float("nan")], "gap": [float("inf"), 2.0], "never": [float("nan"), float("nan")]}
    )
    assert tabulate(odd, columns)[0].to_dict(as_series=False) == {"c": [0, 2]}
    assert tabulate(frame.clear(), columns)[0].columns == ["a", "b", "c", "d", "e"]


def test_images_are_numbered_in_each_micrograph(toy_project: Any) -> None:
    positives = gather_dataset(toy_project.tables, toy_project.root).positives
    names = name_images(positives, "P", ".mrcs")["image_name"].to_list()
    assert names[:2] == ["000001@P/mic_a.mrcs", "000002@P/mic_a.mrcs"]
    assert names[4] == "000001@P/mic_b.mrcs"


def test_stacks_hold_the_rows_in_order(toy_project: Any) -> None:
    root = toy_project.root
    positives = gather_dataset(toy_project.tables, root).positives
    write_stacks(positives, root, root / "all", ".mrcs")
    assert (root / "all" / "mic_a.mrcs").samefile(root / "runs/006-extract/mic_a.mrcs")
    chosen = positives.filter(pl.col("particle_id").is_in(["mic_a-1", "mic_a-3", "mic_b-2"])).reverse()
    write_stacks(chosen, root, root / "some", ".mrcs")
    source = read_mrc(root / "runs/006-extract/mic_a.mrcs")[0]
    with mrcfile.open(root / "some" / "mic_a.mrcs", permissive=False) as stack:
        assert stack.is_image_stack()
        assert stack.voxel_size.x == pytest.approx(1.5)
        np.testing.assert_array_equal(stack.data, source[[3, 1]])
    assert mrcfile.validate(root / "some" / "mic_b.mrcs")
    assert read_mrc_header(root / "some" / "mic_b.mrcs").shape == (1, 24, 24)


def test_half_precision_becomes_single(toy_project: Any) -> None:
    path = toy_project.root / "runs/006-extract/mic_a.mrcs"
    images = read_mrc(path)[0]
    write_mrc(path, images.astype(np.float16), 1.5)
    positives = gather_dataset(toy_project.tables, toy_project.root).positives
    write_stacks(positives, toy_project.root, toy_project.root / "out", ".mrcs")
    written = read_mrc(toy_project.root / "out" / "mic_a.mrcs")[0]
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, images.astype(np.float16))


@pytest.mark.parametrize("shape", [(4, 20, 20), (3, 24, 24)])
def test_stacks_that_contradict_the_table(toy_project: Any, shape: tuple[int, ...]) -> None:
    write_mrc(toy_project.root / "runs/006-extract/mic_a.mrcs", np.zeros(shape, np.float32), 1.5)
    positives = gather_dataset(toy_project.tables, toy_project.root).positives
    with pytest.raises(
        InputFileError,
        match=rf"found a stack of {shape[0]} images of {shape[1]}x{shape[1]} px; expected at least 4 of 24x24",
    ):
        write_stacks(positives, toy_project.root, toy_project.root / "out", ".mrcs")
