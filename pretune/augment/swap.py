"""Random swap: exchanges pairs of words.

Source: Wei and Zou 2019, EDA (arXiv 1901.11196), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from pretune.augment.augmenter import Augmenter, Edit, Span
from pretune.draw import Draw


class Swap(Augmenter):
    """Exchanges words in pairs; `rate` is the fraction of words that move, at least two."""

    name: ClassVar[str] = "swap"

    def edits(self, text: str, words: Sequence[Span], draw: Draw) -> list[Edit]:
        """Swaps disjoint pairs, drawn uniformly."""
        pairs = min(len(words) // 2, max(1, int(self.config.rate * len(words) / 2 + 0.5)))
        order = np.argsort(draw.bits(np.arange(len(words))), kind="stable")[: 2 * pairs].tolist()
        out = []
        for n, m in zip(order[::2], order[1::2], strict=True):
            (a, b), (c, d) = words[n], words[m]
            out += [Edit(a, b, text[c:d]), Edit(c, d, text[a:b])]
        return out
