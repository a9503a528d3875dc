import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vitreous.reports.render import render_png, shrink_image


def test_png_shows_what_was_drawn_at_the_size_asked_for() -> None:
    figure = Figure(figsize=(3, 2))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    axes.imshow(np.array([[0.0, 1.0]]), cmap="gray", aspect="auto", interpolation="nearest")
    image = Image.open(io.BytesIO(render_png(figure, dpi=50)))
    assert (image.format, image.size) == ("PNG", (150, 100))
    pixels = np.asarray(image.convert("L"))
    assert pixels[50, 30] == 0
    assert pixels[50, 120] == 255


def test_thin_coloured_lines_over_many_greys_keep_their_colour() -> None:
    figure = Figure(figsize=(4, 4))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.axis("off")
    axes.imshow(np.random.default_rng(0).random((400, 400)), cmap="gray", aspect="auto", extent=(0, 1, 0, 1))
    for place, colour in ((0.25, "#ff7f0e"), (0.5, "#2ca02c"), (0.75, "#1f77b4")):
        axes.axhline(place, color=colour, linewidth=2, antialiased=False)
    image = np.asarray(Image.open(io.BytesIO(render_png(figure))).convert("RGB")).astype(int)
    for row, colour in ((300, (255, 127, 14)), (200, (44, 160, 44)), (100, (31, 119, 180))):
        assert np.abs(image[row, 200] - colour).max() <= 8


def test_shrunk_micrograph_keeps_coordinates() -> None:
    y, x = np.mgrid[:301, :400]
    image = np.exp(-((x - 120.0) ** 2 + (y - 200.0) ** 2) / (2 * 12.0**2)).astype(np.float32)
    small, factor_x, factor_y = shrink_image(image, 100)
    row, column = np.unravel_index(small.argmax(), small.shape)
    assert (column, row) == (round(120 * factor_x), round(200 * factor_y))
    assert factor_x == pytest.approx(factor_y, rel=0.02)
