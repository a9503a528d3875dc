"""Template picking of lopsided particles whose places and angles are known, seen through a CTF."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from vitreous.model.optics import Optics
from vitreous.ops.fourier import compute_frequency_2d, irfft2, rfft2
from vitreous.ops.matching import match_points
from vitreous.pickers.matched import Candidates, MatchSettings
from vitreous.pickers.template import Defocus, TemplateSet, pick_templates

Plant, Draw = Callable[..., Any], Callable[..., Any]
DIAMETER = 120.0
TEMPLATE_PIXEL, TEMPLATE_SIDE = 4.0, 48


@pytest.fixture(scope="module")
def templates(draw: Draw) -> TemplateSet:
    """A ball and the particle itself, protein bright, at another pixel size than the micrograph."""
    y, x = (np.mgrid[:TEMPLATE_SIDE, :TEMPLATE_SIDE] - TEMPLATE_SIDE // 2) * TEMPLATE_PIXEL
    images = np.stack([draw(kind, x, y, DIAMETER / 2) for kind in ("ball", "lobes")])
    return TemplateSet(torch.from_numpy(images).float(), TEMPLATE_PIXEL)


def pick(
    planted: Any, templates: TemplateSet, defocus_angstrom: float | None, whitened: bool = True, min_score: float = 0.0
) -> Candidates:
    optics = Optics(
        pixel_size_angstrom=planted.pixel_size_angstrom, voltage_kv=300.0, cs_mm=2.7, amplitude_contrast=0.1
    )
    defocus = None if defocus_angstrom is None else Defocus(defocus_angstrom, defocus_angstrom, 0.0, 0.0)
    settings = MatchSettings(DIAMETER, 0.75, min_score)
    return pick_templates(planted.image, optics, defocus, templates, settings, 15.0, whitened=whitened)


def test_places_and_angles(plant: Plant, templates: TemplateSet) -> None:
    planted = plant(DIAMETER, kind="lobes", noise=1.5)
    found = pick(planted, templates, planted.defocus_angstrom)
    n = len(planted.xy_px)
    index, truth, distance = match_points(found.xy_px[:n], planted.xy_px, 8.0)
    assert len(index) == n
    assert np.sqrt(np.mean(distance**2)) < 1.0
    np.testing.assert_allclose((found.xy_px[index] - planted.xy_px[truth]).mean(axis=0), 0, atol=0.35)
    assert (found.template[index] == 1).mean() > 0.9
    wrong = (found.psi_deg[index] - planted.psi_deg[truth] + 180) % 360 - 180
    # The nearest of the angles tried is up to 7.5 degrees off.
    assert np.median(np.abs(wrong)) < 7.5
    assert (np.abs(wrong) < 20).mean() > 0.9


def test_the_ctf_helps_and_its_sign_is_right(plant: Plant, templates: TemplateSet) -> None:
    planted = plant(DIAMETER, kind="lobes", noise=0.5)
    scores = {}
    for defocus in (planted.defocus_angstrom, None, -planted.defocus_angstrom):
        found = pick(planted, templates, defocus, whitened=False)
        index, _, _ = match_points(found.xy_px, planted.xy_px, 8.0)
        scores[defocus] = float(np.median(found.score[index])) if len(index) > len(planted.xy_px) / 2 else 0.0
    assert scores[planted.defocus_angstrom] > scores[None] + 0.05
    assert scores[planted.defocus_angstrom] > scores[-planted.defocus_angstrom] + 0.3
    assert scores[planted.defocus_angstrom] > 0.7


def test_round_templates_are_not_turned(plant: Plant, templates: TemplateSet) -> None:
    planted = plant(DIAMETER, noise=1.0)
    found = pick(planted, TemplateSet(templates.images[:1], TEMPLATE_PIXEL), planted.defocus_angstrom)
    assert set(found.psi_deg.tolist()) == {0.0}
    n = len(planted.xy_px)
    assert len(match_points(found.xy_px[:n], planted.xy_px, 4.0)[0]) == n


def make_coloured_noise(shape: tuple[int, int], seed: int) -> torch.Tensor:
    """Return noise of unit deviation whose amplitude falls beyond 1/120 Å, at 2.5 Å per pixel."""
    white = torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()
    ky, kx = compute_frequency_2d(shape)
    noise = irfft2(rfft2(white) / (0.05 + (ky.square() + kx.square()) * 48**2).clamp_min(1), shape)
    return noise / noise.std()


def test_whitening_finds_particles_in_coloured_noise(plant: Plant, templates: TemplateSet) -> None:
    hits = dict.fromkeys((True, False), 0)
    for seed in range(2):
        planted = plant(DIAMETER, kind="lobes", noise=1.5, pitch=2.5, seed=seed)
        planted = replace(
            planted, image=planted.image + 2.5 * make_coloured_noise(tuple(planted.image.shape), seed + 9)
        )
        n = len(planted.xy_px)
        for whitened in hits:
            found = pick(planted, templates, planted.defocus_angstrom, whitened)
            hits[whitened] += len(match_points(found.xy_px[:n], planted.xy_px, 10.0)[0]) / n / 2
    assert hits[True] > 0.9
    assert hits[True] > hits[False] + 0.15


@pytest.mark.parametrize("coloured", [True, False])
def test_noise_has_as_many_candidates_as_they_say(plant: Plant, templates: TemplateSet, coloured: bool) -> None:
    counts = []
    for seed in range(6):
        empty = plant(DIAMETER, seed=seed)
        noise = torch.from_numpy(np.random.default_rng(seed).normal(size=empty.image.shape)).float()
        image = noise + (2 * make_coloured_noise(tuple(empty.image.shape), seed + 50) if coloured else 0)
        found = pick(replace(empty, image=image), templates, empty.defocus_angstrom)
        assert (np.diff(found.noise_peaks) >= 0).all()
        counts.append([(found.noise_peaks <= expected).sum() for expected in (0.5, 1.5, 4.0)])
    # Six images are expected to have 3, 9 and 24; colour that falls as steeply as here is not known well enough for the rarest.
    for count, expected, factor in zip(
        np.sum(counts, axis=0), (3, 9, 24), (3.0 if coloured else 1.0, 1.3, 1.3), strict=True
    ):
        assert expected / 1.3 - 3 * np.sqrt(expected) <= count <= factor * expected + 3 * np.sqrt(expected)
    assert np.sum(counts, axis=0)[2] >= 24 / 2
    plain = pick(plant(DIAMETER), templates, None, whitened=False)
    assert np.isnan(plain.noise_peaks).all()


def test_what_is_expected_of_noise_does_not_depend_on_the_least_score(plant: Plant, templates: TemplateSet) -> None:
    planted = plant(DIAMETER, kind="lobes", noise=1.5)
    every, best = (pick(planted, templates, planted.defocus_angstrom, min_score=least) for least in (0.0, 0.3))
    n = len(best.score)
    assert 0 < n < len(every.score)
    np.testing.assert_allclose(best.noise_peaks, every.noise_peaks[:n], rtol=0.05)
    assert (best.noise_peaks > 0).all()
