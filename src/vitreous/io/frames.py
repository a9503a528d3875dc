"""Frames that come one by one, gathered into a stack."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["collect_frames"]


def collect_frames(frames: Iterable[NDArray[Any]], n_frames: int | None) -> NDArray[Any]:
    """Return frames as one array `(n, ny, nx)`, without a second copy where their number is certain.

    Parameters
    ----------
    frames
        At least one, all of one shape and type.
    n_frames
        How many there are; None where a damaged file may have announced more than it holds, and memory must not be taken for
        them beforehand.
    """
    if n_frames is None:
        return np.stack(list(frames))
    stack: NDArray[Any] | None = None
    for i, frame in enumerate(frames):
        if stack is None:
            stack = np.empty((n_frames, *frame.shape), frame.dtype)
        stack[i] = frame
    if stack is None:
        raise ValueError("expected at least one frame, found none")
    return stack
