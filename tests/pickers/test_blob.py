"""Blob picking of particles whose places and sizes are known, simulated and real."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitreous.io.coordinates import read_coordinates
from vitreous.ops.blobs import find_outer_diameter, score_diameters
from vitreous.ops.junk import JunkMask, hide_junk
from vitreous.ops.matching import match_points
from vitreous.pickers.blob import PICKING_SAMPLES, estimate_diameter, learn_profile, pick_blobs, reduce_micrograph
from vitreous.pickers.matched import MatchSettings

Plant = Callable[..., Any]


@pytest.mark.parametrize("diameter", [80.0, 120.0, 200.0])
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_diameter_is_estimated(plant: Plant, diameter: float, noise: float) -> None:
    planted = [plant(diameter, noise=noise, seed=seed) for seed in range(2)]
    found = estimate_diameter([one.image for one in planted], planted[0].pixel_size_angstrom, 50, 350)
    assert found.diameter_angstrom == pytest.approx(diameter, rel=0.15)


def test_hidden_lumps_of_ice_say_nothing_of_the_diameter(plant: Plant) -> None:
    """Lumps show bright rims, which count against dark particles."""
    diameters, change = [80.0, 110.0, 150.0, 200.0], {}
    planted = plant(140.0, noise=5.0, pitch=3.5, shape=(1000, 1000))
    image = planted.image.clone()
    rows, columns = np.mgrid[:1000, :1000]
    kinds = np.zeros((200, 200), np.uint8)
    for cx, cy in np.random.default_rng(0).uniform(100, 900, (8, 2)):
        distance = np.hypot(columns - cx, rows - cy)
        lump = 80 * (distance < 45) - 40 * ((distance >= 45) & (distance < 60))
        image -= torch.from_numpy(lump).float()
        kinds[distance[2::5, 2::5] < 65] = 2
    junk, covered = JunkMask(kinds, (5.0, 5.0)), torch.from_numpy(kinds > 0)
    clean = score_diameters(planted.image, 2.5, diameters, covered)
    for name, one in (("as it is", image), ("hidden", hide_junk(image, junk))):
        change[name] = (score_diameters(one, 2.5, diameters, covered) - clean).abs().max()
    assert change["hidden"] < 0.03 < 0.06 < change["as it is"]


def test_profile_does_not_depend_on_the_pixel_size(plant: Plant) -> None:
    planted = plant(100.0, noise=0.3)
    pixel = planted.pixel_size_angstrom
    # 100 Å in pixels of 8.3 Å: coarser than a twentieth of the diameter.
    coarse, pixels = reduce_micrograph(planted.image, pixel, 166.0)
    assert float(pixels[0]) == pytest.approx(8.3, rel=0.05)
    fine = learn_profile([planted.image], pixel, 100.0)
    other = learn_profile([coarse], float(pixels.mean()), 100.0)
    assert len(fine) == len(other) == 1 + round(1.2 * PICKING_SAMPLES)
    assert np.corrcoef(fine, other)[0, 1] > 0.95
    step = 100.0 / PICKING_SAMPLES
    assert find_outer_diameter(fine, step) == pytest.approx(100, rel=0.15)
    assert find_outer_diameter(other, step) == pytest.approx(100, rel=0.15)


@pytest.mark.parametrize("diameter", [100.0, 160.0])
def test_particles_are_found_where_they_are(plant: Plant, diameter: float) -> None:
    planted = plant(diameter)
    pixel = planted.pixel_size_angstrom
    profile = learn_profile([planted.image], pixel, diameter)
    found = pick_blobs(planted.image, pixel, profile, MatchSettings(diameter, 0.75, 0.0))
    best = found.xy_px[: len(planted.xy_px)]
    pick, truth, distance = match_points(best, planted.xy_px, 0.1 * diameter / pixel)
    assert len(pick) == len(planted.xy_px)
    # Sub-pixel, though a pixel of picking is 2 to 3.2 pixels of the micrograph.
    assert np.sqrt(np.mean(distance**2)) < 1.0
    offset = (best[pick] - planted.xy_px[truth]).mean(axis=0)
    np.testing.assert_allclose(offset, 0, atol=0.35)
    assert found.score[len(planted.xy_px) - 1] > found.score[len(planted.xy_px)] + 0.05
    assert (np.diff(found.score) <= 0).all()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turning_the_micrograph_turns_the_picks(plant: Plant, turns: int) -> None:
    planted = plant(120.0)
    pixel, settings = planted.pixel_size_angstrom, MatchSettings(120.0, 0.75, 0.2)
    profile = learn_profile([planted.image], pixel, 120.0)
    picks = pick_blobs(planted.image, pixel, profile, settings)
    turned = pick_blobs(torch.rot90(planted.image, turns, (0, 1)).contiguous(), pixel, profile, settings)
    xy, (ny, nx) = picks.xy_px, planted.image.shape
    for _ in range(turns):
        # rot90 moves what is at (x, y) to (y, nx - 1 - x).
        xy = np.column_stack([xy[:, 1], nx - 1 - xy[:, 0]])
        ny, nx = nx, ny
    n = len(planted.xy_px)
    pick, _, distance = match_points(turned.xy_px[:n], xy[:n], 2.0)
    assert len(pick) == n
    assert distance.mean() < 0.5


def test_picking_is_repeatable_and_keeps_the_distance(plant: Plant) -> None:
    planted = plant(100.0, noise=4.0, pitch=1.1)
    pixel, settings = planted.pixel_size_angstrom, MatchSettings(100.0, 0.75, 0.0)
    profile = learn_profile([planted.image], pixel, 100.0)
    one, other = (pick_blobs(planted.image, pixel, profile, settings) for _ in range(2))
    np.testing.assert_array_equal(one.xy_px, other.xy_px)
    distance = np.linalg.norm(one.xy_px[:, None] - one.xy_px[None], axis=-1)[np.triu_indices(len(one.score), 1)]
    # Half a pixel of picking, 5 Å, may be lost when each peak is refined.
    assert distance.min() * pixel > 75 - 2 * 5


@pytest.mark.shared_data
def test_real_apoferritin(shared_data: Path) -> None:
    root = shared_data / "apoferritin-10146"
    paths = sorted((root / "micrographs").glob("*.png"))[::4]
    images = [torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32)) for path in paths]
    diameter = estimate_diameter(images, 1.5, 50.0, 350.0).diameter_angstrom
    assert 115 < diameter < 135
    labels = read_coordinates(root / "coordinates").filter(micrograph=paths[0].stem).select("x_px", "y_px").to_numpy()
    found = pick_blobs(images[0], 1.5, learn_profile(images, 1.5, diameter), MatchSettings(diameter, 0.75, 0.3))
    assert len(match_points(found.xy_px, labels, 43)[0]) > 0.85 * len(labels)
