"""Which CTF fits are not to be relied on, and what is used in their place."""

import polars as pl

__all__ = ["is_ctf_doubtful", "settle_defocus"]

_DOUBTFUL_SCORE = 0.4
_DOUBTFUL_RESOLUTION_ANGSTROM = 15.0
_DOUBTFUL_SIGNIFICANCE = 8.0
_ABSURD_ASTIGMATISM = 0.4
"""Of the mean defocus. Microscopes are aligned to some per cent; a fit to something else than rings goes wherever it is let."""

_DEFOCUS = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg")


def is_ctf_doubtful() -> pl.Expr:
    """Return whether each micrograph's fit is doubtful; false where there is no fit, or one of another program without scores."""
    u, v = pl.col("defocus_u_angstrom"), pl.col("defocus_v_angstrom")
    doubtful = (
        (pl.col("ctf_score") < _DOUBTFUL_SCORE)
        | (pl.col("ctf_resolution_angstrom") > _DOUBTFUL_RESOLUTION_ANGSTROM)
        | (pl.col("ctf_significance") < _DOUBTFUL_SIGNIFICANCE)
        | (pl.col("ctf_score").is_not_null() & ((u - v).abs() > _ABSURD_ASTIGMATISM * (u + v).abs() / 2))
    )
    return doubtful.fill_null(value=False)


def settle_defocus(micrographs: pl.DataFrame) -> pl.DataFrame:
    """Return the micrographs with the defocus that what compares images with a CTF should use.

    Where a fit is doubtful, that is the median of the others without astigmatism. Where the doubtful ones are more than the
    others it is none, of any: what was averaged without a CTF is then compared without one, which is right to the first zero
    for micrographs of about one defocus, while wrong zeros would be wrong in every one.
    """
    fitted = micrographs["defocus_u_angstrom"].is_not_null()
    doubtful = fitted & micrographs.select(is_ctf_doubtful()).to_series()
    if not doubtful.any():
        return micrographs
    good = micrographs.filter(fitted & ~doubtful)
    if 2 * good.height < int(fitted.sum()):
        return micrographs.with_columns(pl.lit(None, dtype=micrographs.schema[name]).alias(name) for name in _DEFOCUS)
    mean = float(((good["defocus_u_angstrom"] + good["defocus_v_angstrom"]) / 2).median())  # type: ignore[arg-type]
    phase = float(good["phase_shift_deg"].fill_null(0.0).median())  # type: ignore[arg-type]
    values = dict(zip(_DEFOCUS, (mean, mean, 0.0, phase), strict=True))
    return micrographs.with_columns(
        pl.when(doubtful).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in values.items()
    )
