"""Repetition, lower is better: repeated runs of tokens within each text, and the longest stretch that goes in a circle.

- `rep4`, 0 to 1: 1 - different runs of 4 tokens / all runs of 4 tokens, the mean over texts that have such a run.
- `longest_loop`: tokens of the longest stretch in which a block of up to `max_period` tokens stands twice or more in
  direct succession; the mean over texts, 0 for a text without one.
- `looping`, 0 to 1: share of texts in which a block stands `times` times or more in direct succession.

Source: Welleck et al. 2019 (arXiv 1908.04319), seq-rep-n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from pydantic import Field

from pretune import config as configuration
from pretune.metrics.metric import MeanMetric, Scores
from pretune.metrics.words import count_ngrams, split_tokens


class Repetition(MeanMetric):
    """rep-n and loops."""

    main: ClassVar[str] = "rep4"
    is_better: ClassVar[str] = "lower"
    needs_references: ClassVar[bool] = False

    class Config(configuration.Config):
        """What is counted.

        Attributes:
            orders: lengths of the runs of rep-n.
            max_period: tokens of the longest block that a loop may repeat.
            times: how often a block stands in succession in a text that loops.
        """

        orders: tuple[int, ...] = Field(default=(4,), min_length=1)
        max_period: int = Field(default=32, ge=1, le=1024)
        times: int = Field(default=4, ge=2)

    def score_text(self, hypothesis: str, references: Sequence[str], source: str) -> Scores:
        """The scores of a text."""
        tokens = split_tokens(hypothesis)
        scores = {}
        for order in self.config.orders:
            different, total = count_ngrams([tokens], order)
            scores[f"rep{order}"] = 1 - different / total if total else float("nan")
        longest, most = find_loop(tokens, self.config.max_period)
        return {**scores, "longest_loop": float(longest), "looping": float(most >= self.config.times)}


def find_loop(tokens: Sequence[str], max_period: int) -> tuple[int, int]:
    """Finds blocks that stand in direct succession.

    Returns:
        (longest, most): tokens of the longest such stretch, and how often the most repeated block stands in succession;
        0 and 1 where there is none.
    """
    ids = np.unique(np.array(tokens, dtype=object).astype(str), return_inverse=True)[1] if tokens else np.zeros(0)
    longest, most = 0, 1
    for period in range(1, min(max_period, len(ids) // 2) + 1):
        is_equal = np.concatenate([[False], ids[period:] == ids[:-period], [False]])
        edges = np.flatnonzero(is_equal[1:] != is_equal[:-1])
        run = int((edges[1::2] - edges[::2]).max(initial=0))  # tokens equal to the one a period before
        if run >= period:
            longest, most = max(longest, run + period), max(most, run // period + 1)
    return longest, most
