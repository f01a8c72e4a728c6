"""Joins what words and what vectors find into one ranking; a variant is one file of `search/fusion/`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

import numpy as np

from pretune.find import find_class
from pretune.search.vectors import Rows, Vectors

Ranked: TypeAlias = tuple[Rows, Vectors]
"""Rows, best first, and their scores."""


class Fusion(ABC):
    """Gives points to the rows of a list; a fused ranking adds the points of both lists."""

    @abstractmethod
    def points(self, ranked: Ranked) -> Vectors:
        """How much each row of a list counts. Shape: return: (k,)"""

    def fuse(self, words: Ranked, vectors: Ranked, weight: float, count: int) -> Ranked:
        """The rows of both lists, best first; of equal ones the first.

        Args:
            weight: of the vectors, 0 to 1; the words have the rest. A list whose weight is 0 counts for nothing.
        """
        parts = [(words, 1 - weight), (vectors, weight)]
        parts = [(ranked, share) for ranked, share in parts if share > 0]
        rows = np.unique(np.concatenate([ranked[0] for ranked, _ in parts]))
        scores = np.zeros(len(rows), np.float32)
        for ranked, share in parts:
            scores[np.searchsorted(rows, ranked[0])] += np.float32(share) * self.points(ranked)
        order = np.argsort(-scores, kind="stable")[:count]
        return rows[order], scores[order]


def fusion_of(name: str) -> Fusion:
    """A variant of `search/fusion/`, or a user's own.

    Raises:
        UsageError: no such variant.
    """
    return find_class("search.fusion", name, Fusion)()  # type: ignore[type-abstract]
