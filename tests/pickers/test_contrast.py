"""Dark or bright: drawn particles through a CTF, hollow ones, noise, and real micrographs, as they are and inverted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vitreous.io.coordinates import read_coordinates
from vitreous.pickers.contrast import measure_contrast, measure_darkness_at

Plant = Callable[..., Any]


@pytest.mark.parametrize("kind", ["ball", "lobes"])
def test_particles_through_a_ctf(plant: Plant, kind: str) -> None:
    planted = [plant(100.0, kind=kind, noise=1.0, seed=seed) for seed in (1, 2)]
    images = [one.image for one in planted]
    pixel = planted[0].pixel_size_angstrom
    for low, high in ((50.0, 220.0), (75.0, 130.0)):
        assert measure_contrast(images, pixel, low, high) == "dark"
        assert measure_contrast([-image for image in images], pixel, low, high) == "bright"
    darkness = measure_darkness_at(images[0], pixel, 100.0, planted[0].xy_px)
    assert darkness.mean() > 0.2
    np.testing.assert_allclose(measure_darkness_at(-images[0], pixel, 100.0, planted[0].xy_px), -darkness, atol=1e-5)


def test_a_hollow_particle_is_as_its_shell() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :300]
    image = 0.7 * rng.normal(size=(300, 300))
    for cx, cy in rng.uniform(-5, 5, (25, 2)) + np.mgrid[30:280:55, 30:280:55].reshape(2, -1).T:
        radius = np.hypot(x - cx, y - cy)
        image += 1.2 * (radius < 6) - 1.0 * (radius < 12)
    images = [torch.from_numpy(image).float()]
    assert measure_contrast(images, 5.0, 50.0, 280.0) == "dark"
    assert measure_contrast([-images[0]], 5.0, 50.0, 280.0) == "bright"


def test_bright_fringes_beside_dark_lumps_are_no_particles() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:300, :300]
    image = rng.normal(size=(300, 300))
    for cx, cy in np.mgrid[30:280:55, 30:280:55].reshape(2, -1).T:
        image += np.hypot(x - cx, y - cy) < 15
    assert measure_contrast([torch.from_numpy(image).float()], 5.0, 50.0, 280.0) == "bright"
    for cx, cy in rng.uniform(20, 280, (8, 2)):
        image -= 6 * (np.hypot(x - cx, y - cy) < 10)
    assert measure_contrast([torch.from_numpy(image).float()], 5.0, 50.0, 280.0) == "dark"


def test_noise_is_as_usual() -> None:
    for seed in range(3):
        noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(300, 300))).float()
        assert measure_contrast([noise], 5.0, 50.0, 280.0) == "dark"
        assert measure_contrast([-noise], 5.0, 50.0, 280.0) == "dark"


@pytest.mark.shared_data
def test_real_micrographs(shared_data: Path) -> None:
    """Apoferritin is hollow: its hole stands out more than its shell."""
    for folder, labels, pixel, diameter, n in (
        ("apoferritin-10146", "coordinates", 1.5, 130.0, 3),
        ("ribosome80s-10028", "coordinates", 5.36, 280.0, 2),
    ):
        paths = [
            p for p in sorted((shared_data / folder).glob("**/*.png")) if p.parent.name in ("images", "micrographs")
        ]
        paths = paths[:n]
        images = [torch.from_numpy(np.asarray(Image.open(path), dtype=np.float32)) for path in paths]
        for low, high in (
            (max(50.0, 10 * pixel), 0.2 * min(images[0].shape) * pixel),
            (0.75 * diameter, 1.3 * diameter),
        ):
            assert measure_contrast(images, pixel, low, high) == "dark", folder
            assert measure_contrast([-image for image in images], pixel, low, high) == "bright", folder
        picks = read_coordinates(shared_data / folder / labels)
        for path, image in zip(paths, images, strict=True):
            found = picks.filter(picks["micrograph"].str.contains(path.stem, literal=True)).select("x_px", "y_px")
            if found.height:
                darkness = measure_darkness_at(image, pixel, diameter, found.to_numpy())
                assert darkness.mean() > 10 * darkness.std() / len(darkness) ** 0.5, path
