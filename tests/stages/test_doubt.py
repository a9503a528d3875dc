"""Doubtful CTF fits, and what takes their place."""

import polars as pl
import pytest

from vitreous.stages.doubt import is_ctf_doubtful, settle_defocus

NAMES = ("defocus_u_angstrom", "defocus_v_angstrom", "ctf_score", "ctf_resolution_angstrom", "ctf_significance")
GOOD = (15_000.0, 14_500.0, 0.8, 4.0, 30.0)


def make_micrographs(*fits: tuple[float | None, ...]) -> pl.DataFrame:
    frame = pl.DataFrame(list(fits), schema=dict.fromkeys(NAMES, pl.Float64), orient="row")
    return frame.with_columns(
        micrograph_id=pl.format("m{}", pl.int_range(pl.len())),
        defocus_angle_deg=pl.when(pl.col("defocus_u_angstrom").is_not_null()).then(40.0),
        phase_shift_deg=pl.lit(None, dtype=pl.Float64),
    )


@pytest.mark.parametrize(
    ("fit", "doubtful"),
    [
        (GOOD, False),
        ((15_000.0, 14_500.0, 0.3, 4.0, 30.0), True),
        ((15_000.0, 14_500.0, 0.8, 18.0, 30.0), True),
        ((15_000.0, 14_500.0, 0.8, 4.0, 5.0), True),
        ((15_400.0, 4_300.0, 0.8, 4.0, 30.0), True),
        ((15_400.0, 4_300.0, None, None, None), False),
        ((None, None, None, None, None), False),
    ],
)
def test_doubt(fit: tuple[float | None, ...], doubtful: bool) -> None:
    assert make_micrographs(fit).select(is_ctf_doubtful()).item() is doubtful


def test_a_doubtful_fit_among_good_ones_gives_way_to_their_median() -> None:
    bad = (30_000.0, 29_000.0, 0.1, 4.0, 30.0)
    others = [(mean + 200, mean - 200, *GOOD[2:]) for mean in (12_000.0, 14_000.0, 19_000.0)]
    given = make_micrographs(others[0], bad, *others[1:])
    settled = settle_defocus(given)
    assert settled.filter(pl.col("micrograph_id") != "m1").equals(given.filter(pl.col("micrograph_id") != "m1"))
    row = settled.row(1, named=True)
    assert (row["defocus_u_angstrom"], row["defocus_v_angstrom"]) == (14_000.0, 14_000.0)
    assert (row["defocus_angle_deg"], row["phase_shift_deg"]) == (0.0, 0.0)


def test_where_most_are_doubtful_no_fit_is_used() -> None:
    bad = (30_000.0, 29_000.0, 0.1, 4.0, 30.0)
    settled = settle_defocus(make_micrographs(GOOD, bad, bad))
    assert settled["defocus_u_angstrom"].null_count() == settled["defocus_angle_deg"].null_count() == 3


def test_good_fits_and_micrographs_without_one_stay() -> None:
    given = make_micrographs(GOOD, (None,) * 5, (9_000.0, 3_000.0, None, None, None))
    assert settle_defocus(given).equals(given)
