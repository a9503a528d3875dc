"""What no dataset may say of itself: pixel sizes and rows that contradict the images."""

from pathlib import Path

import numpy as np
import polars as pl

from vitreous.errors import InputFileError, ProjectError
from vitreous.io.mrc import read_mrc, read_mrc_header
from vitreous.ops.contrast import compare_rows

__all__ = ["check_pixel_sizes", "check_rows"]

_MAX_DIFFERENCE = 0.01
_N_SAMPLED = 4
_LEAST_PICKS = 20
_CLEARLY = 5.0
"""Standard errors by which the mean darkness of one way to count rows exceeds that of the other."""


def check_pixel_sizes(micrographs: pl.DataFrame, root: Path) -> None:
    """Refuse micrographs whose header has another pixel size than the table.

    Raises
    ------
    InputFileError
        At the first that has, by more than a hundredth.
    """
    for path, pixel in micrographs.select("micrograph_path", "pixel_size_angstrom").iter_rows():
        header = read_mrc_header(root / path).pixel_size_angstrom
        if header is not None and abs(header - pixel) > _MAX_DIFFERENCE * pixel:
            raise InputFileError(
                root / path,
                found=f"a pixel size of {header:.4g} Å in its header",
                expected=f"{pixel:.4g} Å as the micrographs table says",
                remedy="One of them is wrong: give the right one with `vitreous new --pixel-size` and run the project again.",
            )


def check_rows(micrographs: pl.DataFrame, positives: pl.DataFrame, root: Path) -> None:
    """Refuse positives that lie on protein only when their rows are counted from the other side.

    Looked at in some micrographs with enough positives. Both ways may fail (weak contrast): that is no contradiction.

    Raises
    ------
    ProjectError
        If the positives fit the images clearly better upside down.
    """
    count = positives.group_by("micrograph_id").len().filter(pl.col("len") >= _LEAST_PICKS)
    rows = micrographs.join(count, on="micrograph_id", how="inner", maintain_order="left")
    given, turned = np.empty(0), np.empty(0)
    for row in rows[:: max(1, rows.height // _N_SAMPLED)].head(_N_SAMPLED).iter_rows(named=True):
        picks = positives.filter(pl.col("micrograph_id") == row["micrograph_id"])
        diameter = float(picks["diameter_angstrom"].to_numpy().mean()) / row["pixel_size_angstrom"]
        image = read_mrc(root / row["micrograph_path"])[0].astype(np.float32)
        if "bright" in picks["contrast"]:
            image = -image
        one, other = compare_rows(image, picks.select("x_px", "y_px").to_numpy(), diameter)
        given, turned = np.concatenate([given, one]), np.concatenate([turned, other])
    if len(given) == 0:
        return
    error = np.sqrt((given.var() + turned.var()) / len(given))
    if turned.mean() - given.mean() > _CLEARLY * error and turned.mean() > _CLEARLY * turned.std() / np.sqrt(
        len(turned)
    ):
        raise ProjectError(
            f"{root}: found positives that lie on dark spots ({turned.mean():.2f} standard deviations) only with rows counted "
            f"from the other side, and not as they are ({given.mean():.2f}); expected protein at the positions. If they were "
            "imported, import them again with the other --y-origin."
        )
