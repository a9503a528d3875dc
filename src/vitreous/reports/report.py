"""The project's report: one HTML page with everything in it, that opens from disk."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import polars as pl

from vitreous import __version__
from vitreous.io.atomic import write_text
from vitreous.model.provenance import RunRecord
from vitreous.reports import sections
from vitreous.reports.class_section import draw_classes
from vitreous.reports.ctf_section import draw_ctf
from vitreous.reports.curation_section import describe_curation, draw_curation
from vitreous.reports.motion_section import draw_motion
from vitreous.reports.pick_section import draw_picks, draw_scores
from vitreous.reports.plots import LABEL_COLOURS
from vitreous.reports.stamp import PAGE, compute_stamp

__all__ = ["write_report"]


@dataclass(frozen=True)
class _Picture:
    caption: str
    source: str


def _embed(caption: str, png: bytes) -> _Picture:
    return _Picture(caption, "data:image/png;base64," + base64.b64encode(png).decode("ascii"))


def write_report(root: Path, title: str, tables: Mapping[str, pl.DataFrame], records: Sequence[RunRecord]) -> Path:
    """Write `report.html` into the project's folder and return its path.

    Parameters
    ----------
    root
        The project's folder.
    title
        Heading of the page.
    tables
        The latest tables; those that do not exist yet are left out.
    records
        The runs in order.

    Returns
    -------
    Path
        The page. It needs no other file and no network.
    """
    curation = describe_curation(root, tables, records)
    groups = [
        ("Motion", draw_motion(root, tables)),
        ("CTF", draw_ctf(root, tables)),
        ("Micrographs accepted", draw_curation(root, tables, curation)),
        ("Micrographs with picks", draw_picks(root, tables)),
        ("Pick scores", draw_scores(root, tables, records)),
        ("2D classes", draw_classes(root, tables)),
        ("3D map", sections.draw_volume(root, tables)),
    ]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.PackageLoader("vitreous.reports")
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        stamp=compute_stamp(title, records),
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        card=sections.describe_dataset(tables),
        counts=sections.count_labels(tables),
        records=records,
        curation=curation,
        groups=[(name, [_embed(caption, png) for caption, png in pictures]) for name, pictures in groups if pictures],
        colours=LABEL_COLOURS,
    )
    path = root / PAGE
    write_text(path, page)
    return path
