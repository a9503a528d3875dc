"""Figures and micrographs made small enough for a page that is sent by mail."""

from io import BytesIO

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vitreous.ops.fourier import apply_fourier_crop_2d, irfft2

__all__ = ["render_png", "shrink_image"]

_N_GREYS, _N_COLOURS = 96, 160
_LEAST_CHROMA = 24


def render_png(figure: Figure, dpi: int = 100) -> bytes:
    """Return the figure as a PNG with a palette, a third of the size of one in full colour."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    stream = BytesIO()
    # The pixels themselves: written as a file first, they would be drawn twice, compressed and read again.
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    _reduce_colours(pixels).save(stream, format="png", optimize=True)
    return stream.getvalue()


def _reduce_colours(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return the image with a palette of greys and of other colours: a micrograph's greys would leave few for thin lines."""
    is_coloured = np.ptp(pixels, axis=2) > _LEAST_CHROMA
    greys = np.linspace(0, 255, _N_GREYS)
    indices = np.rint(pixels.mean(axis=2) * ((_N_GREYS - 1) / 255)).astype(np.uint8)
    palette = np.repeat(greys.round().astype(int), 3).tolist()
    if is_coloured.any():
        coloured = Image.fromarray(pixels[is_coloured][None]).quantize(_N_COLOURS)
        indices[is_coloured] = np.asarray(coloured)[0] + _N_GREYS
        palette += coloured.getpalette() or []
    image = Image.fromarray(indices)
    image.putpalette(palette)
    return image


def shrink_image(image: NDArray[np.floating], width_px: int) -> tuple[NDArray[np.float32], float, float]:
    """Return the image Fourier-cropped to about `width_px` columns, and the factors from old to new x and y."""
    ny, nx = (size - size % 2 for size in image.shape)
    factor = min(1.0, width_px / nx)
    shape = (max(2, 2 * round(ny * factor / 2)), max(2, 2 * round(nx * factor / 2)))
    trimmed = torch.from_numpy(np.ascontiguousarray(image[:ny, :nx], dtype=np.float32))
    # Of the rows only what is kept is transformed further: most of the work is not done.
    spectrum = torch.fft.fft(torch.fft.rfft(trimmed)[:, : shape[1] // 2 + 1], dim=0)
    small = irfft2(apply_fourier_crop_2d(spectrum, (ny, nx), shape), shape)
    return small.numpy(), shape[1] / nx, shape[0] / ny
