"""Puts the passages that a first stage found in a new order, and tells whether that order is better.

query + passages, best first -> Reranker -> scores -> the new order
held-out queries, first stage and new order, each scored -> RerankingCheck: is the gain above chance?
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.evaluate.engine import encode_examples, predict_examples
from pretune.evaluate.recorded import trained_task
from pretune.metrics.ranking import score_each
from pretune.models.model import LanguageModel
from pretune.tasks.reranking import Reranking
from pretune.tasks.shared.ranking_records import RankingExample
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import counted

Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], list[list[float]]]
"""Scores of the passages of some queries: a `Reranker`, or what is used like it."""
_RESAMPLES, _LEVEL = 1000, 0.95  # of the interval of the mean gain
_MEASURES = ("nDCG@10", "RR@10", "R@1")


@dataclass(frozen=True)
class Reranker:
    """Scores passages for a query, by a model with one score for a pair of texts: our own, or a published one.

    Attributes:
        network: on its device.
        task: as it was trained, or as the model's files say what its score is.
        length: tokens of a query and a passage together.
    """

    network: LanguageModel
    tokenizer: Tokenizer
    task: Reranking
    length: int

    @classmethod
    def of(cls, network: LanguageModel, tokenizer: Tokenizer, folder: Path) -> Reranker:
        """The reranker of a model.

        Args:
            folder: of the model, for messages.

        Raises:
            UsageError: the model has no head that gives a pair of texts one score.
        """
        try:
            task = trained_task(network, tokenizer.vocabulary, folder, "reranking")
            assert isinstance(task, Reranking)  # it was asked for by this name
            length = network.context(tokenizer.settings)
            task.check_head(network)
        except UsageError as error:
            raise UsageError(
                f"{folder}: gives a pair of texts no score ({error}); name a model that was trained for reranking, "
                "regression or similarity"
            ) from None
        return cls(network, tokenizer, task, length)

    def __call__(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        """The score of each passage of each query, in their order; a query may have none.

        Raises:
            DataError: an empty query or passage.
            NonFiniteError: a score that is not finite.
        """
        examples = [RankingExample(query, tuple(own)) for query, own in zip(queries, passages, strict=True) if own]
        rows = encode_examples(self.task, examples, self.tokenizer, self.length)
        predictions = iter(predict_examples(self.network, self.task, examples, rows, self.tokenizer))
        return [self._scores(next(predictions)) if own else [] for own in passages]

    @staticmethod
    def _scores(prediction: Mapping[str, object]) -> list[float]:
        return cast(list[float], prediction.get("scores", [prediction.get("score")]))


@dataclass(frozen=True)
class HeldOutQuery:
    """A query that the reranker did not learn from.

    Attributes:
        id: by which it is named.
        text: the query.
        candidates: what the first stage found: the id of each passage and its text, best first.
        relevant: how relevant ids are; others are not.
    """

    id: str
    text: str
    candidates: Sequence[tuple[str, str]]
    relevant: Mapping[str, int]


@dataclass(frozen=True)
class RerankingCheck:
    """What reranking does to held-out queries.

    Attributes:
        measure: by which both orders are compared.
        first, reranked: scores of the first stage's order and of the new one, by measure.
        gain: of the measure, on average over queries.
        low, high: between which the mean gain lies in 95 of 100 resamples of the queries.
        better, worse, queries: how many queries gained, how many lost, and how many there are.
    """

    measure: str
    first: Mapping[str, float]
    reranked: Mapping[str, float]
    gain: float
    low: float
    high: float
    better: int
    worse: int
    queries: int

    @property
    def helps(self) -> bool:
        """Whether the gain is more than chance: the whole interval lies above 0."""
        return self.low > 0.0

    def describe(self) -> str:
        """The comparison in a line."""
        verdict = "the reranker helps" if self.helps else "the reranker is not shown to help"
        return (
            f"{verdict}: {self.measure} {self.first[self.measure]:.4f} -> {self.reranked[self.measure]:.4f} on "
            f"{counted(self.queries, 'held-out query', 'held-out queries')}, a gain of {self.gain:+.4f} "
            f"({self.low:+.4f} to {self.high:+.4f}); better for {self.better:,}, worse for {self.worse:,}"
        )


def rank(candidates: Sequence[tuple[str, str]], scores: Sequence[float]) -> list[str]:
    """The ids of candidates, the highest score first; of equals, the first stage's order."""
    order = np.argsort(-np.array(scores), kind="stable")
    return [candidates[n][0] for n in order.tolist()]


def check_reranking(
    reranker: Scorer, queries: Sequence[HeldOutQuery], measure: str = "RR@10", *, seed: int = 0
) -> RerankingCheck:
    """Compares the order of a first stage with that of a reranker on the same candidates.

    Args:
        measure: by which it is decided, as ir-measures names it.
        seed: of the resamples of the queries.

    Raises:
        DataError: no queries, two of one id, or relevant ids that name no candidate of any query.
        UsageError: a name that is no measure.
    """
    if len({query.id for query in queries}) < len(queries):
        raise DataError("two held-out queries have one id; give each its own")
    if not any(key in query.relevant for query in queries for key, _ in query.candidates):
        raise DataError(
            f"no candidate of the {len(queries):,} held-out queries is relevant: their judgements name other passages, "
            "or the first stage finds none of them; check the ids, or let it find more candidates"
        )
    texts = [[text for _, text in query.candidates] for query in queries]
    scores = reranker([query.text for query in queries], texts)
    judged = {query.id: query.relevant for query in queries}
    measures = list(dict.fromkeys([measure, *_MEASURES]))
    before = {query.id: [key for key, _ in query.candidates] for query in queries}
    after = {query.id: rank(query.candidates, own) for query, own in zip(queries, scores, strict=True)}
    first, reranked = (score_each(order, judged, measures) for order in (before, after))
    gains = np.array([reranked[query.id][measure] - first[query.id][measure] for query in queries])
    drawn = Draw(seed).at("reranking").below(np.arange(_RESAMPLES * len(gains)), len(gains))
    means = gains[drawn.reshape(_RESAMPLES, len(gains))].mean(axis=1)
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).tolist()
    before_mean, after_mean = (
        {name: float(np.mean([own[name] for own in each.values()])) for name in measures} for each in (first, reranked)
    )
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    mean = float(gains.mean())
    return RerankingCheck(measure, before_mean, after_mean, mean, low, high, better, worse, len(queries))
