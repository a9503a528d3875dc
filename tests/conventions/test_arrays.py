"""Conventions of arrays and their transforms, against numpy in float64 and images made by formula."""

import re
from pathlib import Path

import mrcfile
import numpy as np
import torch
from scipy.special import expit

from vitreous.io.images import read_micrograph
from vitreous.model.tables import TABLES
from vitreous.ops.boxes import extract_boxes
from vitreous.ops.fourier import (
    apply_fourier_crop_2d,
    compute_half_weights,
    compute_radial_mean,
    compute_shift_phase,
    irfft2,
    rfft2,
)
from vitreous.ops.mask import compute_soft_sphere
from vitreous.ops.peaks import find_peaks
from vitreous.pickers.blob import learn_profile, pick_blobs
from vitreous.pickers.matched import MatchSettings


def make_spot(shape: tuple[int, int], x: float, y: float, sigma: float) -> np.ndarray:
    """Return a Gaussian whose centre is x columns and y rows from the centre of the first pixel."""
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2)).astype(np.float32)


def find_centre(image: np.ndarray) -> tuple[float, float]:
    """Return the centre of mass as (x, y)."""
    image = np.asarray(image, dtype=np.float64)
    y, x = np.indices(image.shape)
    return float((image * x).sum() / image.sum()), float((image * y).sum() / image.sum())


def test_names_of_columns_carry_their_unit() -> None:
    endings = {"Å": "_angstrom", "degrees": "_deg", "kV": "_kv", "mm": "_mm"}
    found = set()
    for table in TABLES.values():
        for column in table.columns:
            unit = re.search(r"(?:^|, )(Å|degrees|kV|mm)(?=[ ,;]|$)", column.description)
            assert (unit is not None) == column.name.endswith(tuple(endings.values())), f"{table.name}.{column.name}"
            if unit is not None:
                assert column.name.endswith(endings[unit[1]]), f"{table.name}.{column.name}"
                found.add(unit[1])
    assert found == set(endings)


def test_arrays_are_indexed_row_then_column(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(np.zeros((30, 50), dtype=np.float32))
        assert (int(mrc.header.nx), int(mrc.header.ny)) == (50, 30)
        mrc.data[7, 11] = 1
    image = read_micrograph(tmp_path / "m.mrc")[0]
    assert image.shape == (30, 50)
    # The element that is 11 columns along the file's fastest axis and 7 rows along the other.
    assert image[7, 11] == 1


def test_positions_count_from_the_centre_of_the_first_pixel() -> None:
    spot = torch.from_numpy(make_spot((30, 50), x=11.0, y=7.0, sigma=2.0))
    assert tuple(np.unravel_index(int(spot.argmax()), spot.shape)) == (7, 11)
    np.testing.assert_allclose(find_peaks(spot, 5.0, 0.5)[0], [[11.0, 7.0]], atol=1e-6)
    between = torch.from_numpy(make_spot((30, 50), x=11.5, y=7.25, sigma=2.0))
    np.testing.assert_allclose(find_peaks(between, 5.0, 0.5)[0], [[11.5, 7.25]], atol=0.02)


def test_the_centre_of_a_box_is_element_half_its_side() -> None:
    image = torch.from_numpy(make_spot((80, 90), x=40.0, y=33.0, sigma=2.0))
    box = extract_boxes(image, torch.tensor([[40.0, 33.0]]), 24, 24)[0].numpy()
    assert tuple(np.unravel_index(box.argmax(), box.shape)) == (12, 12)
    sphere = compute_soft_sphere(10, 1.5, 1.0).numpy()
    np.testing.assert_allclose([np.average(axis, weights=sphere) for axis in np.indices(sphere.shape)], 5.0, atol=1e-6)


def test_boxes_are_centred_on_fractions_of_a_pixel() -> None:
    image = torch.from_numpy(make_spot((80, 90), x=40.3, y=33.8, sigma=2.5))
    for side in (32, 16):
        box = extract_boxes(image, torch.tensor([[40.3, 33.8]]), 32, side)[0].numpy()
        np.testing.assert_allclose(find_centre(box), side // 2, atol=0.01)


def test_a_fourier_crop_keeps_pixel_centres_at_integers() -> None:
    spot = make_spot((96, 120), x=50.0, y=41.0, sigma=6.0)
    spectrum = torch.from_numpy(np.fft.rfft2(spot).astype(np.complex64))
    small = np.fft.irfft2(apply_fourier_crop_2d(spectrum, (96, 120), (24, 40)).numpy(), s=(24, 40))
    np.testing.assert_allclose(find_centre(small), (50.0 * 40 / 120, 41.0 * 24 / 96), atol=1e-3)


def test_a_fourier_crop_keeps_the_mean() -> None:
    image = np.random.default_rng(2).normal(7.0, 1.0, (60, 80)).astype(np.float32)
    small = irfft2(apply_fourier_crop_2d(rfft2(torch.from_numpy(image)), (60, 80), (20, 30)), (20, 30))
    assert abs(float(small.mean()) - float(image.mean(dtype=np.float64))) < 1e-4


def test_pooling_would_move_positions_by_half_of_what_it_adds() -> None:
    spot = make_spot((96, 120), x=50.0, y=41.0, sigma=6.0)
    pooled = spot.reshape(24, 4, 30, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(find_centre(pooled), ((50.0 - 1.5) / 4, (41.0 - 1.5) / 4), atol=1e-3)
    cropped = irfft2(apply_fourier_crop_2d(rfft2(torch.from_numpy(spot)), (96, 120), (24, 30)), (24, 30)).numpy()
    np.testing.assert_allclose(np.subtract(find_centre(cropped), find_centre(pooled)), 1.5 / 4, atol=2e-3)


def test_picks_from_a_reduced_micrograph_are_not_displaced() -> None:
    # Dark discs of 64 px are looked for at a fifth to a third of the resolution; pooling would move all by a pixel or more.
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[80:700:110, 80:700:110]
    places = np.column_stack([columns.ravel(), rows.ravel()]) + rng.uniform(-10, 10, (rows.size, 2))
    y, x = np.indices((768, 768), dtype=np.float32)
    image = rng.normal(0, 0.3, (768, 768)).astype(np.float32)
    for centre_x, centre_y in places:
        image -= expit(32 - np.hypot(x - centre_x, y - centre_y))
    tensor = torch.from_numpy(image)
    profile = learn_profile([tensor], 2.0, 128.0)
    found = pick_blobs(tensor, 2.0, profile, MatchSettings(128.0, 0.75, 0.5)).xy_px
    distances = np.linalg.norm(found[:, None] - places[None], axis=2)
    assert (distances.min(axis=0) < 2).all()
    offsets = found[distances.argmin(axis=0)] - places
    np.testing.assert_allclose(offsets.mean(axis=0), 0, atol=0.2)


def test_sums_over_half_spectra_count_both_halves() -> None:
    rng = np.random.default_rng(6)
    for shape in ((12, 16), (12, 15)):
        image = rng.normal(size=shape)
        half = np.abs(np.fft.rfft2(image)) ** 2
        weighted = (half * compute_half_weights(shape).numpy()).sum()
        np.testing.assert_allclose(weighted, image.size * np.square(image).sum(), rtol=1e-6)
        full = np.abs(np.fft.fft2(image)) ** 2
        ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]
        ring = np.round(np.hypot(ky, kx) * 12)
        expected = [full[ring == r].mean() for r in range(7)]
        np.testing.assert_allclose(compute_radial_mean(torch.from_numpy(half), shape), expected, rtol=1e-6)


def test_a_positive_shift_moves_towards_larger_indices() -> None:
    image = np.random.default_rng(7).normal(size=(20, 24)).astype(np.float32)
    phase = compute_shift_phase((20, 24), torch.tensor([3.0, -5.0]))
    moved = irfft2(rfft2(torch.from_numpy(image)) * phase, (20, 24))
    np.testing.assert_allclose(moved, np.roll(image, (3, -5), axis=(0, 1)), atol=1e-5)
