"""The task that a model was trained for: with its labels, pooling, columns and truncation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretune.config import validate
from pretune.find import find_class
from pretune.models.model import LanguageModel
from pretune.tasks.task import Task
from pretune.text.tokenizer.vocabulary import Vocabulary


def trained_task(
    model: LanguageModel,
    vocabulary: Vocabulary,
    task: str | Mapping[str, Mapping[str, Any]] = "classification",
    overrides: Mapping[str, Any] | None = None,
) -> Task[Any, Any, Any]:
    """A task as a model was trained for it.

    Args:
        task: its name, or its name with settings.
        overrides: other settings than the model's, such as `truncate` or `columns`.

    Raises:
        UsageError: no such task or setting, or labels are needed and the model has none.
    """
    name, fields = (task, {}) if isinstance(task, str) else next(iter(task.items()))
    task_class: type[Task[Any, Any, Any]] = find_class("tasks", name, Task)  # type: ignore[type-abstract]
    own: dict[str, Any] = {}
    if "labels" in task_class.Config.model_fields:
        own["labels"] = tuple(model.labels)
    if "pooling" in task_class.Config.model_fields and model.pooling:
        own["pooling"] = model.pooling
    config = validate(task_class.Config, own | dict(overrides or {}) | dict(fields), f"task.{name}")
    return task_class(config, vocabulary).to(model.device)
