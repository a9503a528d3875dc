"""Conventions of movies: where the corrected micrograph lies, the sign of motion, and exposure; RELION has a say."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.integrate
import starfile
import tifffile
import torch

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.model.stage import Context, RunFolder
from vitreous.ops.dose import compute_critical_exposure, compute_dose_weights
from vitreous.ops.gain import find_defects, replace_defects
from vitreous.stages.motion import STAGE, ExposureItem, MotionParams

N_FRAMES, SHAPE, PIXEL = 6, (256, 288), 2.0
SHIFTS_YX = np.array([[0, 0], [1.5, -2.0], [2.5, -3.5], [3.25, -4.5], [3.75, -5.0], [4.0, -5.5]])
LANDMARK_XY = (140.0, 120.0)


def make_movie() -> np.ndarray:
    """Return counted frames of one scene that moves: the landmark, a dark disc, and many small spots."""
    rng = np.random.default_rng(12)
    spots = rng.uniform(-20, 320, (400, 2))
    y, x = np.indices(SHAPE, dtype=np.float64)
    frames = []
    for dy, dx in SHIFTS_YX:
        scene = np.full(SHAPE, 30.0)
        scene -= 12 * (np.hypot(x - LANDMARK_XY[0] - dx, y - LANDMARK_XY[1] - dy) < 14)
        for spot_x, spot_y in spots:
            left, top = int(spot_x + dx) - 8, int(spot_y + dy) - 8
            rows, columns = slice(max(0, top), max(0, top + 17)), slice(max(0, left), max(0, left + 17))
            part = (x[rows, columns] - spot_x - dx) ** 2 + (y[rows, columns] - spot_y - dy) ** 2
            scene[rows, columns] -= 6 * np.exp(-part / 8)
        frames.append(rng.poisson(np.maximum(scene, 0)))
    return np.array(frames).astype(np.uint8)


@dataclass(frozen=True)
class Corrected:
    """What the stage made of the movie."""

    folder: Path
    movie: np.ndarray
    weighted: np.ndarray
    plain: np.ndarray
    shifts_xy: np.ndarray


@pytest.fixture(scope="module")
def corrected(tmp_path_factory: pytest.TempPathFactory) -> Corrected:
    folder = tmp_path_factory.mktemp("motion")
    movie = make_movie()
    write_tiff(folder / "m.tif", movie)
    item = ExposureItem(
        item_id="m", movie_path="m.tif", micrograph_path=None, gain_path=None, n_frames=N_FRAMES, voltage_kv=300.0,
        pixel_size_angstrom=PIXEL, cs_mm=2.7, amplitude_contrast=0.1, optics_group=1, dose_per_frame=7.5,
        pre_exposure=0.0,
    )  # fmt: skip
    params = MotionParams()
    done = STAGE.compute(STAGE.load(item, params, Context(folder)), params)
    STAGE.save(done, item, RunFolder(folder, folder / "run"))
    images = folder / "run" / "images"
    shifts = json.loads((images / "m_motion.json").read_text())
    return Corrected(
        folder,
        movie,
        read_mrc(images / "m.mrc")[0],
        read_mrc(images / "m_nodw.mrc")[0],
        np.column_stack([shifts["shift_x_px"], shifts["shift_y_px"]]),
    )


def find_landmark(image: np.ndarray) -> np.ndarray:
    """Return the centre (x, y) of the dark disc: where its correlation with a disc peaks, by a parabola."""
    y, x = np.indices(SHAPE)
    disc = np.hypot(x - LANDMARK_XY[0], y - LANDMARK_XY[1]) < 14
    spectrum = np.fft.fft2(image.mean() - image) * np.fft.fft2(disc - disc.mean()).conj()
    map_ = np.fft.ifft2(spectrum).real
    top = np.array(np.unravel_index(map_.argmax(), SHAPE))
    fine = []
    for axis in range(2):
        before, here, after = (np.roll(map_, -step, axis)[tuple(top)] for step in (-1, 0, 1))
        fine.append((top[axis] + SHAPE[axis] / 2) % SHAPE[axis] - SHAPE[axis] / 2)
        fine[-1] += 0.5 * (before - after) / (before - 2 * here + after)
    return np.array(LANDMARK_XY) + fine[::-1]


def test_the_corrected_micrograph_lies_where_the_first_frame_does(corrected: Corrected) -> None:
    for image in (corrected.plain, corrected.weighted):
        np.testing.assert_allclose(find_landmark(image), LANDMARK_XY, atol=0.25)
    # Had the frames been brought onto the middle one, it would be off by three pixels.
    assert np.abs(find_landmark(corrected.movie[3].astype(np.float64)) - LANDMARK_XY).max() > 2


def test_the_trajectory_begins_at_zero(corrected: Corrected) -> None:
    assert corrected.shifts_xy[0].tolist() == [0, 0]


def test_the_trajectory_says_where_the_specimen_went(corrected: Corrected) -> None:
    np.testing.assert_allclose(corrected.shifts_xy, SHIFTS_YX[:, ::-1], atol=0.25)


@pytest.mark.relion
def test_shifts_of_relion_are_the_opposite(corrected: Corrected) -> None:
    folder = corrected.folder
    optics = {"rlnOpticsGroupName": "a", "rlnOpticsGroup": 1, "rlnMicrographOriginalPixelSize": PIXEL}
    optics |= {"rlnVoltage": 300.0, "rlnSphericalAberration": 2.7, "rlnAmplitudeContrast": 0.1}
    movies = pd.DataFrame({"rlnMicrographMovieName": ["m.tif"], "rlnOpticsGroup": [1]})
    starfile.write({"optics": pd.DataFrame([optics]), "movies": movies}, folder / "movies.star")
    command = "relion_run_motioncorr --i movies.star --o MC/ --use_own --j 1 --patch_x 1 --patch_y 1 --bfactor 150"
    words = [*command.split(), "--dose_per_frame", "7.5", "--preexposure", "0", "--bin_factor", "1"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = starfile.read(folder / "MC" / "m.star", always_dict=True)["global_shift"]
    theirs = table[["rlnMicrographShiftX", "rlnMicrographShiftY"]].to_numpy()
    np.testing.assert_allclose(theirs, -corrected.shifts_xy, atol=0.5)
    assert np.abs(theirs).max() > 4


def test_the_corrected_micrograph_is_a_sum_of_counts(corrected: Corrected) -> None:
    assert corrected.plain.mean() == pytest.approx(corrected.movie.sum(axis=0).mean(), rel=1e-3)


@pytest.mark.parametrize("pre_exposure", [0.0, 4.0])
def test_a_frame_is_weighted_by_the_mean_over_its_own_exposure(pre_exposure: float) -> None:
    k = torch.tensor([0.05, 0.1, 0.3], dtype=torch.float64)
    weights = compute_dose_weights(k, 4, 2.5, pre_exposure, 300.0)
    for column, frequency in enumerate(k.tolist()):
        critical = 0.24499 * frequency**-1.6649 + 2.8141
        for frame in range(4):
            start = pre_exposure + 2.5 * frame
            area = scipy.integrate.quad(lambda n, c=critical: np.exp(-n / (2 * c)), start, start + 2.5)[0]
            assert float(weights[frame, column]) == pytest.approx(area / 2.5, rel=1e-5)


def test_damage_is_faster_at_a_lower_voltage() -> None:
    k = torch.tensor([0.02, 0.1, 0.4], dtype=torch.float64)
    at_300, at_200, at_100 = (compute_critical_exposure(k, voltage).numpy() for voltage in (300.0, 200.0, 100.0))
    np.testing.assert_allclose(at_300, 0.24499 * k.numpy() ** -1.6649 + 2.8141)
    np.testing.assert_allclose(at_200 / at_300, 0.8)
    np.testing.assert_allclose(at_100 / at_300, 0.532)


def test_white_noise_stays_white_in_a_weighted_sum(tmp_path: Path) -> None:
    noise = np.random.default_rng(13).poisson(30, (8, 200, 240)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", noise, photometric="minisblack", metadata=None)
    item = ExposureItem(
        item_id="m", movie_path="m.tif", micrograph_path=None, gain_path=None, n_frames=8, voltage_kv=300.0,
        pixel_size_angstrom=1.0, cs_mm=2.7, amplitude_contrast=0.1, optics_group=1, dose_per_frame=5.0,
        pre_exposure=0.0,
    )  # fmt: skip
    params = MotionParams(max_shift_angstrom=1.0)
    done = STAGE.compute(STAGE.load(item, params, Context(tmp_path)), params)
    power = np.abs(np.fft.fft2(done.micrograph.numpy())) ** 2 / noise[0].size
    ky, kx = np.fft.fftfreq(200)[:, None], np.fft.fftfreq(240)[None, :]
    k = np.hypot(ky, kx)
    for low, high in ((0.03, 0.1), (0.1, 0.25), (0.25, 0.5)):
        assert power[(k > low) & (k < high)].mean() == pytest.approx(8 * 30, rel=0.05)


def test_a_zero_in_the_gain_marks_a_bad_pixel() -> None:
    gain = torch.ones(20, 24)
    gain[5, 7] = 0
    mean = torch.from_numpy(np.random.default_rng(14).normal(10, 1, (20, 24)).astype(np.float32))
    defects = find_defects(mean, gain, 8.0)
    assert torch.nonzero(defects).tolist() == [[5, 7]]
    repaired = replace_defects(mean * gain, defects)
    neighbours = mean[4:7, 6:9]
    assert repaired[5, 7] in neighbours


def test_finished_micrographs_pass_unchanged(tmp_path: Path) -> None:
    image = np.random.default_rng(15).normal(size=(40, 50)).astype(np.float32)
    write_mrc(tmp_path / "m.mrc", image, 1.5)
    item = ExposureItem(
        item_id="m", movie_path=None, micrograph_path="m.mrc", gain_path=None, n_frames=1, voltage_kv=300.0,
        pixel_size_angstrom=1.5, cs_mm=2.7, amplitude_contrast=0.1, optics_group=1, dose_per_frame=None,
        pre_exposure=0.0,
    )  # fmt: skip
    done = STAGE.compute(STAGE.load(item, MotionParams(), Context(tmp_path)), MotionParams())
    np.testing.assert_array_equal(done.micrograph.numpy(), image)
