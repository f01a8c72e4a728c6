"""Records in a finished model which objectives and which task it was trained for."""

from __future__ import annotations

from collections.abc import Sequence

from pretune.models.metadata import Metadata, TaskRecord, VariantRecord
from pretune.objectives.objective import Objective
from pretune.tasks.task import AnyTask, Task
from pretune.train.recipe import Recipe
from pretune.train.several_tasks import tasks_of
from pretune.train.task_tables import are_named


def training_metadata(before: Metadata, recipe: Recipe, members: Sequence[Objective]) -> Metadata:
    """The metadata of a model, once it is trained.

    Args:
        before: that of the model from which the run starts; its objectives stay where the run trains a task alone.
        members: the objectives in the order of the recipe, then the tasks.

    Raises:
        MissingInputError: a user's file that does not exist.
    """
    trained = [member for member in members if not isinstance(member, Task)]
    objectives = tuple(
        VariantRecord.of(name, member.config.model_dump(mode="json"))
        for name, member in zip(recipe.objective, trained, strict=True)
    )
    tasks = [member for member in members if isinstance(member, Task)]
    files = {task.name: task.file for task in tasks_of(recipe)} if are_named(recipe.task) else {}
    records = {task.name: _task_record(recipe, task, files.get(task.name)) for task in tasks}
    update = {"task": next(iter(records.values()), None), "tasks": records if files else None}
    return before.model_copy(update={"objectives": objectives or before.objectives, **update})


def _task_record(recipe: Recipe, task: AnyTask, file: str | None) -> TaskRecord:
    """The task with its labels and truncation, and how its data were read."""
    name = next(iter(recipe.task)) if file is None else file
    record = VariantRecord.of(name, task.config.model_dump(mode="json", exclude={"columns"}))
    columns = task.config.columns.model_dump(mode="json")
    return TaskRecord(**record.model_dump(), columns=columns, length=recipe.data.length)
