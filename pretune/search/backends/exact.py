"""Compares the query with every vector: nothing to build, nothing missed; the default for few passages.

A query reads all vectors once: 100,000 of 384 numbers are 154 MB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.search.backend import Backend, Settings
from pretune.search.vectors import Rows, StoredVectors, Vectors
from pretune.search.words import best_rows


class Exact(Backend):
    """Products with all stored vectors."""

    @classmethod
    def build(cls, stored: StoredVectors, folder: Path, settings: Settings) -> dict[str, Any]:
        """Nothing beside the vectors is needed."""
        return {}

    @classmethod
    def open(cls, stored: StoredVectors, folder: Path, settings: Settings) -> Exact:
        """The vectors are all that it reads."""
        return cls(stored)

    def nearest(self, query: Vectors, count: int) -> Rows:
        """The nearest rows."""
        return best_rows(self.stored.products(query), count)[0]

    def search(self, query: Vectors, count: int, allowed: NDArray[np.bool_] | None = None) -> tuple[Rows, Vectors]:
        """As every backend; what is left out costs as much as what is not, unless little is left."""
        if allowed is not None and allowed.mean() > 0.1 and query.shape == (self.stored.width,):
            scores = self.stored.products(query)
            return best_rows(np.where(allowed, scores, np.float32(-2)), count, smallest=-1.5)
        return super().search(query, count, allowed)
