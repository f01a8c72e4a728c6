"""Windows inside documents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pretune.draw import Draw
from pretune.text.samples.rows import Ints, Split, Windows
from pretune.text.samples.views import windows
from pretune.text.samples.views.view import StoreView


class DocumentView(StoreView):
    """Windows that never cross a document: a long one is cut, a short one stays short.

    Without a look-ahead (encoders) the document's end token is left out, as `Vocabulary.add_special_tokens` sets its
    own; with one (decoders) it stays, because it is what the last position predicts.
    """

    def __init__(self, split: Split, width: int, lookahead: int = 0, words: bool = False) -> None:
        super().__init__(split, width, lookahead, words)
        self._offsets = np.asarray(split.document_offsets)
        self._end = 0 if lookahead else 1
        index = split.index(f"documents-{width}-{lookahead}", self._parts)
        self._first = index["first"]
        self._covered = int(index["covered"].sum())

    def _parts(self) -> Iterator[dict[str, Ints]]:
        """The first window of each document, and the number of windows; and the tokens that windows cover."""
        total = 0
        yield {"first": np.zeros(1, np.int64), "covered": np.zeros(1, np.int64)}
        for begin in range(0, len(self._offsets) - 1, windows.CHUNK):
            sizes = np.diff(self._offsets[begin : begin + windows.CHUNK + 1]) - self._end
            counts, covered = windows.count_windows(sizes, self.width, self.lookahead)
            ends = counts.cumsum() + total
            total = int(ends[-1])
            yield {"first": ends, "covered": covered.sum(keepdims=True)}

    def __len__(self) -> int:
        """Number of windows."""
        return int(self._first[-1])

    def _ranges(self, index: Ints) -> tuple[Ints, Ints]:
        """First and past-the-last token that each window reads. Shape: (n,) -> (n,), (n,)."""
        index = np.asarray(index, np.int64)
        document = self._first.searchsorted(index, side="right") - 1
        start = self._offsets[document] + (index - self._first[document]) * self.width
        stop = np.minimum(start + self.width + self.lookahead, self._offsets[document + 1] - self._end)
        return start, stop

    def lengths(self, index: Ints) -> Ints:
        """Tokens that each window predicts from. Shape: (n,) -> (n,)."""
        start, stop = self._ranges(index)
        return np.asarray(stop - start - self.lookahead)

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> Windows:
        """Windows as rows."""
        return self.windows(index, store, epoch, *self._ranges(index))

    def data_stats(self) -> dict[str, int]:
        """`tokens = used + end + cut`; `end` are end tokens that the special tokens of a sequence stand for."""
        total = self.split.token_count
        end = self._end * (len(self._offsets) - 1)
        cut = total - end - self._covered
        return {"samples": len(self), "tokens": total, "used": self._covered, "end": end, "cut": cut}
