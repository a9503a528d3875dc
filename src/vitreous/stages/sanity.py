"""Doubts about pixel size, exposure and counts: what the data contradict, and what a number may have been mixed up with."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous.model.detectors import match_detectors

__all__ = [
    "check_counts",
    "check_defocus",
    "check_frame_counts",
    "check_frame_dose",
    "check_pixel_size",
    "check_saturation",
    "join_warnings",
]

_FEWEST_COUNTS = 0.4
"""Of the electrons given: the specimen scatters some away, and a counting camera misses some."""
_MOST_COUNTS = 2.0
_ALIKE = 1.5
_SATURATED_SHARE = 1e-5
_FOUR_BITS = 15
_MOST_FRAME_DOSE = 15.0
_LEAST_FRAME_DOSE = 0.02
_LOW_DEFOCUS_ANGSTROM = 6000.0
_GOOD_CTF_SCORE = 0.4
_N_NAMED = 5


def _guess_causes(ratio: float, n_frames: int, total_dose: float, pixel_size: float) -> str:
    """Return what would make counts and exposure agree."""
    guesses = {
        f"{total_dose:g} e/Å² may be the exposure of one frame (--total-dose {total_dose * n_frames:g})": n_frames,
        f"{total_dose:g} e/Å² may be {n_frames} times too much (--total-dose {total_dose / n_frames:g})": 1 / n_frames,
        f"the pixel size may be that of super-resolution, not of these binned images (--pixel-size {2 * pixel_size:.4g})": 4.0,
        f"the pixel size may be that of binned images, not of super-resolution (--pixel-size {pixel_size / 2:.4g})": 0.25,
    }
    causes = [cause for cause, factor in guesses.items() if 1 / _ALIKE < ratio / factor < _ALIKE]
    if ratio > _MOST_COUNTS:
        causes.append("the camera may not count electrons, or its counts may be scaled")
    return "; ".join(causes) or "check --total-dose and --pixel-size"


def check_counts(
    mean_per_frame: float, n_frames: int, total_dose: float, pixel_size_angstrom: float
) -> tuple[str, ...]:
    """Compare the counts with the exposure.

    Parameters
    ----------
    mean_per_frame
        Mean count per pixel and frame.
    n_frames
        Frames of a movie.
    total_dose
        Exposure of a movie, e/Å².
    pixel_size_angstrom
        Å per pixel of the movie.
    """
    counted, expected = mean_per_frame * n_frames, total_dose * pixel_size_angstrom**2
    ratio = counted / expected
    if _FEWEST_COUNTS <= ratio <= _MOST_COUNTS:
        return ()
    return (
        f"counts: found {counted:.3g} per pixel in a movie, expected about {expected:.3g} electrons from {total_dose:g} e/Å² "
        f"and {pixel_size_angstrom:.4g} Å per pixel ({ratio:.2g} times as many); "
        + _guess_causes(ratio, n_frames, total_dose, pixel_size_angstrom),
    )


def check_frame_dose(total_dose: float, n_frames: int) -> tuple[str, ...]:
    """Doubt an exposure per frame that no camera is used with."""
    per_frame = total_dose / n_frames
    if _LEAST_FRAME_DOSE <= per_frame <= _MOST_FRAME_DOSE:
        return ()
    return (
        f"exposure: found {per_frame:.3g} e/Å² for each of {n_frames} frames of {total_dose:g} e/Å² in all, expected "
        f"{_LEAST_FRAME_DOSE:g} to {_MOST_FRAME_DOSE:g}; --total-dose is that of a whole movie in e/Å², neither of a frame nor "
        "of a pixel",
    )


def check_frame_counts(exposures: pl.DataFrame) -> tuple[str, ...]:
    """Say what a different number of frames means where the exposure is given for the whole movie."""
    if exposures.is_empty() or exposures["dose_per_frame"].null_count():
        return ()
    usual = Counter(exposures["n_frames"].to_list()).most_common(1)[0][0]
    return tuple(
        f"{row['exposure_id']}: found {row['n_frames']} frames, most movies have {usual}; the total exposure is divided among "
        f"them, {row['dose_per_frame']:.3g} e/Å² each, which is wrong if frames are missing"
        for row in exposures.iter_rows(named=True)
        if row["n_frames"] != usual
    )


def check_saturation(frames: NDArray[Any]) -> tuple[str, ...]:
    """Doubt whole-number counts of which many are the largest that their type can hold, or that 4 bits can."""
    if not np.issubdtype(frames.dtype, np.integer):
        return ()
    largest, kind = int(np.iinfo(frames.dtype).max), frames.dtype.name
    if frames.dtype == np.uint8 and frames.max() == _FOUR_BITS:
        # Counts of 4 bits come in bytes. A tail falls ever faster; what was cut off is heaped up at its end.
        before, last, top = (np.count_nonzero(frames == _FOUR_BITS - i) for i in (2, 1, 0))
        if top * before <= last**2:
            return ()
        largest, kind = _FOUR_BITS, "4 bits"
    if np.count_nonzero(frames == largest) <= _SATURATED_SHARE * frames.size:
        return ()
    return (
        f"more than 1 of {1 / _SATURATED_SHARE:.0f} pixels hold {largest}, the largest count of {kind}; expected "
        "none: brighter ones were cut off, which spoils the sum. Record shorter frames or in a larger type",
    )


def check_pixel_size(sizes: Iterable[tuple[int, int, float]]) -> tuple[str, ...]:
    """Compare pixel sizes with what cameras of such images are used at.

    Parameters
    ----------
    sizes
        Columns, rows and Å per pixel of images.
    """
    warnings = []
    for nx, ny, pixel in dict.fromkeys(sizes):
        matches = match_detectors(nx, ny)
        modes = " or ".join(match.mode for match in matches)
        found = f"pixel size: found {pixel:.4g} Å for images of {nx}x{ny} pixels, the size of {modes}"
        if matches and all(match.is_too_fine(pixel) for match in matches):
            warnings.append(
                f"{found}, expected more; it may be the pixel size of super-resolution while these images are binned "
                f"(--pixel-size {2 * pixel:.4g})"
            )
        elif matches and all(match.is_too_coarse(pixel) for match in matches):
            warnings.append(
                f"{found}, expected less; it may be that of the physical pixel, twice as large "
                f"(--pixel-size {pixel / 2:.4g})"
            )
    return tuple(warnings)


def check_defocus(micrographs: pl.DataFrame, pixel_size_angstrom: float) -> tuple[str, ...]:
    """Doubt the pixel size where CTFs fit well at a defocus that nobody images particles at.

    With a pixel size s times the real one, rings lie at frequencies 1/s too high and are fitted with s² of the defocus.

    Parameters
    ----------
    micrographs
        Rows with `defocus_u_angstrom`, `defocus_v_angstrom` and `ctf_score`.
    pixel_size_angstrom
        Å per pixel that the CTFs were fitted with.
    """
    good = micrographs.filter(pl.col("ctf_score") >= _GOOD_CTF_SCORE)
    if good.is_empty():
        return ()
    defocus = statistics.median(((good["defocus_u_angstrom"] + good["defocus_v_angstrom"]) / 2).to_list())
    if defocus >= _LOW_DEFOCUS_ANGSTROM:
        return ()
    return (
        f"pixel size: found a median defocus of {defocus / 1e4:.2f} µm in {good.height} good fits, expected more than "
        f"{_LOW_DEFOCUS_ANGSTROM / 1e4:g}; if {pixel_size_angstrom:.4g} Å is half the real pixel size (that of super-resolution, "
        f"given for binned images), the defocus is {4 * defocus / 1e4:.2f} µm (--pixel-size {2 * pixel_size_angstrom:.4g})",
    )


def join_warnings(warnings: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return each warning once; those that say the same of several of `names` (as `name: text`) become one."""
    known, groups = set(names), dict[str, list[str]]()
    for warning in dict.fromkeys(warnings):
        name, _, text = warning.partition(": ")
        if name in known and text:
            groups.setdefault(text, []).append(name)
        else:
            groups.setdefault(warning, [])
    joined = []
    for text, group in groups.items():
        more = f" and {len(group) - _N_NAMED} more" if len(group) > _N_NAMED else ""
        joined.append(f"{', '.join(group[:_N_NAMED])}{more}: {text}" if group else text)
    return tuple(joined)
