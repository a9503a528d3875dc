import numpy as np
import pytest
import scipy.ndimage
import torch

from vitreous.ops.median import filter_median


@pytest.mark.parametrize("shape", [(2, 2), (3, 7), (16, 33), (65, 40)])
def test_median_is_that_of_scipy(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).poisson(3.0, shape).astype(np.float32)
    expected = scipy.ndimage.median_filter(image, 3, mode="mirror")
    np.testing.assert_array_equal(filter_median(torch.from_numpy(image)).numpy(), expected)


def test_a_line_has_no_neighbourhood() -> None:
    with pytest.raises(ValueError, match="two rows"):
        filter_median(torch.zeros(1, 9))
