"""What the layouts for machine learning share: micrographs as 8-bit pictures, links to micrographs, sizes of boxes."""

import math
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from vitreous.exporters.dataset import Dataset
from vitreous.exporters.release import link_or_copy
from vitreous.io.atomic import open_for_replacement
from vitreous.io.mrc import read_mrc
from vitreous.ops.contrast import stretch_contrast

__all__ = ["choose_box", "group_by_name", "link_micrographs", "read_picture", "write_jpeg"]

_BOX_FACTOR = 1.5
_JPEG_QUALITY = 95


def choose_box(diameter_px: float) -> int:
    """Return the side of a box around a particle: even, at least one and a half diameters."""
    return 2 * math.ceil(_BOX_FACTOR * diameter_px / 2)


def group_by_name(dataset: Dataset, particles: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the particles of every micrograph, none where there are none, with `diameter_px`; labels have no `score`."""
    own = particles.with_columns(
        diameter_px=pl.col("diameter_angstrom") / pl.col("pixel_size_angstrom"), score=pl.lit(None, pl.Float64)
    )
    parts = {str(key[0]): rows for key, rows in own.partition_by("name", as_dict=True, maintain_order=True).items()}
    return {name: parts.get(name, own.clear()) for name in dataset.micrographs["name"]}


def link_micrographs(folder: Path, dataset: Dataset) -> None:
    """Put the micrographs into `folder`, named as they are exported."""
    for path, name in dataset.micrographs.select("micrograph_path", "name").iter_rows():
        link_or_copy(dataset.root / path, folder / f"{name}.mrc")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """Return a micrograph with its contrast stretched to 8 bits, rows as in memory."""
    return stretch_contrast(read_mrc(path)[0])


def write_jpeg(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write an 8-bit picture, the first row on top, atomically."""
    with open_for_replacement(path) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=_JPEG_QUALITY)
