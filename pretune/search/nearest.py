"""Exact nearest vectors: matrix products, a part of the queries at a time, and the best of each row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SCORES = 1 << 24  # that are there at once


def nearest(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The vectors with the largest products with each query, best first; of equal ones the earlier comes first.

    Args:
        count: of each query; fewer where there are fewer vectors.

    Shape:
        queries: (n, width); vectors: (m, width); return: (n, count), (n, count)
    """
    count = min(count, len(vectors))
    index = np.zeros((len(queries), count), np.int64)
    scores = np.zeros((len(queries), count), np.float32)
    if not count:
        return index, scores
    step = max(1, _SCORES // len(vectors))
    for start in range(0, len(queries), step):
        products = queries[start : start + step] @ vectors.T
        best = _best(products, count)
        index[start : start + step] = best
        scores[start : start + step] = np.take_along_axis(products, best, axis=1)
    return index, scores


def _best(products: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The columns of the largest values of each row. Shape: (n, m) -> (n, count)"""
    if count == products.shape[1]:
        return np.argsort(-products, axis=1, kind="stable")
    last = np.partition(products, -count, axis=1)[:, -count, None]
    out = np.empty((len(products), count), np.int64)
    for row, (values, least) in enumerate(zip(products, last, strict=True)):
        above = np.flatnonzero(values > least)
        chosen = np.concatenate([above, np.flatnonzero(values == least)[: count - len(above)]])
        chosen.sort()
        out[row] = chosen[np.argsort(-values[chosen], kind="stable")]
    return out
