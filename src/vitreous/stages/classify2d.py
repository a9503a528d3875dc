"""Sort the particle images into classes, align them in the plane and average them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from vitreous.errors import SettingError, UserError
from vitreous.io.mrc import write_mrc
from vitreous.io.stacks import ParticleStacks
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.ops.align2d import Alignment, ClassificationSettings, classify_images
from vitreous.ops.average2d import ImageSource
from vitreous.stages.images import compute_particle_ctf

__all__ = ["STAGE", "Classify2dParams"]

_FEWEST_IMAGES = 2
_PARTICLES_PER_CLASS = 150
_FEWEST_CLASSES, _MOST_CLASSES = 4, 50
_LEAST_PER_CLASS = 5
_LEAST_EDGE_PX, _EDGE_SHARE = 3.0, 0.1
_PIXEL_SIZE_TOLERANCE = 0.01
_CLASS_COLUMNS = (
    "class_id",
    "class_psi_deg",
    "class_origin_x_angstrom",
    "class_origin_y_angstrom",
    "class_probability",
    "class_n_effective",
)


class Classify2dParams(StageParams):
    """Choices of method."""

    n_classes: int | None = Field(None, ge=1, le=500, description="classes; null: one per 150 particles, 4 to 50")
    n_iterations: int = Field(
        30,
        ge=1,
        le=200,
        description="rounds of expectation-maximisation; the last 4 take all particles, earlier ones a part",
    )
    max_resolution_angstrom: float = Field(8.0, gt=0, description="finest detail compared, Å")
    initial_uncertainty: float = Field(
        1.0,
        ge=1,
        le=100,
        description="how unsure of classes the first rounds are: log probabilities are divided by this",
    )
    sigma_annealing: float = Field(1.0, ge=1, le=100, description="by what the noise power is multiplied at the start")
    mask_factor: float = Field(
        1.1, gt=0, le=3, description="inner diameter of the circular mask, full weight within, in particle diameters"
    )
    mask_outer_factor: float | None = Field(
        None, gt=0, le=4, description="outer diameter of the mask, no weight beyond; null: a tenth more, 3 px at least"
    )
    recentre_threshold: float = Field(
        0.2, ge=0, lt=1, description="part of a class's peak above which density counts for its centre"
    )
    max_shift_factor: float = Field(
        0.1, ge=0, le=0.5, description="furthest that a particle may lie off its box's centre, in particle diameters"
    )
    seed: int = Field(0, ge=0, description="seed of the first averages")


class _Images:
    """Extracted images that are read some at a time."""

    def __init__(self, stacks: ParticleStacks) -> None:
        self._stacks, self.shape = stacks, stacks.shape

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Tensor, /) -> Tensor:
        return torch.from_numpy(self._stacks.read(index.numpy()))


@dataclass(frozen=True)
class _Loaded:
    particle_ids: tuple[str, ...]
    images: ImageSource
    device: str
    ctf: Callable[[Tensor], Tensor] | None
    half: Tensor
    pixel_size_angstrom: float
    diameter_angstrom: float
    n_without_defocus: int


@dataclass(frozen=True)
class _Classified:
    particle_ids: tuple[str, ...]
    alignment: Alignment
    resolution_angstrom: NDArray[np.float64]
    pixel_size_angstrom: float
    diameter_angstrom: float
    warnings: tuple[str, ...]


def _choose_particles(inputs: Inputs) -> pl.DataFrame:
    """Return the positives that have an image, in the table's order."""
    chosen = inputs["particles"].filter((pl.col("label") == "positive") & pl.col("stack_path").is_not_null())
    if chosen.height < _FEWEST_IMAGES:
        raise UserError(
            f"classify2d: found {chosen.height} positives with an extracted image, expected at least {_FEWEST_IMAGES}; "
            "loosen the thresholds of review, or run extract"
        )
    if chosen["box_px"].n_unique() > 1:
        raise UserError(
            f"classify2d: found boxes of {sorted(chosen['box_px'].unique())} px, expected one size; set extract.max_box_px so "
            "that all micrographs give the same, or make a project for each pixel size"
        )
    pixels = chosen["stack_pixel_size_angstrom"].to_numpy()
    if pixels.max() > pixels.min() * (1 + _PIXEL_SIZE_TOLERANCE):
        raise UserError(
            f"classify2d: found images of {pixels.min():.3f} to {pixels.max():.3f} Å per pixel, expected one pixel size; make a "
            "project for each"
        )
    return chosen


def _make_ctf(particles: pl.DataFrame, micrographs: pl.DataFrame, box_px: int) -> Callable[[Tensor], Tensor] | None:
    """Return what computes the CTF of some of the particles, since that of all would fill the memory; None: no defocus."""
    if particles["defocus_u_angstrom"].is_null().all():
        return None

    def compute(index: Tensor) -> Tensor:
        ctf = compute_particle_ctf(particles[index.numpy()], micrographs, box_px)
        return torch.ones(len(index), box_px, box_px // 2 + 1) if ctf is None else ctf

    return compute


def _load(inputs: Inputs, params: Classify2dParams, context: Context) -> _Loaded:
    chosen = _choose_particles(inputs)
    images = _Images(ParticleStacks(chosen, context.root))
    order = pl.int_range(pl.len()) % 2
    half = chosen.select(half=pl.coalesce(pl.col("half") - 1, order))["half"].to_numpy()
    return _Loaded(
        particle_ids=tuple(chosen["particle_id"]),
        images=images,
        device=context.device,
        ctf=_make_ctf(chosen, inputs["micrographs"], images.shape[-1]),
        half=torch.from_numpy(half.astype(np.int64)),
        pixel_size_angstrom=float(np.median(chosen["stack_pixel_size_angstrom"].to_numpy())),
        diameter_angstrom=float(np.median(chosen["diameter_angstrom"].to_numpy())),
        n_without_defocus=chosen["defocus_u_angstrom"].null_count(),
    )


def _choose_settings(loaded: _Loaded, params: Classify2dParams) -> ClassificationSettings:
    n, box = loaded.images.shape[0], loaded.images.shape[-1]
    pixel, diameter = loaded.pixel_size_angstrom, loaded.diameter_angstrom
    n_classes = params.n_classes or min(max(n // _PARTICLES_PER_CLASS, _FEWEST_CLASSES), _MOST_CLASSES)
    if params.max_resolution_angstrom > diameter / 2:
        raise SettingError(
            f"classify2d.max_resolution_angstrom: found {params.max_resolution_angstrom}, expected less than half "
            f"of the particle diameter of {diameter:.0f} Å"
        )
    last = min(box // 2 - 1, round(box * pixel / params.max_resolution_angstrom))
    # A particle is told from noise by detail of a quarter of its size at most.
    first = min(last, max(4, round(4 * box * pixel / diameter)))
    mask_radius_px = min(params.mask_factor * diameter / 2 / pixel, 0.47 * box)
    if params.mask_outer_factor is None:
        edge_px = max(_LEAST_EDGE_PX, _EDGE_SHARE * mask_radius_px)
    elif params.mask_outer_factor > params.mask_factor:
        edge_px = max(1.0, (params.mask_outer_factor - params.mask_factor) * diameter / 2 / pixel)
    else:
        raise SettingError(
            f"classify2d.mask_outer_factor: found {params.mask_outer_factor}, expected more than the mask_factor of "
            f"{params.mask_factor}"
        )
    return ClassificationSettings(
        n_classes=max(1, min(n_classes, n // _LEAST_PER_CLASS)),
        n_iterations=params.n_iterations,
        mask_radius_px=mask_radius_px,
        max_shift_px=params.max_shift_factor * diameter / pixel,
        first_ring=first,
        last_ring=last,
        seed=params.seed,
        mask_edge_px=edge_px,
        initial_uncertainty=params.initial_uncertainty,
        annealing=params.sigma_annealing,
        recentre_threshold=params.recentre_threshold,
    )


def _compute(loaded: _Loaded, params: Classify2dParams, progress: Progress) -> _Classified:
    settings = _choose_settings(loaded, params)
    alignment = classify_images(loaded.images, loaded.ctf, loaded.half, settings, progress, loaded.device)
    width = loaded.images.shape[-1] * loaded.pixel_size_angstrom
    warnings = []
    if loaded.n_without_defocus:
        warnings.append(
            f"{loaded.n_without_defocus} of {len(loaded.images)} particles have no defocus; "
            "their images were not corrected for the CTF"
        )
    return _Classified(
        particle_ids=loaded.particle_ids,
        alignment=alignment,
        resolution_angstrom=width / alignment.resolution_ring.clamp_min(1.0).double().cpu().numpy(),
        pixel_size_angstrom=loaded.pixel_size_angstrom,
        diameter_angstrom=loaded.diameter_angstrom,
        warnings=tuple(warnings),
    )


def _tabulate_particles(result: _Classified) -> pl.DataFrame:
    """Return the class columns. RELION's psi turns the image onto the average, its origin moves it to the centre."""
    alignment = result.alignment
    columns: dict[str, Any] = {
        "particle_id": result.particle_ids,
        "class_id": (alignment.class_index + 1).cpu().numpy(),
        "class_psi_deg": (180 - torch.remainder(180 + alignment.angle_deg.double(), 360)).cpu().numpy(),
        "class_origin_x_angstrom": (-alignment.shift_px[:, 1].double() * result.pixel_size_angstrom).cpu().numpy(),
        "class_origin_y_angstrom": (-alignment.shift_px[:, 0].double() * result.pixel_size_angstrom).cpu().numpy(),
        "class_probability": alignment.probability.double().cpu().numpy(),
        "class_n_effective": alignment.n_effective.double().cpu().numpy(),
    }
    return pl.DataFrame(columns)


def _save(result: _Classified, inputs: Inputs, params: Classify2dParams, folder: RunFolder) -> Saved:
    path = folder.path / "images" / "classes.mrcs"
    averages = result.alignment.averages.cpu().numpy()
    write_mrc(path, averages.astype(np.float32), result.pixel_size_angstrom)
    counts = torch.bincount(result.alignment.class_index, minlength=len(averages)).cpu().numpy()
    n_classes = len(averages)
    classes = pl.DataFrame(
        {
            "class_id": range(1, n_classes + 1),
            "image_path": [folder.relative(path)] * n_classes,
            "image_index": range(n_classes),
            "box_px": [averages.shape[-1]] * n_classes,
            "pixel_size_angstrom": [result.pixel_size_angstrom] * n_classes,
            "diameter_angstrom": [result.diameter_angstrom] * n_classes,
            "contrast": pl.Series([inputs["particles"]["contrast"].drop_nulls().first()] * n_classes, dtype=pl.String),
            "n_particles": counts,
            "share": counts / counts.sum(),
            "resolution_angstrom": result.resolution_angstrom,
        }
    )
    particles = (
        inputs["particles"]
        .drop(_CLASS_COLUMNS, strict=False)
        .join(_tabulate_particles(result), on="particle_id", how="left", maintain_order="left")
    )
    return Saved({"particles": particles, "classes": classes}, result.warnings)


STAGE = DatasetStage(
    name="classify2d",
    version="6",
    summary="Sort the particles into 2D classes, align them in the plane and average them.",
    params=Classify2dParams,
    needs=("particles", "micrographs"),
    makes=("particles", "classes"),
    load=_load,
    compute=_compute,
    save=_save,
)
