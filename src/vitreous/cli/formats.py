"""`vitreous formats`: conversions that need no project."""

from pathlib import Path
from typing import Literal

import click

from vitreous.io.coordinates import read_coordinates, write_coordinates

__all__ = ["formats"]

Origin = Literal["top", "bottom"]


@click.group()
def formats() -> None:
    """Convert between formats."""


@formats.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--in-y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True)
@click.option("--out-y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True)
@click.option(
    "--height", type=click.IntRange(1), metavar="PX", help="rows of the micrographs, for an origin at the bottom"
)
@click.option("--box", type=click.IntRange(1), metavar="PX", help="side of the boxes; needed to write .box")
def convert(
    source: Path, target: Path, in_y_origin: Origin, out_y_origin: Origin, height: int | None, box: int | None
) -> None:
    """Convert coordinates from IN to OUT; the suffixes name the formats: .csv, .star, .box, .parquet (reading only).

    IN may be a folder of files, one for each micrograph. CryoPPP's published files count rows from the bottom.
    """
    frame = read_coordinates(source, y_origin=in_y_origin, ny_px=height)
    write_coordinates(target, frame, box_px=box, y_origin=out_y_origin, ny_px=height)
    click.echo(f"{target}: {frame.height} coordinates in {frame['micrograph'].n_unique()} micrographs", err=True)
