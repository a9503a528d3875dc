"""A first look at the movies of a data set: the sum of a few frames of a few movies, the same every time."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitreous.errors import InputFileError
from vitreous.io.compressed import COMPRESSED_SUFFIXES
from vitreous.io.eer import EerRendering
from vitreous.io.images import ImageInfo, probe_image
from vitreous.io.movie import read_frames

__all__ = ["Sample", "Survey", "choose_sample", "read_survey"]

_MAX_MOVIES = 10
_AS_IS = EerRendering()


@dataclass(frozen=True)
class Sample:
    """A movie that is looked at: as it is called, where it lies, what its header says, and how it is rendered if it is EER."""

    name: str
    path: Path
    info: ImageInfo
    rendering: EerRendering = _AS_IS


@dataclass(frozen=True)
class Survey:
    """What the frames that were read add up to.

    Attributes
    ----------
    summed
        Sum of all frames read, float32 `(ny, nx)`.
    n_frames
        How many they are.
    movies
        The movies that they are from.
    mean_per_frame
        Mean count per pixel and frame.
    zero_frames
        Frames without any count, as `name, frame n`.
    """

    summed: Tensor
    n_frames: int
    movies: tuple[str, ...]
    mean_per_frame: float
    zero_frames: tuple[str, ...]


def _spread(n: int, n_wanted: int) -> list[int]:
    """Return up to `n_wanted` of the numbers below `n`, evenly spread, ends included."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, n_wanted))})


def choose_sample(files: Sequence[tuple[str, Path]], rendering: EerRendering = _AS_IS) -> list[Sample]:
    """Return up to ten of the files that can be opened, evenly spread and all of the most frequent size; [] if there are none."""
    spread = _spread(len(files), _MAX_MOVIES)
    others = (i for i in range(len(files)) if i not in set(spread))
    samples = list(_probe([files[i] for i in spread], rendering))
    if not samples:
        samples = [sample for _, sample in zip(range(1), _probe((files[i] for i in others), rendering), strict=False)]
    sizes = Counter((sample.info.ny_px, sample.info.nx_px) for sample in samples)
    usual = sizes.most_common(1)[0][0] if sizes else None
    return [sample for sample in samples if (sample.info.ny_px, sample.info.nx_px) == usual]


def _probe(files: Iterable[tuple[str, Path]], rendering: EerRendering) -> Iterator[Sample]:
    for name, path in files:
        try:
            yield Sample(name, path, probe_image(path, rendering), rendering)
        except InputFileError:
            # A file that cannot be read is a failed row later, with its reason.
            continue


def read_survey(samples: Sequence[Sample], n_frames: int) -> Survey | None:
    """Read about `n_frames` frames, the same number of each movie, evenly spread; None where none can be read.

    Of compressed MRC files, the first frames are read.
    """
    total: NDArray[np.float32] | None = None
    n_read, movies, zero_frames = 0, [], []
    for sample in samples:
        n_wanted = -(-n_frames // len(samples))
        numbers = _spread(sample.info.n_frames, n_wanted)
        if sample.path.suffix.lower() in COMPRESSED_SUFFIXES:
            # All that lies before a frame has to be decompressed.
            numbers = list(range(len(numbers)))
        try:
            frames = read_frames(sample.path, numbers, sample.rendering)
        except InputFileError:
            continue
        added = frames.sum(axis=0, dtype=np.float32)
        if not np.isfinite(added).all():
            continue
        total = added if total is None else total + added
        n_read += len(numbers)
        movies.append(sample.name)
        zero_frames += [
            f"{sample.name}, frame {number + 1}"
            for number, frame in zip(numbers, frames, strict=True)
            if not frame.any()
        ]
    if total is None:
        return None
    mean = float(total.mean(dtype=np.float64)) / n_read
    return Survey(torch.from_numpy(total), n_read, tuple(movies), mean, tuple(zero_frames))
