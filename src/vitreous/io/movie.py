"""Movies of every format, read frame by frame."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.compressed import COMPRESSED_SUFFIXES
from vitreous.io.dm import open_dm
from vitreous.io.eer import EerRendering, open_eer
from vitreous.io.frames import collect_frames
from vitreous.io.gain import read_gain
from vitreous.io.images import find_format
from vitreous.io.mrc import open_mrc
from vitreous.io.tiff import open_tiff

__all__ = ["Movie", "open_movie", "read_frames", "read_gain", "read_movie"]


@dataclass(frozen=True)
class Movie:
    """A movie whose frames are read when they are asked for; integers stay integers.

    Attributes
    ----------
    path
        The file.
    shape
        Frames, rows and columns. The frames of an EER movie are its fractions.
    dtype
        Type of the frames, in native byte order.
    pixel_size_angstrom
        Å per pixel, None where the file does not say.
    n_frames_dropped
        Frames of the detector that an EER movie holds beyond its last whole fraction; 0 for other formats.
    exposure_used
        Which part of the file's exposure the frames hold: less than 1 where some were dropped.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    pixel_size_angstrom: float | None
    n_frames_dropped: int
    exposure_used: float
    _iterate: Callable[[Sequence[int]], Iterator[NDArray[Any]]]

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return self.shape[0]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Yield every frame, `(ny, nx)`, with one frame in memory at a time."""
        return self._iterate(range(self.shape[0]))

    def read(self, frames: Sequence[int] | None = None) -> NDArray[Any]:
        """Read all frames, or the ones numbered `frames`, as `(n, ny, nx)`; negative numbers count from the end.

        Raises
        ------
        InputFileError
            If the file is damaged.
        IndexError
            If there is no such frame.
        """
        wanted = range(self.shape[0]) if frames is None else [range(self.shape[0])[frame] for frame in frames]
        ascending = sorted(set(wanted))
        certain = self.path.suffix.lower() not in COMPRESSED_SUFFIXES
        stack = collect_frames(self._iterate(ascending), len(ascending) if certain else None)
        return stack if list(wanted) == ascending else stack[np.searchsorted(ascending, wanted)]


def open_movie(path: Path, rendering: EerRendering | None = None) -> Movie:
    """Open a movie in MRC (also compressed), TIFF, EER or DM.

    Rows of TIFF and DM are flipped, those of MRC and EER are not.

    Parameters
    ----------
    path
        The file.
    rendering
        How an EER movie is divided and rendered; other formats take no notice.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, or no movie.
    """
    match find_format(path):
        case "MRC":
            mrc = open_mrc(path)
            return Movie(path, mrc.header.shape, mrc.dtype, mrc.header.pixel_size_angstrom, 0, 1.0, mrc.iterate)
        case "TIFF":
            tiff = open_tiff(path)
            return Movie(path, tiff.shape, tiff.dtype, tiff.pixel_size_angstrom, 0, 1.0, tiff.iterate)
        case "DM":
            dm = open_dm(path)
            return Movie(path, dm.shape, dm.dtype, dm.pixel_size_angstrom, 0, 1.0, dm.iterate)
        case "EER":
            eer = open_eer(path, rendering)
            dropped, used = eer.n_dropped_frames, eer.exposure_used
            return Movie(path, eer.shape, eer.dtype, eer.pixel_size_angstrom, dropped, used, eer.iterate)
        case "picture":
            raise InputFileError(
                path,
                found="a PNG or JPEG file",
                expected="a movie or gain reference in MRC, TIFF, EER or DM",
                remedy="Give finished micrographs with --micrographs.",
            )


def read_movie(path: Path, rendering: EerRendering | None = None) -> NDArray[Any]:
    """Read a movie, `(n_frames, ny, nx)`, in the file's type, as `open_movie` does.

    Raises
    ------
    InputFileError
        If the file is missing, damaged, or no movie.
    """
    return open_movie(path, rendering).read()


def read_frames(path: Path, frames: Sequence[int], rendering: EerRendering | None = None) -> NDArray[Any]:
    """Read some frames of a movie, `(len(frames), ny, nx)`, without the rest; negative numbers count from the end.

    Raises
    ------
    InputFileError
        As `read_movie`.
    """
    return open_movie(path, rendering).read(frames)
