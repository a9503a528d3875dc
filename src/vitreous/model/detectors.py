"""Cameras, known by the sizes of their images."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DETECTORS", "Detector", "SizeMatch", "match_detectors"]

_TOLERANCE_PX = 4
_SCALES = (4.0, 2.0, 1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Detector:
    """A camera.

    Attributes
    ----------
    name
        Maker's name.
    nx_px, ny_px
        Columns and rows of physical pixels.
    finest_scale
        How many pixels of its finest images lie along one physical pixel: 2 with super-resolution, 4 for EER.
    least_usual_pixel_angstrom
        Finer than this, Å per physical pixel, are few single-particle data sets; about what a super-resolution pixel is.
    """

    name: str
    nx_px: int
    ny_px: int
    finest_scale: int
    least_usual_pixel_angstrom: float


DETECTORS: Sequence[Detector] = (
    Detector("Gatan K2", 3838, 3710, 2, 0.7),
    Detector("Gatan K3", 5760, 4092, 2, 0.55),
    Detector("Falcon", 4096, 4096, 4, 0.45),
    Detector("DE-64", 8192, 8192, 2, 0.4),
    Detector("DE-20", 5120, 3840, 2, 0.4),
)
"""The cameras that most public data sets come from. Falcon stands for 2, 3, 4 and 4i, and for others of 4096 x 4096 pixels."""

_MOST_USUAL_PIXEL_ANGSTROM = 1.6


@dataclass(frozen=True)
class SizeMatch:
    """A camera whose images can be of a size: `scale` image pixels lie along one physical pixel, less than 1 when binned."""

    detector: Detector
    scale: float

    @property
    def mode(self) -> str:
        """What images of that size are called."""
        if self.scale > 1:
            return f"{self.detector.name} in super-resolution"
        return f"{self.detector.name}" + ("" if self.scale == 1 else f" binned {1 / self.scale:g}x")

    def is_too_fine(self, pixel_size_angstrom: float) -> bool:
        """Whether few data sets of that camera have physical pixels of so few Å."""
        return pixel_size_angstrom * self.scale < self.detector.least_usual_pixel_angstrom

    def is_too_coarse(self, pixel_size_angstrom: float) -> bool:
        """Whether so many Å suit a physical pixel better than one of super-resolution."""
        return self.scale > 1 and pixel_size_angstrom * self.scale > _MOST_USUAL_PIXEL_ANGSTROM


def match_detectors(nx_px: int, ny_px: int) -> list[SizeMatch]:
    """Return the cameras whose images, whole, finer or binned, are of a size, either way round and but for a few pixels.

    Binned images of square cameras have the size of many a picture, and tell nothing.
    """
    long, short = max(nx_px, ny_px), min(nx_px, ny_px)
    return [
        SizeMatch(detector, scale)
        for detector in DETECTORS
        for scale in _SCALES
        if scale <= detector.finest_scale
        and (scale >= 1 or detector.nx_px != detector.ny_px)
        and abs(long / scale - detector.nx_px) <= _TOLERANCE_PX / min(scale, 1)
        and abs(short / scale - detector.ny_px) <= _TOLERANCE_PX / min(scale, 1)
    ]
