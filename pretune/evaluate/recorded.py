"""Rebuilds what a model's files record: its task, its objectives, and the heads that only these can make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretune.config import validate
from pretune.errors import DataError, UsageError
from pretune.find import find_class, variants
from pretune.interop.head_labels import class_labels
from pretune.interop.metadata import resolve
from pretune.interop.recorded_heads import HeadMakers
from pretune.models.metadata import HeadSource, Metadata, absolute
from pretune.models.model import LanguageModel, MakeHeads
from pretune.objectives.mixture import mix
from pretune.objectives.objective import Objective
from pretune.tasks.shared.named import name_tasks
from pretune.tasks.task import AnyTask, Task
from pretune.text.tokenizer.vocabulary import Vocabulary

TASK_POOLINGS = ("mean", "cls")  # that a task on vectors computes itself


def trained_task(
    model: LanguageModel,
    vocabulary: Vocabulary,
    folder: Path,
    task: str | Mapping[str, Mapping[str, Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> AnyTask:
    """A task as a model was trained for it: with its labels, pooling, columns and truncation.

    Args:
        folder: of the model, for messages.
        task: its name, or its name with settings; by default the one that the model's files record, else
            classification among the labels of the model, or the task of the head that it has instead.
        overrides: other settings than the model's, such as `truncate` or `columns`.

    Raises:
        UsageError: no such task or setting, or labels are needed and the model has none.
        MissingInputError: a user's file that is gone.
        DataError: a user's file that has changed.
    """
    name, fields = _named(task)
    recorded = _recorded_name(model.metadata, folder, name)
    if recorded is not None:
        built = _build(recorded, model.metadata, folder, vocabulary, {**(overrides or {}), **fields})
    else:
        name = name or _task_of_heads(model)
        task_class: type[AnyTask] = find_class("tasks", name, Task)  # type: ignore[type-abstract]
        own: dict[str, Any] = {}
        if "labels" in task_class.Config.model_fields:
            own["labels"] = tuple(class_labels(model, task_class.role) or model.labels)
        vectors = model.vectors
        if "pooling" in task_class.Config.model_fields and vectors is not None and vectors.pooling in TASK_POOLINGS:
            own["pooling"] = vectors.pooling
        config = own | dict(overrides or {}) | dict(fields)
        built = task_class(validate(task_class.Config, config, f"task.{name}"), vocabulary)
    _load_parameters(built, model)
    built.observe(model)
    return built.to(model.device).eval()


def _task_of_heads(model: LanguageModel) -> str:
    """The task of the heads of a model that records none: classification, unless they are for another task."""
    for name in variants("tasks"):
        task: type[AnyTask] = find_class("tasks", name, Task)  # type: ignore[type-abstract]
        is_of_head = task.role in model.heads and not task.shares_head  # which says nothing of what it was trained for
        if task.reads(model) or ("classification" not in model.heads and is_of_head):
            return name
    return "classification"


def recorded_tasks(metadata: Metadata, folder: Path, vocabulary: Vocabulary) -> list[AnyTask]:
    """The tasks that a model's files record, that of the standard head first.

    Raises:
        MissingInputError: a user's file that is gone.
        DataError: a user's file that has changed, or a configuration that the task does not have.
    """
    names = list(metadata.tasks or ({"": metadata.task} if metadata.task else {}))
    return [_build(name, metadata, folder, vocabulary, {}) for name in names]


def _recorded_name(metadata: Metadata, folder: Path, name: str | None) -> str | None:
    """Which of the recorded tasks a name means, empty where they have none; None where it means none of them.

    Raises:
        UsageError: no name, and there are several tasks.
    """
    named = metadata.tasks or {}
    if name in named:
        return name
    if name is None and len(named) > 1:
        raise UsageError(f"{folder}: this model learned several tasks; name one with --task: {', '.join(named)}")
    if metadata.task is None or (name is not None and absolute(name) != metadata.task.name):
        return None
    return next(iter(named), "")


def _build(
    name: str, metadata: Metadata, folder: Path, vocabulary: Vocabulary, overrides: Mapping[str, Any]
) -> AnyTask:
    """A recorded task, by its name, which is empty of one that has none.

    Raises:
        MissingInputError, DataError: as `recorded_tasks`.
        UsageError: an override that the task does not have.
    """
    record = metadata.task_of(name)
    assert record is not None  # it is recorded
    classes: dict[str, type[AnyTask]] = {}
    for other, each in (metadata.tasks or {"": record}).items():
        file = resolve(each, "tasks", folder, f"tasks.{other}" if other else "task")
        classes[other] = find_class("tasks", file, Task)  # type: ignore[type-abstract]
    task_class = name_tasks(classes)[name] if name else classes[name]
    name = name or record.name
    try:
        config = validate(task_class.Config, {**record.config, "columns": record.columns}, f"task.{name}")
    except UsageError as error:
        raise DataError(f"{folder / 'config.json'}: field 'pretune.task': {error}; train the model again") from None
    fields = {field: getattr(config, field) for field in type(config).model_fields} | dict(overrides)
    return task_class(validate(task_class.Config, fields, f"task.{name}"), vocabulary)


def head_makers(metadata: Metadata, folder: Path, vocabulary: Vocabulary) -> HeadMakers:
    """What makes the heads of a model that are not standard: its recorded task, and its recorded objectives.

    Raises:
        MissingInputError: a user's file that is gone.
        DataError: a user's file that has changed.
    """
    makers: dict[HeadSource, MakeHeads] = {}
    if tasks := recorded_tasks(metadata, folder, vocabulary):
        makers["task"] = mix(tasks).heads
    names = _objective_names(metadata, folder)
    if "objectives" in metadata.heads.values():
        makers["objectives"] = mix(_objectives(names, metadata, vocabulary)).heads
    return makers


def recorded_objectives(metadata: Metadata, folder: Path, vocabulary: Vocabulary) -> list[Objective]:
    """The objectives that a model's files record, with their settings, in the order of the recipe.

    Raises:
        MissingInputError: a user's file that is gone.
        DataError: a user's file that has changed, or a tokenizer without a token that an objective needs.
    """
    return _objectives(_objective_names(metadata, folder), metadata, vocabulary)


def _objective_names(metadata: Metadata, folder: Path) -> list[str]:
    return [resolve(record, "objectives", folder, f"objectives[{n}]") for n, record in enumerate(metadata.objectives)]


def _objectives(names: Sequence[str], metadata: Metadata, vocabulary: Vocabulary) -> list[Objective]:
    objectives = []
    for name, record in zip(names, metadata.objectives, strict=True):
        objective_class = find_class("objectives", name, Objective)  # type: ignore[type-abstract]
        config = validate(objective_class.Config, record.config, f"objective.{name}")
        objectives.append(objective_class(config, vocabulary))
    return objectives


def _named(task: str | Mapping[str, Mapping[str, Any]] | None) -> tuple[str | None, Mapping[str, Any]]:
    if task is None or isinstance(task, str):
        return task, {}
    return next(iter(task.items()))


def _load_parameters(task: AnyTask, model: LanguageModel) -> None:
    """Gives a task the parameters of its own that were saved beside the model's."""
    prefix = f"objective.{task.name}."
    saved = {name.removeprefix(prefix): tensor for name, tensor in model.extra_weights.items()}
    for name, parameter in task.named_parameters():
        if name in saved:
            parameter.data.copy_(saved[name])
