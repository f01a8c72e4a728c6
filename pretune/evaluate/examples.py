"""Answers and scores of a task on labelled examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pretune.config import validate
from pretune.draw import Draw
from pretune.evaluate.batches import BUDGET, by_length
from pretune.find import find_class
from pretune.models.model import LanguageModel
from pretune.runtime.device import inference_context, is_bf16
from pretune.tasks.task import Answer, Task, Truncate
from pretune.text.readers.labelled import Example
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoding
from pretune.text.tokenizer.vocabulary import Vocabulary


def task_of(
    model: LanguageModel, vocabulary: Vocabulary, task: str | Mapping[str, Mapping[str, Any]], truncate: Truncate
) -> Task[Any]:
    """A task as a model was trained for it: on its labels, by its pooling, where the task asks for them.

    Args:
        task: its name, or its name with settings.

    Raises:
        UsageError: no such task or setting, or labels are asked for and the model has none.
    """
    name, settings = (task, {}) if isinstance(task, str) else next(iter(task.items()))
    kind: type[Task[Any]] = find_class("tasks", name, Task)  # type: ignore[type-abstract]
    own: dict[str, Any] = {"truncate": truncate}
    if "labels" in kind.Config.model_fields:
        own["labels"] = tuple(model.labels)
    if "pooling" in kind.Config.model_fields and model.pooling:
        own["pooling"] = model.pooling
    return kind(validate(kind.Config, own | dict(settings), f"task.{name}"), vocabulary).to(model.device)


def predict(
    model: LanguageModel, task: Task[Answer], rows: Sequence[Encoding], device: torch.device, budget: int = BUDGET
) -> list[Answer]:
    """One answer for each encoded example, in their order.

    Args:
        rows: `task.encode(...).rows`.
        budget: tokens of a batch.
    """
    model.eval()
    half = is_bf16(model)
    view = ExampleView(rows)
    out: dict[int, Answer] = {}
    for index in by_length(view.lengths(np.arange(len(rows))), budget):
        batch = task.build_batch(view.read(index, 0, 0, Draw(0)), Draw(0))
        with inference_context(device, half):
            found = task.decode(model, batch.to(device))
        out |= zip(index.tolist(), found, strict=True)
    return [out[n] for n in range(len(rows))]


def evaluate_examples(
    model: LanguageModel,
    task: Task[Any],
    examples: Sequence[Example],
    rows: Sequence[Encoding],
    device: torch.device,
    budget: int = BUDGET,
) -> dict[str, float]:
    """The task's scores on labelled examples; see `Task.score`.

    Args:
        rows: `task.encode(examples, ...).rows`.
    """
    return task.score(predict(model, task, rows, device, budget), examples)
