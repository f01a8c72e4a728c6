"""Single sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pretune.draw import Draw
from pretune.text.samples.rows import Ints, Split, Windows
from pretune.text.samples.views import windows
from pretune.text.samples.views.view import StoreView


class SentenceView(StoreView):
    """Single sentences, each a sample; what is over `width` tokens is cut."""

    def __init__(self, split: Split, width: int, lookahead: int = 0, words: bool = False) -> None:
        super().__init__(split, width, lookahead, words)
        self._documents = np.asarray(split.document_offsets)
        index = split.index(f"sentence-{width}", self._parts)
        self._start, self._stop = index["start"], index["stop"]

    def _parts(self) -> Iterator[dict[str, Ints]]:
        """First and past-the-last token of each sentence that has any."""
        sentences = np.asarray(self.split.sentence_offsets)
        for begin in range(0, len(sentences) or 1, windows.CHUNK):
            start = np.asarray(sentences[begin : begin + windows.CHUNK], np.int64)
            after = np.asarray(sentences[begin + 1 : begin + 1 + len(start)], np.int64)
            stop = after if len(after) == len(start) else np.append(after, self.split.token_count)
            following = self._documents.searchsorted(start, side="right")
            stop = np.minimum(stop, self._documents[following] - 1) if len(start) else stop
            stop = np.minimum(stop, start + self.width)
            full = stop > start
            yield {"start": start[full], "stop": stop[full]}

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self._start)

    def lengths(self, index: Ints) -> Ints:
        """Tokens of each sentence. Shape: (n,) -> (n,)."""
        return np.asarray(self._stop[index] - self._start[index])

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> Windows:
        """Sentences as rows."""
        return self.windows(index, store, epoch, self._start[index], self._stop[index])

    def data_stats(self) -> dict[str, int]:
        """`tokens = used + end + cut`."""
        total, used = self.split.token_count, int((self._stop - self._start).sum())
        end = len(self._documents) - 1
        return {"samples": len(self), "tokens": total, "used": used, "end": end, "cut": total - end - used}
