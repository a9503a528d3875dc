import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from vitreous.errors import InputFileError, UserError
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import check_table
from vitreous.ops.mask import compute_soft_sphere
from vitreous.ops.resolution import apply_shell_filter
from vitreous.stages.validate import STAGE, ValidateParams

N, PIXEL, DIAMETER = 48, 3.0, 80.0
CURVES = ["fsc_unmasked", "fsc_spherical", "fsc_loose", "fsc_tight", "fsc_corrected"]


def draw_noise(seed: int) -> torch.Tensor:
    return torch.randn(N, N, N, generator=torch.Generator().manual_seed(seed))


def draw_molecule() -> torch.Tensor:
    """A solid with detail at all frequencies, 80 Å wide."""
    return (2 + draw_noise(0)) * compute_soft_sphere(N, 11.0, 3.0)


def validate(root: Path, halves: tuple[torch.Tensor, ...], params: ValidateParams | None = None) -> Saved:
    for number, half in enumerate(halves, start=1):
        write_mrc(root / f"half{number}.mrc", half.numpy(), PIXEL, volume=True)
    volumes = pl.DataFrame(
        {
            "volume_id": ["map"],
            "map_path": ["half1.mrc"],
            "half1_path": ["half1.mrc"],
            "half2_path": ["half2.mrc"],
            "box_px": [N],
            "pixel_size_angstrom": [PIXEL],
            "symmetry": ["C1"],
            "n_particles": [100],
        }
    )
    particles = pl.DataFrame({"diameter_angstrom": [DIAMETER, DIAMETER, 500.0], "rot_deg": [0.0, 1.0, None]})
    return run(root, volumes, particles, params or ValidateParams())


def run(root: Path, volumes: pl.DataFrame, particles: pl.DataFrame, params: ValidateParams) -> Saved:
    inputs = Inputs({"volumes": check_table("volumes", volumes), "particles": particles})
    loaded = STAGE.load(inputs, params, Context(root))
    told: list[float] = []
    result = STAGE.compute(loaded, params, lambda done, _: told.append(done))
    assert told[-1] == 1.0
    return STAGE.save(result, inputs, params, RunFolder(root, root / "run"))


def read_curves(root: Path, saved: Saved) -> pl.DataFrame:
    return pl.read_parquet(root / saved.tables["volumes"]["fsc_path"][0])


@pytest.mark.parametrize("shell", [13, 16])
def test_the_resolution_of_a_band_limited_map_is_found(tmp_path: Path, shell: int) -> None:
    signal = apply_shell_filter(draw_molecule(), (torch.arange(N // 2 + 1) <= shell).float())
    saved = validate(tmp_path, (signal + 0.3 * draw_noise(1), signal + 0.3 * draw_noise(2)))
    row = check_table("volumes", saved.tables["volumes"]).row(0, named=True)
    assert N * PIXEL / row["resolution_unmasked_angstrom"] == pytest.approx(shell + 0.5, abs=0.5)
    # The mask spreads what lies in one shell over its neighbours.
    assert N * PIXEL / row["resolution_angstrom"] == pytest.approx(shell + 1.0, abs=1.0)
    curves = read_curves(tmp_path, saved)
    assert curves.columns == ["frequency_per_angstrom", *CURVES]
    assert curves["frequency_per_angstrom"][shell] == pytest.approx(shell / (N * PIXEL))
    assert saved.warnings == ()
    mask, pixel = read_mrc(tmp_path / row["mask_path"])
    assert mask.shape == (N, N, N)
    inside = compute_soft_sphere(N, 9.0, 0.1).numpy() > 0.5
    assert mask[inside].min() > 0.9
    assert mask[0].max() == 0


def test_the_corrected_curve_of_noise_is_about_zero(tmp_path: Path) -> None:
    """Both halves hold the same blob at low resolution and independent noise of its shape beyond."""
    blob = apply_shell_filter(compute_soft_sphere(N, 11.0, 3.0) * 20, (torch.arange(N // 2 + 1) <= 5).float())
    saved = validate(tmp_path, (blob + draw_noise(1), blob + draw_noise(2)))
    corrected = read_curves(tmp_path, saved)["fsc_corrected"].to_numpy()
    assert abs(corrected[9:24].mean()) < 0.05
    assert np.abs(corrected[9:24]).max() < 0.25


def test_halves_of_nothing_are_not_to_be_trusted(tmp_path: Path) -> None:
    saved = validate(tmp_path, (draw_noise(1), draw_noise(2)))
    assert saved.tables["volumes"]["resolution_angstrom"][0] is None
    assert any("not to be trusted" in warning for warning in saved.warnings)


def test_halves_that_agree_to_nyquist_raise_a_doubt(tmp_path: Path) -> None:
    saved = validate(tmp_path, (draw_molecule(), draw_molecule() + 0.01 * draw_noise(2)))
    assert any("near Nyquist" in warning for warning in saved.warnings)
    assert saved.tables["volumes"]["resolution_angstrom"][0] == pytest.approx(2 * PIXEL)


def test_a_curve_that_rises_again_raises_a_doubt(tmp_path: Path) -> None:
    shells = torch.arange(N // 2 + 1)
    signal = apply_shell_filter(draw_molecule(), ((shells <= 7) | (shells >= 12) & (shells < 18)).float())
    saved = validate(tmp_path, (signal + 0.02 * draw_noise(1), signal + 0.02 * draw_noise(2)))
    assert any("rises again" in warning for warning in saved.warnings)


def test_a_mask_that_promises_too_much_raises_a_doubt(tmp_path: Path) -> None:
    """Past a sharp end of the signal the mask alone makes the halves alike."""
    signal = apply_shell_filter(draw_molecule(), (torch.arange(N // 2 + 1) <= 9).float())
    saved = validate(tmp_path, (signal + 0.05 * draw_noise(1), signal + 0.05 * draw_noise(2)))
    assert any("the mask is too tight" in warning for warning in saved.warnings)
    assert N * PIXEL / saved.tables["volumes"]["resolution_angstrom"][0] < 12.5


def test_the_threshold_is_a_choice(tmp_path: Path) -> None:
    signal = apply_shell_filter(draw_molecule(), torch.exp(-torch.arange(N // 2 + 1) / 4.0))
    halves = (signal + 0.1 * draw_noise(1), signal + 0.1 * draw_noise(2))
    found = [
        validate(tmp_path, halves, ValidateParams(threshold=threshold)).tables["volumes"]["resolution_angstrom"][0]
        for threshold in (0.143, 0.5)
    ]
    assert found[0] < found[1]
    assert math.isfinite(found[1])


def test_bad_half_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"half2\.mrc: found an array of 48x48x40; expected a cube"):
        validate(tmp_path, (draw_noise(1), draw_noise(2)[..., :40]))
    with pytest.raises(UserError, match="48 and 40 voxels"):
        validate(tmp_path, (draw_noise(1), draw_noise(2)[:40, :40, :40]))
    volumes = pl.DataFrame(
        {
            "volume_id": ["map"],
            "map_path": ["map.mrc"],
            "box_px": [N],
            "pixel_size_angstrom": [PIXEL],
            "symmetry": ["C1"],
            "n_particles": [1],
        }
    )
    with pytest.raises(UserError, match="no half maps of map"):
        run(tmp_path, volumes, pl.DataFrame(), ValidateParams())
