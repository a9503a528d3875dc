"""Take the picks or labels of other programs and people as the project's particles, with the labels that they have."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import Field

from vitreous.errors import SettingError, UserError
from vitreous.io.coordinates import YOrigin, convert_rows, keep_inside, read_particles
from vitreous.io.metadata import METADATA_SCHEMA
from vitreous.io.micrographs import read_micrographs
from vitreous.io.naming import match_micrographs
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.model.tables import TABLES
from vitreous.stages.adopted_images import IMAGE_COLUMNS, choose_images

__all__ = ["STAGE", "AdoptParams"]

_MAX_OUTSIDE = 0.05
_LEAST_PICKS, _CORNER = 50, 0.6
"""So many picks that all lie within this share of the columns and of the rows are of images that were made smaller."""

_OPTICS = ("optics_group", "voltage_kv", "cs_mm", "amplitude_contrast")
_DEFOCUS = ("defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg")
_OF_MICROGRAPHS = (*_DEFOCUS, "ctf_score", "ctf_resolution_angstrom")
_CARRIED = tuple(name for name in TABLES["particles"].schema if name in METADATA_SCHEMA and name != "reason")


class AdoptParams(StageParams):
    """Where the picks are, and how they count."""

    positives: str | None = Field(None, description="file or folder of picks, relative to the project; needed")
    negatives: str | None = Field(None, description="file or folder of what is no particle, relative to the project")
    y_origin: YOrigin = Field(
        "top", description="bottom: rows are counted from the last in memory, as in CryoPPP's label files"
    )
    ctf: str | None = Field(
        None, description="file with the CTF of the micrographs, relative to the project; null: as the picks say"
    )
    scale: float = Field(1.0, gt=0, description="factor from the picks' pixels to those of the micrographs")
    diameter_angstrom: float | None = Field(
        None, gt=0, description="particle diameter, Å; null: as the project says, else as the picks say"
    )
    images: bool = Field(
        default=True, description="use the extracted images that came with the particles, where all of them can be used"
    )
    picker: str = Field("imported", min_length=1, description="who or what picked")
    digest: str | None = Field(None, description="SHA-256 of the files, so that changed files make another run")


@dataclass(frozen=True)
class _Loaded:
    picks: pl.DataFrame
    """As `read_particles` returns them, with `label` and the images that are used."""
    described: pl.DataFrame | None
    """As `read_micrographs` returns it."""
    micrographs: pl.DataFrame
    given_diameter: float | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Adopted:
    particles: pl.DataFrame
    micrographs: pl.DataFrame
    warnings: tuple[str, ...]


def _read(name: str, label: str, params: AdoptParams, context: Context) -> pl.DataFrame:
    path = Path(os.path.normpath(context.root / name))
    picks = read_particles(path, scale=params.scale)
    # Of our own files of what is excluded; particles of rejected micrographs are no worse than others.
    undecided = pl.col("reason").is_in(["candidate", "micrograph"]).fill_null(value=False)
    return picks.with_columns(
        label=pl.when(undecided).then(pl.lit("candidate")).otherwise(pl.lit(label)),
        reason=pl.when(~undecided).then("reason"),
    )


def _load(inputs: Inputs, params: AdoptParams, context: Context) -> _Loaded:
    if params.positives is None:
        raise SettingError("adopt: found no picks, expected a file or folder relative to the project; give --positives")
    picks = [_read(params.positives, "positive", params, context)]
    if params.negatives is not None:
        picks.append(_read(params.negatives, "negative", params, context))
    given = inputs["entries"]["diameter_angstrom"].drop_nulls()
    diameter = params.diameter_angstrom or (float(given[0]) if len(given) else None)
    described = None if params.ctf is None else read_micrographs(Path(os.path.normpath(context.root / params.ctf)))
    # The pixels of micrographs and images differ: without a diameter in Å the images cannot be looked at.
    looked_at, warnings = choose_images(pl.concat(picks), context.root, diameter if params.images else None)
    return _Loaded(looked_at, described, inputs["micrographs"], diameter, tuple(warnings))


def _name_micrographs(picks: pl.DataFrame, identifiers: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """Add `micrograph_id`; picks of micrographs that the project lacks are left out, and said."""
    names = picks["micrograph"].unique().sort().to_list()
    meant = match_micrographs(names, identifiers)
    if not meant:
        raise UserError(
            f"adopt: found picks of micrographs named {', '.join(names[:3])}, expected names like {', '.join(identifiers[:3])}; "
            "no name is the same. Rename the files, or give the micrographs that were picked."
        )
    lost = [name for name in names if name not in meant]
    warnings = (
        [f"the picks of {len(lost)} micrographs are left out, which are not here, e.g. {lost[0]}"] if lost else []
    )
    empty = len(set(identifiers) - set(meant.values()))
    if empty:
        warnings.append(f"{empty} of {len(identifiers)} micrographs have no picks")
    column = pl.col("micrograph").replace_strict(dict(meant), default=None, return_dtype=pl.String)
    return picks.with_columns(micrograph_id=column).drop_nulls("micrograph_id"), warnings


def _leave_out_outside(picks: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Leave out what is outside its micrograph, and refuse much of it."""
    kept, outside = keep_inside(picks)
    n_outside = outside.height
    if n_outside > _MAX_OUTSIDE * picks.height:
        row = outside.row(0, named=True)
        raise UserError(
            f"adopt: found {n_outside} of {picks.height} picks outside their micrograph, such as x {row['x_px']:.0f}, "
            f"y {row['y_px']:.0f} in {row['micrograph_id']} of {row['nx_px']}x{row['ny_px']} px; expected all inside. "
            "Check that they are picks of these micrographs, and their scale."
        )
    return kept, [f"{n_outside} picks outside their micrograph are left out"] if n_outside else []


def _find_doubts(picks: pl.DataFrame) -> list[str]:
    """Return what is doubtful: places that stand twice, those that are a particle and none, a scale that was forgotten."""
    warnings = []
    place = ["micrograph_id", "x_px", "y_px"]
    if twice := picks.height - picks.select(*place, "label").n_unique():
        warnings.append(f"{twice} picks lie exactly where another lies")
    labels = picks.group_by(place).agg(pl.col("label").n_unique())
    if both := (labels["label"] > 1).sum():
        warnings.append(f"{both} places are labelled in two ways, as a particle and as none")
    corner = (pl.col("x_px") < _CORNER * pl.col("nx_px")) & (pl.col("y_px") < _CORNER * pl.col("ny_px"))
    if picks.height >= _LEAST_PICKS and picks.select(corner.all()).item():
        warnings.append(
            "all picks lie near the first corner of their micrographs: they are probably those of images that were made "
            "smaller; give the factor to full pixels as --scale"
        )
    return warnings


def _find_gaps(micrographs: pl.DataFrame, particles: pl.DataFrame) -> list[str]:
    """Return a warning where some of the micrographs that have particles have a CTF and others not."""
    used = micrographs.join(particles, on="micrograph_id", how="semi")
    lacking = used["defocus_u_angstrom"].null_count()
    if not 0 < lacking < used.height:
        return []
    name = used.filter(pl.col("defocus_u_angstrom").is_null())["micrograph_id"][0]
    return [f"{lacking} of {used.height} micrographs with picks have no CTF, e.g. {name}; the others have one"]


def _choose_descriptions(loaded: _Loaded, particles: pl.DataFrame) -> pl.DataFrame:
    """Return what is said of each micrograph: by its own file, else by the particle of median defocus in it."""
    if loaded.described is None:
        said = particles.sort("defocus_u_angstrom", nulls_last=True, maintain_order=True).group_by("micrograph_id")
        return said.agg(
            pl.col(*_OPTICS, "optics_group_name", *_OF_MICROGRAPHS).get(pl.col("defocus_u_angstrom").count() // 2)
        )
    identifiers = loaded.micrographs["micrograph_id"]
    meant = match_micrographs(loaded.described["micrograph"], identifiers)
    found = loaded.described.filter(pl.col("micrograph").is_in(list(meant)))
    return found.with_columns(micrograph_id=pl.col("micrograph").replace_strict(dict(meant), return_dtype=pl.String))


def _describe_micrographs(micrographs: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    """Return the micrographs with the CTF that is said of those without one; with their optics too where these differ."""
    several = said.select(_OPTICS).drop_nulls().unique().height > 1
    chosen = (*(_OPTICS if several else ()), "optics_group_name", *_OF_MICROGRAPHS)
    joined = micrographs.join(
        said.select("micrograph_id", pl.col(chosen).name.suffix("_said")),
        on="micrograph_id",
        how="left",
        maintain_order="left",
    )
    fitted = pl.col("defocus_u_angstrom").is_not_null()
    return joined.select(
        pl.when(fitted if name in _OF_MICROGRAPHS else pl.lit(value=False))
        .then(name)
        .otherwise(pl.coalesce(f"{name}_said", name))
        .alias(name)
        if name in chosen
        else name
        for name in micrographs.columns
    )


def _compute(loaded: _Loaded, params: AdoptParams, progress: Progress) -> _Adopted:
    identifiers = loaded.micrographs["micrograph_id"].to_list()
    named, warnings = _name_micrographs(loaded.picks, identifiers)
    sizes = loaded.micrographs.select("micrograph_id", "nx_px", "ny_px", "pixel_size_angstrom")
    joined = named.join(sizes, on="micrograph_id", how="left", maintain_order="left")
    inside, left_out = _leave_out_outside(convert_rows(joined, params.y_origin, pl.col("ny_px")))
    own = pl.col("diameter_px") * pl.col("pixel_size_angstrom")
    # Files of what is no particle often have no diameter.
    diameter = own.fill_null(own.median()) if loaded.given_diameter is None else pl.lit(loaded.given_diameter)
    sized = inside.with_columns(diameter_angstrom=diameter)
    if sized["diameter_angstrom"].null_count():
        raise UserError("adopt: found no particle diameter in the picks, expected one; give it in Å with --diameter")
    order = {identifier: i for i, identifier in enumerate(identifiers)}
    ordered = sized.with_columns(order=pl.col("micrograph_id").replace_strict(order, return_dtype=pl.Int64)).sort(
        "order", maintain_order=True
    )
    number = (pl.int_range(1, pl.len() + 1).over("micrograph_id")).cast(pl.String).str.zfill(5)
    particles = ordered.select(
        pl.format("{}_{}", "micrograph_id", number).alias("particle_id"),
        "micrograph_id",
        "x_px",
        "y_px",
        "diameter_angstrom",
        "label",
        "score",
        *_CARRIED,
        *IMAGE_COLUMNS,
        picker=pl.lit(params.picker),
        reason=pl.when(pl.col("label") == "negative").then(pl.col("reason").fill_null("expert")),
    )
    micrographs = _describe_micrographs(loaded.micrographs, _choose_descriptions(loaded, ordered))
    doubts = [*_find_doubts(inside), *_find_gaps(micrographs, particles)]
    return _Adopted(particles, micrographs, (*warnings, *left_out, *doubts, *loaded.warnings))


def _save(result: _Adopted, inputs: Inputs, params: AdoptParams, folder: RunFolder) -> Saved:
    return Saved({"particles": result.particles, "micrographs": result.micrographs}, result.warnings)


STAGE = DatasetStage(
    name="adopt",
    version="3",
    summary="Take the picks or labels of other programs and people as the particles, with the labels that they have.",
    params=AdoptParams,
    needs=("entries", "micrographs"),
    makes=("particles", "micrographs"),
    load=_load,
    compute=_compute,
    save=_save,
)
