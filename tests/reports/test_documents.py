import numpy as np

from vitreous.reports.documents import read_array


def test_numbers_are_scaled_and_missing_ones_are_none() -> None:
    document = {"x_px": [[1, 2], [3, 4]]}
    np.testing.assert_array_equal(read_array(document, "x_px", 1.5), [[1.5, 3.0], [4.5, 6.0]])
    assert read_array(document, "y_px").shape == (0,)
