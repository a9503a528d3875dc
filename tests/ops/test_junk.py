"""Junk planted in micrographs of particles."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from vitreous.io.coordinates import read_coordinates
from vitreous.ops.junk import JUNK_KINDS, find_junk, look_up_junk

SIDE, PIXEL, DIAMETER = 700, 4.0, 120.0
RADIUS = DIAMETER / PIXEL / 2


def make_field(seed: int = 0, n: int = 90) -> tuple[np.ndarray, np.ndarray]:
    """Return noise with dark particles, each in a bright fringe, and their centres (x, y)."""
    rng = np.random.default_rng(seed)
    centres = np.empty((0, 2))
    while len(centres) < n:
        place = rng.uniform(RADIUS, SIDE - RADIUS, 2)
        if not len(centres) or np.linalg.norm(centres - place, axis=1).min() > 2.2 * RADIUS:
            centres = np.vstack([centres, place])
    density = np.zeros((SIDE, SIDE))
    y, x = np.mgrid[:SIDE, :SIDE]
    for cx, cy in centres:
        density += np.sqrt(np.clip(RADIUS**2 - (x - cx) ** 2 - (y - cy) ** 2, 0, None)) / RADIUS
    # No mean contrast, as behind a CTF.
    density -= scipy.ndimage.gaussian_filter(density, RADIUS)
    return rng.normal(0, 1.5, (SIDE, SIDE)) - 1.5 * density, centres


def find(image: np.ndarray, centres: np.ndarray) -> np.ndarray:
    mask = find_junk(torch.from_numpy(image), PIXEL, DIAMETER, centres)
    y, x = np.mgrid[:SIDE, :SIDE]
    return look_up_junk(mask, np.column_stack([x.ravel(), y.ravel()])).reshape(SIDE, SIDE)


def test_ice_with_particles_is_no_junk() -> None:
    image, centres = make_field()
    assert (find(image, centres) == "").all()
    assert (find(image, np.empty((0, 2))) == "").all()


def test_ice_that_gets_thicker_is_no_junk() -> None:
    image, centres = make_field(1)
    assert (find(image + np.linspace(-8, 8, SIDE)[:, None], centres) == "").all()


def test_particles_in_one_half_only_are_no_junk() -> None:
    image, centres = make_field(2, 150)
    empty, _ = make_field(3, 0)
    left = centres[:, 0] < SIDE / 2
    image[:, SIDE // 2 :] = empty[:, SIDE // 2 :]
    assert (look_up_junk(find_junk(torch.from_numpy(image), PIXEL, DIAMETER, centres[left]), centres[left]) == "").all()


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_a_carbon_film_is_found_to_its_edge(turns: int) -> None:
    image, centres = make_field(4)
    film = np.zeros((SIDE, SIDE), bool)
    film[:, : SIDE // 4] = True
    image[film] = np.random.default_rng(0).normal(-8, 2.0, film.sum())
    kinds = np.rot90(find(np.ascontiguousarray(np.rot90(image, turns)), np.empty((0, 2))), -turns)
    inner, outer = kinds[:, : SIDE // 4 - 8], kinds[:, SIDE // 4 + round(2.5 * RADIUS) :]
    assert (inner == "carbon").mean() > 0.98
    assert (outer == "").mean() > 0.98


def test_lumps_of_ice_are_found_and_little_else() -> None:
    image, centres = make_field(5)
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = np.zeros((SIDE, SIDE), bool)
    far = np.ones((SIDE, SIDE), bool)
    for cx, cy, radius in ((200, 180, 40), (520, 300, 30), (300, 600, 55)):
        distance = np.hypot(x - cx, y - cy)
        inside |= distance < radius
        far &= distance > radius + 2 * RADIUS
        image -= 14 * np.sqrt(np.clip(1 - (distance / radius) ** 2, 0, None))
    kinds = find(image, centres)
    assert (kinds[inside] == "ice").mean() > 0.9
    assert (kinds[far] == "").mean() > 0.995


def test_places_are_looked_up_in_pixels_of_the_micrograph() -> None:
    image, centres = make_field(6)
    image[300:420, 80:200] -= 15
    mask = find_junk(torch.from_numpy(image), PIXEL, DIAMETER, centres)
    assert mask.kinds.dtype == np.uint8
    assert max(mask.kinds.shape) < SIDE
    found = look_up_junk(mask, np.array([[140.0, 360.0], [360.0, 140.0], [0.0, 0.0], [SIDE - 1.0, SIDE - 1.0]]))
    assert found.tolist() == ["ice", "", "", ""]
    assert set(np.unique(mask.kinds)) == {0, JUNK_KINDS.index("ice")}


def test_nothing_to_see() -> None:
    assert not find_junk(torch.full((300, 300), 7.0), PIXEL, DIAMETER, np.empty((0, 2))).kinds.any()
    assert not find_junk(torch.randn(40, 40), PIXEL, DIAMETER, np.empty((0, 2))).kinds.any()


@pytest.mark.shared_data
def test_real_particles_are_no_junk(shared_data: Path) -> None:
    root = shared_data / "apoferritin-10146"
    lost = total = 0
    for path in sorted((root / "micrographs").glob("*.png")):
        image = torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32))
        labels = read_coordinates(root / "coordinates").filter(micrograph=path.stem).select("x_px", "y_px").to_numpy()
        total += len(labels)
        lost += int((look_up_junk(find_junk(image, 1.5, 127.0, labels), labels) != "").sum())
    assert lost <= 0.01 * total
