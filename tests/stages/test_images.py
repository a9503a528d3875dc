import polars as pl
import pytest
import torch

from vitreous.ops.ctf import compute_ctf_1d
from vitreous.stages.images import compute_particle_ctf

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


def test_doubtful_fits_are_not_used() -> None:
    scores = {"ctf_score": [0.8, 0.1], "ctf_resolution_angstrom": [4.0, 4.0], "ctf_significance": [30.0, 30.0]}
    fits = pl.DataFrame(
        {
            "defocus_u_angstrom": [15_000.0, 12_000.0],
            "defocus_v_angstrom": [15_000.0, 11_000.0],
            "defocus_angle_deg": [0.0, 30.0],
            "phase_shift_deg": [0.0, 0.0],
            **scores,
        }
    )
    ctf = compute_particle_ctf(make_particles(), MICROGRAPHS.hstack(fits), BOX)
    assert ctf is not None
    k = torch.arange(BOX // 2 + 1) / (BOX * PIXEL)
    expected = -compute_ctf_1d(k, 15_000.0, voltage_kv=200.0, cs_mm=1.4, amplitude_contrast=0.07)
    # The particle of k takes the defocus of m, in k's own optics; those of m stay.
    assert torch.allclose(ctf[0, 0], expected, atol=1e-4)
    assert torch.equal(ctf[1:3], compute_particle_ctf(make_particles(), MICROGRAPHS, BOX)[1:3])  # type: ignore[index]
    worse = fits.with_columns(ctf_score=pl.lit(0.1))
    assert compute_particle_ctf(make_particles(), MICROGRAPHS.hstack(worse), BOX) is None
