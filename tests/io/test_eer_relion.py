"""EER movies and their gain references as RELION reads them, which takes the detector's 4096 x 4096 pixels only."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
import torch

from vitreous.io.eer import EerRendering
from vitreous.io.gain import read_gain
from vitreous.io.movie import read_movie
from vitreous.io.mrc import read_mrc
from vitreous.io.star import read_star
from vitreous.ops.correct import CorrectionSettings, correct_movie

SIDE, N_FRAMES, GROUPING = 4096, 8, 2
STEP = np.array([3, -2])
"""By which the specimen moves from one fraction to the next, as (y, x), px."""
MOVIES = """
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
opticsGroup1 1 1.0 300 2.7 0.07

data_movies

loop_
_rlnMicrographMovieName #1
_rlnOpticsGroup #2
m.eer 1
"""


def draw_events(rng: np.random.Generator) -> list[np.ndarray]:
    """Return the events of every detector frame: electrons through a mosaic that moves."""
    mosaic = (0.02 + 0.1 * rng.random((SIDE // 8, SIDE // 8), np.float32)).repeat(8, 0).repeat(8, 1)
    frames = []
    for number in range(N_FRAMES):
        moved = np.roll(mosaic, number // GROUPING * STEP, (0, 1))
        y, x = np.nonzero(rng.random((SIDE, SIDE), np.float32) < moved)
        frames.append(np.stack([y, x, y % 4, x % 4], axis=1))
    return frames


def shrink(image: np.ndarray) -> np.ndarray:
    return image.reshape(SIDE // 32, 32, SIDE // 32, 32).mean((1, 3), dtype=np.float64)


@pytest.mark.relion
@pytest.mark.slow
def test_relion_reads_the_same_movie_and_gain(tmp_path: Path, write_eer: Callable[..., None]) -> None:
    write_eer(tmp_path / "m.eer", draw_events(np.random.default_rng(0)), (SIDE, SIDE))
    # Nothing in it is the same when turned or flipped.
    factors = np.ones((SIDE, SIDE), np.float32)
    factors[200:1500, 300:3000] = 1.5
    tifffile.imwrite(tmp_path / "camera.gain", factors)
    (tmp_path / "movies.star").write_text(MOVIES, encoding="utf-8")
    command = (
        "relion_run_motioncorr --i movies.star --o MC/ --use_own --j 1 --patch_x 1 --patch_y 1 --bfactor 150 --bin_factor 1 "
        f"--dose_per_frame 1 --preexposure 0 --eer_grouping {GROUPING} --eer_upsampling 1 --gainref camera.gain"
    )
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    shifts = read_star(tmp_path / "MC" / "m.star")["global_shift"]
    relion = -np.stack([shifts[f"rlnMicrographShift{axis}"].cast(pl.Float64).to_numpy() for axis in "YX"], axis=1)
    frames = read_movie(tmp_path / "m.eer", EerRendering(frames_per_fraction=GROUPING))
    gain = read_gain(tmp_path / "camera.gain")
    settings = CorrectionSettings(1.0, 300.0, None, local=False)
    ours = correct_movie(torch.from_numpy(frames), torch.from_numpy(gain), settings)
    path = np.arange(N_FRAMES // GROUPING)[:, None] * STEP
    np.testing.assert_allclose(ours.motion.shifts_px, path, atol=0.1)
    np.testing.assert_allclose(relion, path, atol=0.1)
    # Beyond the edges the two go on differently.
    inner = (slice(1, -1), slice(1, -1))
    ours_shrunk, theirs = (
        shrink(image)[inner] for image in (ours.plain.numpy(), read_mrc(tmp_path / "MC" / "m.mrc")[0])
    )
    np.testing.assert_allclose(ours_shrunk, theirs, rtol=0.05)
    assert np.corrcoef(ours_shrunk.ravel(), theirs.ravel())[0, 1] > 0.999
