"""Figures of datasets."""

import io

import numpy as np
from PIL import Image

from vitreous.reports.statistics_plots import plot_defocus_boxes, plot_histograms, plot_orientations


def read(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def test_a_box_for_each_dataset() -> None:
    rng = np.random.default_rng(0)
    one = read(plot_defocus_boxes({"a": rng.normal(15_000, 2000, 50)}))
    three = read(plot_defocus_boxes({name: rng.normal(15_000, 2000, 50) for name in "abc"}))
    assert three.shape[1] > one.shape[1]


def test_histograms_of_few_and_of_no_values() -> None:
    image = read(plot_histograms({"x (Å)": {"a": np.array([1.0]), "b": np.empty(0)}, "y": {"a": np.array([1.0, 2.0])}}))
    assert image.std() > 5


def test_one_direction_is_one_bright_place() -> None:
    same = read(plot_orientations(np.full(500, 30.0), np.full(500, 90.0)))
    rng = np.random.default_rng(1)
    every = read(plot_orientations(rng.uniform(-180, 180, 500), np.rad2deg(np.arccos(rng.uniform(-1, 1, 500)))))

    def count_dark(image: np.ndarray) -> int:
        """Count pixels of the lowest colour, viridis' violet."""
        return int((np.abs(image - [68, 1, 84]).max(axis=2) < 24).sum())

    assert count_dark(same) > 2 * count_dark(every)
