"""Records in a finished model which objectives and which task it was trained for."""

from __future__ import annotations

from collections.abc import Sequence

from pretune.models.metadata import Metadata, TaskRecord, VariantRecord
from pretune.objectives.objective import Objective
from pretune.tasks.task import AnyTask, Task
from pretune.train.recipe import Recipe


def training_metadata(before: Metadata, recipe: Recipe, members: Sequence[Objective]) -> Metadata:
    """The metadata of a model, once it is trained.

    Args:
        before: that of the model from which the run starts; its objectives stay where the run trains a task alone.
        members: the objectives, then the task, in the order of the recipe.

    Raises:
        MissingInputError: a user's file that does not exist.
    """
    names = [*recipe.objective, *recipe.task]
    objectives = tuple(
        VariantRecord.of(name, member.config.model_dump(mode="json"))
        for name, member in zip(names, members, strict=True)
        if not isinstance(member, Task)
    )
    task = next((member for member in members if isinstance(member, Task)), None)
    record = None if task is None else _task_record(recipe, task)
    return before.model_copy(update={"objectives": objectives or before.objectives, "task": record})


def _task_record(recipe: Recipe, task: AnyTask) -> TaskRecord:
    """The task with its labels and truncation, and how its data were read."""
    record = VariantRecord.of(next(iter(recipe.task)), task.config.model_dump(mode="json", exclude={"columns"}))
    columns = recipe.data.columns.model_dump(mode="json")
    return TaskRecord(**record.model_dump(), columns=columns, length=recipe.data.length)
