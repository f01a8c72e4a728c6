"""Entailment, 0 to 1: whether sources say what hypotheses say, by a classifier of pairs that was fine-tuned on it.

Each sentence of a hypothesis has the greatest probability of entailment that any sentence of its source gives it; a
hypothesis has the mean over its sentences, all together have the mean over hypotheses (SummaC, zero-shot). Empty
hypotheses have none.

Source: Laban et al. 2022 (arXiv 2111.09525).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pretune import config as configuration
from pretune.errors import UsageError
from pretune.evaluate.judges.judge import Judge
from pretune.metrics.metric import Judgement, Texts, mean_judgement, signature_of
from pretune.metrics.sentences import split_sentences
from pretune.tasks.shared.predictions import Prediction

_ENTAILMENT = ("entailment", "entails", "entailed", "蕴含", "蕴涵")
_CONTRADICTION = ("contradiction", "contradicts", "矛盾")
_log = logging.getLogger("pretune")
_PAIRS = 4096  # that are predicted at a time
_UNSUPPORTED = 0.5  # below it a sentence is listed


class Entailment(Judge):
    """Whether sources entail hypotheses."""

    main: ClassVar[str] = "entailment"
    needs_sources: ClassVar[bool] = True

    class Config(configuration.Config):
        """Which labels count.

        Attributes:
            label: the classifier's label for entailment; by default the one that is called so.
            contradiction: whether the greatest probability of contradiction is subtracted, -1 to 1.
            max_sentences: sentences of a source that are read at most; the others are left out, and that is said.
        """

        label: str | None = None
        contradiction: bool = False
        max_sentences: int = Field(default=200, ge=1)

    def judge(self, texts: Texts) -> Judgement:
        """The scores, and the sentences that no sentence of the source entails.

        Raises:
            UsageError: the classifier has no label for entailment.
        """
        sources = [split_sentences(source) for source in texts.sources]
        cut = sum(len(source) > self.config.max_sentences for source in sources)
        claims = [split_sentences(text) for text in texts.hypotheses]
        pairs = [
            (premise, claim)
            for source, sentences in zip(sources, claims, strict=True)
            for premise in source[: self.config.max_sentences]
            for claim in sentences
        ]
        chances = self._predict(list(dict.fromkeys(pairs)))
        values, missing = [], []
        for source, sentences in zip(sources, claims, strict=True):
            kept = source[: self.config.max_sentences]
            table = np.array([[chances[premise, claim] for claim in sentences] for premise in kept])
            support = self._support(table) if sentences else np.zeros(0)
            values.append([float(support.mean()) if len(support) else np.nan])
            missing.append([s for s, value in zip(sentences, support, strict=True) if value < _UNSUPPORTED])
        judgement = mean_judgement(["entailment"], np.array(values), signature_of(self.config, unit="sentence"))
        note = (
            f"entailment: {cut} sources have more than {self.config.max_sentences} sentences; the others are not read"
        )
        return Judgement(
            judgement.scores,
            judgement.per_text,
            judgement.signature,
            judgement.statistics,
            details={"sentences_not_in_source": missing},
            notes=(note,) if cut else (),
        )

    def _support(self, table: NDArray[np.float64]) -> NDArray[np.float64]:
        """What the source says of each sentence. Shape: (premises, sentences, 2) -> (sentences,)"""
        best: NDArray[np.float64] = table.max(axis=0)
        return best[:, 0] - best[:, 1] * bool(self.config.contradiction)

    def _predict(self, pairs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], tuple[float, float]]:
        """The probabilities of entailment and of contradiction of each pair."""
        chances: dict[tuple[str, str], tuple[float, float]] = {}
        for first in range(0, len(pairs), _PAIRS):
            part = pairs[first : first + _PAIRS]
            if first:
                _log.info("%s of %s pairs of sentences judged", f"{first:,}", f"{len(pairs):,}")
            predictions = self.model.predict([pair[0] for pair in part], [pair[1] for pair in part])
            for pair, prediction in zip(part, predictions, strict=True):
                chances[pair] = self._chances(prediction)
        return chances

    def _chances(self, prediction: object) -> tuple[float, float]:
        table = cast(dict[str, float], getattr(prediction, "probabilities", {}))
        if not isinstance(prediction, Prediction) or not table:
            raise UsageError("--entailment: the model gives no probabilities of labels; use a classifier of pairs")
        names = {name.casefold(): name for name in table}
        entails = self.config.label or next((names[name] for name in _ENTAILMENT if name in names), None)
        against = next((names[name] for name in _CONTRADICTION if name in names), None)
        if entails not in table:
            raise UsageError(
                f"--entailment: the model has no label for entailment among {', '.join(table)}; "
                "name it with --entailment.label"
            )
        if self.config.contradiction and against is None:
            raise UsageError(f"--entailment: the model has no label for contradiction among {', '.join(table)}")
        return float(table[entails]), float(table[against]) if against else 0.0
