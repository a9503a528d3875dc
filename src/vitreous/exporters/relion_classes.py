"""2D classes as RELION's Class2D job leaves them: a stack of averages, the model, the particles."""

from pathlib import Path

import numpy as np
import polars as pl

from vitreous.exporters.release import copy_file
from vitreous.io.class_averages import ClassAverages, write_class_averages
from vitreous.io.stacks import read_averages

__all__ = ["write_classes"]

_STEM = "run"


def write_classes(folder: Path, prefix: str, classes: pl.DataFrame, root: Path, particles: Path) -> int:
    """Write the classes, the particles with them, and the selected averages alone; return how many classes there are.

    Parameters
    ----------
    folder, prefix
        Where to, and its path from the folder in which RELION is run.
    classes
        The classes table; nothing is written where it is empty.
    root
        The project's folder.
    particles
        The STAR file of the particles, which says the class of each.

    Notes
    -----
    RELION numbers classes by their place in the stack, and particles name them by number: a number that no class has stands in
    the stack as an empty image, of no share.
    """
    if classes.is_empty():
        return 0
    n_px, last = int(classes["box_px"][0]), int(classes["class_id"].to_numpy().max())
    images = np.zeros((last, n_px, n_px), dtype=np.float32)
    images[classes["class_id"].to_numpy() - 1] = read_averages(root, classes)
    table = pl.DataFrame({"class_id": range(1, last + 1)}).join(
        classes.select("class_id", "n_particles", "share", "resolution_angstrom"), on="class_id", how="left"
    )
    pixel = float(classes["pixel_size_angstrom"][0])
    whole = ClassAverages(images, pixel, table.sort("class_id").with_columns(pl.col("share").fill_null(0.0)))
    write_class_averages(folder, _STEM, whole, prefix)
    copy_file(particles, folder / f"{_STEM}_data.star")
    chosen = classes.filter(pl.col("selected").fill_null(value=True)).sort("n_particles", descending=True)
    if chosen.height:
        picked = ClassAverages(images[chosen["class_id"].to_numpy() - 1], pixel, chosen)
        write_class_averages(folder, "selected", picked, prefix)
    return classes.height
