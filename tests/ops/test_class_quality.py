import numpy as np
import pytest
import torch
from torch import Tensor

from vitreous.ops.class_quality import MEASURES, measure_classes, score_classes
from vitreous.ops.fourier import irfft2
from vitreous.simulate.particles import AtomProjector, compute_rotations, draw_orientations
from vitreous.simulate.volume import load_specimen

PIXEL, BOX, RADIUS = 4.0, 48, 22.0


@pytest.fixture(scope="module")
def views() -> tuple[Tensor, float]:
    """Eight views of a molecule with three lobes, and its diameter in pixels."""
    specimen = load_specimen("glua3-ntd", PIXEL)
    rotations = compute_rotations(draw_orientations(8, np.random.default_rng(4)))
    projector = AtomProjector(specimen)
    size = specimen.box_px
    images = torch.stack([irfft2(projector.project(rotation), (size, size)).float() for rotation in rotations])
    pad = (BOX - size) // 2
    images = torch.nn.functional.pad(images, (pad, BOX - size - pad, pad, BOX - size - pad))
    return images / images.std() / 3, specimen.diameter_angstrom / PIXEL


def make_grid() -> tuple[Tensor, Tensor]:
    line = torch.arange(BOX) - BOX // 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return y.float(), x.float()


def score(images: Tensor, resolution_px: list[float], diameter_px: float, n_images: list[int]) -> tuple[Tensor, Tensor]:
    y, x = make_grid()
    masked = images * (torch.hypot(y, x) <= RADIUS)
    measures = measure_classes(masked, torch.tensor(resolution_px), diameter_px, RADIUS)
    return score_classes(measures, torch.tensor(n_images))


def test_views_of_a_molecule_are_all_good_however_few_their_images(views: tuple[Tensor, float]) -> None:
    images, diameter = views
    total, parts = score(images, [2.5] * 8, diameter, [200, 150, 100, 80, 60, 40, 10, 2])
    assert (total > 0.75).all()
    assert parts.shape == (8, len(MEASURES))
    assert torch.equal(total, parts.amin(dim=1))


@pytest.mark.parametrize(
    ("junk", "failing"),
    [
        ("blur", "resolution"),
        ("edge", "shape"),
        ("speckle", "shape"),
        ("aside", "off-centre"),
        ("strong", "strength"),
        ("faint", "strength"),
    ],
)
def test_junk_is_found_and_named(views: tuple[Tensor, float], junk: str, failing: str) -> None:
    images, diameter = views
    y, x = make_grid()
    resolution = 2.5
    match junk:
        case "blur":
            image, resolution = torch.exp(-(y.square() + x.square()) / 100), 12.0
        case "edge":
            image = (x > -4).float() * 0.8
        case "speckle":
            image = sum(
                torch.exp(-((y - 14 * np.sin(a)) ** 2 + (x - 14 * np.cos(a)) ** 2) / 6) for a in range(0, 7, 2)
            ) + torch.zeros(BOX, BOX)
        case "aside":
            image = torch.roll(images[0], (0, round(0.35 * diameter)), (0, 1))
        case "strong":
            image = images[1] * 8
        case "faint":
            image = images[1] / 8
    total, parts = score(
        torch.cat([images, image[None].float()]), [2.5] * 8 + [resolution], diameter, [100] * 8 + [300]
    )
    assert total[8] < 0.5
    assert MEASURES[int(parts[8].argmin())] == failing
    assert (total[:8] > 0.5).all()


def test_the_same_at_any_scale(views: tuple[Tensor, float]) -> None:
    images, diameter = views
    n = BOX // 2
    spectra = torch.fft.fftshift(torch.fft.fft2(images), dim=(1, 2))[:, n // 2 : n // 2 + n, n // 2 : n // 2 + n]
    small = torch.fft.ifft2(torch.fft.ifftshift(spectra, dim=(1, 2))).real / 4
    resolution = torch.full((8,), 5.0)
    large_measures = measure_classes(images, resolution, diameter, RADIUS)
    small_measures = measure_classes(small, resolution / 2, diameter / 2, RADIUS / 2)
    assert torch.allclose(large_measures.detail, small_measures.detail)
    assert torch.allclose(large_measures.strength, small_measures.strength, rtol=0.05)
    assert torch.allclose(large_measures.offset, small_measures.offset, atol=0.03)


def test_no_classes() -> None:
    with pytest.raises(ValueError, match="no class average"):
        measure_classes(torch.zeros(0, 32, 32), torch.zeros(0), 10.0, 12.0)
