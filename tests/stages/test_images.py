from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from vitreous.errors import InputFileError
from vitreous.io.mrc import write_mrc
from vitreous.ops.ctf import compute_ctf_1d
from vitreous.stages.images import compute_particle_ctf, read_particle_images

BOX, PIXEL = 16, 2.5
OPTICS = {"m": (300.0, 2.7, 0.1), "k": (200.0, 1.4, 0.07)}
MICROGRAPHS = pl.DataFrame(
    [(name, *values) for name, values in OPTICS.items()],
    schema=["micrograph_id", "voltage_kv", "cs_mm", "amplitude_contrast"],
    orient="row",
)


def make_particles(**columns: list[object]) -> pl.DataFrame:
    table = {
        "micrograph_id": ["k", "m", "m", "k"],
        "stack_path": ["k.mrcs", "m.mrcs", "m.mrcs", "k.mrcs"],
        "stack_index": [1, 2, 0, 0],
        "box_px": [BOX] * 4,
        "stack_pixel_size_angstrom": [PIXEL] * 4,
        "defocus_u_angstrom": [12_000.0, 15_000.0, 15_000.0, None],
        "defocus_v_angstrom": [11_000.0, 15_000.0, 15_000.0, None],
        "defocus_angle_deg": [30.0, 0.0, 0.0, None],
        "phase_shift_deg": [None, 90.0, None, None],
    }
    return pl.DataFrame({**table, **columns}, schema_overrides={"phase_shift_deg": pl.Float64})


def test_images_come_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stacks = {name: rng.normal(size=(n, BOX, BOX)).astype(np.float32) for name, n in (("k", 2), ("m", 3))}
    for name, stack in stacks.items():
        write_mrc(tmp_path / f"{name}.mrcs", stack, PIXEL)
    images = read_particle_images(make_particles(), tmp_path).numpy()
    expected = [stacks["k"][1], stacks["m"][2], stacks["m"][0], stacks["k"][0]]
    assert np.array_equal(images, np.stack(expected))


def test_a_stack_of_one_image_is_a_stack(tmp_path: Path) -> None:
    image = np.random.default_rng(1).normal(size=(1, BOX, BOX)).astype(np.float32)
    write_mrc(tmp_path / "k.mrcs", image, PIXEL)
    particles = make_particles()[3:]
    assert np.array_equal(read_particle_images(particles, tmp_path).numpy(), image)


@pytest.mark.parametrize("shape", [(2, BOX, BOX), (3, BOX + 2, BOX + 2)])
def test_a_stack_that_is_not_what_the_table_says_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_mrc(tmp_path / "k.mrcs", np.zeros((2, BOX, BOX), np.float32), PIXEL)
    write_mrc(tmp_path / "m.mrcs", np.zeros(shape, np.float32), PIXEL)
    with pytest.raises(InputFileError, match=r"m\.mrcs: found a stack of .* expected at least 3 images of 16x16 px"):
        read_particle_images(make_particles(), tmp_path)


def test_a_missing_stack_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"k\.mrcs: found no such file"):
        read_particle_images(make_particles(), tmp_path)


def test_ctf_is_that_of_each_micrograph_with_the_contrast_inverted() -> None:
    ctf = compute_particle_ctf(make_particles(), MICROGRAPHS, BOX)
    assert ctf is not None
    assert ctf.shape == (4, BOX, BOX // 2 + 1)
    k = torch.arange(BOX // 2 + 1) / (BOX * PIXEL)

    def expect(name: str, defocus: float, phase: float) -> torch.Tensor:
        voltage, cs, contrast = OPTICS[name]
        optics = {"voltage_kv": voltage, "cs_mm": cs, "amplitude_contrast": contrast, "phase_shift_deg": phase}
        return -compute_ctf_1d(k, defocus, **optics)

    # Along x, 30 degrees from the axis of U: cos 60 is a half.
    assert torch.allclose(ctf[0, 0], expect("k", 11_750.0, 0.0), atol=1e-4)
    assert torch.allclose(ctf[1, 0], expect("m", 15_000.0, 90.0), atol=1e-4)
    assert torch.allclose(ctf[2, 0], expect("m", 15_000.0, 0.0), atol=1e-4)
    assert float(ctf[2, 0, 0]) == pytest.approx(0.1)
    assert torch.equal(ctf[3], torch.ones(BOX, BOX // 2 + 1))


def test_pixel_sizes_are_those_of_the_rows() -> None:
    mixed = compute_particle_ctf(
        make_particles(stack_pixel_size_angstrom=[PIXEL, PIXEL, 2 * PIXEL, PIXEL]), MICROGRAPHS, BOX
    )
    alone = compute_particle_ctf(make_particles(stack_pixel_size_angstrom=[2 * PIXEL] * 4), MICROGRAPHS, BOX)
    assert mixed is not None
    assert alone is not None
    assert torch.equal(mixed[2], alone[2])
    assert not torch.allclose(mixed[1], alone[1])


def test_there_is_no_ctf_without_a_defocus() -> None:
    assert compute_particle_ctf(make_particles()[3:], MICROGRAPHS, BOX) is None
