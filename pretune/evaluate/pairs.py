"""Predictions of examples; cosines of pairs by what a model's own files say of its vectors, where that is more than a
pooling that a task on vectors has itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pretune.errors import DataError, NonFiniteError
from pretune.evaluate.embed import embed_texts
from pretune.evaluate.engine import predict_examples
from pretune.evaluate.recorded import TASK_POOLINGS
from pretune.evaluate.unit_length import unit_length
from pretune.models.model import LanguageModel
from pretune.tasks.shared.pair_scores import PairCosine, PairVectors
from pretune.tasks.shared.vector_task import PairExample, VectorTask
from pretune.tasks.task import ExampleT, PredictionT, RowAnswerT, Task
from pretune.text.samples.rows import Encoded
from pretune.text.tokenizer.tokenizer import Tokenizer


def predict_by_modules(
    model: LanguageModel,
    task: Task[ExampleT, RowAnswerT, PredictionT],
    examples: Sequence[ExampleT],
    rows: Sequence[Encoded],
    tokenizer: Tokenizer,
) -> list[PredictionT]:
    """One prediction for each example, in their order, as `predict_examples` gives them.

    Raises:
        DataError: a pair without a second text.
        NonFiniteError: a prediction that is not finite.
    """
    if not reads_by_modules(model, task, tokenizer):
        return predict_examples(model, task, examples, rows, tokenizer)
    pairs = cast(Sequence[PairExample], examples)
    for example in pairs:
        if example.second is None:
            raise DataError(f"{example.origin}: vectors are compared in pairs; name the column of the second text")
    first, second = (
        torch.from_numpy(_vectors(model, tokenizer, texts, pairs))
        for texts in ([pair.text for pair in pairs], [str(pair.second) for pair in pairs])
    )
    cosines = F.cosine_similarity(first, second).tolist()
    vectors = [PairVectors(*both) for both in zip(first.numpy(), second.numpy(), strict=True)]
    return cast(list[PredictionT], list(map(PairCosine, cosines, vectors)))


def reads_by_modules(model: LanguageModel, task: object, tokenizer: Tokenizer) -> bool:
    """Whether a task's vectors are made as the model's files say, by more than a pooling."""
    return isinstance(task, VectorTask) and _has_modules(model, tokenizer)


def _vectors(
    model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[PairExample]
) -> NDArray[np.float32]:
    """The vectors of one text of each pair, whose lengths are finite too. Shape: return: (n, width)."""
    try:
        vectors = embed_texts(model, tokenizer, texts)
        unit_length(vectors, texts)
    except NonFiniteError as error:
        raise error.at(pairs[error.index].origin) from None
    return vectors


def _has_modules(model: LanguageModel, tokenizer: Tokenizer) -> bool:
    """Whether a model's files say more of its vectors than a pooling that tasks have too."""
    vectors = model.vectors
    if vectors is None or vectors.sparse_pool is not None:
        return False
    length = model.context(tokenizer.settings)
    is_shorter = vectors.max_length is not None and vectors.max_length < length
    return vectors.pooling not in TASK_POOLINGS or vectors.lowercase or is_shorter or bool(vectors.prompt())
