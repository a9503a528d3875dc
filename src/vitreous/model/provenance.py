"""What a run leaves behind about itself, and the recipe that asks for runs."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DEFAULT_RECIPE", "FailedItem", "Recipe", "RecipeStep", "RunRecord"]


class RecipeStep(BaseModel):
    """One run that the recipe asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(description="name of the stage")
    params: Mapping[str, Any] = Field(default_factory=dict, description="only what differs from the defaults")


class Recipe(BaseModel):
    """The ordered runs of a project; the paper's loop is unrolled into more runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[RecipeStep, ...]


DEFAULT_RECIPE = Recipe(
    steps=(
        RecipeStep(stage="ingest"),
        RecipeStep(stage="motion"),
        RecipeStep(stage="ctf"),
        RecipeStep(stage="curate"),
        RecipeStep(stage="pick", params={"method": "blob"}),
        RecipeStep(stage="review"),
        RecipeStep(stage="extract"),
        RecipeStep(stage="classify2d"),
        RecipeStep(stage="select2d"),
        RecipeStep(stage="pick", params={"method": "template"}),
        RecipeStep(stage="review"),
        RecipeStep(stage="extract"),
        RecipeStep(stage="classify2d"),
        RecipeStep(stage="select2d"),
        RecipeStep(stage="reconstruct"),
        RecipeStep(stage="validate"),
    )
)


class FailedItem(BaseModel):
    """An item that could not be done, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str
    message: str


class RunRecord(BaseModel):
    """`run.json`: written last, so that a run without it is not done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: str = Field(description="folder name, e.g. 004-motion")
    stage: str
    stage_version: str
    vitreous_version: str
    key: str = Field(description="hash of stage, version, parameters and the keys of the inputs")
    params: Mapping[str, Any] = Field(description="all parameters, resolved")
    changed_params: Mapping[str, Any] = Field(description="those that differ from the defaults")
    inputs: Mapping[str, str] = Field(description="table name: folder of the run that made it")
    outputs: Mapping[str, int] = Field(description="table name: rows")
    rows_in: Mapping[str, int] = Field(description="table name: rows read")
    status: Literal["done", "failed"] = "done"
    started: datetime
    finished: datetime
    seconds: float
    cpu_seconds: float = Field(description="processor time of all workers")
    peak_memory_bytes: int = Field(description="largest resident size of one process")
    n_items: int = 0
    n_done: int = 0
    failed: tuple[FailedItem, ...] = ()
    warnings: tuple[str, ...] = ()
    host: str = ""
    device: str = "cpu"
