"""Weighted sum of scores, each list's brought to 0 ... 1 by its smallest and its largest score.

Source: Bruch et al. 2023 (arXiv 2210.11934), which finds it better than ranks where its weight was chosen on queries.
"""

from __future__ import annotations

import numpy as np

from pretune.search.fuse import Fusion, Ranked
from pretune.search.vectors import Vectors


class WeightedScores(Fusion):
    """Adds scores."""

    def points(self, ranked: Ranked) -> Vectors:
        """The scores of a list between 0 and 1."""
        scores = ranked[1]
        if not len(scores):
            return scores
        low, high = float(scores.min()), float(scores.max())
        return ((scores - low) / (high - low)).astype(np.float32) if high > low else np.ones_like(scores)
