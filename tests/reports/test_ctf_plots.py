import io

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from vitreous.reports.ctf_plots import CtfFigure, Landscape, _draw_halves, _draw_landscape, _draw_profile, plot_ctf


def make_figure(landscape: Landscape | None) -> CtfFigure:
    k, defocus = np.linspace(1 / 30, 1 / 4, 200), np.arange(5_000.0, 30_000.0, 100.0)
    rings = np.sin(np.pi * 0.0197 * 15_000 * k**2) ** 2
    picture = np.zeros((64, 64))
    picture[:, 32:] = 255
    return CtfFigure(
        name="m",
        frequency_per_angstrom=k,
        spectrum=0.5 + 0.5 * (rings - 0.5),
        ctf_squared=rings,
        correlation=np.where(k < 1 / 5, 0.9, 0.1),
        resolution_angstrom=5.0,
        defocus_angstrom=15_000.0,
        defocus_error_angstrom=12.0,
        search_defocus_angstrom=defocus,
        search_score=np.exp(-(((defocus - 15_000) / 500) ** 2)),
        spectrum_beside_ctf=picture,
        k_max_per_angstrom=0.2,
        landscape=landscape,
    )


def make_landscape() -> Landscape:
    """Return a plane that rises by 400 Å from left to right, and two tiles on it."""
    x, y = np.linspace(0, 999, 17), np.linspace(0, 799, 17)
    plane = np.broadcast_to(15_000 + 400 * (x / 999 - 0.5), (17, 17))
    return Landscape(x, y, plane, np.array([250.0, 750.0]), np.array([400.0, 400.0]), np.array([14_900.0, 15_100.0]))


def test_the_limit_of_correlation_and_the_resolution_are_marked() -> None:
    axes = Figure().subplots()
    _draw_profile(axes, make_figure(None))
    at = {line.get_label(): np.asarray(line.get_xdata()) for line in axes.lines}
    assert set(at) >= {"spectrum", "CTF²", "correlation", "5.0 Å"}
    np.testing.assert_allclose(at["5.0 Å"], 0.2)
    levels = [np.asarray(line.get_ydata()) for line in axes.lines]
    assert any(level.shape == (2,) and np.allclose(level, 0.3) for level in levels)


def test_the_spectrum_lies_left_with_row_0_above() -> None:
    axes = Figure().subplots()
    _draw_halves(axes, make_figure(None))
    image = axes.images[0]
    assert tuple(image.get_extent()) == (-0.2, 0.2, 0.2, -0.2)
    assert np.asarray(image.get_array())[:, 0].max() == 0


def test_tiles_and_surface_share_one_scale() -> None:
    axes = Figure().subplots()
    image = _draw_landscape(axes, make_landscape())
    dots = axes.collections[0]
    assert isinstance(image.norm, Normalize)
    assert (image.norm.vmin, image.norm.vmax) == (dots.norm.vmin, dots.norm.vmax)
    np.testing.assert_allclose(np.asarray(image.get_array()).min(), 1.48)
    bottom, top = axes.get_ylim()
    assert bottom > top


def test_figures_are_as_wide_as_the_page() -> None:
    for landscape in (None, make_landscape()):
        image = Image.open(io.BytesIO(plot_ctf(make_figure(landscape))))
        assert image.width == 1100
        assert np.asarray(image.convert("L")).std() > 10
