"""Tasks under names of their own, where one model learns several, each with its head."""

from __future__ import annotations

from collections.abc import Mapping
from types import new_class

from pretune.tasks.task import AnyTask

_PREFERRED = "classification"  # the role whose head reads what a family learned beyond its last layer, its pooler


def name_tasks(tasks: Mapping[str, type[AnyTask]], *, have_adapters: bool = False) -> dict[str, type[AnyTask]]:
    """Gives each task its name, and a head that no other has.

    One keeps the head that it has when it is trained alone, so that `transformers` reads it from the model's files: the
    first that classifies texts, else the first of all. The head of any other is called `task_` and its name, unless it
    is one that the model has anyway.

    Args:
        tasks: their classes by name.
        have_adapters: each has an adapter and heads of its own, which have the names that they have alone.

    Returns:
        Classes that stand for these; the one that keeps its head is the first.
    """
    if have_adapters:
        return {name: _named(task, name, task.role, adapter=n) for n, (name, task) in enumerate(tasks.items())}
    classifiers = [name for name, task in tasks.items() if task.role == _PREFERRED]
    kept = next(iter([*classifiers, *tasks]), None)
    ordered = sorted(tasks, key=lambda name: name != kept)
    return {name: _named(tasks[name], name, _role(tasks[name], name, is_kept=name == kept)) for name in ordered}


def _role(task: type[AnyTask], name: str, *, is_kept: bool) -> str:
    return task.role if is_kept or not task.role or task.shares_head else f"task_{name}"


def _named(task: type[AnyTask], name: str, role: str, adapter: int | None = None) -> type[AnyTask]:
    values = {"name": name, "role": role, "adapter": adapter, "__module__": task.__module__}
    named: type[AnyTask] = new_class(task.__name__, (task,), exec_body=lambda body: body.update(values))
    return named
