"""Distinct-n, 0 to 1: different runs of n tokens among all runs of n tokens, over all texts and in each.

It falls with the amount of text, so compare systems by equally many texts of about equal length.

Source: Li et al. 2016 (arXiv 1510.03055), who divide by the number of words; n-grams are the usual divisor since.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pretune import config as configuration
from pretune.metrics.metric import Judgement, Metric, Texts, signature_of
from pretune.metrics.words import count_ngrams, split_tokens


class Distinct(Metric):
    """Distinct-1, distinct-2, ..."""

    main: ClassVar[str] = "distinct2"
    needs_references: ClassVar[bool] = False

    class Config(configuration.Config):
        """What is counted.

        Attributes:
            orders: lengths of the runs.
        """

        orders: tuple[int, ...] = Field(default=(1, 2), min_length=1)

    def judge(self, texts: Texts) -> Judgement:
        """Scores without statistics: a set drawn with repetition always has fewer different runs than the texts."""
        tokens = [split_tokens(text) for text in texts.hypotheses]
        scores, per_text = {}, {}
        for order in self.config.orders:
            different, total = count_ngrams(tokens, order)
            scores[f"distinct{order}"] = different / total if total else 0.0
            counts = [count_ngrams([each], order) for each in tokens]
            per_text[f"distinct{order}"] = np.array([a / b if b else np.nan for a, b in counts])
        return Judgement(scores, per_text, signature_of(self.config))
