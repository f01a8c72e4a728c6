"""Reciprocal rank fusion: a passage counts 1 / (60 + rank) in each list; scores, which do not compare, do not matter.

Source: Cormack et al. 2009, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods".
"""

from __future__ import annotations

import numpy as np

from pretune.search.fuse import Fusion, Ranked
from pretune.search.vectors import Vectors

_CONSTANT = 60  # of the paper: how little the first ranks stand out


class ReciprocalRanks(Fusion):
    """Counts ranks."""

    def points(self, ranked: Ranked) -> Vectors:
        """1 / (60 + rank) of each row of a list."""
        return (1 / (_CONSTANT + 1 + np.arange(len(ranked[0])))).astype(np.float32)
