"""Windows of whole sentences of one document, each with a text of another document."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pretune.draw import Draw, bounded, combine
from pretune.errors import DataError
from pretune.text.samples.rows import Ints, Row, Split
from pretune.text.samples.views.sentences import SentencesView, values_between

_TRIES = 4  # candidates for a second text: the first that is long enough is taken


class TooFewDocumentsError(DataError):
    """A split of fewer than two documents with text: no second text can come from another one."""


class PairsView(SentencesView):
    """Windows of whole sentences of one document, each with a candidate second text from another document.

    Raises:
        TooFewDocumentsError: fewer than two documents with text.
    """

    def __init__(self, split: Split, width: int, lookahead: int = 0, words: bool = False) -> None:
        super().__init__(split, width, lookahead, words)
        if len(self._usable) < 2:
            raise TooFewDocumentsError(
                f"next-sentence prediction needs text from another document, but this split has {len(self._usable)} "
                "document(s) with text; add documents, split them (documents = 'blank-line' or 'line'), or drop nsp"
            )

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> list[Row]:
        """Windows as rows, each with its sentences and a text of another document drawn by the sample's key."""
        index = np.asarray(index, np.int64)
        samples = np.stack([np.full_like(index, store), np.full_like(index, epoch), index], axis=1)
        start, stop = self._start[index], self._stop[index]
        inside = values_between(self._sentences, start, stop)
        begin, finish = self._others(draw.at("other").keys(samples), start, stop)
        ends = values_between(self._sentences, begin, finish + 1)
        document = np.searchsorted(self._documents, begin, side="right")
        complete = finish == self._documents[document] - 1
        texts, others = self.texts(start, stop), self.texts(begin, finish)
        rows = []
        for n, i in enumerate(index.tolist()):
            a, c, d = int(start[n]), int(begin[n]), int(finish[n])
            rows.append(
                Row(
                    (store, epoch, i),
                    texts[n].tokens,
                    sentences=np.append(0, inside[n] - a),
                    other=others[n].tokens,
                    stops=np.append(ends[n], d) - c if complete[n] else ends[n] - c,
                    spare=self.width - len(texts[n]),
                    word_flags=texts[n].word_flags,
                    other_word_flags=others[n].word_flags,
                )
            )
        return rows

    def _others(self, keys: NDArray[np.uint64], start: Ints, stop: Ints) -> tuple[Ints, Ints]:
        """For each window a run of up to `width` tokens from a sentence of another document, both drawn uniformly.

        Of `_TRIES` draws the first that has as many tokens as the window is taken, else the longest: were second texts
        often shorter than the ones they stand for, the length would give the answer away.

        Shape: keys, start, stop (n,) -> first and past-the-last token of each run, (n,) each.
        """
        own = np.searchsorted(self._usable, np.searchsorted(self._documents, start, side="right") - 1)
        tries = np.arange(_TRIES)
        choice = bounded(combine(keys[:, None], 2 * tries), len(self._usable) - 1)
        document = self._usable[choice + (choice >= own[:, None])]
        end = self._documents[document + 1] - 1
        first = np.searchsorted(self._sentences, self._documents[document], side="left")
        count = np.searchsorted(self._sentences, end, side="left") - first
        begin = self._sentences[first + bounded(combine(keys[:, None], 2 * tries + 1), count)]
        finish = np.minimum(begin + self.width, end)
        best = np.minimum(finish - begin, (stop - start)[:, None]).argmax(axis=1)[:, None]
        return np.take_along_axis(begin, best, axis=1)[:, 0], np.take_along_axis(finish, best, axis=1)[:, 0]
