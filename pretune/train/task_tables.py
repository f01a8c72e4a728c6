"""Reads which file of `tasks/` a table of a recipe's `task` means, and the name that it gives the task."""

from __future__ import annotations

from collections.abc import Mapping

FILE, DATA = "task", "data"
"""Fields of a table that are not the task's own: the file of `tasks/`, by default the table's name; and its data."""


def file_of(name: str, table: object) -> str:
    """The file of `tasks/`, or the user's own, that a table means."""
    file = table.get(FILE) if isinstance(table, Mapping) else None
    return name if file is None else str(file)


def are_named(tables: Mapping[str, object]) -> bool:
    """Whether the tasks of a recipe have names of their own: there are several, or a table says more than settings."""
    return len(tables) > 1 or any(isinstance(table, Mapping) and {FILE, DATA} & {*table} for table in tables.values())
