"""Check the tilt of real micrographs by an estimator that shares nothing with the one of the package but its astigmatism.

python benchmarks/accuracy/ctf_tilt.py ../shared/data/apoferritin-10146/micrographs

The four quarters of a micrograph are fitted on their own: Hann window, rotational mean, correlation with CTF². Each is fitted in
two bands of frequencies without a common element, so the noise of the two slopes is independent: where they agree, the slope
is in the specimen. Writes benchmarks/results/ctf-tilt.md.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from ctf import fit
from numpy.typing import NDArray

from vitreous.io.images import read_micrograph
from vitreous.ops.ctf_fit import CtfValues

RESULTS = Path(__file__).resolve().parents[1] / "results"
PIXEL, TILE = 1.5, 400
WAVELENGTH, CS, AMPLITUDE = 0.019687, 2.7e7, 0.07
BANDS = ((0.04, 0.15), (0.15, 0.245))
"""1/Å."""

Floats = NDArray[np.float64]


def average_rings(image: Floats, values: CtfValues) -> tuple[Floats, Floats]:
    """Return frequencies and log power of a quarter, averaged along ellipses of one defocus."""
    window = np.hanning(TILE)[:, None] * np.hanning(TILE)
    power = np.zeros((TILE, TILE // 2 + 1))
    for y in np.linspace(0, image.shape[0] - TILE, 2).astype(int):
        for x in np.linspace(0, image.shape[1] - TILE, 2).astype(int):
            part = image[y : y + TILE, x : x + TILE]
            power += np.abs(np.fft.rfft2((part - part.mean()) * window)) ** 2
    ky, kx = np.fft.fftfreq(TILE, PIXEL)[:, None], np.fft.rfftfreq(TILE, PIXEL)[None, :]
    azimuth = np.arctan2(ky, kx)
    directional = values.cos_part_angstrom * np.cos(2 * azimuth) + values.sin_part_angstrom * np.sin(2 * azimuth)
    k = np.hypot(ky, kx) * np.sqrt(1 + directional / values.mean_angstrom)
    off_axes = (np.abs(ky) > 1.5 / (TILE * PIXEL)) & (np.abs(kx) > 1.5 / (TILE * PIXEL))
    width = 1 / (1.5 * TILE * PIXEL)
    bins = (k[off_axes] / width).astype(int)
    sums, counts = np.bincount(bins, power[off_axes]), np.bincount(bins)
    filled = counts > 0
    return ((np.arange(len(sums)) + 0.5) * width)[filled], np.log(sums[filled] / counts[filled])


def find_defocus(k: Floats, profile: Floats, near: float, band: tuple[float, float]) -> float:
    """Return the defocus within 700 Å of `near` that correlates best, polynomials removed from both."""
    inside = (k >= band[0]) & (k < band[1])
    k, profile = k[inside], profile[inside]
    smooth = np.linalg.qr(np.polynomial.legendre.legvander(2 * (k - k[0]) / (k[-1] - k[0]) - 1, 7))[0]
    defocus = near + np.arange(-700.0, 701.0, 10.0)
    chi = np.pi * WAVELENGTH * k**2 * defocus[:, None] - np.pi / 2 * CS * WAVELENGTH**3 * k**4 + np.arcsin(AMPLITUDE)
    rings = np.sin(chi) ** 2
    rings -= (rings @ smooth) @ smooth.T
    rest = profile - smooth @ (smooth.T @ profile)
    return float(defocus[(rings @ rest / np.linalg.norm(rings, axis=1)).argmax()])


def measure_slopes(image: Floats, values: CtfValues, band: tuple[float, float]) -> Floats:
    """Return the slopes along x and y, Å of defocus per Å."""
    ny, nx = (side // 2 for side in image.shape)
    quarters = [image[:ny, :nx], image[:ny, nx:], image[ny:, :nx], image[ny:, nx:]]
    a, b, c, d = (find_defocus(*average_rings(q, values), values.mean_angstrom, band) for q in quarters)
    return np.array([b + d - a - c, c + d - a - b]) / (2 * np.array([nx, ny]) * PIXEL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    torch.set_num_threads(1)
    rows, slopes, planes = [], [], []
    for path in sorted(parser.parse_args().folder.glob("*.png")):
        image = read_micrograph(path)[0].astype(np.float64)
        estimate = fit(image.astype(np.float32), PIXEL).estimate
        low, high = (measure_slopes(image, estimate.refined.values, band) for band in BANDS)
        assert estimate.surface is not None
        ny, nx = image.shape
        ends = torch.tensor([[0, ny / 2], [nx, ny / 2], [nx / 2, 0], [nx / 2, ny]], dtype=torch.float64)
        left, right, top, bottom = estimate.surface.compute_offsets(ends).tolist()
        plane = np.array([(right - left) / nx, (bottom - top) / ny]) / PIXEL
        slopes.append([low, high])
        planes.append(plane)
        tilt, _, error = estimate.surface.compute_tilt(PIXEL)
        found = f"{tilt:.1f} ± {error:.1f}" if estimate.surface.degree else "none"
        numbers = " | ".join(f"{1000 * x:.0f}, {1000 * y:.0f}" for x, y in (plane, low, high))
        rows.append(f"| {path.stem} | {found} | {numbers} |")
        print(rows[-1], flush=True)
    measured = np.array(slopes)
    low, high = measured[:, 0].ravel(), measured[:, 1].ravel()
    together = np.corrcoef(low, high)[0, 1]
    with_plane = np.corrcoef(np.array(planes).ravel(), measured.mean(axis=1).ravel())[0, 1]
    mean = measured.mean(axis=(0, 1))
    text = [
        "# Is the tilt of real micrographs in the specimen?",
        "",
        "EMPIAR-10146. Slopes of the defocus along x and y in thousandths: of the package's surface, and of the four quarters "
        f"fitted on their own from 25 to {1 / BANDS[0][1]:.1f} Å and from {1 / BANDS[1][0]:.1f} to {1 / BANDS[1][1]:.1f} Å. "
        "The two share no noise.",
        "",
        "| micrograph | tilt, ° | surface | low frequencies | high frequencies |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"Correlation of the two bands: {together:.2f}; of their mean with the surface: {with_plane:.2f}. The slope along y is "
        f"negative in {(measured[:, :, 1] < 0).sum()} of {2 * len(rows)} fits; the mean slope, {1000 * mean[0]:.0f}, "
        f"{1000 * mean[1]:.0f}, is a tilt by {np.degrees(np.arctan(np.hypot(*mean))):.0f}°.",
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ctf-tilt.md").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
