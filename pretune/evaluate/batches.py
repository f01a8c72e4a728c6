"""Batches for use and evaluation: texts of similar length together, a fixed budget of tokens each."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BUDGET = 8192


def by_length(lengths: ArrayLike, budget: int = BUDGET) -> list[NDArray[np.int64]]:
    """Indices of the samples of each batch, longest first; a sample longer than the budget is alone.

    Equal lengths are adjacent, so attention does them in one call; the longest come first, so that a batch that does
    not fit in memory fails at once.

    Shape:
        lengths: (n,) tokens.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    out: list[NDArray[np.int64]] = []
    start = 0
    ends = np.cumsum(sizes[order])
    while start < len(order):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + budget, side="right")))
        out.append(order[start:stop])
        start = stop
    return out
