"""For each text the most similar examples of each label, labels in turn, the nearest last.

Source: as `similar` and `balanced`: near examples, none of whose labels is more frequent than another.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.draw import Draw
from pretune.prompts.choosing.similar import choose as choose_similar
from pretune.prompts.pool import Ints, Pool


def choose(pool: Pool, texts: Sequence[str], count: int, draw: Draw) -> Ints:
    """The nearest examples of each label. Shape: return: (n, count)"""
    nearest = choose_similar(pool, texts, len(pool.texts), draw)[:, ::-1]
    labels = np.unique(pool.labels)
    out = np.empty((len(texts), min(count, len(pool.texts))), np.int64)
    for row, order in enumerate(nearest):
        turns = np.empty(len(order), np.int64)
        for label in labels:
            own = np.flatnonzero(pool.labels[order] == label)
            turns[own] = np.arange(len(own))
        turns[[pool.texts[n] == texts[row] for n in order]] = len(order)  # the text itself comes after all others
        out[row] = order[np.argsort(turns, kind="stable")][: out.shape[1]][::-1]
    return out
