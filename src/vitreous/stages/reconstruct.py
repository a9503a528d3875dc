"""One map from the positives: a first map from random orientations, then refinement of two independent halves.

The hand of the map is not determined by the images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from pydantic import Field
from torch import Tensor

from vitreous.errors import UserError
from vitreous.io.atomic import open_for_replacement
from vitreous.io.mrc import write_mrc
from vitreous.io.stacks import read_particle_images
from vitreous.model.stage import Context, DatasetStage, Inputs, Progress, RunFolder, Saved, StageParams
from vitreous.ops.abinitio import AbInitioSettings, compute_initial_map
from vitreous.ops.mask import compute_density_region, compute_soft_mask
from vitreous.ops.pose_search import FourierImages, compute_shift_phases
from vitreous.ops.refine3d import Refinement, RefineSettings, refine_halves
from vitreous.ops.resolution import compute_fsc, compute_resolution_angstrom
from vitreous.ops.rotations import compute_euler_angles
from vitreous.ops.symmetry import compute_symmetry_operators
from vitreous.stages.images import compute_particle_ctf

__all__ = ["STAGE", "ReconstructParams"]

_LEAST_PARTICLES = 20
_DEFOCUS = ["defocus_u_angstrom", "defocus_v_angstrom", "defocus_angle_deg"]
_MARGIN_FACTOR = 1.1
_MASK_EXTEND_ANGSTROM, _MASK_EDGE_ANGSTROM = 6.0, 6.0


class ReconstructParams(StageParams):
    """Choices of method."""

    max_particles: int = Field(2000, ge=_LEAST_PARTICLES, description="a random subset of this many is used")
    n_starts: int = Field(5, ge=1, le=50, description="random starts of the first map, of which the likeliest is kept")
    initial_iterations: int = Field(16, ge=5, description="iterations of each start")
    initial_low_resolution_angstrom: float | None = Field(
        None, gt=0, description="resolution the first map begins with, Å; a sixth of the diameter when not given"
    )
    initial_resolution_angstrom: float | None = Field(
        None, gt=0, description="resolution the first map ends with, Å; a ninth of the diameter when not given"
    )
    start_resolution_angstrom: float | None = Field(
        None,
        gt=0,
        description="resolution of the map that both halves start from, Å; a sixth of the diameter when not given",
    )
    iterations: int = Field(8, ge=1, description="iterations of the refinement at most")
    global_iterations: int = Field(3, ge=1, description="how many of them search all orientations")
    max_shift_angstrom: float = Field(12.0, gt=0, description="largest shift from the centre found in 2D, Å")
    seed: int = Field(0, ge=0, description="seed of the random starts and of the subset")


@dataclass(frozen=True)
class _Loaded:
    particle_ids: list[str]
    images: Tensor
    ctf: Tensor | None
    half: Tensor
    origins_px: Tensor
    pixel_size_angstrom: float
    diameter_angstrom: float
    symmetry: str
    warnings: tuple[str, ...]
    device: str


@dataclass(frozen=True)
class _Map:
    refinement: Refinement
    mask: Tensor
    fsc_unmasked: Tensor
    particle_ids: list[str]
    origins_px: Tensor
    pixel_size_angstrom: float
    symmetry: str
    warnings: tuple[str, ...]


def _choose_particles(inputs: Inputs, params: ReconstructParams) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Return the positives that are used, in the order of the table, and what is to be said of it."""
    particles = inputs["particles"]
    usable = particles.filter((pl.col("label") == "positive") & pl.col("stack_path").is_not_null())
    if usable.height < _LEAST_PARTICLES:
        raise UserError(
            f"reconstruct: found {usable.height} positives with an extracted image, expected at least "
            f"{_LEAST_PARTICLES}; loosen review or select2d, or add micrographs"
        )
    if usable.select("box_px", "stack_pixel_size_angstrom").n_unique() > 1:
        sizes = usable.select("box_px", "stack_pixel_size_angstrom").unique().sort("box_px").rows()
        raise UserError(
            f"reconstruct: found extracted images of several sizes (px, Å per px): {sizes}; expected one. Process data of "
            "different pixel sizes in different projects, or give the diameter so that all boxes are alike"
        )
    warnings = []
    known = usable.drop_nulls(_DEFOCUS)
    if known.height < _LEAST_PARTICLES:
        warnings.append(
            f"the defocus of {known.height} of {usable.height} positives is known: the map is not corrected for the CTF"
        )
        usable = usable.with_columns(pl.lit(None, dtype=pl.Float64).alias(name) for name in _DEFOCUS)
    elif known.height < usable.height:
        warnings.append(f"{usable.height - known.height} of {usable.height} positives have no defocus and are left out")
        usable = known
    if usable.height > params.max_particles:
        warnings.append(f"{params.max_particles} of {usable.height} positives were used (max_particles)")
        ordered = usable.with_row_index("row").sort("particle_id")
        picked = np.random.default_rng(params.seed).choice(usable.height, params.max_particles, replace=False)
        usable = ordered[np.sort(picked)].sort("row").drop("row")
    return usable, tuple(warnings)


def _assign_halves(frame: pl.DataFrame, seed: int) -> Tensor:
    """Return the half of every particle; at random where the table has none or nearly all in one."""
    half = frame["half"].fill_null(0).to_numpy()
    if min((half == 1).sum(), (half == 2).sum()) < 0.1 * len(half):
        half = 1 + np.random.default_rng(seed).permutation(len(half)) % 2
    return torch.from_numpy(np.where(half == 2, 2, 1).astype(np.int64))


def _load(inputs: Inputs, params: ReconstructParams, context: Context) -> _Loaded:
    frame, warnings = _choose_particles(inputs, params)
    entry = inputs["entries"].row(0, named=True)
    pixel, box = float(frame["stack_pixel_size_angstrom"][0]), int(frame["box_px"][0])
    # Particles that came from a refinement elsewhere have no origin of a class.
    origins = frame.select(
        pl.coalesce(f"class_origin_{axis}_angstrom", f"origin_{axis}_angstrom").fill_null(0.0) for axis in "xy"
    ).to_numpy()
    return _Loaded(
        particle_ids=frame["particle_id"].to_list(),
        images=torch.from_numpy(read_particle_images(frame, context.root)),
        ctf=compute_particle_ctf(frame, inputs["micrographs"], box),
        half=_assign_halves(frame, params.seed),
        origins_px=torch.from_numpy(origins.copy()) / pixel,
        pixel_size_angstrom=pixel,
        diameter_angstrom=float(frame["diameter_angstrom"].to_numpy().mean()),
        symmetry=entry["symmetry"],
        warnings=warnings,
        device=context.device,
    )


def _compute(loaded: _Loaded, params: ReconstructParams, progress: Progress) -> _Map:
    box, pixel = loaded.images.shape[-1], loaded.pixel_size_angstrom
    r_max = box // 2 - 1

    def to_shell(resolution_angstrom: float) -> int:
        return max(3, min(r_max, round(box * pixel / resolution_angstrom)))

    coarse, fine = loaded.diameter_angstrom / 6, loaded.diameter_angstrom / 9
    start_resolution = params.start_resolution_angstrom or coarse
    images = FourierImages.from_images(loaded.images, loaded.ctf, r_max)
    phases = compute_shift_phases(images.samples, loaded.origins_px, box)
    images = FourierImages(images.samples, images.values * phases, images.ctf, box)
    operators = compute_symmetry_operators(loaded.symmetry)
    radius = min(0.5 * _MARGIN_FACTOR * loaded.diameter_angstrom / pixel, box / 2 - 3)
    shift = max(1.0, params.max_shift_angstrom / pixel)
    initial = compute_initial_map(
        images,
        operators,
        AbInitioSettings(
            radius_px=radius,
            r_start=to_shell(params.initial_low_resolution_angstrom or coarse),
            r_end=to_shell(params.initial_resolution_angstrom or fine),
            n_starts=params.n_starts,
            n_iterations=params.initial_iterations,
            shift_px=shift,
        ),
        torch.Generator().manual_seed(params.seed),
        loaded.device,
        lambda done: progress(0.5 * done, "first map"),
    )
    refinement = refine_halves(
        images,
        loaded.half,
        initial,
        operators,
        RefineSettings(
            radius_px=radius,
            r_start=to_shell(start_resolution),
            r_max=r_max,
            n_iterations=params.iterations,
            n_global=params.global_iterations,
            shift_px=shift,
        ),
        loaded.device,
        lambda done: progress(0.5 + 0.5 * done, "refinement"),
    )
    region = compute_density_region(refinement.combined, pixel, radius * pixel)
    warnings = [*loaded.warnings]
    resolution = compute_resolution_angstrom(refinement.fsc, pixel)
    if resolution > start_resolution:
        agreement = f"only to {resolution:.1f} Å" if np.isfinite(resolution) else "at no resolution"
        warnings.append(
            f"the half maps agree {agreement}, not past the {start_resolution:.0f} Å that both started from: "
            "the map is not to be trusted"
        )
    return _Map(
        refinement=refinement,
        mask=compute_soft_mask(region, _MASK_EXTEND_ANGSTROM / pixel, _MASK_EDGE_ANGSTROM / pixel),
        fsc_unmasked=compute_fsc(*refinement.half_maps),
        particle_ids=loaded.particle_ids,
        origins_px=loaded.origins_px + refinement.poses.origins_px,
        pixel_size_angstrom=pixel,
        symmetry=loaded.symmetry,
        warnings=tuple(warnings),
    )


def _write_curves(path: Path, n: int, pixel: float, curves: Mapping[str, Tensor]) -> None:
    frequency = torch.arange(n // 2 + 1, dtype=torch.float64) / (n * pixel)
    table = {"frequency_per_angstrom": frequency} | dict(curves)
    with open_for_replacement(path) as temporary:
        pl.DataFrame({name: values.double().numpy() for name, values in table.items()}).write_parquet(temporary)


def _save(result: _Map, inputs: Inputs, params: ReconstructParams, folder: RunFolder) -> Saved:
    images, pixel = folder.path / "images", result.pixel_size_angstrom
    refinement = result.refinement
    volumes = {
        "map": refinement.combined,
        "half1": refinement.half_maps[0],
        "half2": refinement.half_maps[1],
        "mask": result.mask,
    }
    for name, volume in volumes.items():
        write_mrc(images / f"{name}.mrc", volume.float().numpy(), pixel, volume=True)
    curves = {"fsc_unmasked": result.fsc_unmasked, "fsc_spherical": refinement.fsc}
    box = refinement.combined.shape[0]
    _write_curves(images / "fsc.parquet", box, pixel, curves)
    resolutions = [compute_resolution_angstrom(curve, pixel) for curve in (refinement.fsc, result.fsc_unmasked)]
    row = pl.DataFrame(
        {
            "volume_id": ["map"],
            **{f"{name}_path": [folder.relative(images / f"{name}.mrc")] for name in volumes},
            "fsc_path": [folder.relative(images / "fsc.parquet")],
            "box_px": [box],
            "pixel_size_angstrom": [pixel],
            "symmetry": [result.symmetry],
            "n_particles": [len(result.particle_ids)],
            "resolution_angstrom": [resolutions[0] if np.isfinite(resolutions[0]) else None],
            "resolution_unmasked_angstrom": [resolutions[1] if np.isfinite(resolutions[1]) else None],
            "seed": [params.seed],
        }
    )
    rot, tilt, psi = (angle.numpy() for angle in compute_euler_angles(refinement.poses.matrices))
    origins = (result.origins_px * pixel).numpy()
    poses = pl.DataFrame(
        {
            "particle_id": result.particle_ids,
            "rot_deg": rot,
            "tilt_deg": tilt,
            "psi_deg": psi,
            "origin_x_angstrom": origins[:, 0],
            "origin_y_angstrom": origins[:, 1],
        }
    )
    names = [name for name in poses.columns if name != "particle_id"]
    particles = inputs["particles"].drop(names, strict=False)
    particles = particles.join(poses, on="particle_id", how="left", maintain_order="left")
    return Saved({"particles": particles, "volumes": row}, result.warnings)


STAGE = DatasetStage(
    name="reconstruct",
    version="1",
    summary="Reconstruct a map from the positives, from random starts and in two independent halves.",
    params=ReconstructParams,
    needs=("particles", "entries", "micrographs"),
    makes=("particles", "volumes"),
    load=_load,
    compute=_compute,
    save=_save,
)
