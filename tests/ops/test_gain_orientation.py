"""Gain references are found however they lie, in counts of a scene that is like a specimen; what cannot be told is not told."""

import itertools
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.io.star import write_star
from vitreous.ops.gain_orientation import (
    ORIENTATIONS,
    estimate_gain_orientation,
    fit_gain,
    invert_gain,
    orient_gain,
)

ELECTRONS = 40.0
TURNED_BACK = {"rot90": "rot270", "rot270": "rot90"}
MATRICES = {
    "as-is": (lambda i, j, ny, nx: (i, j)),
    "rot90": (lambda i, j, ny, nx: (ny - 1 - j, i)),
    "rot180": (lambda i, j, ny, nx: (ny - 1 - i, nx - 1 - j)),
    "rot270": (lambda i, j, ny, nx: (j, nx - 1 - i)),
    "flip-x": (lambda i, j, ny, nx: (i, nx - 1 - j)),
    "flip-y": (lambda i, j, ny, nx: (ny - 1 - i, j)),
    "transpose": (lambda i, j, ny, nx: (j, i)),
    "anti-transpose": (lambda i, j, ny, nx: (ny - 1 - j, nx - 1 - i)),
}
"""Where the pixel at (i, j) of the turned image comes from in an image of ny x nx."""


def make_scene(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Beam with a ramp, ice of three grain sizes, a carbon edge and gold; 1 on average."""
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None, :]
    scene = 1 + 0.05 * x + 0.03 * y - 0.04 * (x**2 + y**2)
    for sigma, strength in ((30, 0.04), (6, 0.03), (2, 0.02)):
        ice = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), sigma)
        scene += strength * ice / ice.std()
    scene[(x + 0.7 * y) > 0.9] *= 0.8
    beads = np.zeros(shape)
    beads.flat[rng.choice(beads.size, 20, replace=False)] = 1
    scene *= np.where(scipy.ndimage.gaussian_filter(beads, 4) * 100 > 0.4, 0.5, 1)
    return scene / scene.mean()


def draw_gain(shape: tuple[int, int], rms: float, rng: np.random.Generator) -> np.ndarray:
    return 1 + rms * rng.standard_normal(shape).clip(-4, 4)


def count(gain: np.ndarray, rng: np.random.Generator, electrons: float = ELECTRONS) -> Tensor:
    """Sum of the frames of a movie with hot and dead pixels."""
    factor = np.divide(1, gain, out=np.zeros_like(gain), where=gain > 0)
    bad = rng.choice(gain.size, gain.size // 5000, replace=False)
    factor.flat[bad[::2]], factor.flat[bad[1::2]] = rng.uniform(3, 20, len(bad[::2])), 0
    return torch.from_numpy(rng.poisson(electrons * make_scene(gain.shape, rng) * factor)).float()


def to_tensor(gain: np.ndarray) -> Tensor:
    return torch.from_numpy(gain).float()


@pytest.mark.parametrize("name", list(ORIENTATIONS))
def test_orientations_are_what_their_names_say(name: str) -> None:
    image = torch.arange(20.0).reshape(4, 5)
    turned = orient_gain(image, name)
    assert turned.shape == ((5, 4) if ORIENTATIONS[name].swaps_axes else (4, 5))
    for i, j in itertools.product(*map(range, turned.shape)):
        assert turned[i, j] == image[MATRICES[name](i, j, 4, 5)]
    np.testing.assert_array_equal(orient_gain(turned, TURNED_BACK.get(name, name)), image)


def test_unknown_orientation() -> None:
    with pytest.raises(ValueError, match=r"'rot45' is none of as-is, rot90"):
        orient_gain(torch.ones(2, 2), "rot45")


@pytest.mark.relion
def test_relion_turns_as_its_numbers_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    gain = draw_gain((64, 64), 0.05, rng).astype(np.float32)
    write_mrc(tmp_path / "gain.mrc", gain, 1.5)
    write_mrc(tmp_path / "m.mrcs", rng.poisson(5 / gain, (4, 64, 64)).astype(np.int16), 1.5)
    optics = {"rlnOpticsGroupName": ["a"], "rlnOpticsGroup": [1], "rlnMicrographOriginalPixelSize": [1.5]}
    optics |= {"rlnVoltage": [300.0], "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.07]}
    movies = {"rlnMicrographMovieName": ["m.mrcs"], "rlnOpticsGroup": [1]}
    write_star(tmp_path / "movies.star", {"optics": pl.DataFrame(optics), "movies": pl.DataFrame(movies)})
    for name, orientation in list(ORIENTATIONS.items())[1:]:
        words = f"""relion_run_motioncorr --use_own --i movies.star --o {name}/ --gainref gain.mrc --patch_x 1 --patch_y 1 --j 1
            --gain_rot {orientation.relion_rotation} --gain_flip {orientation.relion_flip} --dose_per_frame 1"""
        subprocess.run(words.split(), cwd=tmp_path, check=True, capture_output=True)
        theirs = read_mrc(tmp_path / name / "gain.mrc")[0]
        np.testing.assert_array_equal(orient_gain(torch.from_numpy(gain), name), theirs)


@pytest.fixture(scope="module")
def weakest() -> tuple[Tensor, Tensor]:
    """Counts of 1024 x 1024 pixels and a gain of 0.5 %."""
    rng = np.random.default_rng(1)
    gain = draw_gain((1024, 1024), 0.005, rng)
    return count(gain, rng), to_tensor(gain)


@pytest.mark.parametrize("name", list(ORIENTATIONS))
@pytest.mark.parametrize("polarity", ["multiply", "divide"])
def test_all_sixteen_ways(weakest: tuple[Tensor, Tensor], name: str, polarity: str) -> None:
    counts, gain = weakest
    on_disk = orient_gain(gain if polarity == "multiply" else invert_gain(gain), TURNED_BACK.get(name, name))
    found = estimate_gain_orientation(counts, on_disk)
    assert (found.verdict, found.orientation, found.polarity) == ("clear", name, polarity)
    assert found.ratio > 5
    # The deviations of a gain of rms s go against those of n counts with r = s / sqrt(s² + 1/n + scene).
    assert found.significance == pytest.approx(1024 * 0.005 / np.sqrt(1 / ELECTRONS), rel=0.1)
    assert found.explained == pytest.approx(1, abs=0.15)
    assert found.counted


@pytest.mark.parametrize("rms", [0.001, 0.0003])
def test_too_weak_a_gain_is_not_guessed(rms: float) -> None:
    rng = np.random.default_rng(2)
    gain = draw_gain((1024, 1024), rms, rng)
    counts = count(gain, rng)
    for name in ("as-is", "rot90", "flip-y"):
        assert estimate_gain_orientation(counts, orient_gain(to_tensor(gain), name)).verdict == "weak"


@pytest.mark.parametrize("shape", [(300, 420), (301, 420), (255, 258)])
@pytest.mark.parametrize("name", list(ORIENTATIONS))
def test_oblong_frames(shape: tuple[int, int], name: str) -> None:
    rng = np.random.default_rng(4)
    gain = draw_gain(shape, 0.03, rng)
    on_disk = orient_gain(to_tensor(gain), TURNED_BACK.get(name, name))
    found = estimate_gain_orientation(count(gain, rng), on_disk)
    assert (found.verdict, found.orientation, found.polarity) == ("clear", name, "multiply")
    assert len(found.correlations) == 4


@pytest.mark.parametrize("middle", [100, 101])
@pytest.mark.parametrize("name", ["rot90", "flip-x", "rot180"])
def test_the_middle_is_the_same_however_it_is_turned(middle: int, name: str) -> None:
    rng = np.random.default_rng(16)
    gain = draw_gain((160, 223), 0.1, rng)
    on_disk = orient_gain(to_tensor(gain), TURNED_BACK.get(name, name))
    found = estimate_gain_orientation(count(gain, rng), on_disk, middle_px=middle)
    assert (found.verdict, found.orientation) == ("clear", name)
    assert found.explained == pytest.approx(1, abs=0.15)


def test_a_few_counts_per_pixel_are_enough_for_a_usual_gain() -> None:
    rng = np.random.default_rng(5)
    gain = draw_gain((512, 512), 0.05, rng)
    found = estimate_gain_orientation(count(gain, rng, electrons=1.5), to_tensor(gain).T)
    assert (found.verdict, found.orientation) == ("clear", "transpose")


def test_sums_of_several_movies_tell_more_than_one() -> None:
    rng = np.random.default_rng(6)
    gain = draw_gain((512, 512), 0.002, rng)
    one = count(gain, rng)
    assert estimate_gain_orientation(one, to_tensor(gain)).verdict == "weak"
    many = one + sum(count(gain, rng) for _ in range(9))
    found = estimate_gain_orientation(many, to_tensor(gain))
    assert (found.verdict, found.orientation) == ("clear", "as-is")


def test_stripes_do_not_hide_the_orientation() -> None:
    """Upside down, the stripes of read-out columns fit as well as they do the right way."""
    rng = np.random.default_rng(7)
    gain = draw_gain((512, 512), 0.01, rng) * (1 + 0.04 * rng.standard_normal((1, 512)))
    found = estimate_gain_orientation(count(gain, rng), to_tensor(gain).flip(0))
    assert (found.verdict, found.orientation, found.second) == ("clear", "flip-y", "as-is")
    assert found.ratio < 1.2


def test_a_symmetric_gain_is_ambiguous() -> None:
    rng = np.random.default_rng(8)
    gain = draw_gain((512, 512), 0.03, rng)
    gain = (gain + gain[::-1]) / 2
    found = estimate_gain_orientation(count(gain, rng), to_tensor(gain))
    assert found.verdict == "ambiguous"
    assert {found.orientation, found.second} == {"as-is", "flip-y"}


def test_the_gain_of_another_camera_is_absent() -> None:
    rng = np.random.default_rng(9)
    counts, other = count(draw_gain((512, 512), 0.02, rng), rng), draw_gain((512, 512), 0.02, rng)
    found = estimate_gain_orientation(counts, to_tensor(other))
    assert found.verdict == "absent"
    assert found.counted
    assert found.expected_significance > 50 > 6 > found.significance


def test_what_is_corrected_needs_no_gain() -> None:
    rng = np.random.default_rng(10)
    gain = draw_gain((512, 512), 0.03, rng)
    found = estimate_gain_orientation(count(gain, rng) * to_tensor(gain), to_tensor(gain))
    assert found.verdict == "absent"
    assert not found.counted


def test_an_exaggerated_gain_is_not_taken() -> None:
    """Correcting with three times the pattern leaves twice of it."""
    rng = np.random.default_rng(11)
    gain = draw_gain((512, 512), 0.03, rng)
    found = estimate_gain_orientation(count(gain, rng), to_tensor(1 + 3 * (gain - 1)))
    assert (found.verdict, found.orientation, found.polarity) == ("partial", "as-is", "multiply")
    assert found.explained == pytest.approx(1 / 3, abs=0.05)


def test_a_gain_without_a_pattern_is_flat() -> None:
    rng = np.random.default_rng(12)
    counts = count(np.ones((256, 256)), rng)
    assert estimate_gain_orientation(counts, torch.full((256, 256), 0.7)).verdict == "flat"
    smooth = torch.linspace(0.9, 1.1, 256).expand(256, 256).contiguous()
    assert estimate_gain_orientation(counts, smooth).verdict in {"flat", "weak"}


def test_defects_of_the_gain_do_not_count() -> None:
    rng = np.random.default_rng(13)
    gain = draw_gain((512, 512), 0.02, rng)
    gain[:, 200:203] = 0
    gain[300:340, 100:150] = 0
    found = estimate_gain_orientation(count(gain, rng), to_tensor(gain).flip(1))
    assert (found.verdict, found.orientation) == ("clear", "flip-x")
    assert found.explained == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", ["as-is", "rot90", "flip-y"])
def test_the_gain_of_super_resolution_fits_binned_movies(name: str) -> None:
    rng = np.random.default_rng(14)
    gain = draw_gain((1024, 1024), 0.04, rng)
    binned = count(gain, rng, electrons=10).reshape(512, 2, 512, 2).sum(dim=(1, 3))
    found = estimate_gain_orientation(binned, orient_gain(to_tensor(gain), TURNED_BACK.get(name, name)))
    assert (found.verdict, found.orientation, found.polarity) == ("clear", name, "multiply")


def test_a_binned_gain_makes_the_sum_of_four_pixels_even() -> None:
    gain = to_tensor(draw_gain((8, 12), 0.3, np.random.default_rng(15)))
    expected = (1 / gain).reshape(4, 2, 6, 2).sum(dim=(1, 3))
    np.testing.assert_allclose(expected * fit_gain(gain, (4, 6)), 4, rtol=1e-5)
    gain[3, 5] = 0
    assert torch.nonzero(fit_gain(gain, (4, 6)) == 0).tolist() == [[1, 2]]


def test_a_coarse_gain_is_repeated() -> None:
    gain = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    finer = fit_gain(gain, (4, 4))
    np.testing.assert_array_equal(finer, np.kron(gain.numpy(), np.ones((2, 2))))
    np.testing.assert_array_equal(fit_gain(finer, (2, 2)), gain)
    assert fit_gain(gain, (2, 2)) is gain


@pytest.mark.parametrize("shape", [(100, 130), (65, 64), (32, 31)])
def test_a_gain_of_another_size_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="fits no frames of 64x64"):
        estimate_gain_orientation(torch.ones(64, 64), torch.ones(shape))
    with pytest.raises(ValueError, match="fits no frames of 64x64"):
        fit_gain(torch.ones(shape), (64, 64))


def test_inverted_divisors_multiply() -> None:
    flat_field = torch.tensor([[2.0, 4.0], [0.0, 1.0]])
    factors = invert_gain(flat_field)
    assert factors[1, 0] == 0
    good = flat_field > 0
    np.testing.assert_allclose((factors * flat_field)[good], 12 / 7, rtol=1e-6)
    assert factors[good].mean().item() == pytest.approx(1)
    assert not invert_gain(torch.zeros(2, 2)).any()
