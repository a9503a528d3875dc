"""A folder that Topaz trains on: micrographs, tables of images and of coordinates, by split."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from vitreous.exporters.card import write_card
from vitreous.exporters.dataset import gather_dataset
from vitreous.exporters.pictures import link_micrographs
from vitreous.exporters.release import open_release
from vitreous.exporters.splits import SPLITS, assign_splits
from vitreous.exporters.summary import ExportSummary
from vitreous.io.atomic import open_for_replacement
from vitreous.io.topaz import write_topaz

__all__ = ["LAYOUT", "export_topaz"]

LAYOUT = "topaz"

_IMAGES = "micrographs"
_COORDINATES = {
    "y_origin": "top",
    "x": "x_coord = x_px, the column of the centre, 0 the first in memory",
    "y": "y_coord = y_px, the row of the centre, 0 the first in memory",
    "unit": "pixels of the micrograph as it is exported: divide by the factor of `topaz preprocess -s`, or give it with `-s`",
}


def export_topaz(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset for Topaz: `images_SPLIT.txt` and `particles_SPLIT.txt` for `topaz train`, `negatives.txt`.

    Parameters and errors as of `export_cryoppp`.
    """
    dataset = gather_dataset(tables, root)
    splits = assign_splits(dataset.micrographs["name"].to_list())
    split = pl.col("name").replace_strict(dict(splits), return_dtype=pl.String)
    counts = {"micrographs": dataset.micrographs.height, "positives": dataset.positives.height}
    counts["negatives"] = dataset.false_positives.height
    columns = {"micrograph": pl.col("name"), "x_px": pl.col("x_px"), "y_px": pl.col("y_px")}
    with open_release(to, LAYOUT) as staging:
        link_micrographs(staging / _IMAGES, dataset)
        for which in SPLITS:
            names = dataset.micrographs.filter(split == which).select(
                image_name=pl.col("name"), path=pl.format("{}/{}.mrc", pl.lit(_IMAGES), "name")
            )
            with open_for_replacement(staging / f"images_{which}.txt") as temporary:
                names.write_csv(temporary, separator="\t", quote_style="never")
            write_topaz(staging / f"particles_{which}.txt", dataset.positives.filter(split == which).select(**columns))
        write_topaz(staging / "negatives.txt", dataset.false_positives.select(**columns))
        write_card(staging, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, dataset.warnings)
