import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vitreous.reports.motion_plots import (
    PatchMotion,
    Track,
    _choose_round,
    _draw_patches,
    plot_motion_overview,
    plot_patch_motion,
)


def make_motion() -> PatchMotion:
    """Two patches that move by 2 Å to the right and by 1 Å downwards."""
    frame = np.arange(5) / 4
    track = Track("m", 3 * frame, -4 * frame, 5.0, 2.0, 6.0, is_local=True)
    x, y = np.array([60.0, 140.0]), np.array([50.0, 50.0])
    moved_x, moved_y = np.stack([2 * frame, 0 * frame]), np.stack([0 * frame, frame])
    return PatchMotion(
        track, np.random.default_rng(0).normal(size=(100, 200)).astype(np.float32), 5.0, x, y, moved_x, moved_y
    )


@pytest.mark.parametrize(("value", "expected"), [(1, 1), (0.99, 0.5), (47, 20), (50, 50), (199, 100), (0.021, 0.02)])
def test_round_number(value: float, expected: float) -> None:
    assert _choose_round(value, (1, 2, 5)) == pytest.approx(expected)


def test_paths_are_drawn_from_the_patches_with_the_factor_that_is_written() -> None:
    motion = make_motion()
    axes = Figure().subplots()
    segments = np.array(_draw_patches(axes, motion).get_segments()).reshape(2, 4, 2, 2)
    text = axes.texts[0].get_text()
    length, factor = (float(word) for word in (text.split()[0], text.split("drawn ")[1].split()[0]))
    np.testing.assert_allclose(segments[:, 0, 0], [[60, 50], [140, 50]])
    np.testing.assert_allclose(segments[0, -1, 1] - [60, 50], [2 * factor / 5, 0], atol=1e-9)
    np.testing.assert_allclose(segments[1, -1, 1] - [140, 50], [0, 1 * factor / 5], atol=1e-9)
    bar = axes.lines[0].get_xdata()
    assert float(np.ptp(np.asarray(bar))) == pytest.approx(length * factor / 5)
    bottom, top = axes.get_ylim()
    assert bottom > 100 > top


def test_figures_are_as_wide_as_the_page() -> None:
    whole = Track("w", np.zeros(3), np.ones(3), 0.0, 0.0, 0.0, is_local=False)
    for png in (plot_motion_overview([make_motion().track, whole]), plot_patch_motion(make_motion())):
        image = Image.open(io.BytesIO(png))
        assert image.width == 1100
        assert np.asarray(image.convert("L")).std() > 10
