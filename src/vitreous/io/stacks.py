"""The extracted images and the class averages that tables name."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.mrc import MrcFile, open_mrc, read_mrc

__all__ = ["ParticleStacks", "check_stack", "read_averages", "read_particle_images"]


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


class ParticleStacks:
    """The images of particles with one `box_px`, read when they are asked for; `root` is the project's folder.

    Raises
    ------
    InputFileError
        If a stack is missing, or does not hold what the table says.
    """

    def __init__(self, particles: pl.DataFrame, root: Path) -> None:
        box = int(particles["box_px"][0])
        self.shape = (particles.height, box, box)
        self._files: list[MrcFile] = []
        self._file_of = np.empty(particles.height, dtype=np.int64)
        self._section_of = particles["stack_index"].to_numpy().astype(np.int64)
        for (name,), rows in particles.with_row_index("row").group_by("stack_path", maintain_order=True):
            file = open_mrc(root / str(name))
            check_stack(file.path, file.header.shape, rows)
            self._file_of[rows["row"].to_numpy()] = len(self._files)
            self._files.append(file)

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the images `(b, box, box)` of some rows of the table; every stack among them is opened once."""
        images = np.empty((len(rows), *self.shape[1:]), dtype=np.float32)
        file_of = self._file_of[rows]
        for number in np.unique(file_of):
            places = np.nonzero(file_of == number)[0]
            sections, which = np.unique(self._section_of[rows[places]], return_inverse=True)
            images[places] = np.stack(list(self._files[number].iterate(sections.tolist())))[which]
        return images


def read_particle_images(particles: pl.DataFrame, root: Path) -> NDArray[np.float32]:
    """Return the images `(n, box, box)` of particles with one `box_px`, in the order of the rows.

    `root` is the project's folder.

    Raises
    ------
    InputFileError
        If a stack is missing, or does not hold what the table says.
    """
    return ParticleStacks(particles, root).read(np.arange(particles.height))


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
