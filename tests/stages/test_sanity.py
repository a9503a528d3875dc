"""Numbers that contradict each other are named, with what they may have been mixed up with; usual ones pass."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.model.documents import Facts
from vitreous.model.stage import Context, Inputs, RunFolder, Saved
from vitreous.model.tables import complete_table, empty_table
from vitreous.ops.ctf import compute_ctf_2d
from vitreous.stages.ctf import STAGE, CtfParams
from vitreous.stages.ingest import STAGE as INGEST
from vitreous.stages.ingest import IngestParams
from vitreous.stages.sanity import (
    check_counts,
    check_defocus,
    check_frame_counts,
    check_frame_dose,
    check_pixel_size,
    check_saturation,
    join_warnings,
)

RNG = np.random.default_rng(4)
MOVIE = RNG.integers(0, 30, (3, 16, 24)).astype(np.uint8)


@pytest.mark.parametrize("efficiency", [0.45, 0.7, 1.0, 1.5])
def test_counts_that_agree(efficiency: float) -> None:
    assert check_counts(50 * 0.83**2 / 40 * efficiency, 40, 50.0, 0.83) == ()


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (40.0, ["34.4 per pixel", "0.861 electrons", "40 times as many", "--total-dose 50)", "may be the exposure of one frame"]),
        (1 / 40, ["0.0215 per pixel", "0.861 electrons", "may be 40 times too much"]),
        (4.0, ["super-resolution, not of these binned images (--pixel-size 1.66)", "may not count electrons"]),
        (0.25, ["binned images, not of super-resolution (--pixel-size 0.415)"]),
        (12.0, ["may not count electrons"]),
        (-1.0, ["check --total-dose and --pixel-size"]),
    ],
)  # fmt: skip
def test_counts_that_do_not(times: float, words: list[str]) -> None:
    dose = 1.25
    (warning,) = check_counts(dose * 0.83**2 / 40 * times, 40, dose, 0.83)
    for word in words:
        assert word in warning, warning


def test_exposure_per_frame() -> None:
    assert check_frame_dose(50, 40) == ()
    assert "found 50 e/Å² for each of 40 frames" in check_frame_dose(2000, 40)[0]
    assert "found 0.0125 e/Å²" in check_frame_dose(0.5, 40)[0]


def test_frames_that_are_missing() -> None:
    rows = pl.DataFrame({"exposure_id": ["a", "b", "c"], "n_frames": [40, 40, 20], "dose_per_frame": [1.0, 1.0, 2.0]})
    assert check_frame_counts(rows.head(2)) == ()
    (warning,) = check_frame_counts(rows)
    assert warning.startswith("c: found 20 frames, most movies have 40")
    assert "2 e/Å² each" in warning
    assert check_frame_counts(rows.with_columns(dose_per_frame=pl.lit(None, pl.Float64))) == ()
    assert check_frame_counts(rows.clear()) == ()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_saturation(dtype: type) -> None:
    frames = np.zeros((2, 300, 500), dtype)
    largest = np.iinfo(dtype).max
    frames.flat[:3] = largest
    assert check_saturation(frames) == ()
    frames.flat[:4] = largest
    assert f"hold {largest}" in check_saturation(frames)[0]
    assert check_saturation(frames.astype(np.float32)) == ()


@pytest.mark.parametrize("mean", [4, 6, 12])
def test_saturation_of_four_bits(mean: float) -> None:
    counts = np.random.default_rng(0).poisson(mean, (2, 900, 1000)).astype(np.uint8)
    assert (counts > 15).any()
    (warning,) = check_saturation(np.minimum(counts, 15))
    assert "hold 15, the largest count of 4 bits" in warning
    # A tail that ends there by itself.
    assert check_saturation(np.where(counts > 15, 0, counts).astype(np.uint8)) == ()
    assert check_saturation(np.minimum(counts, 15).astype(np.uint16)) == ()


def test_super_resolution_pixel_size_of_binned_images() -> None:
    """EMPIAR-10345: 0.673 Å of the super-resolution movies given for micrographs binned to 1.345 Å."""
    (warning,) = check_pixel_size([(3838, 3710, 0.673)] * 3)
    for word in ("0.673 Å", "3838x3710", "Gatan K2", "--pixel-size 1.346"):
        assert word in warning
    assert check_pixel_size([(3838, 3710, 1.345), (7676, 7420, 0.673), (999, 999, 0.2)]) == ()


def test_physical_pixel_size_of_super_resolution_movies() -> None:
    (warning,) = check_pixel_size([(11520, 8184, 0.83)])
    for word in ("Gatan K3 in super-resolution", "expected less", "--pixel-size 0.415"):
        assert word in warning


def list_fits(defoci: list[float], scores: list[float]) -> pl.DataFrame:
    columns = {"defocus_u_angstrom": [d + 100 for d in defoci], "defocus_v_angstrom": [d - 100 for d in defoci]}
    return pl.DataFrame({**columns, "ctf_score": scores})


def test_usual_defoci_and_poor_fits_say_nothing() -> None:
    assert check_defocus(list_fits([9000.0, 15000.0, 5000.0], [0.8, 0.9, 0.8]), 0.83) == ()
    assert check_defocus(list_fits([4000.0, 15000.0, 5000.0], [0.1, 0.9, 0.2]), 0.83) == ()
    assert check_defocus(list_fits([4000.0, 5000.0], [0.1, 0.2]), 0.83) == ()


def fit_defocus(root: Path, image: NDArray[np.float32], pixel_size: float) -> pl.DataFrame:
    """Fit the CTF of one micrograph as its stage does."""
    write_mrc(root / "m.mrc", image, pixel_size)
    row = {"micrograph_id": "m", "exposure_id": "m", "micrograph_path": "m.mrc", "accepted": True, "optics_group": 1}
    row |= {"nx_px": image.shape[1], "ny_px": image.shape[0], "pixel_size_angstrom": pixel_size}
    row |= {"voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1}
    params, context = CtfParams(), Context(root)
    micrographs = complete_table("micrographs", pl.DataFrame([row]))
    (item,) = STAGE.plan(Inputs({"micrographs": micrographs}), params, context)
    saved = STAGE.save(STAGE.compute(STAGE.load(item, params, context), params), item, RunFolder(root, root / "runs"))
    return saved.tables["micrographs"]


def test_rings_of_half_the_pixel_size_give_themselves_away(tmp_path: Path) -> None:
    """Images of 1.345 Å per pixel and 2.05 µm, fitted as if they had 0.673: as happened to EMPIAR-10345."""
    real, given, shape = 1.345, 0.673, (1200, 1200)
    generator = torch.Generator().manual_seed(0)
    ctf = compute_ctf_2d(shape, real, 20_600, 20_400, 20, voltage_kv=300, cs_mm=2.7, amplitude_contrast=0.1)
    specimen = torch.fft.irfft2(torch.fft.rfft2(torch.randn(shape, generator=generator)) * ctf, s=shape)
    image = (specimen + torch.randn(shape, generator=generator)).numpy()
    right, wrong = fit_defocus(tmp_path, image, real), fit_defocus(tmp_path, image, given)
    assert right["defocus_u_angstrom"][0] == pytest.approx(20_600, rel=0.01)
    assert check_defocus(right, real) == ()
    (warning,) = check_defocus(wrong, given)
    # A quarter of the defocus, but for Cs.
    for word in ("0.5", "the defocus is 2.1", "--pixel-size 1.346"):
        assert word in warning, warning


def list_doubts(root: Path, facts: Facts) -> list[str]:
    """Ingest the files in `root` and return the warnings."""
    params, inputs, context = IngestParams(), Inputs({}, facts=facts), Context(root)
    rows, warnings = [], list[str]()
    for item in INGEST.plan(inputs, params, context):
        row = INGEST.compute(INGEST.load(item, params, context), params)
        saved = INGEST.save(row, item, RunFolder(root, root / "runs"))
        rows.append(saved.tables["exposures"])
        warnings += saved.warnings
    tables = {"entries": empty_table("entries"), "exposures": pl.concat(rows)}
    return list(INGEST.collect(inputs, Saved(tables, tuple(warnings)), params).warnings)


def test_missing_frames_and_their_exposure(tmp_path: Path) -> None:
    for i in range(3):
        write_tiff(tmp_path / f"m{i}.tif", MOVIE[:2] if i == 2 else MOVIE)
    warnings = list_doubts(tmp_path, Facts(movies="*.tif", pixel_size_angstrom=1.2, total_dose=30))
    assert any(
        "m2: found 2 frames, most movies have 3" in warning and "15 e/Å² each" in warning for warning in warnings
    )


@pytest.mark.parametrize(
    ("dose", "words"),
    [
        (30.0, []),
        (30.0 / 20, ["counts: found 40", "times as many", "may be the exposure of one frame (--total-dose 30)"]),
        (200.0, ["expected about 288 electrons", "0.14 times as many"]),
    ],
)
def test_counts_against_exposure(tmp_path: Path, dose: float, words: list[str]) -> None:
    for i in range(3):
        write_tiff(tmp_path / f"m{i}.tif", RNG.poisson(2.0, (20, 64, 64)).astype(np.uint8))
    warnings = list_doubts(tmp_path, Facts(movies="*.tif", pixel_size_angstrom=1.2, total_dose=dose))
    assert len(warnings) == (1 if words else 0)
    for word in words:
        assert word in warnings[0], warnings


def test_pixel_size_of_super_resolution_for_binned_movies(tmp_path: Path) -> None:
    """The counts give it away where the size of the images does not."""
    write_tiff(tmp_path / "m.tif", RNG.poisson(40 * 1.345**2 / 20, (20, 64, 64)).astype(np.uint8))
    facts = Facts(movies="*.tif", pixel_size_angstrom=0.673, total_dose=40)
    (warning,) = list_doubts(tmp_path, facts)
    for word in ("4 times as many", "binned images (--pixel-size 1.346)"):
        assert word in warning, warning
    assert list_doubts(tmp_path, facts.model_copy(update={"pixel_size_angstrom": 1.345})) == []


def test_pixel_size_of_super_resolution_for_binned_micrographs(tmp_path: Path) -> None:
    """EMPIAR-10345 as CryoPPP gives it."""
    write_tiff(tmp_path / "m.tif", np.arange(3710 * 3838, dtype=np.uint8).reshape(3710, 3838))
    (warning,) = list_doubts(tmp_path, Facts(micrographs="*.tif", pixel_size_angstrom=0.673))
    for word in ("0.673 Å for images of 3838x3710", "Gatan K2", "--pixel-size 1.346"):
        assert word in warning, warning
    assert list_doubts(tmp_path, Facts(micrographs="*.tif", pixel_size_angstrom=1.345)) == []


def test_exposure_that_no_frame_gets(tmp_path: Path) -> None:
    write_tiff(tmp_path / "m.tif", MOVIE)
    warnings = list_doubts(tmp_path, Facts(movies="*.tif", pixel_size_angstrom=1.2, total_dose=3000))
    assert any("found 1e+03 e/Å² for each of 3 frames" in warning for warning in warnings)


def test_saturated_movies_are_named_together(tmp_path: Path) -> None:
    for i in range(4):
        movie = MOVIE.copy()
        if i:
            movie[0, 3, 3] = 255
        write_tiff(tmp_path / f"m{i}.tif", movie)
    (warning,) = list_doubts(tmp_path, Facts(movies="*.tif", pixel_size_angstrom=1.2))
    assert warning.startswith("m1, m2, m3: more than 1 of 100000 pixels hold 255")


def test_frames_without_counts(tmp_path: Path) -> None:
    movie = np.concatenate([MOVIE, MOVIE])
    movie[2] = 0
    write_tiff(tmp_path / "m.tif", movie)
    (warning,) = list_doubts(tmp_path, Facts(movies="*.tif", pixel_size_angstrom=1.2))
    assert "found m.tif, frame 3 among 6" in warning


def test_what_many_files_share_is_said_once() -> None:
    names = [f"m{i}" for i in range(8)]
    warnings = ["gain g: odd", *(f"{name}: saturated" for name in names), "m3: cut", "gain g: odd"]
    assert join_warnings(warnings, names) == ("gain g: odd", "m0, m1, m2, m3, m4 and 3 more: saturated", "m3: cut")
    assert join_warnings(["m1: a", "m10: a"], ["m1"]) == ("m1: a", "m10: a")
