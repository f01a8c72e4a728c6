"""Scores pairs of texts by whatever model gives one number for a pair: a reranker, a regression, cosines of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretune.errors import UsageError
from pretune.evaluate.labelled import predict_data
from pretune.evaluate.recorded import trained_task
from pretune.evaluate.rerank import Reranker
from pretune.generate.session import context_length
from pretune.models.model import LanguageModel
from pretune.tasks.shared.predictions import score_of_prediction
from pretune.text.tokenizer.tokenizer import Tokenizer


def score_pairs(
    network: LanguageModel, tokenizer: Tokenizer, folder: Path, firsts: Sequence[str], seconds: Sequence[str]
) -> NDArray[np.float32]:
    """How well the texts of each pair belong together, by the model's own task, or by its head with one score.

    Args:
        folder: of the model, for messages.

    Raises:
        UsageError: the model gives a pair no number.
        DataError: an empty text.

    Shape:
        return: (n,)
    """
    scores = _by_task(network, tokenizer, folder, firsts[:1], seconds[:1])
    if scores is not None:
        scores = _by_task(network, tokenizer, folder, firsts, seconds)
        assert scores is not None  # it gave one
        return np.array(scores, np.float32)
    reranker = Reranker.of(network, tokenizer, folder)
    return np.array([score for (score,) in reranker(firsts, [[second] for second in seconds])], np.float32)


def _by_task(
    network: LanguageModel, tokenizer: Tokenizer, folder: Path, firsts: Sequence[str], seconds: Sequence[str]
) -> list[float] | None:
    """The scores of the task that the model was trained for; None where it gives none."""
    try:
        task = trained_task(network, tokenizer.vocabulary, folder)
        length = context_length(network, tokenizer)
        predictions = predict_data(network, tokenizer, task, list(firsts), list(seconds), length)
    except UsageError:
        return None
    scores = [score_of_prediction(prediction) for prediction in predictions]
    known = [score for score in scores if score is not None]
    return known if len(known) == len(scores) else None
