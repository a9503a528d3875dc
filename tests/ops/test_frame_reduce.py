"""Sums and averages over squares, against the same in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from vitreous.ops.frame_reduce import reduce_frames, sum_raw_frames

DTYPES = [torch.uint8, torch.int16, torch.uint16, torch.float32]


def draw_frames(shape: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(shape[1]).integers(0, 200, shape)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(7, 48, 64), (3, 37, 51), (1, 5, 16)])
def test_sum(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    frames = draw_frames(shape, dtype)
    found = sum_raw_frames(frames)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, frames.double().sum(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_squares(size: int, dtype: torch.dtype) -> None:
    frames = draw_frames((4, 47, 61), dtype)
    gain = 1 + 0.2 * torch.rand((47, 61), generator=torch.Generator().manual_seed(0))
    expected = functional.avg_pool2d(frames.double() * gain.double(), size)
    found = reduce_frames(frames, gain, size)
    assert found.dtype == torch.float32
    assert found.shape == (4, 47 // size, 61 // size)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_where_a_position_goes() -> None:
    """The centre of mass of a blob goes where the docstring says."""
    y, x = torch.meshgrid(torch.arange(120.0), torch.arange(160.0), indexing="ij")
    blob = torch.exp(-((y - 50.3).square() + (x - 91.8).square()) / (2 * 8**2))
    small = reduce_frames(blob[None], torch.ones(120, 160), 4)[0]
    rows, columns = torch.arange(30.0), torch.arange(40.0)
    total = small.sum()
    assert float((small.sum(1) * rows).sum() / total) == pytest.approx((50.3 - 1.5) / 4, abs=1e-3)
    assert float((small.sum(0) * columns).sum() / total) == pytest.approx((91.8 - 1.5) / 4, abs=1e-3)


@pytest.mark.parametrize(("gain", "size"), [((8, 9), 2), ((8, 8), 0), ((8, 8), 9)])
def test_what_does_not_fit_is_refused(gain: tuple[int, int], size: int) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        reduce_frames(torch.zeros(2, 8, 8), torch.ones(gain), size)
