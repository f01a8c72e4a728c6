"""For each text those examples that are most like it, the nearest last.

Source: Liu et al. 2022, "What makes good in-context examples for GPT-3?" (arXiv 2101.06804).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.draw import Draw
from pretune.prompts.pool import Ints, Pool


def choose(pool: Pool, texts: Sequence[str], count: int, draw: Draw) -> Ints:
    """The nearest examples. Shape: return: (n, count)"""
    scores = pool.similarity(texts)
    places: dict[str, list[int]] = {}
    for number, text in enumerate(pool.texts):
        places.setdefault(text, []).append(number)
    for row, text in enumerate(texts):
        scores[row, places.get(text, [])] = -np.inf
    return np.argsort(-scores, axis=1, kind="stable")[:, :count][:, ::-1].astype(np.int64)
