"""The same examples for all texts, drawn so that each label has as many; labels take turns.

Source: Zhao et al. 2021 (arXiv 2102.09690), section 3: what examples say of labels' frequencies sways a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.draw import Draw
from pretune.prompts.pool import Ints, Pool


def choose(pool: Pool, texts: Sequence[str], count: int, draw: Draw) -> Ints:
    """Draws examples, label by label. Shape: return: (1, count)"""
    keys = draw.at("shots").keys(np.arange(len(pool.texts))[:, None])
    order = np.argsort(keys, kind="stable")
    turns = np.empty(len(order), np.int64)
    for label in np.unique(pool.labels):
        own = np.flatnonzero(pool.labels[order] == label)
        turns[own] = np.arange(len(own))
    chosen = order[np.argsort(turns, kind="stable")][:count]  # among those of one turn, as drawn
    return chosen[None, :].astype(np.int64)
