"""The extracted images and the class averages that tables name."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.mrc import read_mrc

__all__ = ["check_stack", "read_averages", "read_particle_images"]


def check_stack(path: Path, shape: tuple[int, ...], rows: pl.DataFrame) -> None:
    """Check that a stack of this `shape` holds the images that particles say are in it.

    Raises
    ------
    InputFileError
        If the images have another size than `box_px`, or are fewer.
    """
    box, n_needed = int(rows["box_px"][0]), int(rows["stack_index"].to_numpy().max()) + 1
    n, ny, nx = (1, *shape)[-3:]
    if (ny, nx) != (box, box) or n < n_needed:
        raise InputFileError(
            path,
            found=f"a stack of {n} images of {nx}x{ny} px",
            expected=f"at least {n_needed} of {box}x{box} px, as the particles table says",
            remedy="Run extract again.",
        )


def read_particle_images(particles: pl.DataFrame, root: Path) -> NDArray[np.float32]:
    """Return the images `(n, box, box)` of particles with one `box_px`, in the order of the rows.

    Every stack is read once; `root` is the project's folder.

    Raises
    ------
    InputFileError
        If a stack is missing, or does not hold what the table says.
    """
    box = int(particles["box_px"][0])
    images = np.empty((particles.height, box, box), dtype=np.float32)
    for (name,), rows in particles.with_row_index("row").group_by("stack_path", maintain_order=True):
        path = root / str(name)
        stack = read_mrc(path)[0]
        check_stack(path, stack.shape, rows)
        images[rows["row"].to_numpy()] = stack.reshape(-1, box, box)[rows["stack_index"].to_numpy()]
    return images


def read_averages(root: Path, classes: pl.DataFrame) -> NDArray[np.float32]:
    """Return the averages `(K, y, x)` of a classes table, in its order; `root` is the project's folder.

    Raises
    ------
    InputFileError
        If a stack is missing or damaged.
    """
    stacks = {name: read_mrc(root / name)[0] for name in classes["image_path"].unique()}
    rows = classes.select("image_path", "image_index").iter_rows()
    return np.stack([stacks[name].reshape(-1, *stacks[name].shape[-2:])[i] for name, i in rows]).astype(np.float32)
