"""The card of a release: what it is, for machines (Croissant, JSON-LD) and for people, with checksums of every file."""

import hashlib
import platform
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from vitreous.exporters.croissant import describe_croissant
from vitreous.exporters.dataset import Dataset
from vitreous.exporters.page import write_page
from vitreous.exporters.provenance import describe_provenance
from vitreous.exporters.sidecar import SIDECAR, describe_dataset
from vitreous.exporters.splits import SPLITS, assign_splits
from vitreous.io.atomic import open_for_replacement, write_json, write_text

__all__ = ["CHECKSUMS", "CROISSANT", "PAGE", "PARTICLES", "write_card"]

CROISSANT, PAGE, CHECKSUMS, PARTICLES = "croissant.json", "README.md", "checksums.sha256", "particles.csv"

_SOFTWARE = ("vitreous", "numpy", "polars", "scipy", "torch")
"""What results depend on."""


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tabulate_particles(dataset: Dataset, splits: Mapping[str, str]) -> pl.DataFrame:
    """Return all particles that have a label, with the exact positions of the micrograph in memory whatever the layout."""
    return pl.concat([dataset.positives, dataset.negatives]).select(
        "particle_id",
        pl.col("name").alias("micrograph"),
        "x_px",
        "y_px",
        (pl.col("diameter_angstrom") / pl.col("pixel_size_angstrom")).alias("diameter_px"),
        "label",
        pl.col("reason").fill_null(""),
        pl.col("name").replace_strict(dict(splits), return_dtype=pl.String).alias("split"),
    )


def _count_splits(particles: pl.DataFrame, splits: Mapping[str, str]) -> dict[str, dict[str, int]]:
    return {
        split: {
            "micrographs": sum(value == split for value in splits.values()),
            **{
                f"{label}s": particles.filter((pl.col("split") == split) & (pl.col("label") == label)).height
                for label in ("positive", "negative")
            },
        }
        for split in SPLITS
    }


def write_card(
    staging: Path, dataset: Dataset, layout: str, coordinates: Mapping[str, str], counts: Mapping[str, int]
) -> None:
    """Write the card of a release, once all else of it is written.

    Parameters
    ----------
    staging
        The folder of the release.
    dataset
        What was exported.
    layout
        Name of the layout.
    coordinates
        How the layout's own files write positions: `y_origin` and the rule for each of x and y.
    counts
        What was written.

    Notes
    -----
    `dataset.json` holds everything, `croissant.json` what search engines and loaders read, `README.md` the same for people,
    `particles.csv` all labelled particles, `checksums.sha256` what `sha256sum -c` checks.
    """
    splits = assign_splits(dataset.micrographs["name"].to_list())
    particles = _tabulate_particles(dataset, splits)
    document: dict[str, Any] = describe_dataset(dataset, layout, coordinates, counts)
    document["micrographs"] = [row | {"split": splits[row["name"]]} for row in document["micrographs"]]
    document |= {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {"python": platform.python_version()} | {name: version(name) for name in _SOFTWARE},
        "splits": _count_splits(particles, splits),
        "warnings": list(dataset.warnings),
        "provenance": describe_provenance(dataset.root),
    }
    with open_for_replacement(staging / PARTICLES) as temporary:
        particles.write_csv(temporary)
    write_json(staging / SIDECAR, document)
    write_text(staging / PAGE, write_page(document))
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        hashed = pool.map(_hash_file, files)
        digests = {path.relative_to(staging).as_posix(): digest for path, digest in zip(files, hashed, strict=True)}
    write_json(staging / CROISSANT, describe_croissant(document, digests, PARTICLES))
    digests[CROISSANT] = _hash_file(staging / CROISSANT)
    write_text(staging / CHECKSUMS, "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())))
