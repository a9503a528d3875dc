"""Cut the positives out of the micrographs: centred, protein bright, normalised, reduced.

After 2D classification it does so again with `recentre`: particles then lie where their class says, and what turns out to be one
particle picked twice is labelled.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from vitreous.errors import UserError
from vitreous.io.mrc import read_mrc, write_mrc
from vitreous.model.stage import Context, Inputs, Item, ItemStage, RunFolder, Saved, StageParams
from vitreous.model.tables import empty_table
from vitreous.ops.boxes import extract_boxes, normalise_boxes, remove_outliers
from vitreous.ops.ctf_surface import compute_surface
from vitreous.ops.duplicates import find_duplicates
from vitreous.ops.fourier import find_good_size
from vitreous.pickers.contrast import Contrast, get_known_contrast, measure_darkness_at

__all__ = ["STAGE", "ExtractParams"]

_OUTLIER_SIGMA = 8.0
_N_SAMPLE, _LEAST_EVIDENCE = 6, 0.02


class ExtractParams(StageParams):
    """Choices of method."""

    retired = {  # noqa: RUF012 - a ClassVar of the base
        "contrast": "it is as pick says, or measured at picks by hand; for inverted images give pick.contrast=bright alone"
    }

    box_factor: float = Field(1.6, gt=1, le=4, description="side of the box, in particle diameters")
    max_box_px: int = Field(72, ge=16, description="larger boxes are reduced to this side, px")
    background_factor: float = Field(
        1.1, gt=0, description="diameter outside which is background, in particle diameters"
    )
    recentre: bool = Field(
        default=False, description="move particles to the centre that their 2D class found, and cut them out there"
    )
    duplicate_fraction: float = Field(
        0.4, ge=0, le=1, description="of two particles nearer than this the worse is a duplicate, in particle diameters"
    )
    float16: bool = Field(default=False, description="write images in half precision (MRC mode 12)")
    seed: int = Field(0, ge=0, description="seed of the division into halves")
    keep_imported: bool = Field(
        default=False,
        description="keep the defocus, the half and the image that particles came with from another program, where they did",
    )


class MicrographItem(Item):
    """One micrograph and its positives that are to be cut out; none where all came with their images."""

    micrograph_path: str
    pixel_size_angstrom: float
    diameter_angstrom: float
    particle_ids: tuple[str, ...]
    xy_px: tuple[tuple[float, float], ...]
    box_px: int
    out_px: int
    float16: bool
    contrast: Contrast


@dataclass(frozen=True)
class _Loaded:
    item: MicrographItem
    image: Tensor
    """Empty where nothing is to be cut out of it."""


def _choose_half(seed: int, particle_id: str) -> int:
    return 1 + hashlib.sha256(f"{seed}:{particle_id}".encode()).digest()[0] % 2


def _recentre(particles: pl.DataFrame, micrographs: pl.DataFrame) -> pl.DataFrame:
    """Move positives that have a class to its centre, never out of the micrograph; what is left of their shifts is 0.

    The origin is what moves the image of the particle to the centre of its box, so that the particle lies at minus the origin.
    """
    columns = micrographs.select("micrograph_id", "nx_px", "ny_px", pixel="pixel_size_angstrom")
    joined = particles.join(columns, on="micrograph_id", how="left", maintain_order="left")
    moves = (pl.col("label") == "positive") & pl.col("class_origin_x_angstrom").is_not_null()
    changes = []
    for axis in ("x", "y"):
        origin, place = pl.col(f"class_origin_{axis}_angstrom"), pl.col(f"{axis}_px")
        moved = (place - origin / pl.col("pixel")).clip(0, pl.col(f"n{axis}_px") - 1)
        shift = (place - moved) * pl.col("pixel")
        changes.append(pl.when(moves).then(moved).otherwise(place).alias(f"{axis}_px"))
        for name in (f"class_origin_{axis}_angstrom", f"origin_{axis}_angstrom"):
            changes.append(pl.when(moves).then(pl.col(name) - shift).otherwise(pl.col(name)).alias(name))
    return joined.with_columns(changes).drop("nx_px", "ny_px", "pixel")


def _label_duplicates(particles: pl.DataFrame, micrographs: pl.DataFrame, fraction: float) -> pl.DataFrame:
    """Label the worse of two positives that are too near. People's picks are better than any; then the score decides."""
    pixels = dict(micrographs.select("micrograph_id", "pixel_size_angstrom").iter_rows())
    by_people = pl.when(pl.col("annotator").is_not_null()).then(10.0).otherwise(0.0)
    score = pl.coalesce("score_calibrated", "score", "class_probability").fill_null(-10.0)
    positives = (
        particles.with_row_index("row").filter(pl.col("label") == "positive").with_columns(rank=by_people + score)
    )
    is_duplicate = np.zeros(particles.height, bool)
    for (name,), group in positives.group_by("micrograph_id", maintain_order=True):
        distance = fraction * float(group["diameter_angstrom"][0]) / pixels[name]
        found = find_duplicates(group.select("x_px", "y_px").to_numpy(), group["rank"].to_numpy(), distance)
        is_duplicate[group["row"].to_numpy()[found]] = True
    flag = pl.Series(is_duplicate)
    return particles.with_columns(
        label=pl.when(flag).then(pl.lit("negative")).otherwise("label"),
        reason=pl.when(flag).then(pl.lit("duplicate")).otherwise("reason"),
    )


def _prepare(inputs: Inputs, params: ExtractParams) -> pl.DataFrame:
    """Return the particles where they are to be cut out, duplicates labelled."""
    particles = inputs["particles"]
    if params.recentre:
        particles = _recentre(particles, inputs["micrographs"])
    return _label_duplicates(particles, inputs["micrographs"], params.duplicate_fraction)


def _has_image(params: ExtractParams) -> pl.Expr:
    """Return whether a particle keeps the image that it came with; one that is moved cannot."""
    return pl.col("stack_path").is_not_null() & pl.lit(params.keep_imported and not params.recentre)


def _find_contrast(
    particles: pl.DataFrame, micrographs: pl.DataFrame, positives: Mapping[Any, pl.DataFrame], context: Context
) -> Contrast:
    """Return the contrast that the picker found, else what the images show at the positives."""
    known = get_known_contrast(particles)
    if known is not None:
        return known
    rows = micrographs.filter(pl.col("micrograph_id").is_in([name for (name,) in positives]))
    found = []
    for row in rows[:: -(-rows.height // _N_SAMPLE)].iter_rows(named=True):
        group = positives[(row["micrograph_id"],)]
        image = torch.from_numpy(read_mrc(context.root / row["micrograph_path"])[0]).float().to(context.device)
        xy, diameter = group.select("x_px", "y_px").to_numpy(), float(group["diameter_angstrom"][0])
        found.append(measure_darkness_at(image, row["pixel_size_angstrom"], diameter, xy))
    darkness = np.concatenate(found)
    # Inverted images are rare: not taken for such without good evidence.
    return "bright" if darkness.mean() < -max(_LEAST_EVIDENCE, 4 * darkness.std() / len(darkness) ** 0.5) else "dark"


def _plan(inputs: Inputs, params: ExtractParams, context: Context) -> Sequence[MicrographItem]:
    positives = _prepare(inputs, params).filter(pl.col("label") == "positive")
    if positives.is_empty():
        raise UserError(
            "extract: there are no positives to extract; loosen the thresholds of review or check the picks"
        )
    positives = positives.with_columns(has_image=_has_image(params))
    groups = positives.partition_by("micrograph_id", as_dict=True, maintain_order=True)
    contrast = _find_contrast(inputs["particles"], inputs["micrographs"], groups, context)
    items = []
    for row in inputs["micrographs"].iter_rows(named=True):
        group = groups.get((row["micrograph_id"],))
        if group is None:
            continue
        pixel, diameter = row["pixel_size_angstrom"], float(group["diameter_angstrom"][0])
        box = find_good_size(round(params.box_factor * diameter / pixel))
        cut = group.filter(~pl.col("has_image"))
        items.append(
            MicrographItem(
                item_id=row["micrograph_id"],
                micrograph_path=row["micrograph_path"],
                pixel_size_angstrom=pixel,
                diameter_angstrom=diameter,
                particle_ids=tuple(cut["particle_id"]),
                xy_px=tuple(cut.select("x_px", "y_px").iter_rows()),
                box_px=box,
                out_px=min(box, params.max_box_px // 2 * 2),
                float16=params.float16,
                contrast=contrast,
            )
        )
    return items


def _load(item: MicrographItem, params: ExtractParams, context: Context) -> _Loaded:
    if not item.particle_ids:
        return _Loaded(item, torch.empty(0, 0))
    image = torch.from_numpy(read_mrc(context.root / item.micrograph_path)[0]).float()
    return _Loaded(item, image.to(context.device))


def _compute(loaded: _Loaded, params: ExtractParams) -> Tensor:
    item = loaded.item
    if not item.particle_ids:
        return torch.empty(0, item.out_px, item.out_px)
    clean = remove_outliers(loaded.image, _OUTLIER_SIGMA)
    centres = torch.tensor(item.xy_px, dtype=torch.float64, device=clean.device)
    boxes = extract_boxes(clean, centres, item.box_px, item.out_px)
    pixel = item.pixel_size_angstrom * item.box_px / item.out_px
    radius = min(0.5 * params.background_factor * item.diameter_angstrom / pixel, 0.48 * item.out_px)
    return normalise_boxes(-boxes if item.contrast == "dark" else boxes, radius)


def _save(boxes: Tensor, item: MicrographItem, folder: RunFolder) -> Saved:
    if not item.particle_ids:
        return Saved({"particles": empty_table("particles")})
    path = folder.path / "images" / f"{item.item_id}.mrcs"
    pixel = item.pixel_size_angstrom * item.box_px / item.out_px
    write_mrc(path, boxes.cpu().numpy().astype(np.float16 if item.float16 else np.float32), pixel)
    rows = pl.DataFrame(
        {
            "particle_id": item.particle_ids,
            "micrograph_id": [item.item_id] * len(item.particle_ids),
            "x_px": [x for x, _ in item.xy_px],
            "y_px": [y for _, y in item.xy_px],
            "diameter_angstrom": [item.diameter_angstrom] * len(item.particle_ids),
            "picker": [""] * len(item.particle_ids),
            "label": ["positive"] * len(item.particle_ids),
            "contrast": [item.contrast] * len(item.particle_ids),
            "stack_path": [folder.relative(path)] * len(item.particle_ids),
            "stack_index": list(range(len(item.particle_ids))),
            "box_px": [item.out_px] * len(item.particle_ids),
            "stack_pixel_size_angstrom": [pixel] * len(item.particle_ids),
        }
    )
    return Saved({"particles": rows})


def _compute_local_defocus(particles: pl.DataFrame, micrographs: pl.DataFrame) -> pl.Series:
    """Return local less mean defocus at every particle, Å; 0 in micrographs where it is the same everywhere."""
    curved = micrographs.drop_nulls("defocus_surface")
    surfaces = {row["micrograph_id"]: row for row in curved.iter_rows(named=True)}
    offsets = np.zeros(particles.height)
    places = particles.select("micrograph_id", "x_px", "y_px").with_row_index("row")
    for (name,), group in places.filter(pl.col("micrograph_id").is_in(list(surfaces))).group_by("micrograph_id"):
        row = surfaces[name]
        surface = json.loads(row["defocus_surface"])
        coefficients = torch.tensor(surface["coefficients_angstrom"], dtype=torch.float64)
        xy = torch.from_numpy(group.select("x_px", "y_px").to_numpy())
        local = compute_surface(surface["degree"], coefficients, (row["ny_px"], row["nx_px"]), xy)
        offsets[group["row"].to_numpy()] = local.numpy()
    return pl.Series(offsets)


def _collect(inputs: Inputs, saved: Saved, params: ExtractParams) -> Saved:
    """Put the stacks beside all other columns; a positive whose micrograph failed stays a candidate without an image."""
    of_image = ["stack_path", "stack_index", "box_px", "stack_pixel_size_angstrom"]
    names = ["defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg", "phase_shift_deg"]
    prepared = _prepare(inputs, params)
    stacks = pl.concat(
        [
            frame.select("particle_id", *of_image)
            for frame in (saved.tables["particles"], prepared.filter(_has_image(params)))
        ]
    )
    own = prepared.select(*names, "half")
    optics = inputs["micrographs"].select("micrograph_id", *names)
    particles = (
        prepared.drop(*names, *of_image)
        .join(stacks, on="particle_id", how="left", maintain_order="left")
        .join(optics, on="micrograph_id", how="left", maintain_order="left")
        .with_columns(
            half=pl.col("particle_id").map_elements(lambda name: _choose_half(params.seed, name), return_dtype=pl.Int64)
        )
    )
    offsets = _compute_local_defocus(particles, inputs["micrographs"])
    particles = particles.with_columns(pl.col("defocus_u_angstrom", "defocus_v_angstrom") + offsets)
    if params.keep_imported:
        has_defocus = own["defocus_u_angstrom"].is_not_null()
        particles = particles.with_columns(
            *(pl.when(has_defocus).then(own[name]).otherwise(pl.col(name)).alias(name) for name in names),
            half=pl.coalesce(own["half"], "half"),
        )
    contrast, warnings = saved.tables["particles"]["contrast"].first(), saved.warnings
    if contrast == "bright" and not prepared["contrast"].count():
        warnings = (
            *warnings,
            "the picks lie on bright places, so images were not inverted; if particles are dark in the micrographs, the picks "
            "are wrong, e.g. counted from the other side",
        )
    particles = particles.with_columns(pl.col("contrast").fill_null(pl.lit(contrast, pl.String)))
    return Saved({"particles": particles}, warnings)


STAGE = ItemStage(
    name="extract",
    version="4",
    summary="Cut the positives out of the micrographs, centred, protein bright and normalised.",
    params=ExtractParams,
    item=MicrographItem,
    needs=("particles", "micrographs"),
    makes=("particles",),
    plan=_plan,
    load=_load,
    compute=_compute,
    save=_save,
    collect=_collect,
)
