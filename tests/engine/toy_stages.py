"""Small stages with real files, for tests of the engine. The `value` of an exposure is written in its file."""

import os
import time
from pathlib import Path

import polars as pl
from pydantic import Field

from vitreous.errors import InputFileError
from vitreous.io.atomic import write_text
from vitreous.model.stage import (
    Context,
    DatasetStage,
    Inputs,
    Item,
    ItemStage,
    Progress,
    RunFolder,
    Saved,
    StageParams,
)
from vitreous.model.tables import check_table, empty_table

OPTICS = {"pixel_size_angstrom": 1.0, "voltage_kv": 300.0, "cs_mm": 2.7, "amplitude_contrast": 0.1, "optics_group": 1}


class NoParams(StageParams):
    pass


class SquareParams(StageParams):
    power: int = Field(2, description="exponent")
    pause_s: float = Field(0.0, description="seconds that each item takes")


class SharpenParams(StageParams):
    resolutions: tuple[float, ...] = Field((10.0, 8.0, 7.9, 5.0), description="of the classes, one round after another")


class FileItem(Item):
    path: str


class ScaleParams(StageParams):
    factor: float = Field(1.0, description="what the sum is multiplied with")


def _plan_files(inputs: Inputs, params: NoParams, context: Context) -> list[FileItem]:
    assert inputs.facts is not None
    names = sorted(Path(context.root).glob("input/*.txt"))
    return [FileItem(item_id=path.stem, path=str(path.relative_to(context.root))) for path in names]


def _load_number(item: FileItem, params: StageParams, context: Context) -> float:
    path = context.root / item.path
    text = path.read_text(encoding="utf-8")
    if text == "kill":
        os._exit(9)
    if text == "crash":
        raise ZeroDivisionError("a bug")
    try:
        return float(text)
    except ValueError:
        raise InputFileError(path, found=repr(text), expected="a number", remedy="Write one.") from None


def _save_exposure(value: float, item: FileItem, folder: RunFolder) -> Saved:
    row = {"exposure_id": item.item_id, "movie_path": item.path, "n_frames": 1, "nx_px": 1, "ny_px": 1, **OPTICS}
    return Saved({"exposures": pl.DataFrame([{**row, "dose_per_frame": value}])})


def _collect_exposures(inputs: Inputs, saved: Saved, params: NoParams) -> Saved:
    entry = pl.DataFrame([{"entry_id": "toy", "symmetry": "C1"}])
    return Saved({"exposures": saved.tables["exposures"], "entries": check_table("entries", entry)}, saved.warnings)


READ = ItemStage(
    name="read",
    version="1",
    summary="Read numbers.",
    params=NoParams,
    item=FileItem,
    needs=(),
    makes=("exposures", "entries"),
    plan=_plan_files,
    load=_load_number,
    compute=lambda value, params: value,
    save=lambda value, item, folder: Saved(
        {**_save_exposure(value, item, folder).tables, "entries": empty_table("entries")}
    ),
    collect=_collect_exposures,
)


def _plan_squares(inputs: Inputs, params: SquareParams, context: Context) -> list[FileItem]:
    return [
        FileItem(item_id=row["exposure_id"], path=row["movie_path"])
        for row in inputs["exposures"].iter_rows(named=True)
    ]


def _compute_square(value: float, params: SquareParams) -> float:
    time.sleep(params.pause_s)
    return value**params.power


def _save_square(value: float, item: FileItem, folder: RunFolder) -> Saved:
    path = folder.path / "images" / f"{item.item_id}.txt"
    write_text(path, repr(value))
    row = {
        "micrograph_id": item.item_id,
        "exposure_id": item.item_id,
        "micrograph_path": folder.relative(path),
        "nx_px": 1,
        "ny_px": 1,
        **OPTICS,
        "defocus_u_angstrom": value,
    }
    doubts = (f"{item.item_id} is large",) if value > 50 else ()
    return Saved({"micrographs": pl.DataFrame([row])}, doubts)


SQUARE = ItemStage(
    name="square",
    version="1",
    summary="Raise numbers to a power.",
    params=SquareParams,
    item=FileItem,
    needs=("exposures",),
    makes=("micrographs",),
    plan=_plan_squares,
    load=_load_number,
    compute=_compute_square,
    save=_save_square,
    collect=lambda inputs, saved, params: saved,
)


def _load_values(inputs: Inputs, params: ScaleParams, context: Context) -> list[float]:
    vetoed = {decision.subject for decision in inputs.decisions if decision.verdict == "reject"}
    kept = inputs["micrographs"].filter(~pl.col("micrograph_id").is_in(list(vetoed)))
    return [float((context.root / path).read_text(encoding="utf-8")) for path in kept["micrograph_path"]]


def _compute_sum(values: list[float], params: ScaleParams, progress: Progress) -> float:
    progress(0.5, "adding")
    return params.factor * sum(values)


def _save_sum(total: float, inputs: Inputs, params: ScaleParams, folder: RunFolder) -> Saved:
    path = folder.path / "images" / "sum.txt"
    write_text(path, repr(total))
    row = {"volume_id": "sum", "map_path": folder.relative(path), "box_px": 1, "pixel_size_angstrom": 1.0}
    frame = pl.DataFrame([{**row, "symmetry": "C1", "n_particles": 1, "resolution_angstrom": total}])
    return Saved({"volumes": frame})


SUM = DatasetStage(
    name="sum",
    version="1",
    summary="Add numbers.",
    params=ScaleParams,
    needs=("micrographs",),
    makes=("volumes",),
    load=_load_values,
    compute=_compute_sum,
    save=_save_sum,
)


def _load_round(inputs: Inputs, params: SharpenParams, context: Context) -> int:
    """Return how many rounds of classes there were before."""
    if "classes" not in inputs:
        return 0
    return int(inputs["classes"]["class_id"][0])


def _save_classes(number: int, inputs: Inputs, params: SharpenParams, folder: RunFolder) -> Saved:
    last = params.resolutions[number]
    decided = [decision.verdict for decision in inputs.decisions if decision.kind == "class"]
    rows = {
        "class_id": [number + 1, 100],
        "image_path": ["none"] * 2,
        "image_index": [0, 1],
        "box_px": [1] * 2,
        "pixel_size_angstrom": [1.0] * 2,
        "diameter_angstrom": [1.0] * 2,
        "n_particles": [10, 1000],
        "share": [0.01, 0.99],
        "resolution_angstrom": [last, 99.0],
        "selected": [True, False],
        "reason": [None, decided[-1] if decided else "score"],
    }
    return Saved({"classes": pl.DataFrame(rows)})


SHARPEN = DatasetStage(
    name="sharpen",
    version="1",
    summary="Make classes that are one round further.",
    params=SharpenParams,
    needs=("micrographs",),
    makes=("classes",),
    load=_load_round,
    compute=lambda number, params, progress: number,
    save=_save_classes,
    optional=("classes",),
)
