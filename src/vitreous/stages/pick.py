"""Find candidates in every micrograph, generously; `review` judges them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vitreous.errors import InputFileError, UserError
from vitreous.io.images import trust_pixel_size, write_picture
from vitreous.io.mrc import read_mrc
from vitreous.model.optics import Optics
from vitreous.model.stage import Context, Inputs, Item, ItemStage, RunFolder, Saved, StageParams
from vitreous.ops.junk import JUNK_KINDS, JunkMask, find_junk, look_up_junk
from vitreous.ops.subsets import choose_spread
from vitreous.ops.templates import project_evenly
from vitreous.pickers.blob import DiameterEstimate, estimate_diameter, learn_profile, pick_blobs
from vitreous.pickers.contrast import Contrast, get_known_contrast, measure_contrast
from vitreous.pickers.matched import Candidates, FindHidden, MatchSettings
from vitreous.pickers.template import Defocus, TemplateSet, pick_templates
from vitreous.stages.doubt import settle_defocus

__all__ = ["STAGE", "PickParams"]

_N_SAMPLE = 6
_DIAMETERS_DIFFER = 0.15
_LEAST_PX, _LARGEST_FRACTION = 10, 0.2
_BAD = (
    ("ctf_resolution_angstrom", 1),
    ("ctf_score", -1),
    ("astigmatism_angstrom", 1),
    ("total_motion_angstrom", 1),
    ("ice_ring_score", 1),
    ("coarseness", 1),
    ("structure", -1),
)
"""Columns that tell good micrographs from bad ones, and 1 where large values are bad."""


class PickParams(StageParams):
    """Choices of method."""

    method: Literal["blob", "template"] = Field(
        "blob", description="blob needs no template; template takes the chosen classes"
    )
    diameter_angstrom: float | None = Field(
        None, gt=0, description="particle diameter, Å; null: as the project says, else estimated from the data"
    )
    contrast: Literal["auto", "dark", "bright"] = Field(
        "auto",
        description="of particles in the micrographs: dark as usual, bright where images are inverted; auto: as the classes say, "
        "else measured",
    )
    max_blob_micrographs: int | None = Field(
        None,
        ge=1,
        description="with method blob, pick in so many micrographs only: spread over defocus, of their like the best by fit of "
        "the CTF, motion, ice and look; null: in all",
    )
    seed: int = Field(0, ge=0, description="seed of the choice among micrographs between which nothing decides")
    templates: str | None = Field(
        None,
        description="templates from a file instead of classes, protein bright: a stack of images .mrcs, or a map .mrc that is "
        "projected; relative to the project or absolute; with method template",
    )
    templates_pixel_size_angstrom: float | None = Field(
        None, gt=0, description="of templates from a file, Å; null: as its header says"
    )
    template_views: int = Field(20, ge=1, le=500, description="projections of a map")
    min_distance_fraction: float = Field(0.75, gt=0, description="least distance of two candidates, in diameters")
    min_score: float = Field(0.0, ge=-1, le=2, description="`score` below which nothing is a candidate")
    angle_step_deg: float = Field(15.0, gt=0, le=90, description="step of in-plane rotations of templates, degrees")
    whiten: bool = Field(
        True, description="whether micrographs and templates are divided by the amplitude of the noise; with templates"
    )
    find_junk: bool = Field(
        True, description="whether carbon, ice and clumps are looked for, and what lies in them told"
    )
    max_templates: int = Field(10, ge=1, description="classes used as templates, the largest first")
    min_diameter_angstrom: float = Field(50.0, gt=0, description="least diameter that is estimated, Å")
    max_diameter_angstrom: float = Field(500.0, gt=0, description="greatest diameter that is estimated, Å")


class MicrographItem(Item):
    """One micrograph, and what to look for in it."""

    micrograph_path: str
    optics: Optics
    defocus: tuple[float, float, float, float] | None
    diameter_angstrom: float
    estimated: str | None
    """What is to be said of the diameter where nobody gave it."""
    contrast: Contrast
    found_bright: bool = False
    """Whether that was measured, and is not as usual."""
    profile: tuple[float, ...] = ()
    """Mean of the particle against radius; for blobs."""
    class_stack: str | None = None
    template_file: str | None = None
    class_indices: tuple[int, ...] = ()
    class_numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Loaded:
    item: MicrographItem
    image: Tensor
    templates: TemplateSet | None


def _read_image(path: str, context: Context) -> Tensor:
    return torch.from_numpy(read_mrc(context.root / path)[0]).float().to(context.device)


@lru_cache(maxsize=2)
def _read_templates(path: Path, n_views: int, pixel_size_angstrom: float | None) -> TemplateSet:
    """Return the images of a stack, or projections of a map."""
    images, header = read_mrc(path)
    pixel_size_angstrom = pixel_size_angstrom or trust_pixel_size(header.pixel_size_angstrom)
    if pixel_size_angstrom is None:
        raise InputFileError(
            path,
            found="no pixel size in the header, or 1 Å, as programs write that do not know it",
            expected="the pixel size of the templates",
            remedy="Give --templates-pixel-size-angstrom.",
        )
    if images.shape[-1] != images.shape[-2]:
        raise InputFileError(
            path,
            found=f"images of {images.shape[-1]} x {images.shape[-2]} pixels",
            expected="square images, centred",
            remedy="Crop or pad them.",
        )
    stack = torch.from_numpy(images.reshape(-1, *images.shape[-2:])).float()
    if path.suffix.lower() != ".mrcs" and len(stack) == stack.shape[-1]:
        stack = project_evenly(stack, n_views)
    return TemplateSet(stack, pixel_size_angstrom)


def _get_diameter(inputs: Inputs, params: PickParams) -> float | None:
    """Return the diameter that is known already."""
    if params.diameter_angstrom is not None:
        return params.diameter_angstrom
    given = inputs["entries"]["diameter_angstrom"].drop_nulls()
    if len(given):
        return float(given[0])
    return float(inputs["classes"]["diameter_angstrom"][0]) if "classes" in inputs else None


def _find_range(params: PickParams, samples: Sequence[Tensor], pixel: float) -> tuple[float, float]:
    """Return the diameters between which the particle's is looked for."""
    side = min(min(sample.shape) for sample in samples) * pixel
    low = max(params.min_diameter_angstrom, _LEAST_PX * pixel)
    high = min(params.max_diameter_angstrom, _LARGEST_FRACTION * side)
    if not low < high:
        raise UserError(
            f"pick: the particle diameter cannot be estimated between {low:.0f} and {high:.0f} Å in micrographs of {side:.0f} Å; "
            "give it with `vitreous new --diameter`"
        )
    return low, high


def _describe_estimate(estimate: DiameterEstimate) -> str:
    found = estimate.diameter_angstrom
    said = f"the particle diameter was estimated from the data: {found:.0f} Å; give --diameter if you know it"
    edge, extent = estimate.edge_angstrom, estimate.extent_angstrom
    if extent is not None and abs(extent - edge) > _DIAMETERS_DIFFER * edge:
        said += f" (the mean of the best candidates ends at {edge:.0f} Å, their class averages are {extent:.0f} Å long)"
    return said


def _find_contrast(
    inputs: Inputs, params: PickParams, samples: Sequence[Tensor], pixel: float, diameter: float | None
) -> tuple[Contrast, bool]:
    """Return the contrast and whether it was measured here."""
    if params.contrast != "auto":
        return params.contrast, False
    said = get_known_contrast(inputs["classes"]) if "classes" in inputs else None
    if said is not None:
        return said, False
    low, high = (0.75 * diameter, 1.3 * diameter) if diameter is not None else _find_range(params, samples, pixel)
    return measure_contrast(samples, pixel, low, high), True


def _choose_templates(inputs: Inputs, params: PickParams) -> pl.DataFrame | None:
    if params.method != "template" or params.templates is not None or "classes" not in inputs:
        return None
    chosen = inputs["classes"].filter(pl.col("selected"))
    return chosen.sort("n_particles", descending=True).head(params.max_templates) if chosen.height else None


def _choose_micrographs(micrographs: pl.DataFrame, params: PickParams) -> pl.DataFrame:
    """Return the accepted micrographs, or the few of them that are asked for."""
    accepted = micrographs.filter(pl.col("accepted").fill_null(value=True))
    if params.method != "blob" or params.max_blob_micrographs is None or accepted.is_empty():
        return accepted

    def get(name: str) -> NDArray[np.float64]:
        return accepted[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()

    defocus = (get("defocus_u_angstrom") + get("defocus_v_angstrom")) / 2
    badness = np.stack([sign * get(name) for name, sign in _BAD])
    return accepted[choose_spread(defocus, badness, params.max_blob_micrographs, params.seed)]


def _plan(inputs: Inputs, params: PickParams, context: Context) -> Sequence[MicrographItem]:
    rows = _choose_micrographs(settle_defocus(inputs["micrographs"]), params).to_dicts()
    if not rows:
        raise UserError("pick: no micrograph is accepted; nothing to pick from")
    chosen = _choose_templates(inputs, params)
    pixel = rows[0]["pixel_size_angstrom"]
    alike = [row for row in rows if row["pixel_size_angstrom"] == pixel]
    wanted = alike[:: -(-len(alike) // _N_SAMPLE)]
    samples = [_read_image(row["micrograph_path"], context) for row in wanted]
    known = _get_diameter(inputs, params)
    contrast, measured = _find_contrast(inputs, params, samples, pixel, known)
    if contrast == "bright":
        samples = [-sample for sample in samples]
    estimate = None if known else estimate_diameter(samples, pixel, *_find_range(params, samples, pixel))
    diameter = known if estimate is None else round(estimate.diameter_angstrom, 1)
    assert diameter is not None
    profile: tuple[float, ...] = ()
    template_file = None
    n_templates = 0
    if params.templates is not None:
        if params.method != "template":
            raise UserError("pick: templates were given, but the method is blob; add --method template")
        template_file = str(context.root / params.templates)
        n_templates = len(
            _read_templates(Path(template_file), params.template_views, params.templates_pixel_size_angstrom).images
        )
    elif chosen is None:
        profile = tuple(learn_profile(samples, pixel, diameter).cpu().tolist())
    return [
        MicrographItem(
            item_id=row["micrograph_id"],
            micrograph_path=row["micrograph_path"],
            optics=Optics(
                pixel_size_angstrom=row["pixel_size_angstrom"],
                voltage_kv=row["voltage_kv"],
                cs_mm=row["cs_mm"],
                amplitude_contrast=row["amplitude_contrast"],
            ),
            defocus=None
            if row["defocus_u_angstrom"] is None
            else (
                row["defocus_u_angstrom"],
                row["defocus_v_angstrom"],
                row["defocus_angle_deg"],
                row["phase_shift_deg"] or 0.0,
            ),
            diameter_angstrom=diameter,
            estimated=None if estimate is None else _describe_estimate(estimate),
            contrast=contrast,
            found_bright=measured and contrast == "bright",
            profile=profile,
            class_stack=None if chosen is None else chosen["image_path"][0],
            template_file=template_file,
            class_indices=() if chosen is None else tuple(chosen["image_index"]),
            class_numbers=tuple(range(1, n_templates + 1)) if chosen is None else tuple(chosen["class_id"]),
        )
        for row in rows
    ]


def _load(item: MicrographItem, params: PickParams, context: Context) -> _Loaded:
    templates = None
    if item.template_file is not None:
        path = Path(item.template_file)
        templates = _read_templates(path, params.template_views, params.templates_pixel_size_angstrom)
    elif item.class_stack is not None:
        stack, header = read_mrc(context.root / item.class_stack)
        averages = (
            torch.from_numpy(stack.reshape(-1, *stack.shape[-2:])[list(item.class_indices)]).float().to(context.device)
        )
        assert header.pixel_size_angstrom is not None
        templates = TemplateSet(averages, header.pixel_size_angstrom)
    image = _read_image(item.micrograph_path, context)
    return _Loaded(item, image if item.contrast == "dark" else -image, templates)


@dataclass(frozen=True)
class _Found:
    candidates: Candidates
    junk: JunkMask | None


def _compute(loaded: _Loaded, params: PickParams) -> _Found:
    item, masks = loaded.item, list[JunkMask]()

    def find_hidden(xy_px: NDArray[np.float64], ncc: NDArray[np.float64]) -> NDArray[np.bool_]:
        mask = find_junk(loaded.image, item.optics.pixel_size_angstrom, item.diameter_angstrom, xy_px, ncc)
        masks.append(mask)
        # What lies at the rim of a clump belongs to it.
        return np.isin(mask.kinds, [JUNK_KINDS.index("carbon"), JUNK_KINDS.index("ice")])

    candidates = _match(loaded, params, find_hidden if params.find_junk else None)
    return _Found(candidates, masks[0] if masks else None)


def _match(loaded: _Loaded, params: PickParams, find_hidden: FindHidden | None) -> Candidates:
    item = loaded.item
    settings = MatchSettings(item.diameter_angstrom, params.min_distance_fraction, params.min_score)
    pixel = item.optics.pixel_size_angstrom
    if loaded.templates is None:
        return pick_blobs(loaded.image, pixel, torch.tensor(item.profile), settings, find_hidden)
    defocus = None if item.defocus is None else Defocus(*item.defocus)
    return pick_templates(
        loaded.image,
        item.optics,
        defocus,
        loaded.templates,
        settings,
        params.angle_step_deg,
        whitened=params.whiten,
        find_hidden=find_hidden,
    )


def _save(result: _Found, item: MicrographItem, folder: RunFolder) -> Saved:
    found = result.candidates
    n = len(found.score)
    junk, junk_path = pl.Series([None] * n, dtype=pl.String), None
    if result.junk is not None and result.junk.kinds.any():
        path = folder.path / "junk" / f"{item.item_id}.png"
        write_picture(path, result.junk.kinds)
        junk_path = folder.relative(path)
        junk = pl.Series(look_up_junk(result.junk, found.xy_px)).replace("", None)
    numbers = np.array(item.class_numbers or (0,))
    particles = pl.DataFrame(
        {
            "particle_id": [f"{item.item_id}_{i:05d}" for i in range(1, n + 1)],
            "micrograph_id": [item.item_id] * n,
            "x_px": found.xy_px[:, 0],
            "y_px": found.xy_px[:, 1],
            "diameter_angstrom": np.full(n, item.diameter_angstrom),
            "picker": ["template" if item.class_numbers else "blob"] * n,
            "ncc": found.ncc,
            "score": found.score,
            "power": found.power,
            "noise_peaks": pl.Series(found.noise_peaks).fill_nan(None),
            "template": numbers[found.template] if item.class_numbers else pl.Series([None] * n, dtype=pl.Int64),
            "pick_psi_deg": found.psi_deg if item.class_numbers else pl.Series([None] * n, dtype=pl.Float64),
            "contrast": [item.contrast] * n,
            "junk": junk,
            "junk_path": pl.Series([junk_path] * n, dtype=pl.String),
            "label": ["candidate"] * n,
        }
    )
    doubts = []
    if item.estimated:
        doubts.append(item.estimated)
    if item.found_bright:
        doubts.append(
            "particles seem to be bright in the micrographs, as where images are inverted; if they are dark, say --set "
            "pick.contrast=dark"
        )
    return Saved({"particles": particles}, tuple(doubts))


def _collect(inputs: Inputs, saved: Saved, params: PickParams) -> Saved:
    warnings = list(saved.warnings)
    if saved.tables["particles"].is_empty():
        raise UserError("pick: no candidate was found; check the diameter and the pixel size, or lower pick.min_score")
    if params.method == "template" and params.templates is None and _choose_templates(inputs, params) is None:
        warnings.append("no class is selected: picked without templates")
    said = get_known_contrast(inputs["classes"]) if "classes" in inputs else None
    if params.contrast != "auto" and said not in (None, params.contrast):
        warnings.append(
            f"the classes were made of particles said to be {said} in the micrographs, now said to be {params.contrast}: the "
            f"templates look for the opposite; run the project again with --set pick.contrast={params.contrast}"
        )
    return Saved(saved.tables, tuple(warnings))


STAGE = ItemStage(
    name="pick",
    version="10",
    summary="Find candidates in every micrograph, without a template or with the chosen classes.",
    params=PickParams,
    item=MicrographItem,
    needs=("entries", "micrographs"),
    makes=("particles",),
    plan=_plan,
    load=_load,
    compute=_compute,
    save=_save,
    collect=_collect,
    optional=("classes",),
)
