"""Junk planted in micrographs of particles."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from vitreous.io.coordinates import read_coordinates
from vitreous.ops.junk import JUNK_KINDS, JunkMask, find_junk, hide_junk, look_up_junk

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


def test_a_film_is_found_where_lumps_of_ice_are_everywhere() -> None:
    image, centres = make_field(9)
    y, x = np.mgrid[:SIDE, :SIDE]
    for cx, cy in np.random.default_rng(3).uniform(0, SIDE, (16, 2)):
        image -= 20 * np.sqrt(np.clip(1 - ((x - cx) ** 2 + (y - cy) ** 2) / 45**2, 0, None))
    film = y > SIDE - 120 + 30 * np.cos(x / 150)
    image[film] = np.random.default_rng(0).normal(-12, 1.5, int(film.sum()))
    kinds = find(image, centres)
    assert (kinds[film] != "").mean() > 0.97


def test_ice_that_gets_much_thicker_over_some_particles_is_no_junk() -> None:
    image, centres = make_field(10)
    y, x = np.mgrid[:SIDE, :SIDE]
    corner = 12 / (1 + np.exp((np.hypot(x, y - SIDE) - 250) / (2 * RADIUS)))
    kinds = find(image - corner, centres)
    assert not (kinds == "carbon").any()
    assert (kinds == "").mean() > 0.95


def add_detailed_particles(image: np.ndarray, centres: np.ndarray, rng: np.random.Generator) -> None:
    """Add particles that show their detail alone, a tenth of their size, in place."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for cx, cy in centres:
        texture = scipy.ndimage.gaussian_filter(rng.normal(size=image.shape), 1.0)
        image -= 6 * texture * (np.hypot(x - cx, y - cy) < RADIUS)


def test_clumps_are_found_and_particles_side_by_side_are_none() -> None:
    rng = np.random.default_rng(1)
    empty, centres = make_field(7, 0)[0], make_field(7, 60)[1]
    middle, distance = np.array([200.0, 480.0]), 1.1 * DIAMETER / PIXEL * np.sqrt(rng.uniform(size=14))
    azimuth = rng.uniform(0, 2 * np.pi, 14)
    clumped = middle + np.column_stack([distance * np.cos(azimuth), distance * np.sin(azimuth)])
    apart = centres[np.linalg.norm(centres - middle, axis=1) > 5 * RADIUS]
    # Six around one, as close as can be.
    ring = np.arange(6) * np.pi / 3
    close = np.array([500.0, 200.0]) + np.vstack([[0, 0], 2 * RADIUS * np.column_stack([np.cos(ring), np.sin(ring)])])
    apart = apart[np.linalg.norm(apart - close[0], axis=1) > 7 * RADIUS]
    alone = np.vstack([apart, close])
    add_detailed_particles(empty, np.vstack([alone, clumped]), rng)
    mask = find_junk(torch.from_numpy(empty), PIXEL, DIAMETER, np.vstack([alone, clumped[::3]]))
    assert (look_up_junk(mask, clumped) == "aggregate").mean() > 0.9
    assert (look_up_junk(mask, alone) == "").all()


def test_a_few_particles_in_empty_ice_are_no_junk() -> None:
    rng = np.random.default_rng(2)
    image, few = make_field(8, 0)[0], np.array([[150.0, 200.0], [500.0, 150.0], [350.0, 500.0], [600.0, 600.0]])
    add_detailed_particles(image, few, rng)
    candidates = np.vstack([few, rng.uniform(RADIUS, SIDE - RADIUS, (50, 2))])
    assert (look_up_junk(find_junk(torch.from_numpy(image), PIXEL, DIAMETER, candidates), few) == "").all()


def test_particles_are_the_candidates_nearly_as_good_as_the_best() -> None:
    rng = np.random.default_rng(3)
    image, spread = make_field(11, 0)[0], make_field(12, 9)[1]
    ring = np.arange(5) * 2 * np.pi / 5
    group = np.array([350.0, 350.0]) + 2.2 * RADIUS * np.column_stack([np.cos(ring), np.sin(ring)])
    few = np.vstack([spread[np.linalg.norm(spread - [350, 350], axis=1) > 6 * RADIUS], group])
    add_detailed_particles(image, few, rng)
    candidates = np.vstack([few, rng.uniform(RADIUS, SIDE - RADIUS, (150, 2))])
    correlation = np.concatenate([rng.uniform(0.4, 0.5, len(few)), np.sort(rng.uniform(0.1, 0.22, 150))[::-1]])
    found = find_junk(torch.from_numpy(image), PIXEL, DIAMETER, candidates, correlation)
    assert (look_up_junk(found, few) == "").all()
    # Had a quarter of all been taken for particles, most of these would be noise, and the group would stand out.
    quarter = find_junk(torch.from_numpy(image), PIXEL, DIAMETER, candidates[: len(candidates) // 4])
    assert (look_up_junk(quarter, group) == "aggregate").any()


def test_hidden_junk_looks_like_what_is_next_to_it() -> None:
    image = torch.from_numpy(make_field(13)[0] + np.linspace(-20, 20, SIDE)[:, None]).float()
    spoilt = image.clone()
    spoilt[300:400, 200:330] -= 500
    kinds = np.zeros((SIDE // 10, SIDE // 10), np.uint8)
    kinds[29:41, 19:34] = JUNK_KINDS.index("ice")
    cleaned = hide_junk(spoilt, JunkMask(kinds, (10.0, 10.0)))
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[290:410, 190:340] = False
    assert torch.equal(cleaned[outside], image[outside])
    smooth = torch.from_numpy(np.linspace(-20, 20, SIDE)).float()[:, None].expand(SIDE, SIDE)
    assert float((cleaned - smooth)[~outside].abs().max()) < 6
    assert hide_junk(image, JunkMask(np.zeros_like(kinds), (10.0, 10.0))) is image


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
