"""The course of a recipe: its steps in order, and the loop that is repeated until the classes get no better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from vitreous.model.provenance import Recipe, RecipeLoop, RecipeStep, RunRecord
from vitreous.ops.class_statistics import compute_weighted_resolution

__all__ = ["Backstage", "find_step", "follow_recipe", "measure_class_resolution"]

RunStep = Callable[[RecipeStep, Sequence[RunRecord]], RunRecord]
"""Runs a step after the runs of these records."""


class Backstage(Protocol):
    """What the loop needs beside running steps."""

    def measure(self, record: RunRecord) -> float | None:
        """Return the resolution of the classes that a run made, Å; None where it made none."""

    def note(self, text: str) -> None:
        """Say what happens next, and why."""

    def return_to(self, records: Sequence[RunRecord]) -> None:
        """Make the tables of these runs the current ones again."""


def measure_class_resolution(classes: pl.DataFrame) -> float | None:
    """Return the mean resolution of the selected classes, each weighted by its particles, Å; all where none was selected yet.

    None where no resolution is known.
    """
    chosen = classes.filter(pl.col("selected").fill_null(value=True))
    resolution = chosen["resolution_angstrom"].to_numpy()
    found = compute_weighted_resolution(resolution, chosen["n_particles"].to_numpy(), max(1, chosen.height))
    return None if found is None else found.mean_angstrom


@dataclass
class _Course:
    """How far the recipe is."""

    last: int | None
    """Number, in the unrolled recipe, of the step to stop after."""
    run_step: RunStep
    backstage: Backstage
    records: list[RunRecord]

    def take(self, steps: Sequence[RecipeStep], first: int) -> bool:
        """Run steps, of which the first has this number; return whether the last one that was asked for is among them."""
        for number, step in enumerate(steps, first):
            self.records.append(self.run_step(step, self.records))
            if number == self.last:
                return True
        return False

    def measure(self) -> float | None:
        """Return the resolution of the newest classes."""
        found = (self.backstage.measure(record) for record in reversed(self.records))
        return next((value for value in found if value is not None), None)


def find_step(stages: Sequence[str], last: tuple[str, int]) -> int:
    """Return the number, from 0, of a stage's first, second, ... step among the stages of an unrolled recipe."""
    return [number for number, stage in enumerate(stages) if stage == last[0]][last[1] - 1]


def follow_recipe(
    recipe: Recipe, last: tuple[str, int] | None, run_step: RunStep, backstage: Backstage
) -> list[RunRecord]:
    """Run a recipe and return the records of its runs, those of rounds that were not taken left out.

    Parameters
    ----------
    recipe
        The recipe.
    last
        Stage and number of the run of that stage to stop after, rounds counted as often as they may be repeated; None for the
        whole recipe. Where it is in a round that is not taken because the classes got no better, the end of the loop is the end.
    run_step
        Runs one step.
    backstage
        Measures classes and is told what happens.
    """
    unrolled = recipe.unroll()
    after = len(unrolled) - len(recipe.after)
    course = _Course(
        None if last is None else find_step([step.stage for step in unrolled], last), run_step, backstage, []
    )
    if course.take(recipe.steps, 0):
        return course.records
    if recipe.loop is not None:
        if _repeat(course, recipe.loop, len(recipe.steps)):
            return course.records
        if last is not None and course.last is not None and course.last < after:
            backstage.note(f"{last[0]}:{last[1]} is in a round that is not needed; stopped after the loop")
            return course.records
    course.take(recipe.after, after)
    return course.records


def _repeat(course: _Course, loop: RecipeLoop, first: int) -> bool:
    """Run the loop, whose first step has this number; return whether the last step that was asked for was in it.

    The classes before the loop are compared with those of the first round. Of the rounds, the one with the best classes is
    what the recipe goes on with.
    """
    before = list(course.records)
    previous = course.measure()
    rounds: list[tuple[float, list[RunRecord]]] = []
    for number in range(1, loop.max_rounds + 1):
        # A round sees what the rounds before it made: its templates.
        if course.take(loop.steps, first + (number - 1) * len(loop.steps)):
            return True
        value = course.measure()
        if value is None:
            course.backstage.note(f"round {number}: the classes have no resolution; the loop ends")
            return False
        rounds.append((value, list(course.records)))
        compared = "" if previous is None else f", {previous:.2f} Å before"
        if previous is not None and value > previous * (1 - loop.min_improvement):
            share = f"{100 * loop.min_improvement:g} %"
            course.backstage.note(
                f"round {number}: classes at {value:.2f} Å{compared}: no better by {share}; the loop ends"
            )
            break
        end = "; that was the last round allowed" if number == loop.max_rounds else ""
        course.backstage.note(f"round {number}: classes at {value:.2f} Å{compared}{end}")
        previous = value
    best = min(range(len(rounds)), key=lambda i: rounds[i][0])
    if best + 1 < len(rounds):
        course.backstage.note(f"going on with round {best + 1}, whose classes are better")
        course.records = rounds[best][1]
        course.backstage.return_to(course.records[len(before) :])
    return False
