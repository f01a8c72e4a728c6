"""Arithmetic that views share: how many windows a run of tokens holds, and how many sentences are looked at a time."""

from __future__ import annotations

import numpy as np

from pretune.errors import UsageError
from pretune.text.samples.rows import Ints

CHUNK = 1 << 20  # documents or sentences at a time: bounds the memory of building an index


def check_width(width: int) -> None:
    """Refuse windows without room for a token.

    Raises:
        UsageError: the width is below 1.
    """
    if width < 1:
        raise UsageError(f"field 'length' leaves {width} tokens of text in a window; make it longer")


def count_windows(sizes: Ints, width: int, lookahead: int) -> tuple[Ints, Ints]:
    """Count the windows in runs of the given sizes, and the tokens that they cover; a tail of one token is no window.

    Shape: (D,) -> (D,), (D,).
    """
    min_size = max(1 + lookahead, min(2, width + lookahead))
    counts = np.where(sizes >= min_size, (sizes - min_size) // width + 1, 0)
    covered = np.where(counts > 0, np.minimum(sizes, counts * width + lookahead), 0)
    return counts, covered
