"""The human page of a release, in Markdown."""

from collections.abc import Mapping
from typing import Any

__all__ = ["write_page"]


def _list(items: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in items.items() if value is not None)


def _describe_splits(splits: Mapping[str, Mapping[str, int]]) -> str:
    rows = [f"| {name} | {' | '.join(str(count) for count in counts.values())} |" for name, counts in splits.items()]
    return "\n".join(["| split | micrographs | positives | negatives |", "|---|---|---|---|", *rows])


def _describe_run(run: Mapping[str, Any]) -> str:
    made = ", ".join(f"{rows} {name}" for name, rows in run["outputs"].items())
    return f"| {run['folder']} | {run['stage']} {run['stage_version']} | {made} |"


def write_page(document: Mapping[str, Any]) -> str:
    """Return the page that says of a release what its `dataset.json` says."""
    provenance = document["provenance"]
    runs = [_describe_run(run) for run in provenance["runs"]]
    doubts = [
        *document["warnings"],
        *(f"{run['folder']}: {said}" for run in provenance["runs"] for said in run["warnings"]),
    ]
    facts = {
        "layout": document["layout"],
        "written by": document["written_by"],
        "written": document["written"],
        "source": document["source"],
        "symmetry": document["symmetry"],
        "molecular weight": _with_unit(document["molecular_weight_kda"], "kDa"),
        "pixel size": _with_unit(document["pixel_size_angstrom"], "Å"),
        "image size": f"{document['nx_px']} x {document['ny_px']} px"
        if document["nx_px"] and document["ny_px"]
        else None,
        "particle diameter": _with_unit(document["particle_diameter_angstrom"], "Å"),
    }
    sections = [
        f"# {document['title'] or document['entry_id']}",
        _list(facts),
        "## What is in it",
        _list(document["counts"]),
        _describe_splits(document["splits"]),
        "Micrographs, not particles, are split, by a hash of their names: the split is the same in every layout.",
        "## Positions",
        "`particles.csv` holds every labelled particle at its exact place: `x_px` the column, `y_px` the row of the centre in "
        "the micrograph as it is in memory, the first pixel's centre at (0, 0). The layout's own files:",
        _list(document["coordinates"]),
        "## Why particles are negative",
        _list(document["negative_reasons"]) or "There are none.",
        "## How it was made",
        "\n".join(["| run | stage | made |", "|---|---|---|", *runs]) if runs else "No runs are recorded.",
        "Software: " + ", ".join(f"{name} {version}" for name, version in document["software"].items()),
        f"Decisions by people: {len(provenance['decisions'])}, each in `dataset.json`.",
        "## Doubts",
        "\n".join(f"- {doubt}" for doubt in doubts) or "None.",
        "## Licence",
        document["licence"],
        "## Check the files",
        "`sha256sum -c checksums.sha256` in this folder.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _with_unit(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:.5g} {unit}"
