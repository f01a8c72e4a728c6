"""Exact match, 0 to 1: share of texts that are equal to a reference, but for spaces at their ends and how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune import config as configuration
from pretune.metrics.metric import MeanMetric, Scores


class Exact(MeanMetric):
    """Exact match."""

    main: ClassVar[str] = "exact"

    class Config(configuration.Config):
        """What counts.

        Attributes:
            lowercase: whether case is ignored.
        """

        lowercase: bool = False

    def score_text(self, hypothesis: str, references: Sequence[str], source: str) -> Scores:
        """1 or 0."""
        return {"exact": float(self._plain(hypothesis) in {self._plain(reference) for reference in references})}

    def _plain(self, text: str) -> str:
        joined = " ".join(text.split())
        return joined.lower() if self.config.lowercase else joined
