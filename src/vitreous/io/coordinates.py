"""Particle coordinates of other programs: CSV, STAR, EMAN, crYOLO, Topaz, CryoSPARC, and our own tables.

Row 0 is the micrograph's first in memory. What counts rows from the other side, as CryoPPP's published files do for MRC,
is converted here and nowhere else on reading: `y_origin="bottom"`.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from vitreous.errors import InputFileError, SettingError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.box import read_box, write_box
from vitreous.io.cryolo import read_cbox, write_cbox
from vitreous.io.csparc import read_cs_coordinates
from vitreous.io.eman import INFO_SUFFIX, read_eman_info, write_eman_info
from vitreous.io.metadata import METADATA_SCHEMA, describe_cryoppp, describe_relion, find_image_pixel_size, join_optics
from vitreous.io.named_images import IMAGES_SCHEMA, find_star_images
from vitreous.io.naming import find_micrograph_stem
from vitreous.io.star import read_star, write_star
from vitreous.io.topaz import is_topaz, read_topaz, write_topaz

__all__ = [
    "COORDINATES_SCHEMA",
    "COORDINATE_SUFFIXES",
    "YOrigin",
    "convert_rows",
    "keep_inside",
    "list_empty",
    "read_coordinates",
    "read_particles",
    "write_coordinates",
]

YOrigin = Literal["top", "bottom"]

COORDINATES_SCHEMA = pl.Schema(
    {
        "micrograph": pl.String(),
        "x_px": pl.Float64(),
        "y_px": pl.Float64(),
        "score": pl.Float64(),
        "diameter_px": pl.Float64(),
    }
)
"""Columns of coordinates; `micrograph` is its file's stem, score and diameter may be null."""

_ROUNDING_PX = 1.0
"""Published positions are whole pixels, some counted from the other side: at the edge they are off by up to this."""

_PICKS_SUFFIX = re.compile(r"(_(autopick|manualpick|topazpicks?|info|false_positives))$")
"""What RELION, EMAN2 and CryoPPP add to a micrograph's name to name the file with its picks."""

_CSV_NAMES = {
    "x-coordinate": "x_px",
    "y-coordinate": "y_px",
    "diameter": "diameter_px",
    "micrograph_id": "micrograph",
    "micrographs filename": "micrograph",
}
_STAR_NAMES = {
    "rlnMicrographName": "micrograph",
    "rlnCoordinateX": "x_px",
    "rlnCoordinateY": "y_px",
    "rlnAutopickFigureOfMerit": "score",
}
_OF_TEMPLATE = ("rlnClassNumber", "rlnAnglePsi")
_NO_SCORE = -999.0
"""What RELION writes as the score of a particle that was not picked by it."""


def _refuse(path: Path, found: str, expected: str) -> InputFileError:
    remedy = "Check the path, and that the file holds particle coordinates and is whole."
    return InputFileError(path, found=found, expected=expected, remedy=remedy)


def _read_csv(path: Path) -> pl.DataFrame:
    frame = pl.read_csv(path, infer_schema=False)
    names = {column: column.strip().lower() for column in frame.columns}
    frame = frame.rename({column: _CSV_NAMES.get(name, name) for column, name in names.items()})
    if not {"x_px", "y_px"} <= set(frame.columns):
        raise _refuse(path, f"columns {', '.join(names)}", "columns X-Coordinate and Y-Coordinate, or x_px and y_px")
    frame = frame.with_columns(pl.all().str.strip_chars())
    return frame.with_columns(describe_cryoppp(frame))


def _read_star(path: Path) -> pl.DataFrame:
    blocks = read_star(path)
    for frame in blocks.values():
        if {"rlnCoordinateX", "rlnCoordinateY"} <= set(frame.columns):
            known = {label: name for label, name in _STAR_NAMES.items() if label in frame.columns}
            read = frame.select(list(known)).rename(known)
            # The picks of one micrograph have the number and the angle of a template, not of a class.
            is_picks = not {"rlnMicrographName", "rlnImageName"} & set(frame.columns)
            described = frame.drop(_OF_TEMPLATE, strict=False) if is_picks else frame
            read = read.with_columns(describe_relion(described, blocks))
            if "rlnImageName" in frame.columns:
                joined = join_optics(frame, blocks)
                images = joined.with_columns(find_image_pixel_size(joined).alias("rlnImagePixelSize"))
                read = read.with_columns(find_star_images(images, path))
            scored = "score" in read.columns
            return read.with_columns(pl.col("score").replace(_NO_SCORE, None)) if scored else read
    labels = [label for frame in blocks.values() for label in frame.columns]
    raise _refuse(path, f"labels {', '.join(labels[:8])}", "a loop with rlnCoordinateX and rlnCoordinateY")


def _read_json(path: Path) -> pl.DataFrame:
    """Read our list of picks (`vitreous picks list --json`), or EMAN2's file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = document["picks"]
        names = {"micrograph", "x_px", "y_px", "score", "diameter_px"}
        picks = [{name: value for name, value in row.items() if name in names} for row in rows]
        return pl.DataFrame(picks, schema_overrides={"x_px": pl.Float64, "y_px": pl.Float64}, infer_schema_length=None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return read_eman_info(path)


def _read_particles(path: Path) -> pl.DataFrame:
    """Read our particles table; the negatives are no picks, and diameters are in Å there."""
    frame = pl.read_parquet(path)
    if not {"micrograph_id", "x_px", "y_px", "label"} <= set(frame.columns):
        raise _refuse(path, f"columns {', '.join(frame.columns[:8])}", "the particles table of a run")
    scores = [name for name in ("score", "ncc") if name in frame.columns]
    return frame.filter(pl.col("label") != "negative").select(
        "x_px", "y_px", micrograph="micrograph_id", score=scores[0] if scores else pl.lit(None)
    )


_READERS: Mapping[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": _read_csv,
    ".star": _read_star,
    ".box": read_box,
    ".cbox": read_cbox,
    ".json": _read_json,
    ".txt": read_topaz,
    ".cs": read_cs_coordinates,
    ".parquet": _read_particles,
}

COORDINATE_SUFFIXES = frozenset(_READERS)
"""Suffixes of the files that `read_coordinates` reads."""


def _is_of_a_folder(path: Path) -> bool:
    """Return whether a file of a folder is one of its coordinate files; other text and JSON files are often beside them."""
    match path.suffix.lower():
        case ".json":
            return path.name.endswith(INFO_SUFFIX)
        case ".txt":
            return is_topaz(path)
        case suffix:
            return suffix in _READERS


def _read_file(path: Path, schema: pl.Schema = COORDINATES_SCHEMA) -> pl.DataFrame:
    if path.suffix.lower() not in _READERS:
        raise _refuse(path, f"a file named {path.suffix or 'without a suffix'}", f"one of {', '.join(_READERS)}")
    try:
        frame = _READERS[path.suffix.lower()](path)
        if "micrograph" not in frame.columns:
            frame = frame.with_columns(micrograph=pl.lit(_PICKS_SUFFIX.sub("", path.stem)))
        frame = frame.select(
            (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
            for name, dtype in schema.items()
        )
    except InputFileError:
        raise
    except FileNotFoundError as error:
        raise _refuse(path, "no such file", "a file of coordinates") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        found = f"a file that cannot be read ({str(error).splitlines()[0]})"
        raise _refuse(path, found, "a table of numbers") from error
    wrong = frame.filter(~(pl.col("x_px").is_finite() & pl.col("y_px").is_finite()).fill_null(value=False))
    if wrong.height:
        raise _refuse(path, f"{wrong.height} rows without numbers for x and y", "a centre in every row")
    if nameless := frame["micrograph"].null_count():
        raise _refuse(path, f"{nameless} rows without a micrograph", "the name of a micrograph in every row")
    stems = {name: find_micrograph_stem(name) for name in frame["micrograph"].unique()}
    return frame.with_columns(pl.col("micrograph").replace_strict(stems, return_dtype=pl.String))


def _list_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.is_file() and _is_of_a_folder(file))
    if len({file.suffix.lower() for file in files}) != 1:
        found = f"{' and '.join(sorted({file.suffix for file in files})) or 'no'} files"
        raise _refuse(path, found, f"files of one kind: {', '.join(_READERS)}")
    return files


def list_empty(path: Path, known: Collection[str]) -> tuple[str, ...]:
    """Return the micrographs that files stand for, by their names, and that hold no particle, as the files say.

    Parameters
    ----------
    path
        A file or a folder of files, as of `read_coordinates`.
    known
        Micrographs that hold particles; files named after these are not read again.

    Raises
    ------
    InputFileError
        As of `read_coordinates`.
    """
    named = {find_micrograph_stem(_PICKS_SUFFIX.sub("", file.stem)): file for file in _list_files(path)}
    return tuple(name for name, file in named.items() if name not in known and _read_file(file).is_empty())


def read_particles(path: Path, *, scale: float = 1.0) -> pl.DataFrame:
    """Read particles with all that the files say of them: `COORDINATES_SCHEMA`, then `METADATA_SCHEMA`, then `IMAGES_SCHEMA`.

    Parameters and errors as of `read_coordinates`; rows are counted as the file counts them.
    """
    schema = pl.Schema({**COORDINATES_SCHEMA, **METADATA_SCHEMA, **IMAGES_SCHEMA})
    frame = pl.concat([_read_file(file, schema) for file in _list_files(path)])
    return frame.with_columns(pl.col("x_px", "y_px", "diameter_px") * scale)


def read_coordinates(
    path: Path, *, y_origin: YOrigin = "top", ny_px: int | None = None, scale: float = 1.0
) -> pl.DataFrame:
    """Read particle centres from one file or from the files of a folder.

    Parameters
    ----------
    path
        CSV as CryoPPP publishes it (`X-Coordinate,Y-Coordinate,Diameter`, one file per micrograph) or with the columns
        `micrograph,x_px,y_px`; STAR; EMAN `.box` or `_info.json`; crYOLO's `.cbox`; Topaz's `.txt`; CryoSPARC's `.cs`; or our
        particles table in parquet, without its negatives. A folder holds files of one of these kinds.
    y_origin
        `bottom` for files that count rows from the side of the last row in memory: y becomes `ny_px - y`.
    ny_px
        Rows of the micrographs; needed with `bottom`.
    scale
        Factor from the file's pixels to those of the micrographs, for picks of images that were made smaller.

    Returns
    -------
    pl.DataFrame
        Columns as of `COORDINATES_SCHEMA`.

    Raises
    ------
    InputFileError
        If there is no such file, or it is of no such kind.
    SettingError
        If `ny_px` is needed and missing.
    """
    frame = pl.concat([_read_file(file) for file in _list_files(path)])
    return convert_rows(frame.with_columns(pl.col("x_px", "y_px", "diameter_px") * scale), y_origin, ny_px)


def convert_rows(frame: pl.DataFrame, y_origin: YOrigin, ny_px: int | pl.Expr | None) -> pl.DataFrame:
    """Count rows from the other side where `y_origin` says so; its own inverse.

    Parameters
    ----------
    frame
        With `y_px`.
    y_origin
        `bottom`: y becomes `ny_px - y`.
    ny_px
        Rows of the micrographs, one number or a column.

    Raises
    ------
    SettingError
        If `ny_px` is needed and missing.
    """
    if y_origin == "top":
        return frame
    if ny_px is None:
        raise SettingError(
            "y origin bottom: the number of rows of the micrographs (ny_px) is needed to convert y, none given"
        )
    return frame.with_columns(y_px=ny_px - pl.col("y_px"))


def keep_inside(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return the positions inside their micrographs, of `nx_px` by `ny_px`, and the others.

    What rounding put just past the edge is moved onto it.
    """
    x, y = pl.col("x_px"), pl.col("y_px")
    last_x, last_y = pl.col("nx_px") - 1, pl.col("ny_px") - 1
    inside = x.is_between(-_ROUNDING_PX, last_x + _ROUNDING_PX) & y.is_between(-_ROUNDING_PX, last_y + _ROUNDING_PX)
    return frame.filter(inside).with_columns(x.clip(0, last_x), y.clip(0, last_y)), frame.filter(~inside)


def _make_star_block(frame: pl.DataFrame) -> pl.DataFrame:
    columns = {
        "rlnMicrographName": pl.col("micrograph") + ".mrc",
        "rlnCoordinateX": pl.col("x_px"),
        "rlnCoordinateY": pl.col("y_px"),
    }
    if frame.height and not frame["score"].null_count():
        columns["rlnAutopickFigureOfMerit"] = pl.col("score")
    return frame.select(**columns)


_ONE_MICROGRAPH = (".box", ".cbox", ".json")
_NEED_BOX = (".box", ".cbox")


def write_coordinates(
    path: Path,
    frame: pl.DataFrame,
    *,
    box_px: int | None = None,
    y_origin: YOrigin = "top",
    ny_px: int | None = None,
) -> None:
    """Write particle centres, atomically, in the format that the suffix of `path` names.

    Parameters
    ----------
    path
        `.csv` (all columns), `.star` (RELION), `.txt` (Topaz) or, for one micrograph, `.box` (EMAN), `.json` (EMAN2's
        `_info.json`), `.cbox` (crYOLO).
    frame
        Columns as of `COORDINATES_SCHEMA`; score and diameter may be missing.
    box_px
        Side of the boxes; needed for `.box` and `.cbox`.
    y_origin, ny_px
        As of `read_coordinates`: how the file is to count rows.

    Raises
    ------
    SettingError
        If the suffix is another, or what the format needs is missing.
    """
    frame = convert_rows(frame, y_origin, ny_px).select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in COORDINATES_SCHEMA.items()
    )
    suffix = path.suffix.lower()
    if suffix in _NEED_BOX and box_px is None:
        raise SettingError(f"{path}: the side of the boxes in pixels is needed to write boxes, none given")
    if suffix in _ONE_MICROGRAPH and (n_micrographs := frame["micrograph"].n_unique()) > 1:
        raise SettingError(
            f"{path}: found coordinates of {n_micrographs} micrographs; a {suffix} file holds those of one. "
            "Write .csv, .star or .txt, or convert them one by one."
        )
    match suffix:
        case ".csv":
            with open_for_replacement(path) as temporary:
                frame.write_csv(temporary)
        case ".star":
            write_star(path, {"particles": _make_star_block(frame)})
        case ".txt":
            write_topaz(path, frame)
        case ".json":
            write_eman_info(path, frame)
        case ".box":
            write_box(path, frame, box_px or 0)
        case ".cbox":
            write_cbox(path, frame, box_px or 0)
        case _:
            raise SettingError(
                f"{path}: cannot write this format; expected a name ending in .csv, .star, .txt, .box, .json or .cbox"
            )
