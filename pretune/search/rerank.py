"""Orders what was found anew by a model that reads query and passage together: a reranker, or any that scores pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pretune.errors import UsageError
from pretune.model import Model

_SCORES = ("score", "value", "similarity")  # fields of predictions that rank, the higher the better


def pair_scores(model: Model, query: str, passages: Sequence[str]) -> list[float]:
    """How well each passage fits a query, the higher the better.

    Of a model that predicts a score or a number it is that one; of a classifier of pairs the probability of its last
    label, which is the positive one of two (`0`, `1`).

    Raises:
        UsageError: a model whose predictions rank nothing.
    """
    predictions = model.predict([query] * len(passages), list(passages)) if passages else []
    return [_score(prediction, model) for prediction in predictions]


def _score(prediction: object, model: Model) -> float:
    if isinstance(prediction, Mapping):
        for name in _SCORES:
            if isinstance(value := prediction.get(name), int | float):
                return float(value)
        probabilities = prediction.get("probabilities")
        if isinstance(probabilities, Mapping) and probabilities:
            return float(list(probabilities.values())[-1])
    if isinstance(prediction, int | float):
        return float(prediction)
    raise UsageError(
        "the reranker's task gives neither a score nor probabilities of labels; train one with --task reranking, or "
        "name another model"
    )
