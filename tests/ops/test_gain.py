"""Gain correction, and bad pixels found and replaced, on counts whose truth is known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vitreous.ops.gain import find_defects, replace_defects


def draw_gain(shape: tuple[int, int], spread: float = 0.03, seed: int = 0) -> Tensor:
    return 1 + spread * torch.randn(shape, generator=torch.Generator().manual_seed(seed)).clamp(-4, 4)


def count(expected: Tensor, n_frames: int, seed: int = 0) -> Tensor:
    return torch.poisson(expected.expand(n_frames, -1, -1), torch.Generator().manual_seed(seed))


def test_hot_and_dead_pixels_are_found_and_no_others() -> None:
    rng = np.random.default_rng(0)
    factor = np.ones(256 * 300)
    bad = rng.choice(factor.size, 60, replace=False)
    factor[bad[:40]], factor[bad[40:]] = rng.uniform(5, 15, 40), 0.0
    factor = factor.reshape(256, 300)
    y = np.linspace(0.7, 1.3, 256)[:, None]
    mean = count(torch.from_numpy(factor * y * 2.0).float(), 20).mean(0)
    found = find_defects(mean, None, 8.0)
    np.testing.assert_array_equal(found, factor != 1)


@pytest.mark.parametrize("per_pixel", [0.02, 0.3, 1.5])
def test_sparse_counts_are_no_defects(per_pixel: float) -> None:
    mean = count(torch.full((256, 256), per_pixel), 1).mean(0)
    assert find_defects(mean, draw_gain((256, 256)), 8.0).float().mean() < 1e-3


def test_a_pixel_without_gain_is_a_defect() -> None:
    gain = torch.ones(20, 20)
    gain[3, 4] = 0
    found = find_defects(10 + torch.rand(20, 20, generator=torch.Generator().manual_seed(0)), gain, 8.0)
    assert torch.nonzero(found).tolist() == [[3, 4]]


def test_large_frames_are_treated_as_small_ones() -> None:
    mean = count(torch.full((700, 64), 30.0), 1).mean(0)
    mean[511:514, 7] = 400
    found = find_defects(mean, None, 8.0)
    assert torch.nonzero(found).tolist() == [[511, 7], [512, 7], [513, 7]]


def make_defects(shape: tuple[int, int]) -> Tensor:
    defects = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.002
    defects[:, 40] = True
    defects[60:100, 60:100] = True
    defects[0, 0] = True
    return defects


def test_replaced_pixels_count_like_their_neighbours() -> None:
    shape = (128, 160)
    defects = make_defects(shape)
    frame = count(torch.full(shape, 5.0), 1)[0]
    spoiled = torch.where(defects, 1e6, frame)
    mended = replace_defects(spoiled, defects)
    np.testing.assert_array_equal(mended[~defects], frame[~defects])
    new = mended[defects]
    assert new.max() < 25
    assert new.mean().item() == pytest.approx(5, abs=0.3)
    assert new.var().item() == pytest.approx(5, rel=0.2)


def test_replacing_is_reproducible_and_leaves_its_input_alone() -> None:
    defects = make_defects((128, 160))
    frame = count(torch.full((128, 160), 5.0), 1)[0]
    before = frame.clone()
    np.testing.assert_array_equal(replace_defects(frame, defects), replace_defects(frame, defects))
    np.testing.assert_array_equal(frame, before)
    nothing = torch.zeros_like(defects)
    np.testing.assert_array_equal(replace_defects(frame, nothing), frame)


def test_a_camera_of_defects_only_is_refused() -> None:
    with pytest.raises(ValueError, match="every pixel"):
        replace_defects(torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool))
