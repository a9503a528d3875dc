"""Figures that describe one or more datasets, as bytes of a PNG."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vitreous.reports.render import render_png

__all__ = ["plot_defocus_boxes", "plot_histograms", "plot_orientations"]

Floats = NDArray[np.float64]


def plot_defocus_boxes(defocus_angstrom: Mapping[str, Floats]) -> bytes:
    """Draw the defocus of the micrographs of each dataset: median, quartiles, and all that lies within 1.5 of their distance."""
    figure = Figure(figsize=(2.5 + 0.6 * len(defocus_angstrom), 3.6), layout="constrained")
    axes = figure.subplots()
    axes.boxplot([values / 1e4 for values in defocus_angstrom.values()], flierprops={"markersize": 3})
    axes.set_xticks(range(1, len(defocus_angstrom) + 1), list(defocus_angstrom), rotation=45, ha="right")
    axes.set(ylabel="mean defocus (µm)", title="defocus of the micrographs")
    return render_png(figure)


def plot_histograms(values: Mapping[str, Mapping[str, Floats]]) -> bytes:
    """Draw one histogram for each quantity (its name and unit), a line for each dataset."""
    figure = Figure(figsize=(4.2 * len(values), 3.4), layout="constrained")
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (quantity, sets) in zip(panels, values.items(), strict=True):
        pooled = np.concatenate([*sets.values(), np.empty(0)])
        edges = (
            np.histogram_bin_edges(pooled, bins=min(40, max(5, len(pooled) // 5))) if len(pooled) else np.arange(2.0)
        )
        for name, own in sets.items():
            axes.hist(own, bins=edges.tolist(), histtype="step", linewidth=1.5, label=name)
        axes.set(xlabel=quantity, ylabel="count")
    if len(panels):
        panels[0].legend(frameon=False, fontsize="small")
    return render_png(figure)


def plot_orientations(rot_deg: Floats, tilt_deg: Floats) -> bytes:
    """Draw how many particles are seen from each direction: azimuth and elevation of the view, degrees, of equal areas."""
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")
    axes = figure.subplots()
    azimuth = (rot_deg + 180) % 360 - 180
    # Equal steps of the cosine are equal areas of the sphere.
    height = np.cos(np.deg2rad(tilt_deg))
    counts, x_edges, y_edges = np.histogram2d(azimuth, height, bins=(36, 18), range=((-180, 180), (-1, 1)))
    mesh = axes.pcolormesh(x_edges, y_edges, counts.T, cmap="viridis")
    ticks = np.array([-90, -45, -20, 0, 20, 45, 90])
    axes.set_yticks(np.sin(np.deg2rad(ticks)), [str(tick) for tick in ticks])
    axes.set(xlabel="azimuth (°)", ylabel="elevation (°)", title="viewing directions")
    figure.colorbar(mesh, ax=axes, label="particles")
    return render_png(figure)
