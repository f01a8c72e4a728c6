"""Predicts and evaluates with a task: texts, pairs of texts, records and labelled files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from pretune.config import validate
from pretune.errors import UsageError
from pretune.evaluate.engine import encode_examples, finite_scores
from pretune.evaluate.pairs import predict_by_modules
from pretune.evaluate.results import Evaluation, texts_of
from pretune.models.metadata import Metadata
from pretune.models.model import LanguageModel
from pretune.tasks.shared.predictions import Predictions
from pretune.tasks.shared.records import read_examples, read_texts
from pretune.tasks.task import AnyTask, Example, ExampleT, PredictionT, RowAnswerT, Task
from pretune.text.readers.labelled import Data, LabelledConfig
from pretune.text.readers.memory import as_list, check_texts
from pretune.text.tokenizer.tokenizer import Tokenizer

Texts = list[str] | tuple[str, ...]
Columns: TypeAlias = LabelledConfig | Mapping[str, Any]
"""How records are read: a typed configuration, or plain values by the names of its fields."""


def merge_columns(metadata: Metadata, columns: Columns | None, task: str | None = None) -> LabelledConfig | None:
    """How records are read: what plain values leave out is as in the model's training.

    Args:
        task: the name of one of several tasks.

    Raises:
        UsageError: an unknown field, or one column that would be read as two.
    """
    if columns is None or isinstance(columns, LabelledConfig):
        return columns
    for name in columns:
        if name.endswith("_column"):
            raise UsageError(f"columns: field {name!r} has a new name: use {name.removesuffix('_column')!r}")
    recorded = metadata.task_of(task)
    return validate(LabelledConfig, {**(recorded.columns if recorded else {}), **columns}, "columns")


def predict_data(
    network: LanguageModel,
    tokenizer: Tokenizer,
    task: AnyTask,
    data: Data,
    seconds: str | Texts | None,
    length: int,
) -> Predictions[Any]:
    """The predictions of a task for texts, pairs of texts or records, in their order.

    Raises:
        UsageError, DataError: as `Model.predict`.
    """
    examples = examples_of(task, data, seconds)
    rows = encode_examples(task, examples, tokenizer, length)
    predictions = predict_by_modules(network, task, examples, rows, tokenizer)
    return Predictions(predictions, [texts_of(example) for example in examples], task.brief)


def examples_of(
    task: Task[ExampleT, RowAnswerT, PredictionT], data: Data, seconds: str | Texts | None = None
) -> list[ExampleT]:
    """Texts, pairs of texts or records as examples of a task, whose labels are not needed.

    Raises:
        UsageError, DataError: as `Model.predict`.
    """
    items = as_list(data)  # no records where nothing in it has names or an order
    if isinstance(items, list) and not any(isinstance(item, Mapping | tuple | list) for item in items):
        others = None if seconds is None else check_texts(seconds, "predict", "second text")
        return read_texts(task, check_texts(items, "predict"), others)
    if seconds is not None:
        raise UsageError("predict: records hold their second texts themselves; leave the second argument out")
    return read_examples(task, cast("Data", items), needs_labels=False, every_row=True)


def evaluate_data(network: LanguageModel, tokenizer: Tokenizer, task: AnyTask, data: Data, length: int) -> Evaluation:
    """The scores of a task on labelled files or records.

    Raises:
        UsageError, DataError: as `Model.evaluate`.
    """
    return evaluate_examples(network, tokenizer, task, read_examples(task, data), length)


def evaluate_examples(
    network: LanguageModel, tokenizer: Tokenizer, task: AnyTask, examples: Sequence[Example], length: int
) -> Evaluation:
    """The scores of a task on labelled examples.

    Raises:
        DataError: a text or a label that cannot be used.
    """
    rows = encode_examples(task, examples, tokenizer, length)
    predictions = predict_by_modules(network, task, examples, rows, tokenizer)
    scores = finite_scores(task.score(predictions, examples))
    return Evaluation(scores, task.score_labels or getattr(task, "labels", ()), predictions, examples)


def refuse_unused(data: str, options: Mapping[str, object]) -> None:
    """Refuses options of an evaluation that would be dropped.

    Raises:
        UsageError: one of them is not None.
    """
    names = ", ".join(name for name, value in options.items() if value is not None)
    if names:
        raise UsageError(f"evaluate on {data} makes no use of {names}; leave it out, or name other data")
