"""What a run leaves behind about itself, and the recipe that asks for runs."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["DEFAULT_RECIPE", "RECIPES", "FailedItem", "ItemOutcome", "Recipe", "RecipeLoop", "RecipeStep", "RunRecord"]


class RecipeStep(BaseModel):
    """One run that the recipe asks for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(description="name of the stage")
    params: Mapping[str, Any] = Field(default_factory=dict, description="only what differs from the defaults")
    ask: bool = Field(False, description="stop before it until a person has decided on what it reads")


class RecipeLoop(BaseModel):
    """Steps that are repeated until the classes get no better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[RecipeStep, ...] = Field(min_length=1)
    max_rounds: int = Field(5, ge=1, description="rounds at most")
    min_improvement: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="a round that lowers the resolution of the classes (in Å) by less than this share is the last",
    )


class Recipe(BaseModel):
    """The ordered runs of a project: `steps`, then `loop` where there is one, then `after`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[RecipeStep, ...]
    loop: RecipeLoop | None = None
    after: tuple[RecipeStep, ...] = ()

    def unroll(self) -> tuple[RecipeStep, ...]:
        """Return all steps, those of the loop as often as they may be repeated."""
        rounds = self.loop.steps * self.loop.max_rounds if self.loop is not None else ()
        return (*self.steps, *rounds, *self.after)

    def ask_before(self, stages: Collection[str]) -> "Recipe":
        """Return the recipe that stops before every run of some stages until a person has decided."""

        def mark(steps: tuple[RecipeStep, ...]) -> tuple[RecipeStep, ...]:
            return tuple(step.model_copy(update={"ask": step.ask or step.stage in stages}) for step in steps)

        loop = None if self.loop is None else self.loop.model_copy(update={"steps": mark(self.loop.steps)})
        return Recipe(steps=mark(self.steps), loop=loop, after=mark(self.after))


_MICROGRAPHS = tuple(RecipeStep(stage=name) for name in ("ingest", "motion", "ctf", "curate"))
_BLOBS, _TEMPLATES = (RecipeStep(stage="pick", params={"method": method}) for method in ("blob", "template"))
_JUDGE = tuple(RecipeStep(stage=name) for name in ("annotate", "review", "extract", "classify2d", "select2d"))
_MAP = (
    RecipeStep(stage="extract", params={"recentre": True}),
    *(RecipeStep(stage=name) for name in ("reconstruct", "validate")),
)
_FEW_BLOBS = RecipeStep(stage="pick", params={"method": "blob", "max_blob_micrographs": 20})
_BY_HAND = RecipeStep(stage="annotate", params={"min_micrographs": 20})

RECIPES: Mapping[str, Recipe] = {
    "standard": Recipe(steps=(*_MICROGRAPHS, _BLOBS, *_JUDGE, _TEMPLATES, *_JUDGE, *_MAP)),
    "loop": Recipe(
        steps=(*_MICROGRAPHS, _FEW_BLOBS, *_JUDGE), loop=RecipeLoop(steps=(_TEMPLATES, *_JUDGE)), after=_MAP
    ),
    "by-hand": Recipe(
        steps=(*_MICROGRAPHS, _BY_HAND, *_JUDGE[1:]), loop=RecipeLoop(steps=(_TEMPLATES, *_JUDGE)), after=_MAP
    ),
}
"""Recipes by name: `standard` picks twice; `loop` picks in a few micrographs first, then in all until the classes get no better;
`by-hand` does so from people's picks."""

DEFAULT_RECIPE = RECIPES["standard"]


class ItemOutcome(BaseModel):
    """What became of one item."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item_id: str
    done: bool
    message: str = Field("", description="why it failed")
    user_can_mend: bool = Field(False, description="whether the failure is something that the user can mend")
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0


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
