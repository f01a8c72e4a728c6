"""Reads which file of `tasks/` a table of a recipe's `task` means, and the name that it gives the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pretune.text.readers.labelled import LabelledConfig
from pretune.train.holdout import HoldoutConfig

FILE, DATA = "task", "data"
"""Fields of a table that are not the task's own: the file of `tasks/`, by default the table's name; and its data."""


def listed(value: Any) -> Any:
    """A list of the one value that stands alone where several may stand."""
    return (value,) if isinstance(value, str | int | float) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(listed)]


class TaskDataConfig(HoldoutConfig):
    """What one of several tasks reads; what it leaves open is as in the run's `data`.

    Attributes:
        train: labelled files.
        validation: labelled files; without them some of the training rows are held out (`holdout`).
        columns: how labelled files are read.
    """

    train: Paths = ()
    validation: Paths = ()
    columns: LabelledConfig = Field(default_factory=LabelledConfig)


def file_of(name: str, table: object) -> str:
    """The file of `tasks/`, or the user's own, that a table means."""
    file = table.get(FILE) if isinstance(table, Mapping) else None
    return name if file is None else str(file)


def are_named(tables: Mapping[str, object]) -> bool:
    """Whether the tasks of a recipe have names of their own: there are several, or a table says more than settings."""
    return len(tables) > 1 or any(isinstance(table, Mapping) and {FILE, DATA} & {*table} for table in tables.values())
