"""Places, orientations, and the two projectors against each other and against sums over atoms."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitreous.errors import SettingError
from vitreous.io.structure import AtomicStructure
from vitreous.simulate.particles import (
    AtomProjector,
    SliceProjector,
    compute_rotations,
    draw_orientations,
    place_particles,
)
from vitreous.simulate.volume import Specimen, compute_volume, make_specimen

PIXEL = 2.0


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    """A lopsided cloud of 600 atoms, so that no symmetry hides a mistake."""
    rng = np.random.default_rng(0)
    lobe = rng.normal((18, -9, 6), 4, (200, 3))
    positions = np.concatenate((rng.normal(0, 10, (400, 3)), lobe))
    return make_specimen(AtomicStructure(positions, rng.choice([6, 7, 8], 600), rng.uniform(30, 80, 600)), PIXEL)


@pytest.fixture(scope="module")
def volume(specimen: Specimen) -> NDArray[np.float32]:
    return compute_volume(specimen)


def compute_k(size: int) -> torch.Tensor:
    return torch.from_numpy(np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]))


def test_rotations_are_those_of_relion() -> None:
    # Euler_angles2matrix written out from the definition: alpha = rot, beta = tilt, gamma = psi.
    rot, tilt, psi = np.deg2rad([31.0, 62.0, -47.0])
    ca, cb, cg, sa, sb, sg = np.cos(rot), np.cos(tilt), np.cos(psi), np.sin(rot), np.sin(tilt), np.sin(psi)
    expected = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    np.testing.assert_allclose(compute_rotations(np.array([[31.0, 62.0, -47.0]]))[0], expected, atol=1e-12)


def test_orientations_are_uniform() -> None:
    rotations = compute_rotations(draw_orientations(4000, np.random.default_rng(0)))
    np.testing.assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (4000, 3, 3)), atol=1e-9
    )
    # Over uniform rotations every element has mean 0 and mean square 1/3.
    np.testing.assert_allclose(rotations.mean(0), 0, atol=0.04)
    np.testing.assert_allclose((rotations**2).mean(0), 1 / 3, atol=0.03)


def test_the_two_projectors_agree(specimen: Specimen, volume: NDArray[np.float32]) -> None:
    by_slices, by_atoms = SliceProjector(volume, PIXEL), AtomProjector(specimen)
    k = compute_k(specimen.box_px)
    for rotation in compute_rotations(draw_orientations(5, np.random.default_rng(1))):
        a, b = by_slices.project(rotation), by_atoms.project(rotation)
        for low, high, tolerance in ((0.0, 0.1, 0.005), (0.1, 0.25, 0.01), (0.25, 0.4, 0.02)):
            ring = (k >= low) & (k < high)
            assert float((a - b)[ring].norm() / b[ring].norm()) < tolerance


def test_atoms_land_where_the_rotation_puts_them(specimen: Specimen) -> None:
    rotation = compute_rotations(np.array([[20.0, 75.0, 130.0]]))[0]
    size = specimen.box_px
    ky, kx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    k = compute_k(size)
    factors = (
        specimen.amplitudes[..., None, None] * torch.exp(-specimen.widths[..., None, None] * (k / PIXEL) ** 2 / 4)
    ).sum(1)
    expected = torch.zeros(size, size // 2 + 1, dtype=torch.complex128)
    for position, kind in zip(specimen.positions_angstrom.numpy() @ rotation.T, specimen.kinds, strict=True):
        x, y = position[:2] / PIXEL + size // 2
        expected += factors[kind] * torch.from_numpy(np.exp(-2j * math.pi * (ky * y + kx * x)))
    expected /= PIXEL**2
    actual = AtomProjector(specimen).project(rotation)
    inside = k < 0.45
    assert float((actual - expected)[inside].abs().norm() / expected[inside].abs().norm()) < 1e-3


def test_the_map_keeps_the_total(specimen: Specimen, volume: NDArray[np.float32]) -> None:
    assert volume.sum() * PIXEL**3 == pytest.approx(float(specimen.amplitudes[specimen.kinds].sum()), rel=1e-3)


def test_particles_keep_their_distance_and_avoid_what_is_blocked() -> None:
    blocked = np.zeros((400, 500), dtype=bool)
    blocked[:, :150] = True
    window = (slice(50, 350), slice(50, 450))
    places = place_particles(blocked, window, 30, 32.5, np.random.default_rng(3))
    inside = (places >= [50, 50]) & (places <= [449, 349])
    assert inside.all(1).sum() == 30
    assert places[:, 0].min() > 149
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(len(places))
    assert distances.min() >= 32.5


def test_too_many_particles_are_refused() -> None:
    with pytest.raises(SettingError, match="no room"):
        place_particles(
            np.zeros((100, 100), dtype=bool), (slice(0, 100), slice(0, 100)), 50, 40.0, np.random.default_rng(0)
        )
