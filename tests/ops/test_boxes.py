"""Boxes cut from analytic images, and parity with RELION's extraction."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.ops.boxes import extract_boxes, normalise_boxes, remove_outliers


def make_gaussians(shape: tuple[int, int], xy: torch.Tensor, sigma: float) -> torch.Tensor:
    y, x = torch.arange(shape[0])[:, None], torch.arange(shape[1])[None, :]
    return sum(
        (torch.exp(-((x - cx).square() + (y - cy).square()) / (2 * sigma**2)) for cx, cy in xy), torch.zeros(shape)
    )


def find_centre(box: torch.Tensor) -> tuple[float, float]:
    """Return the centre of mass as (x, y) from element N // 2."""
    offset = torch.arange(box.shape[-1], dtype=torch.float64) - box.shape[-1] // 2
    weights = box.double()
    return tuple((weights.sum(axis) * offset).sum().item() / weights.sum().item() for axis in (0, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(200, 240), (201, 241)])
@pytest.mark.parametrize(("box", "out"), [(64, 64), (64, 32), (60, 36), (72, 42), (66, 66)])
def test_a_gaussian_between_pixels_lands_on_the_centre(shape: tuple[int, int], box: int, out: int) -> None:
    xy = torch.tensor([[60.0, 60.0], [150.25, 61.5], [60.49, 140.51], [159.9, 139.05]], dtype=torch.float64)
    boxes = extract_boxes(make_gaussians(shape, xy, 4.0), xy, box, out)
    assert boxes.shape == (4, out, out)
    for one in boxes:
        np.testing.assert_allclose(find_centre(one), 0, atol=0.01)
        assert one[out // 2, out // 2].item() == pytest.approx(1, abs=2e-3)


def test_without_shift_or_reduction_pixels_are_copied() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 60))).float()
    boxes = extract_boxes(image, torch.tensor([[30.0, 20.0]]), 16, 16)
    np.testing.assert_allclose(boxes[0], image[12:28, 22:38], atol=1e-5)


def test_reduction_keeps_waves_and_scales_lengths() -> None:
    x = torch.arange(120.0)
    image = torch.cos(2 * torch.pi * 3 * (x - 60) / 48)[None, :].expand(100, -1) + 5
    box = extract_boxes(image.contiguous(), torch.tensor([[60.0, 50.0]]), 48, 30)[0]
    expected = torch.cos(2 * torch.pi * 3 * (torch.arange(30.0) - 15) / 30) + 5
    np.testing.assert_allclose(box, expected.expand(30, -1), atol=1e-4)


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (59.0, 49.0), (3.0, 45.0)])
def test_the_micrograph_is_mirrored_beyond_its_edges(x: float, y: float) -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 60))).float()
    box = extract_boxes(image, torch.tensor([[x, y]]), 20, 20)[0]
    rows, columns = np.arange(int(y) - 10, int(y) + 10), np.arange(int(x) - 10, int(x) + 10)
    mirrored_rows = np.abs(np.where(rows > 49, 98 - rows, rows))
    mirrored_columns = np.abs(np.where(columns > 59, 118 - columns, columns))
    np.testing.assert_allclose(box, image[mirrored_rows][:, mirrored_columns], atol=1e-5)


def test_no_position_no_box() -> None:
    assert extract_boxes(torch.zeros(50, 60), torch.zeros(0, 2), 20, 10).shape == (0, 10, 10)


@pytest.mark.parametrize(("box", "out"), [(21, 10), (20, 9), (20, 22)])
def test_sides_that_are_refused(box: int, out: int) -> None:
    with pytest.raises(ValueError, match="even sides"):
        extract_boxes(torch.zeros(50, 60), torch.zeros(1, 2), box, out)


def test_micrograph_smaller_than_half_a_box() -> None:
    with pytest.raises(ValueError, match="too small"):
        extract_boxes(torch.zeros(15, 60), torch.zeros(1, 2), 40, 40)


@pytest.mark.parametrize("n", [32, 33])
def test_ring_has_mean_0_and_deviation_1_and_no_ramp(n: int) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:n, :n] - n // 2
    boxes = rng.normal(1e3, 5, (3, n, n)) + 0.7 * x - 1.3 * y
    boxes[1] *= 1e-3
    result = normalise_boxes(torch.from_numpy(boxes).float(), 11.5).double().numpy()
    outside = np.hypot(x, y) > 11.5
    for box in result:
        assert abs(box[outside].mean()) < 1e-4
        assert abs(box[outside].std(ddof=1) - 1) < 1e-4
        np.testing.assert_allclose([(box * x)[outside].sum(), (box * y)[outside].sum()], 0, atol=0.05)
    # Scale and offset of the micrograph do not matter.
    np.testing.assert_allclose(normalise_boxes(torch.from_numpy(7 * boxes - 3), 11.5), result, atol=2e-4)


def test_a_box_without_variation_becomes_zero() -> None:
    assert normalise_boxes(torch.full((1, 16, 16), 4.0), 5).abs().max().item() == 0


def test_a_radius_that_leaves_nothing() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        normalise_boxes(torch.zeros(1, 16, 16), 11)


def test_outliers_are_limited() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(100, 100))).float()
    image[3, 4], image[5, 6] = 500, -500
    mean, deviation = image.mean().item(), image.std().item()
    clean = remove_outliers(image, 8)
    assert clean[3, 4].item() == pytest.approx(mean + 8 * deviation, rel=1e-5)
    assert clean[5, 6].item() == pytest.approx(mean - 8 * deviation, rel=1e-5)
    assert int((clean != image).sum()) == 2


_STAR = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnMicrographPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
1 opticsGroup1 1.5 300 2.7 0.1

data_micrographs

loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
mic.mrc 1

"""


@pytest.mark.relion
@pytest.mark.parametrize("out", [96, 48])
def test_extraction_is_that_of_relion(tmp_path: Path, out: int) -> None:
    rng = np.random.default_rng(0)
    xy = rng.integers(70, 430, (12, 2))
    y, x = np.mgrid[:500, :500]
    k_squared = np.fft.fftfreq(500)[:, None] ** 2 + np.fft.fftfreq(500)[None, :] ** 2
    smooth = np.fft.ifft2(np.fft.fft2(rng.normal(size=(500, 500))) * np.exp(-60 * k_squared))
    image = (smooth.real * 4 + 100).astype(np.float32)
    for cx, cy in xy:
        image -= 3 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 12**2)).astype(np.float32)
    write_mrc(tmp_path / "mic.mrc", image, 1.5)
    (tmp_path / "mics.star").write_text(_STAR)
    (tmp_path / "AP").mkdir()
    rows = "".join(f"{a} {b}\n" for a, b in xy)
    (tmp_path / "AP" / "mic_pick.star").write_text(
        f"\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n{rows}\n"
    )
    command = (
        "relion_preprocess --i mics.star --coord_dir AP/ --coord_suffix _pick.star --part_star Ex/particles.star --part_dir Ex/ "
        f"--extract --extract_size 96 --scale {out} --norm --bg_radius {0.375 * out:g} --white_dust -1 --black_dust -1 "
        "--invert_contrast"
    )
    program = shutil.which("relion_preprocess")
    assert program is not None
    subprocess.run([program, *command.split()[1:]], cwd=tmp_path, check=True, capture_output=True)
    theirs = read_mrc(tmp_path / "Ex" / "mic.mrcs")[0]
    boxes = extract_boxes(torch.from_numpy(image), torch.from_numpy(xy).double(), 96, out)
    ours = normalise_boxes(-boxes, 0.375 * out).numpy()
    assert ours.shape == theirs.shape
    for one, other in zip(ours, theirs, strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999
        assert np.polyfit(one.ravel(), other.ravel(), 1)[0] == pytest.approx(1, abs=0.02)
