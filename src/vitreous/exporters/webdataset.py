"""Shards for training: tar files in WebDataset's form, a sample for each micrograph, that are read from first to last.

A sample has a picture (`png`, 8 bits, rows as in memory), its facts (`json`) and the labels (`positives.npy`, `negatives.npy`:
x, y and diameter in pixels). `vitreous.datasets.shards` and the package webdataset read them.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from vitreous.exporters.card import write_card
from vitreous.exporters.dataset import gather_dataset
from vitreous.exporters.pictures import group_by_name, read_picture
from vitreous.exporters.release import open_release
from vitreous.exporters.splits import SPLITS, assign_splits
from vitreous.exporters.summary import ExportSummary
from vitreous.io.atomic import open_for_replacement

__all__ = ["LAYOUT", "export_webdataset"]

LAYOUT = "webdataset"

_PER_SHARD = 32
"""Micrographs in a shard: some hundred megabytes of pictures of 4096 x 4096 pixels."""

_COORDINATES = {
    "y_origin": "top",
    "x": "first column of the label arrays = x_px, the column of the centre, 0 the first",
    "y": "second column = y_px, the row of the centre, 0 the first in memory and the upper of the picture",
    "unit": "pixels of the picture, which has those of the micrograph; third column: the diameter",
}
_FACTS = ("nx_px", "ny_px", "pixel_size_angstrom", "voltage_kv", "cs_mm", "defocus_u_angstrom", "defocus_v_angstrom")


def _pack_labels(rows: pl.DataFrame) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows.select("x_px", "y_px", "diameter_px").to_numpy().astype(np.float32))
    return stream.getvalue()


def _pack_picture(path: Path) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(read_picture(path)).save(stream, format="PNG", compress_level=1)
    return stream.getvalue()


def _add_sample(tar: tarfile.TarFile, key: str, parts: Mapping[str, bytes]) -> None:
    for suffix, content in parts.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))


def _divide(rows: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(rows), _PER_SHARD):
        yield rows[start : start + _PER_SHARD]


def export_webdataset(tables: Mapping[str, pl.DataFrame], root: Path, to: Path) -> ExportSummary:
    """Write the dataset as `SPLIT-000000.tar` and so on.

    Parameters and errors as of `export_cryoppp`.
    """
    dataset = gather_dataset(tables, root)
    splits = assign_splits(dataset.micrographs["name"].to_list())
    positives, negatives = group_by_name(dataset, dataset.positives), group_by_name(dataset, dataset.false_positives)
    counts = {"micrographs": dataset.micrographs.height, "positives": dataset.positives.height}
    counts |= {"negatives": dataset.false_positives.height, "shards": 0}
    micrographs = dataset.micrographs.with_row_index("number").to_dicts()
    with open_release(to, LAYOUT) as staging:
        for split in SPLITS:
            chosen = [row for row in micrographs if splits[row["name"]] == split]
            for i, rows in enumerate(_divide(chosen)):
                counts["shards"] += 1
                with (
                    open_for_replacement(staging / f"{split}-{i:06d}.tar") as temporary,
                    tarfile.open(temporary, "w") as tar,
                ):
                    for row in rows:
                        facts = {"micrograph": row["name"], "split": split} | {name: row[name] for name in _FACTS}
                        parts = {
                            "json": json.dumps(facts).encode(),
                            "negatives.npy": _pack_labels(negatives[row["name"]]),
                            "png": _pack_picture(root / row["micrograph_path"]),
                            "positives.npy": _pack_labels(positives[row["name"]]),
                        }
                        # A key ends at the first dot, and names of micrographs may have dots.
                        _add_sample(tar, f"{row['number']:06d}", parts)
        write_card(staging, dataset, LAYOUT, _COORDINATES, counts)
    return ExportSummary(counts, dataset.warnings)
