"""Fits a head in closed form to the vectors of the training texts, once training has ended."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pretune.draw import Draw
from pretune.evaluate.engine import by_length
from pretune.models.model import LanguageModel
from pretune.nn.projection import Projection
from pretune.nn.vector_head import VectorHead
from pretune.runtime.device import inference_context, is_bf16
from pretune.tasks.shared.sequence_task import SequenceTask, TextExampleT
from pretune.tasks.task import PredictionT
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded
from pretune.train.components import TrainComponents
from pretune.wording import counted

_FIRST = 1.0  # strength before training: a head that is sure of the training texts leaves nothing to learn


def fit_heads(components: TrainComponents, *, is_first: bool = False) -> list[str]:
    """Fits the heads of tasks whose settings say so.

    Args:
        components: with the finished weights.
        is_first: before training, which goes on with what was fitted.

    Returns:
        What the user should know.
    """
    notes, model = [], components.model
    for number, task in enumerate(components.objective.alternatives):
        if isinstance(task, SequenceTask) and task.config.fit_head:
            head = model.heads[task.head_role]
            rows = [row for view in components.views[number] for row in getattr(view, "rows", ())]
            rows = [row for row in rows if row.targets is not None]
            if isinstance(head, VectorHead) and isinstance(head.linear, Projection):
                strength = _FIRST if is_first else None
                task.fit_head(head, text_vectors(model, task, rows), np.array([row.targets for row in rows]), strength)
                notes.append(f"the head was fitted to the vectors of {counted(len(rows), 'training text')} (fit_head)")
    return [] if is_first else notes


def text_vectors(
    model: LanguageModel, task: SequenceTask[TextExampleT, PredictionT], rows: Sequence[Encoded]
) -> NDArray[np.float32]:
    """The vectors that the head of a task scores. Shape: return: (n, any)"""
    view = ExampleView(rows)
    parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    was_training = model.training
    model.eval()
    context = partial(inference_context, model.device, is_bf16(model))
    for index in by_length(view.lengths(np.arange(len(rows)))):
        batch = task.build_batch(view.read(index, 0, 0, Draw(0)), Draw(0)).to(model.device)
        with context():
            vectors = task.vectors(model, model(batch), batch)
        parts.append((index, vectors[: len(index)].float().cpu().numpy()))
    model.train(was_training)
    out = np.zeros((len(rows), parts[0][1].shape[1]), np.float32)
    for index, values in parts:
        out[index] = values
    return out
