"""Micrographs as pictures with boxes in COCO's JSON, for detection frameworks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from vitreous.exporters.card import write_card
from vitreous.exporters.dataset import Dataset, gather_dataset
from vitreous.exporters.pictures import group_by_name, read_picture, write_jpeg
from vitreous.exporters.release import open_release
from vitreous.exporters.splits import SPLITS, assign_splits
from vitreous.exporters.summary import ExportSummary
from vitreous.io.atomic import write_json

__all__ = ["LAYOUT", "export_coco"]

LAYOUT = "coco"

_COORDINATES = {
    "y_origin": "top",
    "x": "bbox[0] = x_px - D / 2, x_px the column of the centre, 0 the first; D the diameter",
    "y": "bbox[1] = y_px - D / 2, y_px the row of the centre, 0 the first in memory and the upper of the picture",
    "unit": "pixels of the picture, which has those of the micrograph",
}
_CATEGORY = 1

_ATTRIBUTES = ("picker", "annotator", "reason")
"""What found the particle, who stands behind it, and why it is none."""


def _annotate(
    numbered: Sequence[tuple[int, str]], groups: Mapping[str, pl.DataFrame], first: int
) -> list[dict[str, Any]]:
    annotations: list[dict[str, Any]] = []
    for image, name in numbered:
        for x, y, side, *said in groups[name].select("x_px", "y_px", "diameter_px", *_ATTRIBUTES).iter_rows():
            annotations.append(
                {
                    "id": first + len(annotations),
                    "image_id": image,
                    "category_id": _CATEGORY,
                    "bbox": [round(value, 3) for value in (x - side / 2, y - side / 2, side, side)],
                    "area": round(side * side, 3),
                    "iscrowd": 0,
                    "attributes": dict(zip(_ATTRIBUTES, said, strict=True)),
                }
            )
    return annotations


def _describe(dataset: Dataset, category: str) -> dict[str, Any]:
    title = dataset.entry["title"] or dataset.entry["entry_id"]
    return {"info": {"description": title}, "licenses": [], "categories": [{"id": _CATEGORY, "name": category}]}


def export_coco(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset as `images/NAME.jpg` and `annotations/SPLIT.json`; the negatives in `annotations/SPLIT_negatives.json`.

    Parameters and errors as of `export_cryoppp`.
    """
    dataset = gather_dataset(tables, root)
    splits = assign_splits(dataset.micrographs["name"].to_list())
    micrographs = dataset.micrographs.with_row_index("image_id", offset=1)
    counts = {"micrographs": micrographs.height, "positives": dataset.positives.height}
    counts["negatives"] = dataset.false_positives.height
    kinds = {
        "": ("particle", group_by_name(dataset, dataset.positives)),
        "_negatives": ("no particle", group_by_name(dataset, dataset.false_positives)),
    }
    with open_release(to, LAYOUT) as staging:
        for path, name in micrographs.select("micrograph_path", "name").iter_rows():
            write_jpeg(staging / "images" / f"{name}.jpg", read_picture(root / path))
        for suffix, (category, groups) in kinds.items():
            n = 1
            for split in SPLITS:
                rows = [row for row in micrographs.iter_rows(named=True) if splits[row["name"]] == split]
                annotations = _annotate([(row["image_id"], row["name"]) for row in rows], groups, n)
                n += len(annotations)
                images = [
                    {
                        "id": row["image_id"],
                        "file_name": f"{row['name']}.jpg",
                        "width": row["nx_px"],
                        "height": row["ny_px"],
                    }
                    for row in rows
                ]
                document = _describe(dataset, category) | {"images": images, "annotations": annotations}
                write_json(staging / "annotations" / f"{split}{suffix}.json", document)
        write_card(staging, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, dataset.warnings)
