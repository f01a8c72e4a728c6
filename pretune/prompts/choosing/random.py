"""The same examples for all texts, drawn without looking at their labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pretune.draw import Draw
from pretune.prompts.pool import Ints, Pool


def choose(pool: Pool, texts: Sequence[str], count: int, draw: Draw) -> Ints:
    """Draws examples. Shape: return: (1, count)"""
    keys = draw.at("shots").keys(np.arange(len(pool.texts))[:, None])
    return np.argsort(keys, kind="stable")[:count][None, :].astype(np.int64)
