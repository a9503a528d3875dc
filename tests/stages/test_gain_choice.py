"""The gain reference of a project, whichever way its file lies: what is used, what is said, what is refused."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vitreous.engine.machine import Machine
from vitreous.engine.project import create_project
from vitreous.engine.records import read_current_records, read_current_tables
from vitreous.engine.run import run_stage
from vitreous.errors import InputFileError
from vitreous.io.gain import read_gain
from vitreous.io.mrc import write_mrc
from vitreous.io.tiff import write_tiff
from vitreous.model.documents import Facts
from vitreous.model.provenance import Recipe, RecipeStep
from vitreous.ops.gain_orientation import ORIENTATIONS, invert_gain, orient_gain
from vitreous.stages.gain_choice import GainChoice, choose_gain
from vitreous.stages.survey import choose_sample, read_survey

TURNED_BACK = {"rot90": "rot270", "rot270": "rot90"}
SHAPE = (192, 192)


def draw_gain(shape: tuple[int, int], rms: float = 0.05, seed: int = 0) -> NDArray[np.float32]:
    gain = 1 + rms * np.random.default_rng(seed).standard_normal(shape).clip(-4, 4)
    gain[5, 7] = 0
    return gain.astype(np.float32)


def write_movies(root: Path, gain: NDArray[np.float32], per_frame: float = 5.0, n: int = 2, n_frames: int = 6) -> None:
    rng = np.random.default_rng(1)
    mean = np.divide(per_frame, gain, out=np.zeros_like(gain), where=gain > 0)
    for i in range(n):
        write_tiff(root / f"m{i}.tif", rng.poisson(mean, (n_frames, *gain.shape)).astype(np.uint8))


def write_turned(path: Path, gain: NDArray[np.float32], name: str, *, divides: bool = False) -> None:
    """Write a gain reference that has to be turned by `name` to fit."""
    tensor = torch.from_numpy(gain)
    turned = orient_gain(invert_gain(tensor) if divides else tensor, TURNED_BACK.get(name, name))
    write_mrc(path, turned.contiguous().numpy(), 1.2)


def choose(root: Path, n_frames: int = 12, **facts: Any) -> GainChoice:
    """Choose as ingest does."""
    given = Facts(movies="*.tif", gain="gain.mrc", pixel_size_angstrom=1.2, **facts)
    samples = choose_sample([(path.name, path) for path in sorted(root.glob("*.tif"))])
    choice = choose_gain(given, root / "gain.mrc", samples, read_survey(samples, n_frames), root)
    assert choice is not None
    return choice


@pytest.mark.parametrize("name", list(ORIENTATIONS))
@pytest.mark.parametrize("divides", [False, True])
def test_what_is_written_fits_the_movies(tmp_path: Path, name: str, divides: bool) -> None:
    gain = draw_gain(SHAPE)
    write_movies(tmp_path, gain)
    write_turned(tmp_path / "gain.mrc", gain, name, divides=divides)
    choice = choose(tmp_path)
    used = read_gain(tmp_path / choice.path)
    scale = gain.mean() / used.mean()
    np.testing.assert_allclose(used * scale, gain, rtol=1e-4)
    assert used[5, 7] == 0
    assert choice.shape == SHAPE
    record = json.loads((tmp_path / choice.path).with_suffix(".json").read_text(encoding="utf-8"))
    assert (record["orientation"], record["polarity"]) == (name, "divide" if divides else "multiply")
    assert record["evidence"]["verdict"] == "clear"
    assert record["movies"] == ["m0.tif", "m1.tif"]
    if (name, divides) == ("as-is", False):
        assert choice.warnings == ()
    else:
        (warning,) = choice.warnings
        assert f"({name}, {'divide' if divides else 'multiply'})" in warning
        assert "It is used so" in warning


@pytest.mark.parametrize("shape", [(160, 224), (161, 224)])
@pytest.mark.parametrize("name", ["rot90", "anti-transpose", "flip-x"])
def test_oblong_frames(tmp_path: Path, shape: tuple[int, int], name: str) -> None:
    gain = draw_gain(shape)
    write_movies(tmp_path, gain)
    write_turned(tmp_path / "gain.mrc", gain, name)
    choice = choose(tmp_path)
    assert choice.shape == shape
    np.testing.assert_array_equal(read_gain(tmp_path / choice.path), gain)


def test_what_was_said_is_done_without_a_word_where_it_is_right(tmp_path: Path) -> None:
    gain = draw_gain(SHAPE)
    write_movies(tmp_path, gain)
    write_turned(tmp_path / "gain.mrc", gain, "rot90", divides=True)
    choice = choose(tmp_path, gain_orientation="rot90", gain_polarity="divide")
    assert choice.warnings == ()
    assert choose(tmp_path).path == choice.path
    assert choose(tmp_path, gain_orientation="rot90").warnings != ()


def test_what_was_said_is_done_with_a_warning_where_it_is_wrong(tmp_path: Path) -> None:
    gain = draw_gain(SHAPE)
    write_movies(tmp_path, gain)
    write_turned(tmp_path / "gain.mrc", gain, "flip-y")
    choice = choose(tmp_path, gain_orientation="as-is")
    np.testing.assert_array_equal(read_gain(tmp_path / choice.path), gain[::-1])
    (warning,) = choice.warnings
    for word in ("flipped upside down", "used as you said", "--gain-orientation"):
        assert word in warning, warning


def test_too_few_counts_leave_it_as_it_is_loudly(tmp_path: Path) -> None:
    gain = draw_gain(SHAPE, rms=0.002)
    write_movies(tmp_path, gain)
    write_turned(tmp_path / "gain.mrc", gain, "flip-x")
    choice = choose(tmp_path)
    np.testing.assert_array_equal(read_gain(tmp_path / choice.path), gain[:, ::-1])
    (warning,) = choice.warnings
    for word in ("too few counts", "as it is in the file", "check"):
        assert word in warning, warning


def test_more_frames_are_read_where_few_do_not_tell(tmp_path: Path) -> None:
    gain = draw_gain(SHAPE, rms=0.01)
    write_movies(tmp_path, gain, n=4, n_frames=40)
    write_turned(tmp_path / "gain.mrc", gain, "rot180")
    choice = choose(tmp_path, n_frames=4)
    np.testing.assert_array_equal(read_gain(tmp_path / choice.path), gain)
    record = json.loads((tmp_path / choice.path).with_suffix(".json").read_text(encoding="utf-8"))
    assert record["n_frames"] == 160


def test_the_reference_of_another_camera_is_refused(tmp_path: Path) -> None:
    write_movies(tmp_path, draw_gain(SHAPE))
    write_mrc(tmp_path / "gain.mrc", draw_gain(SHAPE, seed=3), 1.2)
    with pytest.raises(InputFileError) as error:
        choose(tmp_path)
    for word in ("gain.mrc: found ", "nothing in any orientation", "; expected ", "--gain-orientation as-is"):
        assert word in str(error.value)
    assert error.value.exit_code == 2
    choice = choose(tmp_path, gain_orientation="as-is")
    assert "may be of another camera" in choice.warnings[0]


def test_corrected_movies_are_told_from_a_wrong_reference(tmp_path: Path) -> None:
    gain = draw_gain(SHAPE)
    rng = np.random.default_rng(1)
    counts = rng.poisson(5 / np.where(gain > 0, gain, 1), (6, *SHAPE)) * gain
    write_tiff(tmp_path / "m.tif", counts.astype(np.float32))
    write_mrc(tmp_path / "gain.mrc", gain, 1.2)
    with pytest.raises(InputFileError, match=r"no whole numbers, as after a correction: leave --gain out"):
        choose(tmp_path)


def test_a_turned_reference_that_cannot_be_told_is_refused(tmp_path: Path) -> None:
    gain = draw_gain((160, 224), rms=0.001)
    write_movies(tmp_path, gain)
    write_turned(tmp_path / "gain.mrc", gain, "rot90")
    with pytest.raises(InputFileError, match=r"160x224 pixels; expected 224x160 .* turned by 90 degrees"):
        choose(tmp_path)
    choice = choose(tmp_path, gain_orientation="rot90")
    np.testing.assert_array_equal(read_gain(tmp_path / choice.path), gain)


@pytest.mark.parametrize(("said", "remedy"), [("as-is", "rot90, rot270"), ("flip-x", "rot90, rot270")])
def test_an_orientation_that_cannot_fit_is_refused(tmp_path: Path, said: str, remedy: str) -> None:
    gain = draw_gain((160, 224))
    write_movies(tmp_path, gain)
    write_turned(tmp_path / "gain.mrc", gain, "rot90")
    with pytest.raises(InputFileError, match=remedy):
        choose(tmp_path, gain_orientation=said)


def test_turning_what_fits_is_refused(tmp_path: Path) -> None:
    gain = draw_gain((160, 224))
    write_movies(tmp_path, gain)
    write_mrc(tmp_path / "gain.mrc", gain, 1.2)
    with pytest.raises(InputFileError, match="Give another --gain-orientation"):
        choose(tmp_path, gain_orientation="rot90")


def test_a_symmetric_reference_needs_no_decision(tmp_path: Path) -> None:
    gain = draw_gain(SHAPE)
    gain = ((gain + gain[::-1]) / 2).astype(np.float32)
    write_movies(tmp_path, gain)
    write_mrc(tmp_path / "gain.mrc", gain, 1.2)
    choice = choose(tmp_path)
    assert "as-is is used" in choice.warnings[0]
    np.testing.assert_array_equal(read_gain(tmp_path / choice.path), gain)


def test_super_resolution_reference_of_binned_movies(tmp_path: Path) -> None:
    gain = draw_gain((256, 320))
    rng = np.random.default_rng(2)
    fine = rng.poisson(np.where(gain > 0, 2 / np.where(gain > 0, gain, 1), 0), (8, 256, 320))
    write_tiff(tmp_path / "m.tif", fine.reshape(8, 128, 2, 160, 2).sum(axis=(2, 4)).astype(np.uint8))
    write_turned(tmp_path / "gain.mrc", gain, "flip-y")
    choice = choose(tmp_path)
    assert choice.shape == (128, 160)
    used = read_gain(tmp_path / choice.path)
    sensitivity = np.divide(1, gain, out=np.zeros_like(gain), where=gain > 0).reshape(128, 2, 160, 2).sum(axis=(1, 3))
    good = used > 0
    np.testing.assert_allclose((used * sensitivity)[good], 4, rtol=1e-5)
    assert np.argwhere(~good).tolist() == [[2, 3]]
    assert any(
        "found 320x256 pixels, expected 160x128" in warning and "averaged" in warning for warning in choice.warnings
    )


def write_eer(path: Path, probability: NDArray[np.float64], n_frames: int) -> None:
    """Write an EER movie (BigTIFF, compression 65001) whose pixels count at most one electron in each frame."""
    rng, (ny, nx) = np.random.default_rng(4), probability.shape
    body, link = bytearray(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0)), 8
    for _ in range(n_frames):
        places = np.flatnonzero(rng.random((ny, nx)) < probability)
        runs = np.diff(np.concatenate([[-1], places, [ny * nx]])) - 1
        assert runs.max() < 127
        # A run of 7 bits and two positions of 2 bits for each electron, lowest bit first.
        bits = (runs[:, None] >> np.arange(11)) & 1
        strip = np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
        strip += bytes(8 + -len(strip) % 8)
        tags = ((256, nx), (257, ny), (259, 65001), (273, len(body)), (278, ny), (279, len(strip)))
        body += strip
        struct.pack_into("<Q", body, link, len(body))
        body += struct.pack("<Q", len(tags)) + b"".join(struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in tags)
        link = len(body)
        body += bytes(8)
    path.write_bytes(bytes(body))


def test_references_of_eer_cameras_divide_by_custom(tmp_path: Path) -> None:
    sensitivity = 1 + 0.1 * np.random.default_rng(5).standard_normal((80, 80)).clip(-3, 3)
    write_eer(tmp_path / "m.eer", 0.5 * sensitivity, 90)
    write_mrc(tmp_path / "gain.mrc", sensitivity.astype(np.float32), 1.2)
    facts = Facts(
        movies=str(tmp_path / "*.eer"), gain=str(tmp_path / "gain.mrc"), pixel_size_angstrom=1.2, total_dose=31
    )
    project = create_project(tmp_path / "p", facts, Recipe(steps=(RecipeStep(stage="vitreous.stages.ingest:STAGE"),)))
    record = run_stage(project, "vitreous.stages.ingest:STAGE", {}, Machine(workers=1, threads=1))
    assert record.warnings == ()
    row = read_current_tables(project, read_current_records(project))["exposures"].row(0, named=True)
    used = read_gain(project.root / row["gain_path"])
    np.testing.assert_allclose(used * sensitivity, (used * sensitivity).mean(), rtol=1e-5)
    # Of 90 detector frames, 80 fill 40 fractions; the exposure of the rest is in none.
    assert row["n_frames"] == 40
    assert row["dose_per_frame"] == pytest.approx(31 * (80 / 90) / 40)


def test_a_reference_of_zeros_is_refused(tmp_path: Path) -> None:
    write_movies(tmp_path, draw_gain(SHAPE))
    write_mrc(tmp_path / "gain.mrc", np.zeros(SHAPE, np.float32), 1.2)
    with pytest.raises(InputFileError, match=r"gain\.mrc: found values from 0"):
        choose(tmp_path)


def test_the_run_and_its_repetition(tmp_path: Path) -> None:
    """Through the engine: one file, one warning, the same again after the folder was lost."""
    gain = draw_gain(SHAPE)
    data = tmp_path / "data"
    write_movies(data, gain, n=4)
    write_turned(data / "gain.mrc", gain, "transpose")
    facts = Facts(movies=str(data / "*.tif"), gain=str(data / "gain.mrc"), pixel_size_angstrom=1.2, total_dose=21)
    recipe = Recipe(steps=(RecipeStep(stage="vitreous.stages.ingest:STAGE"),))
    kept = []
    for name in ("a", "b"):
        project = create_project(tmp_path / name, facts, recipe)
        record = run_stage(project, "vitreous.stages.ingest:STAGE", {}, Machine(workers=1, threads=1))
        exposures = read_current_tables(project, read_current_records(project))["exposures"]
        (path,) = exposures["gain_path"].unique()
        (warning,) = record.warnings
        assert warning.startswith(
            "gain ../data/gain.mrc: it fits the movies with rows and columns exchanged, and multiplies"
        )
        np.testing.assert_array_equal(read_gain(project.root / path), gain)
        kept.append((path, (project.root / path).with_suffix(".json").read_bytes()))
        assert sorted(file.suffix for file in (project.root / "gain").iterdir()) == [".json", ".mrc"]
    assert kept[0] == kept[1]
