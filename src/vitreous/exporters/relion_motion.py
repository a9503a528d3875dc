"""RELION's description of a movie's motion: shifts of the whole frame, a polynomial for its places, and its patches.

RELION's shifts undo the displacement of the content: they are what is measured here with the sign turned round, in pixels of
the movie, 0 in the first frame.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from vitreous.errors import InputFileError
from vitreous.io.star import write_star

__all__ = ["MovieTrack", "compute_motion_terms", "fit_motion_model", "read_track", "write_motion"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MovieTrack:
    """Displacement of the content relative to the first frame, px of the movie.

    Attributes
    ----------
    x, y
        Of the whole frame, `(n,)`.
    patch_x, patch_y
        Centres of the patches, `(P,)`.
    local_x, local_y
        Of each patch beside that of the whole, `(P, n)`.
    is_local
        Whether the micrograph was corrected for local motion.
    """

    x: Floats
    y: Floats
    patch_x: Floats
    patch_y: Floats
    local_x: Floats
    local_y: Floats
    is_local: bool


def read_track(path: Path, n_frames: int | None) -> MovieTrack:
    """Read the motion of a movie of `n_frames`, if that is known.

    Raises
    ------
    InputFileError
        If the file is missing, damaged or of another number of frames.
    """

    def refuse(found: str, expected: str) -> InputFileError:
        return InputFileError(path, found=found, expected=expected, remedy="Run motion again.")

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        x, y = (np.asarray(document[f"shift_{axis}_px"], dtype=np.float64) for axis in "xy")
        is_local = bool(document.get("local_motion", False))
        patch_x, patch_y, local_x, local_y = (
            np.asarray(document[name] if is_local else [], dtype=np.float64)
            for name in ("patch_x_px", "patch_y_px", "patch_shift_x_px", "patch_shift_y_px")
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise refuse(f"a file that cannot be read ({error})", "the motion of a movie, in JSON") from error
    if x.ndim != 1 or x.shape != y.shape or not len(x) or (n_frames is not None and len(x) != n_frames):
        of = f" of {n_frames}" if n_frames is not None else ""
        raise refuse(f"{x.size} positions in x and {y.size} in y", f"one of each for each frame{of}")
    shape = (patch_x.size, len(x))
    if is_local and not (patch_x.shape == patch_y.shape == shape[:1] and local_x.shape == local_y.shape == shape):
        raise refuse(
            f"local motion of {local_x.shape} in x and {local_y.shape} in y in {patch_x.size} patches",
            f"one position for each patch and each of the {len(x)} frames",
        )
    return MovieTrack(x, y, patch_x, patch_y, local_x, local_y, is_local)


def compute_motion_terms(x: Floats, y: Floats, frame: Floats) -> Floats:
    """Return the terms of RELION's third-order model, `(..., 18)`: {1, x, x², y, y², xy} with {z, z², z³} of each.

    Parameters
    ----------
    x, y
        From -0.5 to 0.5 over the frame.
    frame
        Number of the frame z, the first 0.
    """
    place = np.stack(np.broadcast_arrays(np.ones_like(x), x, x**2, y, y**2, x * y), axis=-1)
    time = np.stack([frame, frame**2, frame**3], axis=-1)
    terms = place[..., :, None] * time[..., None, :]
    return terms.reshape(*terms.shape[:-2], 18)


def fit_motion_model(track: MovieTrack, nx: int, ny: int) -> tuple[Floats, float]:
    """Fit RELION's model to the patches by least squares.

    Parameters
    ----------
    track
        With local motion.
    nx, ny
        Size of the movie's frames, px.

    Returns
    -------
    coefficients
        18 for x, then 18 for y, of RELION's shifts.
    residual
        Root mean square distance between model and patches, px.
    """
    x, y = track.patch_x[:, None] / nx - 0.5, track.patch_y[:, None] / ny - 0.5
    terms = compute_motion_terms(x, y, np.arange(len(track.x), dtype=np.float64)[None])
    design = terms.reshape(-1, 18)
    # z³ is large in long movies: columns of one length keep the equations well conditioned.
    length = np.maximum(np.linalg.norm(design, axis=0), 1e-12)
    shifts = -np.stack([track.local_x.ravel(), track.local_y.ravel()], axis=1)
    scaled = np.linalg.lstsq(design / length, shifts, rcond=1e-9)[0]
    left = design @ (scaled / length[:, None]) - shifts
    residual = float(np.sqrt(np.mean(np.sum(left**2, axis=1))))
    return (scaled / length[:, None]).T.ravel(), residual


def _tabulate_shifts(frames: Floats, x: Floats, y: Floats) -> dict[str, Any]:
    return {
        "rlnMicrographFrameNumber": frames.astype(np.int64),
        "rlnMicrographShiftX": 0.0 - x,
        "rlnMicrographShiftY": 0.0 - y,
    }


def write_motion(path: Path, track: MovieTrack, row: Mapping[str, Any], movie: str, gain: str | None) -> float:
    """Write the motion of a movie.

    Parameters
    ----------
    path
        The STAR file.
    track
        The motion.
    row
        The movie's row of the micrographs of a `Dataset`.
    movie, gain
        Where RELION is to find them.

    Returns
    -------
    float
        Root mean square distance between RELION's polynomial and the motion found in the patches, px.
    """
    optional = {
        "rlnMicrographGainName": gain,
        "rlnMicrographBinning": row["pixel_size_angstrom"] / row["original_pixel_size_angstrom"],
        "rlnMicrographOriginalPixelSize": row["original_pixel_size_angstrom"],
        "rlnMicrographDoseRate": row["dose_per_frame"],
        "rlnMicrographPreExposure": row["pre_exposure"],
    }
    general: dict[str, object] = {
        "rlnImageSizeX": row["movie_nx_px"],
        "rlnImageSizeY": row["movie_ny_px"],
        "rlnImageSizeZ": len(track.x),
        "rlnMicrographMovieName": movie,
        **{label: value for label, value in optional.items() if value is not None},
        "rlnVoltage": row["voltage_kv"],
        "rlnMicrographStartFrame": 1,
        "rlnMotionModelVersion": int(track.is_local),
    }
    numbers = np.arange(1, len(track.x) + 1, dtype=np.float64)
    shifts = pl.DataFrame(_tabulate_shifts(numbers, track.x - track.x[0], track.y - track.y[0]))
    blocks: dict[str, pl.DataFrame | Mapping[str, object]] = {"general": general, "global_shift": shifts}
    residual = 0.0
    if track.is_local:
        coefficients, residual = fit_motion_model(track, row["movie_nx_px"], row["movie_ny_px"])
        blocks["local_motion_model"] = pl.DataFrame(
            {"rlnMotionModelCoeffsIdx": np.arange(len(coefficients)), "rlnMotionModelCoeff": coefficients}
        )
        n = len(numbers)
        local = _tabulate_shifts(np.tile(numbers, len(track.patch_x)), track.local_x.ravel(), track.local_y.ravel())
        places = {
            "rlnCoordinateX": np.repeat(track.patch_x, n),
            "rlnCoordinateY": np.repeat(track.patch_y, n),
        }
        number = {"rlnMicrographFrameNumber": local.pop("rlnMicrographFrameNumber")}
        blocks["local_shift"] = pl.DataFrame(number | places | local)
    write_star(path, blocks)
    return residual
