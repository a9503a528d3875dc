from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitreous.errors import InputFileError
from vitreous.io.class_averages import ClassAverages, read_class_averages, write_class_averages
from vitreous.io.mrc import write_mrc

IMAGES = np.random.default_rng(1).normal(size=(2, 16, 16)).astype(np.float32)
TABLE = pl.DataFrame(
    {"class_id": [1, 2], "n_particles": [3, 1], "share": [0.75, 0.25], "resolution_angstrom": [8.0, None]}
)


def test_what_is_written_is_read_from_wherever_it_lies(tmp_path: Path) -> None:
    write_class_averages(tmp_path / "Class2D" / "job001", "run", ClassAverages(IMAGES, 2.5, TABLE), "Class2D/job001")
    (tmp_path / "Class2D" / "job001" / "run_data.star").write_text(
        "data_particles\n\nloop_\n_rlnClassNumber #1\n1\n1\n2\n1\n"
    )
    found = read_class_averages(tmp_path / "Class2D" / "job001" / "run_model.star")
    assert np.array_equal(found.images, IMAGES)
    assert found.pixel_size_angstrom == 2.5
    assert found.table.equals(TABLE.select(found.table.columns))


def test_a_model_as_relion_writes_it(tmp_path: Path) -> None:
    write_mrc(tmp_path / "run_it025_classes.mrcs", IMAGES, 2.5)
    (tmp_path / "run_it025_model.star").write_text(
        "\n# version 30001\n\ndata_model_general\n\n_rlnReferenceDimensionality  2\n_rlnPixelSize  2.5\n\n\n"
        "data_model_classes\n\nloop_ \n_rlnReferenceImage #1 \n_rlnClassDistribution #2 \n_rlnAccuracyRotations #3 \n"
        "_rlnAccuracyTranslationsAngst #4 \n_rlnEstimatedResolution #5 \n_rlnOverallFourierCompleteness #6 \n"
        "000001@Class2D/job007/run_it025_classes.mrcs 0.6 1.0 2.0 12.5 1.0 \n"
        "000002@Class2D/job007/run_it025_classes.mrcs 0.4 1.0 2.0 inf 1.0 \n\n"
    )
    found = read_class_averages(tmp_path / "run_it025_model.star")
    assert np.array_equal(found.images, IMAGES)
    assert found.table["share"].to_list() == [0.6, 0.4]
    assert found.table["resolution_angstrom"].to_list() == [12.5, None]
    assert found.table["n_particles"].to_list() == [None, None]


def test_what_is_no_classification(tmp_path: Path) -> None:
    (tmp_path / "a.star").write_text("data_particles\n\nloop_\n_rlnCoordinateX #1\n1\n")
    with pytest.raises(InputFileError, match="model_classes with rlnReferenceImage"):
        read_class_averages(tmp_path / "a.star")
    write_class_averages(tmp_path, "run", ClassAverages(IMAGES, 2.5, TABLE))
    (tmp_path / "run_classes.mrcs").unlink()
    with pytest.raises(InputFileError, match="neither beside it nor in a folder above"):
        read_class_averages(tmp_path / "run_model.star")
