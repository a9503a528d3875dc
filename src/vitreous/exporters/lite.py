"""The layout of CryoPPP_Lite: 8-bit JPEG micrographs with the labels of CryoPPP, both counting rows from the same side.

The pictures are drawn with the micrograph's last row on top, so that the label files apply to them as they are.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from vitreous.exporters.card import write_card
from vitreous.exporters.cryoppp import write_coordinate_files
from vitreous.exporters.dataset import gather_dataset
from vitreous.exporters.pictures import read_picture, write_jpeg
from vitreous.exporters.release import open_release
from vitreous.exporters.summary import ExportSummary

__all__ = ["LAYOUT", "export_lite"]

LAYOUT = "cryoppp-lite"

_COORDINATES = {
    "y_origin": "top of the picture, bottom of the micrograph in memory",
    "x": "X = round(x_px), x_px the column of the centre, 0 the first",
    "y": "Y = round(ny_px - y_px), y_px the row in memory; the picture's row for y_px is ny_px - 1 - y_px",
    "unit": "pixels of the picture, which has those of the micrograph; whole",
}


def export_lite(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset as CryoPPP_Lite to a folder of `to` that has the entry's name.

    Parameters and errors as of `export_cryoppp`.
    """
    dataset = gather_dataset(tables, root)
    counts = {"micrographs": dataset.micrographs.height, "positives": dataset.positives.height}
    counts["negatives"] = dataset.false_positives.height
    with open_release(to, LAYOUT) as staging:
        folder = staging / dataset.entry["entry_id"]
        for path, name in dataset.micrographs.select("micrograph_path", "name").iter_rows():
            turned = np.ascontiguousarray(read_picture(root / path)[::-1])
            write_jpeg(folder / "micrographs" / f"{name}.jpg", turned)
        write_coordinate_files(folder / "ground_truth", dataset)
        write_card(folder, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, dataset.warnings)
