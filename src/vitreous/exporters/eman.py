"""A folder in which EMAN2 can be run: micrographs, `info/NAME_info.json`, and box files for other programs."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from vitreous.exporters.card import write_card
from vitreous.exporters.dataset import gather_dataset
from vitreous.exporters.pictures import choose_box, group_by_name, link_micrographs
from vitreous.exporters.release import open_release
from vitreous.exporters.summary import ExportSummary
from vitreous.io.atomic import write_json
from vitreous.io.box import write_box
from vitreous.io.eman import INFO_SUFFIX, write_eman_info

__all__ = ["LAYOUT", "export_eman"]

LAYOUT = "eman"

_COORDINATES = {
    "y_origin": "top",
    "x": "JSON: x_px, the column of the centre, 0 the first in memory; box: x_px - side / 2",
    "y": "JSON: y_px, the row of the centre, 0 the first in memory; box: y_px - side / 2",
    "unit": "pixels of the micrograph",
}


def export_eman(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset for EMAN2: positives as centres in JSON and as boxes, and the project's facts in `info/project.json`.

    Parameters and errors as of `export_cryoppp`.
    """
    dataset = gather_dataset(tables, root)
    first = dataset.micrographs.row(0, named=True)
    counts = {"micrographs": dataset.micrographs.height, "positives": dataset.positives.height}
    with open_release(to, LAYOUT) as staging:
        link_micrographs(staging / "micrographs", dataset)
        for name, rows in group_by_name(dataset, dataset.positives).items():
            side = choose_box(float(rows["diameter_px"].to_numpy().max(initial=2.0)))
            write_eman_info(staging / "info" / f"{name}{INFO_SUFFIX}", rows)
            write_box(staging / "boxes" / f"{name}.box", rows, side)
        facts = {
            "global.apix": first["pixel_size_angstrom"],
            "global.microscope_voltage": first["voltage_kv"],
            "global.microscope_cs": first["cs_mm"],
        }
        write_json(staging / "info" / "project.json", facts)
        write_card(staging, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, dataset.warnings)
