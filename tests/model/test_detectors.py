"""Cameras are known by the sizes of their images; pixel sizes of public data sets are believed, mixed-up ones are not."""

import pytest

from vitreous.model.detectors import match_detectors


@pytest.mark.parametrize(
    ("nx", "ny", "modes"),
    [
        (3838, 3710, ["Gatan K2"]),
        (3710, 3838, ["Gatan K2"]),
        (7676, 7420, ["Gatan K2 in super-resolution"]),
        (7420, 7676, ["Gatan K2 in super-resolution"]),
        (1919, 1855, ["Gatan K2 binned 2x"]),
        (5760, 4092, ["Gatan K3"]),
        (11520, 8184, ["Gatan K3 in super-resolution"]),
        (2880, 2046, ["Gatan K3 binned 2x"]),
        (1440, 1023, ["Gatan K3 binned 4x"]),
        (4096, 4096, ["Falcon"]),
        (8192, 8192, ["Falcon in super-resolution", "DE-64"]),
        (1024, 1024, []),
        (1000, 1000, []),
        (5760, 4096, ["Gatan K3"]),
        (5760, 4160, []),
    ],
)
def test_sizes(nx: int, ny: int, modes: list[str]) -> None:
    assert [match.mode for match in match_detectors(nx, ny)] == modes


@pytest.mark.parametrize(
    ("nx", "ny", "pixel", "too_fine", "too_coarse"),
    [
        (3838, 3710, 0.673, True, False),
        (3838, 3710, 1.345, False, False),
        (7676, 7420, 0.673, False, False),
        (7676, 7420, 1.345, False, True),
        (5760, 4092, 0.4135, True, False),
        (5760, 4092, 0.83, False, False),
        (5760, 4092, 0.66, False, False),
        (11520, 8184, 0.4135, False, False),
        (11520, 8184, 0.83, False, True),
        (2880, 2046, 1.66, False, False),
        (2880, 2046, 0.83, True, False),
        (4096, 4096, 0.66, False, False),
    ],
)
def test_pixel_sizes(nx: int, ny: int, pixel: float, too_fine: bool, too_coarse: bool) -> None:
    (match, *_) = match_detectors(nx, ny)
    assert (match.is_too_fine(pixel), match.is_too_coarse(pixel)) == (too_fine, too_coarse)
