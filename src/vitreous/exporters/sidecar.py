"""The JSON file beside an export: what a reader must know that the layout itself cannot say."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from vitreous import __version__
from vitreous.exporters.dataset import Dataset, merge_sizes

__all__ = ["SIDECAR", "describe_dataset"]

SIDECAR = "dataset.json"

_LICENCE = (
    "This export states no licence. Say under which terms it may be used (`vitreous new --licence`) before you publish it; "
    "the micrographs stay under the terms of their source."
)


def _get_only(values: pl.Series) -> Any:
    """Return the value that all rows have, None where they differ."""
    unique = values.unique()
    return unique[0] if len(unique) == 1 else None


def describe_dataset(
    dataset: Dataset, layout: str, coordinates: Mapping[str, str], counts: Mapping[str, int]
) -> dict[str, Any]:
    """Return the document.

    Parameters
    ----------
    dataset
        What was exported.
    layout
        Name of the layout.
    coordinates
        How positions are written: `y_origin` and the rule for each of x and y.
    counts
        What was written.
    """
    micrographs, positives = dataset.micrographs, dataset.positives
    diameter = positives["diameter_angstrom"].median()
    number = positives.group_by("name").len("positives")
    rejected = dataset.negatives.group_by("name").len("negatives")
    listed = (
        micrographs.select("name", "micrograph_id", "nx_px", "ny_px", "pixel_size_angstrom")
        .join(number, on="name", how="left", maintain_order="left")
        .join(rejected, on="name", how="left", maintain_order="left")
        .with_columns(pl.col("positives", "negatives").fill_null(0))
    )
    return {
        "layout": layout,
        "written_by": f"vitreous {__version__}",
        "entry_id": dataset.entry["entry_id"],
        "title": dataset.entry["title"],
        "source": dataset.entry["source"],
        "symmetry": dataset.entry["symmetry"],
        "molecular_weight_kda": dataset.entry["molecular_weight_kda"],
        "coordinates": dict(coordinates),
        "pixel_size_angstrom": _get_only(merge_sizes(micrographs["pixel_size_angstrom"])),
        "nx_px": _get_only(micrographs["nx_px"]),
        "ny_px": _get_only(micrographs["ny_px"]),
        "particle_diameter_angstrom": diameter,
        "counts": dict(counts),
        "negative_reasons": dict(
            dataset.negatives.select(pl.col("reason").fill_null("not stated"))
            .to_series()
            .value_counts()
            .sort("reason")
            .rows()
        ),
        "licence": dataset.entry["licence"] or _LICENCE,
        "micrographs": listed.to_dicts(),
    }
