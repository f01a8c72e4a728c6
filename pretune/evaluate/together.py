"""Predicts with several adapters of one model: their texts share a forward, each adapter's task decides of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, cast

import numpy as np

from pretune.batch import Batch, in_group, join_batches
from pretune.draw import Draw
from pretune.errors import NonFiniteError
from pretune.evaluate.engine import BUDGET, by_length, join_rows
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.runtime.device import inference_context, is_bf16
from pretune.runtime.finite import is_finite
from pretune.tasks.task import AnyTask, Example, RowBatch
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded, Row
from pretune.text.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Reading:
    """What one adapter reads.

    Attributes:
        number: of the adapter in the common model.
        model: with the adapter alone, whose heads decide.
        task: its own.
        examples: what it predicts of.
        rows: `task.encode(examples, tokenizer, length)`.
    """

    number: int
    model: LanguageModel
    task: AnyTask
    examples: Sequence[Example]
    rows: Sequence[Encoded]


def predict_together(
    network: LanguageModel, readings: Sequence[Reading], tokenizer: Tokenizer, budget: int = BUDGET
) -> list[list[object]]:
    """The predictions of each adapter for its examples, in their order.

    Args:
        network: reads a batch with all adapters, on its device.
        budget: tokens of a forward.

    Raises:
        NonFiniteError: a prediction that holds a number which is not finite.
    """
    views = [ExampleView(reading.rows) for reading in readings]
    owner = np.repeat(np.arange(len(readings)), [len(view) for view in views])
    within = np.concatenate([np.arange(len(view)) for view in views])
    lengths = np.concatenate([view.lengths(np.arange(len(view))) for view in views])
    answers: list[list[tuple[Row, object]]] = [[] for _ in readings]
    for index in by_length(lengths, budget):
        parts: list[tuple[int, RowBatch]] = []
        for n in np.unique(owner[index]).tolist():
            rows = views[n].read(within[index[owner[index] == n]], 0, 0, Draw(0))
            batch = readings[n].task.build_rows(rows, Draw(0)).batch.to(network.device)
            parts.append((n, RowBatch(rows, batch, readings[n].task)))
        with inference_context(network.device, is_bf16(network)):
            common = CommonForward(network, [(readings[n].number, readings[n].model, rows.batch) for n, rows in parts])
            for number, (n, rows) in enumerate(parts):
                decoded = readings[n].task.decode(common.model(number), rows, tokenizer)
                answers[n] += zip(rows.rows, decoded, strict=True)
    return [_predictions(reading, own) for reading, own in zip(readings, answers, strict=True)]


def _predictions(reading: Reading, answers: list[tuple[Row, object]]) -> list[object]:
    answers.sort(key=lambda pair: pair[0].sample)
    rows, decoded = [row for row, _ in answers], [answer for _, answer in answers]
    predictions, _ = join_rows(reading.task, reading.examples, rows, decoded)
    for number, (prediction, example) in enumerate(zip(predictions, reading.examples, strict=True)):
        if not is_finite(prediction):
            raise NonFiniteError.of(example.origin, "a prediction", number)
    return predictions


class CommonForward:
    """One forward for the batches of several adapters, made when the first of them asks for its part.

    Args:
        network: reads a batch with all adapters.
        parts: for each batch the number of its adapter, the model with that adapter alone, and the batch.
    """

    def __init__(self, network: LanguageModel, parts: Sequence[tuple[int, LanguageModel, Batch]]) -> None:
        self._network, self._parts = network, parts

    def model(self, number: int) -> TrainableModel:
        """The model of a batch: called with it, it gives its part of the common forward."""
        return cast(TrainableModel, _ModelOfPart(self, number, *self._parts[number][1:]))

    @cached_property
    def outputs(self) -> list[ModelOutput]:
        """What each batch would have given alone."""
        batches = [in_group(batch, number) for number, _, batch in self._parts]
        if not all(model.supports_output_rows for _, model, _ in self._parts):
            batches = [replace(batch, output_rows=None) for batch in batches]
        return split_output(self._network(join_batches(batches)), batches)


def split_output(output: ModelOutput, batches: Sequence[Batch]) -> list[ModelOutput]:
    """The output of joined batches as that of each, whose heads draw as if it were alone."""
    sequences = accumulate((batch.layout.count for batch in batches), initial=0)
    tokens = accumulate((batch.layout.total for batch in batches), initial=0)
    outputs = []
    for batch, (first, stop), start in zip(batches, pairwise(sequences), tokens, strict=False):
        rows, layout = output.layout.select(range(first, stop))
        if layout.keys is not None and batch.layout.keys is not None:
            layout = replace(layout, keys=replace(layout.keys, calls=batch.layout.keys.calls))
        index = None if output.rows is None else output.rows[rows] - start
        outputs.append(ModelOutput(output.last_hidden_state[rows], layout, index))
    return outputs


class _ModelOfPart:
    """A model that takes its output for one batch from a common forward."""

    def __init__(self, common: CommonForward, number: int, model: LanguageModel, batch: Batch) -> None:
        self._common, self._number, self._model, self._batch = common, number, model, batch

    def __call__(self, batch: Batch, **options: Any) -> Any:
        """What the model gives; for other batches, or with more than a batch, by a forward of its own."""
        if options or batch is not self._batch:
            return self._model(batch, **options)
        return self._common.outputs[self._number]

    def __getattr__(self, name: str) -> Any:
        """The model's own attributes, such as its heads."""
        return getattr(self._model, name)
