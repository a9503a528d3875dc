"""Images in the order of the rows, and stacks that are not what a table says."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitreous.errors import InputFileError
from vitreous.io.mrc import write_mrc
from vitreous.io.stacks import ParticleStacks, read_particle_images

BOX, PIXEL = 16, 2.5
PARTICLES = pl.DataFrame(
    {"stack_path": ["k.mrcs", "m.mrcs", "m.mrcs", "k.mrcs"], "stack_index": [1, 2, 0, 0], "box_px": [BOX] * 4}
)


def test_images_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stacks = {name: rng.normal(size=(n, BOX, BOX)).astype(np.float32) for name, n in (("k", 2), ("m", 3))}
    for name, stack in stacks.items():
        write_mrc(tmp_path / f"{name}.mrcs", stack, PIXEL)
    images = read_particle_images(PARTICLES, tmp_path)
    expected = [stacks["k"][1], stacks["m"][2], stacks["m"][0], stacks["k"][0]]
    assert np.array_equal(images, np.stack(expected))


def test_a_stack_of_one_image_is_a_stack(tmp_path: Path) -> None:
    image = np.random.default_rng(1).normal(size=(1, BOX, BOX)).astype(np.float32)
    write_mrc(tmp_path / "k.mrcs", image, PIXEL)
    assert np.array_equal(read_particle_images(PARTICLES[3:], tmp_path), image)


def test_rows_are_read_in_any_order_and_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, n in (("k", 2), ("m", 3)):
        write_mrc(tmp_path / f"{name}.mrcs", rng.normal(size=(n, BOX, BOX)).astype(np.float32), PIXEL)
    stacks = ParticleStacks(PARTICLES, tmp_path)
    assert stacks.shape == (4, BOX, BOX)
    rows = np.array([2, 3, 1, 2, 0])
    assert np.array_equal(stacks.read(rows), read_particle_images(PARTICLES, tmp_path)[rows])
    assert stacks.read(np.array([], dtype=np.int64)).shape == (0, BOX, BOX)


@pytest.mark.parametrize("shape", [(2, BOX, BOX), (3, BOX + 2, BOX + 2)])
def test_a_stack_that_is_not_what_the_table_says_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_mrc(tmp_path / "k.mrcs", np.zeros((2, BOX, BOX), np.float32), PIXEL)
    write_mrc(tmp_path / "m.mrcs", np.zeros(shape, np.float32), PIXEL)
    with pytest.raises(InputFileError, match=r"m\.mrcs: found a stack of .* expected at least 3 of 16x16 px"):
        read_particle_images(PARTICLES, tmp_path)


def test_a_missing_stack_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"k\.mrcs: found no such file"):
        read_particle_images(PARTICLES, tmp_path)
