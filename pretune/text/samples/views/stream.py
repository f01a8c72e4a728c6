"""Windows of a split seen as one stream, across documents."""

from __future__ import annotations

import numpy as np

from pretune.draw import Draw
from pretune.text.samples.rows import Ints, Split, Windows
from pretune.text.samples.views.view import StoreView
from pretune.text.samples.views.windows import count_windows


class StreamView(StoreView):
    """Windows of a split seen as one stream: documents follow one another, attention crosses them.

    Window w reads tokens [w * width, w * width + width + lookahead). The look-ahead is the target of the last position,
    so no prediction is lost between windows; a tail of at least two tokens is a shorter last window.
    """

    def __init__(self, split: Split, width: int, lookahead: int = 0, words: bool = False) -> None:
        super().__init__(split, width, lookahead, words)
        counts, covered = count_windows(np.array([split.token_count]), width, lookahead)
        self._count, self._covered = int(counts[0]), int(covered[0])

    def __len__(self) -> int:
        """Number of windows."""
        return self._count

    def lengths(self, index: Ints) -> Ints:
        """Tokens that each window predicts from. Shape: (n,) -> (n,)."""
        left = self.split.token_count - self.lookahead - np.asarray(index, np.int64) * self.width
        return np.minimum(left, self.width)

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> Windows:
        """Windows as rows."""
        start = np.asarray(index, np.int64) * self.width
        stop = np.minimum(start + (self.width + self.lookahead), self.split.token_count)
        return self.windows(index, store, epoch, start, stop)

    def data_stats(self) -> dict[str, int]:
        """`tokens = used + cut`."""
        total = self.split.token_count
        return {"samples": len(self), "tokens": total, "used": self._covered, "cut": total - self._covered}
