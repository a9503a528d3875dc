"""`vitreous formats`: conversions that need no project."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vitreous.io.conversion import Flip, ImageSummary, convert_image, summarize_image
from vitreous.io.coordinates import COORDINATE_SUFFIXES, YOrigin, read_coordinates, write_coordinates
from vitreous.io.eer import EerRendering

__all__ = ["formats"]


def _parse_shape(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read whole numbers with commas between them."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not rows,columns or images,rows,columns") from error


def _add_reading_options(command: Any) -> Any:
    """Add the options for files that do not say all about themselves."""
    options = (
        click.option(
            "--shape", callback=_parse_shape, metavar="[N,]NY,NX", help="of pixels without a header (.dat, .raw)"
        ),
        click.option("--dtype", metavar="TYPE", help="of pixels without a header: uint8, int16, >u2, float32, ..."),
        click.option(
            "--eer-fractions", type=click.IntRange(1), metavar="N", help="divide an EER movie into N; 40 unless told"
        ),
        click.option(
            "--eer-frames", type=click.IntRange(1), metavar="N", help="detector frames in a fraction, instead"
        ),
        click.option(
            "--eer-dose",
            type=click.FloatRange(0, min_open=True),
            metavar="E",
            help="e/Å² in a fraction, instead; with --total-dose",
        ),
        click.option(
            "--total-dose", type=click.FloatRange(0, min_open=True), metavar="E", help="e/Å² in the whole EER movie"
        ),
        click.option(
            "--eer-upsampling",
            type=click.Choice(["1", "2"]),
            default="1",
            show_default=True,
            help="render the detector's pixels, or a grid twice as fine",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _make_rendering(words: dict[str, Any]) -> EerRendering:
    return EerRendering(
        n_fractions=words.pop("eer_fractions"),
        frames_per_fraction=words.pop("eer_frames"),
        dose_per_fraction=words.pop("eer_dose"),
        total_dose=words.pop("total_dose"),
        upsampling=2 if words.pop("eer_upsampling") == "2" else 1,
    )


@click.group()
def formats() -> None:
    """Convert between formats, and show what is in a file."""


@formats.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--in-y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True)
@click.option("--out-y-origin", type=click.Choice(["top", "bottom"]), default="top", show_default=True)
@click.option(
    "--height", type=click.IntRange(1), metavar="PX", help="rows of the micrographs, for an origin at the bottom"
)
@click.option("--box", type=click.IntRange(1), metavar="PX", help="side of the boxes; needed to write .box and .cbox")
@click.option(
    "--scale",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="factor from IN's pixels to OUT's, for picks of images that were made smaller",
)
@click.option(
    "--rotate",
    type=click.Choice(["0", "90", "180", "270"]),
    default="0",
    show_default=True,
    help="turn images clockwise, the first row drawn on top; before --flip",
)
@click.option("--flip", type=click.Choice(["up-down", "left-right"]), help="exchange the rows or the columns of images")
@click.option("--invert", is_flag=True, help="turn an EER gain reference of divisors into one of factors")
@click.option("--pixel-size", type=click.FloatRange(0, min_open=True), metavar="A", help="Å per pixel for OUT's header")
@_add_reading_options
def convert(
    source: Path,
    target: Path,
    in_y_origin: YOrigin,
    out_y_origin: YOrigin,
    height: int | None,
    box: int | None,
    scale: float,
    rotate: str,
    flip: Flip | None,
    invert: bool,
    pixel_size: float | None,
    **words: Any,
) -> None:
    """Convert IN to OUT; the suffixes name the formats.

    Coordinates: .csv, .star, .box, .cbox (crYOLO), .txt (Topaz), _info.json (EMAN2), and reading only .cs (CryoSPARC) and
    .parquet; IN may be a folder of files, one for each micrograph. CryoPPP's published files count rows from the bottom.

    Movies, micrographs and gain references: .mrc, .mrcs (also .bz2, .gz, .xz, .zst), .tif, .eer, .gain, .dm3, .dm4, .png, .jpg,
    .dat and .raw to .mrc, .mrcs or .tif. Nothing is turned or flipped unless told; rows of TIFF and DM count from the bottom.
    """
    if source.is_dir() or source.suffix.lower() in COORDINATE_SUFFIXES:
        frame = read_coordinates(source, y_origin=in_y_origin, ny_px=height, scale=scale)
        write_coordinates(target, frame, box_px=box, y_origin=out_y_origin, ny_px=height)
        click.echo(f"{target}: {frame.height} coordinates in {frame['micrograph'].n_unique()} micrographs", err=True)
        return
    rendering = _make_rendering(words)
    n_frames, ny, nx = convert_image(
        source,
        target,
        rendering=rendering,
        rotate_deg=int(rotate),
        flip=flip,
        invert=invert,
        pixel_size_angstrom=pixel_size,
        **words,
    )
    click.echo(f"{target}: {n_frames} frames of {nx}x{ny} pixels", err=True)


def _describe(summary: ImageSummary) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.6g}"

    details = "".join(f"\n{name.replace('_', ' ')} {value}" for name, value in summary.details.items())
    return (
        f"{summary.format}, {summary.n_frames} frames of {summary.nx_px}x{summary.ny_px} pixels, {summary.dtype}\n"
        f"pixel size {number(summary.pixel_size_angstrom)} Å\n"
        f"minimum {number(summary.minimum)}, maximum {number(summary.maximum)}, mean {number(summary.mean)}{details}"
    )


@formats.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print one JSON object")
@_add_reading_options
def show(source: Path, as_json: bool, **words: Any) -> None:
    """Show the size, type, pixel size and range of values of an image, movie or gain reference."""
    rendering = _make_rendering(words)
    summary = summarize_image(source, rendering=rendering, **words)
    click.echo(json.dumps({"path": str(source), **asdict(summary)}) if as_json else _describe(summary))
