"""A folder that crYOLO trains on: images and boxes of the training micrographs, those of the others beside."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from vitreous.exporters.card import write_card
from vitreous.exporters.dataset import gather_dataset
from vitreous.exporters.pictures import choose_box, group_by_name
from vitreous.exporters.release import link_or_copy, open_release
from vitreous.exporters.splits import assign_splits
from vitreous.exporters.summary import ExportSummary
from vitreous.io.box import write_box
from vitreous.io.cryolo import write_cbox

__all__ = ["LAYOUT", "export_cryolo"]

LAYOUT = "cryolo"

_COORDINATES = {
    "y_origin": "top",
    "x": "corner of the box = x_px - side / 2, x_px the column of the centre, 0 the first in memory",
    "y": "corner of the box = y_px - side / 2, y_px the row of the centre, 0 the first in memory",
    "unit": "pixels of the micrograph",
}


def export_cryolo(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset for crYOLO: `SPLIT_image/NAME.mrc`, `SPLIT_annot/NAME.box` and `CBOX/NAME.cbox`.

    Parameters and errors as of `export_cryoppp`.
    """
    dataset = gather_dataset(tables, root)
    splits = assign_splits(dataset.micrographs["name"].to_list())
    groups = group_by_name(dataset, dataset.positives)
    counts = {"micrographs": dataset.micrographs.height, "positives": dataset.positives.height}
    with open_release(to, LAYOUT) as staging:
        for path, name in dataset.micrographs.select("micrograph_path", "name").iter_rows():
            boxes = groups[name]
            side = choose_box(float(boxes["diameter_px"].to_numpy().max(initial=2.0)))
            link_or_copy(root / path, staging / f"{splits[name]}_image" / f"{name}.mrc")
            write_box(staging / f"{splits[name]}_annot" / f"{name}.box", boxes, side)
            write_cbox(staging / "CBOX" / f"{name}.cbox", boxes, side)
        write_card(staging, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, dataset.warnings)
