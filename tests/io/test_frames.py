"""Gathering frames."""

import numpy as np
import pytest

from vitreous.io.frames import collect_frames


@pytest.mark.parametrize("n_frames", [3, None])
def test_frames_become_a_stack(n_frames: int | None) -> None:
    frames = np.random.default_rng(1).integers(0, 9, (3, 4, 5)).astype(np.uint8)
    stack = collect_frames(iter(frames), n_frames)
    assert stack.dtype == np.uint8
    np.testing.assert_array_equal(stack, frames)


@pytest.mark.parametrize("n_frames", [0, None])
def test_no_frames(n_frames: int | None) -> None:
    with pytest.raises(ValueError, match="at least one"):
        collect_frames(iter(()), n_frames)
