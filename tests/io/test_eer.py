"""EER against the events that were encoded, and against imagecodecs."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from vitreous.errors import InputFileError, SettingError
from vitreous.io.eer import EerRendering, open_eer
from vitreous.io.tiff import read_tiff
from vitreous.io.tiff_pages import read_pages

Draw = Callable[..., list[list[tuple[int, int, int, int]]]]
Write = Callable[..., None]
SHAPE = (24, 40)


def count_events(frames: list[list[tuple[int, int, int, int]]], upsampling: int) -> np.ndarray:
    counts = np.zeros((SHAPE[0] * upsampling, SHAPE[1] * upsampling), np.int64)
    for frame in frames:
        for y, x, y_part, x_part in frame:
            counts[(4 * y + y_part) * upsampling // 4, (4 * x + x_part) * upsampling // 4] += 1
    return counts


@pytest.mark.parametrize("upsampling", [1, 2])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.05, 1.0])
@pytest.mark.parametrize("compression", [65000, 65001, 65002])
def test_every_event_is_where_it_was_put(
    tmp_path: Path, write_eer: Write, draw_events: Draw, compression: int, density: float, upsampling: int
) -> None:
    frames = draw_events(6, SHAPE, density, seed=1)
    bits = (8, 2, 2) if compression == 65000 else (7, 2, 2)
    write_eer(tmp_path / "m.eer", frames, SHAPE, compression=compression, bits=bits)
    movie = open_eer(tmp_path / "m.eer", EerRendering(frames_per_fraction=3, upsampling=upsampling))
    assert movie.shape == (2, SHAPE[0] * upsampling, SHAPE[1] * upsampling)
    rendered = list(movie.iterate([0, 1]))
    for i, fraction in enumerate(rendered):
        assert fraction.dtype == np.uint8
        np.testing.assert_array_equal(fraction, count_events(frames[3 * i : 3 * i + 3], upsampling))


@pytest.mark.parametrize("bits", [(4, 1, 1), (5, 2, 2), (7, 1, 1), (9, 2, 2), (12, 2, 2)])
def test_other_widths_of_runs_and_positions(
    tmp_path: Path, write_eer: Write, draw_events: Draw, bits: tuple[int, int, int]
) -> None:
    finest = 1 << bits[1]
    frames = [[(y, x, a * finest // 4, b * finest // 4) for y, x, a, b in draw_events(1, SHAPE, 0.03, seed=2)[0]]]
    write_eer(tmp_path / "m.eer", frames, SHAPE, compression=65002, bits=bits, padded=False)
    [rendered] = open_eer(tmp_path / "m.eer", EerRendering(frames_per_fraction=1, upsampling=2)).iterate([0])
    expected = np.zeros((2 * SHAPE[0], 2 * SHAPE[1]))
    for y, x, a, b in frames[0]:
        expected[(finest * y + a) * 2 // finest, (finest * x + b) * 2 // finest] += 1
    np.testing.assert_array_equal(rendered, expected)


@pytest.mark.parametrize("density", [0.002, 0.05])
@pytest.mark.parametrize("upsampling", [1, 2])
def test_agrees_with_imagecodecs(
    tmp_path: Path, write_eer: Write, draw_events: Draw, density: float, upsampling: int
) -> None:
    write_eer(tmp_path / "m.eer", draw_events(3, SHAPE, density, seed=3), SHAPE)
    ours = list(
        open_eer(tmp_path / "m.eer", EerRendering(frames_per_fraction=1, upsampling=upsampling)).iterate([0, 1, 2])
    )
    for rendered, page in zip(ours, read_pages(tmp_path / "m.eer").pages, strict=True):
        [(offset, length)] = page.extents
        data = (tmp_path / "m.eer").read_bytes()[offset : offset + length]
        theirs = imagecodecs.eer_decode(data, rendered.shape, 7, 2, 2, superres=upsampling - 1)
        np.testing.assert_array_equal(rendered, theirs)


def test_agrees_with_tifffile(tmp_path: Path, write_eer: Write, draw_events: Draw) -> None:
    frames = draw_events(4, SHAPE, 0.02, seed=4)
    rendering = EerRendering(frames_per_fraction=1)
    write_eer(tmp_path / "big.eer", frames, SHAPE, metadata=b"<metadata></metadata>")
    ours = np.stack(list(open_eer(tmp_path / "big.eer", rendering).iterate(range(4))))
    np.testing.assert_array_equal(ours, tifffile.imread(tmp_path / "big.eer"))
    write_eer(tmp_path / "classic.eer", frames, SHAPE, big=False)
    np.testing.assert_array_equal(np.stack(list(open_eer(tmp_path / "classic.eer", rendering).iterate(range(4)))), ours)


@pytest.mark.parametrize(
    ("rendering", "n_fractions", "size"),
    [
        (None, 40, 2),
        (EerRendering(n_fractions=40), 40, 2),
        (EerRendering(n_fractions=8), 8, 11),
        (EerRendering(n_fractions=95), 95, 1),
        (EerRendering(frames_per_fraction=32), 2, 32),
        (EerRendering(dose_per_fraction=1.0, total_dose=47.5), 47, 2),
        (EerRendering(dose_per_fraction=1.3, total_dose=47.5), 31, 3),
        (EerRendering(dose_per_fraction=0.01, total_dose=47.5), 95, 1),
    ],
)
def test_frames_that_fill_no_fraction_are_dropped_and_counted(
    tmp_path: Path, write_eer: Write, rendering: EerRendering | None, n_fractions: int, size: int
) -> None:
    frames = [[(i % 8, i % 5, 0, 0)] for i in range(95)]
    write_eer(tmp_path / "m.eer", frames, (8, 8))
    movie = open_eer(tmp_path / "m.eer", rendering)
    assert (movie.shape[0], movie.frames_per_fraction, movie.n_detector_frames) == (n_fractions, size, 95)
    assert movie.n_dropped_frames == 95 - n_fractions * size
    rendered = list(movie.iterate(range(n_fractions)))
    assert [int(fraction.sum()) for fraction in rendered] == [size] * n_fractions


def test_many_frames_of_one_pixel_do_not_overflow(tmp_path: Path, write_eer: Write) -> None:
    write_eer(tmp_path / "m.eer", [[(1, 2, 0, 0)]] * 300, (4, 4))
    [rendered] = open_eer(tmp_path / "m.eer", EerRendering(n_fractions=1)).iterate([0])
    assert rendered.dtype == np.uint16
    assert rendered[1, 2] == rendered.sum() == 300


def test_more_fractions_than_frames(tmp_path: Path, write_eer: Write) -> None:
    write_eer(tmp_path / "m.eer", [[]] * 3, (4, 4))
    for rendering in (EerRendering(n_fractions=4), EerRendering(frames_per_fraction=4)):
        with pytest.raises(InputFileError, match="found 3 detector frames; expected at least 4"):
            open_eer(tmp_path / "m.eer", rendering)


def test_pixel_size_from_metadata(tmp_path: Path, write_eer: Write) -> None:
    item = b'<metadata><item name="sensorPixelSize.width" unit="m">%s</item></metadata>'
    for text, expected in ((b"7.06e-11", 0.706), (b"nonsense", None), (b"0", None), (b"1", None)):
        write_eer(tmp_path / "m.eer", [[]] * 2, (4, 4), metadata=item % text)
        assert open_eer(tmp_path / "m.eer").pixel_size_angstrom == (expected and pytest.approx(expected))
        finer = open_eer(tmp_path / "m.eer", EerRendering(upsampling=2)).pixel_size_angstrom
        assert finer == (expected and pytest.approx(expected / 2))


@pytest.mark.parametrize(
    "words",
    [
        {"n_fractions": 3, "frames_per_fraction": 2},
        {"n_fractions": 0},
        {"dose_per_fraction": 1.0},
        {"dose_per_fraction": 1.0, "total_dose": 0.0},
        {"upsampling": 3},
    ],
)
def test_renderings_that_make_no_sense(words: dict[str, object]) -> None:
    with pytest.raises(SettingError, match="EER: "):
        EerRendering(**words)


def test_a_frame_that_ends_early_or_late(tmp_path: Path, write_eer: Write) -> None:
    write_eer(tmp_path / "m.eer", [[(0, 3, 0, 0)], [(5, 3, 1, 1)]], (8, 8))
    whole = (tmp_path / "m.eer").read_bytes()
    [(offset, _)] = read_pages(tmp_path / "m.eer").pages[1].extents
    for value in (0, 0x7F):
        (tmp_path / "bad.eer").write_bytes(whole[:offset] + bytes([value]) + whole[offset + 1 :])
        with pytest.raises(InputFileError, match=r"events that do not fill frame 2 exactly"):
            list(open_eer(tmp_path / "bad.eer", EerRendering(frames_per_fraction=1)).iterate([0, 1]))


def test_truncated_anywhere(tmp_path: Path, write_eer: Write, draw_events: Draw) -> None:
    write_eer(tmp_path / "m.eer", draw_events(5, SHAPE, 0.02, seed=5), SHAPE)
    whole = (tmp_path / "m.eer").read_bytes()
    for length in [*range(0, len(whole), 41), len(whole) - 1]:
        (tmp_path / "cut.eer").write_bytes(whole[:length])
        with pytest.raises(InputFileError, match=r"cut\.eer: found .*; expected .*copied whole"):
            open_eer(tmp_path / "cut.eer")


def test_an_ordinary_tiff_is_no_eer(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.eer", np.zeros((3, 8, 9), np.uint8), photometric="minisblack")
    with pytest.raises(InputFileError, match="found pages of 9x8 in compression 1; expected a complete EER movie"):
        open_eer(tmp_path / "m.eer")


def test_a_sum_in_front_is_left_out(tmp_path: Path, write_eer: Write, draw_events: Draw) -> None:
    frames = draw_events(4, SHAPE, 0.02, seed=6)
    summed = count_events(frames, 1)
    write_eer(tmp_path / "m.eer", frames, SHAPE, front=summed)
    movie = open_eer(tmp_path / "m.eer", EerRendering(n_fractions=1))
    assert movie.n_detector_frames == 4
    np.testing.assert_array_equal(next(movie.iterate([0])), summed)


@pytest.mark.relion
@pytest.mark.parametrize(("compression", "upsampling"), [(65001, 1), (65001, 2), (65000, 2)])
def test_agrees_with_relion(tmp_path: Path, write_eer: Write, compression: int, upsampling: int) -> None:
    rng = np.random.default_rng(7)
    side = 4096
    frames = []
    for _ in range(3):
        pixels = np.unique(rng.integers(0, side * side, 3000))
        parts = rng.integers(0, 4, (len(pixels), 2)).tolist()
        frames.append([(int(p) // side, int(p) % side, a, b) for p, (a, b) in zip(pixels, parts, strict=True)])
    # RELION takes pages of one strip and 4096x4096 pixels; the seventh frame is left over.
    bits = (8, 2, 2) if compression == 65000 else (7, 2, 2)
    write_eer(tmp_path / "m.eer", [*frames, *frames, frames[0]], (side, side), compression=compression, bits=bits)
    command = ["relion_convert_to_tiff", "--i", "m.eer", "--o", "out/"]
    options = ["--eer_grouping", "2", "--eer_upsampling", str(upsampling)]
    subprocess.run([*command, *options], cwd=tmp_path, check=True, capture_output=True)
    movie = open_eer(tmp_path / "m.eer", EerRendering(frames_per_fraction=2, upsampling=upsampling))
    theirs = read_tiff(tmp_path / "out" / "m.tif")
    assert theirs.shape == movie.shape == (3, side * upsampling, side * upsampling)
    for ours, other in zip(movie.iterate(range(3)), theirs, strict=True):
        assert np.array_equal(ours, other)
