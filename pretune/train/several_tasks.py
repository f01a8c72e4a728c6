"""Reads the tasks of a recipe, each with the data that it trains on, and how often each is drawn.

One task in a table with its name has the data of the run. Several tasks have names, under which they are trained, saved
and scored, and each may have data of its own:

    [task.intent]
    task = "classification"

    [task.topic]
    task = "classification"
    data.train = "topics.csv"
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretune.config import validate
from pretune.errors import UsageError
from pretune.find import find_class
from pretune.tasks.shared.named import name_tasks
from pretune.tasks.task import AnyTask, Task
from pretune.text.readers.labelled import Data, NamedData
from pretune.train.holdout import HoldoutConfig
from pretune.train.recipe import DataConfig, Recipe
from pretune.train.task_tables import DATA, FILE, TaskDataConfig, are_named, file_of

_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
_PARTS = ("train", "validation", "columns", "length", "holdout", "group", "folds", "fold")  # of the data, for a task


@dataclass(frozen=True)
class RunTask:
    """A task of a recipe.

    Attributes:
        name: under which it is trained, saved and scored; empty of the only task of a run, which has its own.
        file: of `tasks/`, or the user's own.
        task_class: its class, with that name and a head of its own.
        recipe: that of the run, as if it had no other task and read no other data.
    """

    name: str
    file: str
    task_class: type[AnyTask]
    recipe: Recipe

    def rows(self, data: NamedData | None) -> Data | None:
        """What it reads of data in memory: of several tasks, what stands under its name, else all.

        Raises:
            UsageError: there is nothing under its name, but something under others.
        """
        if not self.name or not isinstance(data, Mapping):
            return data  # type: ignore[return-value]  # of one task a mapping is refused where rows are read
        if self.name not in data:
            raise UsageError(f"there are no rows for the task {self.name!r}; give some for each task, by its name")
        return data[self.name]


def tasks_of(recipe: Recipe) -> list[RunTask]:
    """The tasks of a recipe; the one whose head has the names that others know is the first.

    Raises:
        UsageError: a name that is none, no such task, or a field of its data that does not exist.
        MissingInputError: a user's own file that does not exist.
    """
    if not are_named(recipe.task):
        return [
            RunTask("", file, find_class("tasks", file, Task), recipe)  # type: ignore[type-abstract]
            for file in recipe.task
        ]
    classes: dict[str, type[AnyTask]] = {}
    tables: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for key, table in recipe.task.items():
        file = file_of(key, table)
        task_class: type[AnyTask] = find_class("tasks", file, Task)  # type: ignore[type-abstract]
        name = key if key != file else task_class.name  # of a user's own file the path is no name
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"recipe: field 'task.{key}': {name!r} names a task and its scores; use small letters, digits and _"
            )
        if name in classes:
            raise UsageError(f"recipe: field 'task.{key}': another task is called {name!r}; give it another name")
        classes[name] = task_class
        tables[name] = (file, table if isinstance(table, Mapping) else {"weight": table})
    named = name_tasks(classes, have_adapters=recipe.adapter_per_task)
    return [RunTask(name, tables[name][0], named[name], _alone(recipe, name, *tables[name])) for name in named]


def draw_weights(tasks: Sequence[AnyTask], sizes: Sequence[int], temperature: float) -> list[float]:
    """How often each task is drawn: in proportion to its size to the power of 1 / temperature, times its own weight.

    Source: Devlin et al. 2018, multilingual BERT, and Raffel et al. 2020 (arXiv 1910.10683), section 3.5.2, for the
    temperature.

    Returns:
        Weights whose sum is that of the tasks' own.
    """
    own = [task.config.weight for task in tasks]
    drawn = [weight * size ** (1 / temperature) for weight, size in zip(own, sizes, strict=True)]
    return [weight * sum(own) / sum(drawn) for weight in drawn]


def _alone(recipe: Recipe, name: str, file: str, table: Mapping[str, Any]) -> Recipe:
    """The recipe as it would be for one of its tasks."""
    settings = {field: value for field, value in table.items() if field not in (FILE, DATA)}
    where = f"recipe: task.{name}.data"
    own = validate(TaskDataConfig, table.get(DATA) or {}, where).model_dump(exclude_unset=True)
    shared = {field: value for field, value in recipe.data.model_dump(exclude_unset=True).items() if field in _PARTS}
    if own.get("train") or own.get("holdout") or own.get("group") or own.get("folds"):
        shared.pop("validation", None)  # of other rows, or not wanted
    if own.get("validation"):
        shared = {field: value for field, value in shared.items() if field not in HoldoutConfig.model_fields}
    columns = {**shared.get("columns", {}), **own.get("columns", {})}
    data = validate(DataConfig, {**shared, **own, "columns": columns}, where)
    return recipe.model_copy(update={"task": {file: settings}, "data": data})
