"""Windows of whole sentences of one document."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from pretune.draw import Draw
from pretune.text.samples.rows import Ints, Row, Split
from pretune.text.samples.views import windows
from pretune.text.samples.views.view import StoreView


class SentencesView(StoreView):
    """Windows of whole sentences of one document.

    Sentences are packed greedily up to `width` tokens. One that is longer than that is split into pieces, each a
    window of its own, so nothing is lost and no window has a piece's edge inside it.
    """

    def __init__(self, split: Split, width: int, lookahead: int = 0, words: bool = False) -> None:
        super().__init__(split, width, lookahead, words)
        self._documents = np.asarray(split.document_offsets)
        self._sentences = np.asarray(split.sentence_offsets)
        index = split.index(f"sentences-{width}", self._parts)
        self._usable, self._start, self._stop = index["usable"], index["start"], index["stop"]
        self._used, self._split_tokens = int(index["used"].sum()), int(index["split"].sum())

    def _parts(self) -> Iterator[dict[str, Ints]]:
        """Documents with text; first and past-the-last token of each window; tokens in windows, tokens split off."""
        for low, high in self._chunks():
            usable = low + np.flatnonzero(np.diff(self._documents[low : high + 1]) > 1)
            start, stop, split_tokens = _pack(self._sentences, self._documents, low, high, self.width)
            used = (stop - start).sum(keepdims=True)
            yield {"usable": usable, "start": start, "stop": stop, "used": used, "split": np.array([split_tokens])}

    def _chunks(self) -> list[tuple[int, int]]:
        """Ranges of documents with about `windows.CHUNK` sentences each."""
        edges = self._sentences[windows.CHUNK :: windows.CHUNK]
        cuts = np.unique(np.searchsorted(self._documents, edges, side="left")).tolist()
        last = len(self._documents) - 1
        cuts = [0, *(c for c in cuts if 0 < c < last), last]
        return list(pairwise(cuts))

    def __len__(self) -> int:
        """Number of windows."""
        return len(self._start)

    def lengths(self, index: Ints) -> Ints:
        """Tokens of each window. Shape: (n,) -> (n,)."""
        return np.asarray(self._stop[index] - self._start[index])

    def read(self, index: Ints, store: int, epoch: int, draw: Draw) -> list[Row]:
        """Windows as rows, each with its sentences."""
        index = np.asarray(index, np.int64)
        start, stop = self._start[index], self._stop[index]
        inside = values_between(self._sentences, start, stop)
        texts = self.texts(start, stop)
        return [
            Row(
                (store, epoch, i),
                texts[n].tokens,
                sentences=np.append(0, inside[n] - start[n]),
                word_flags=texts[n].word_flags,
            )
            for n, i in enumerate(index.tolist())
        ]

    def data_stats(self) -> dict[str, int]:
        """`tokens = used + end + cut`; `split` of the used ones lie beyond the first window of an overlong sentence.

        `single` of the samples are windows of one sentence, of which no pair can be made.
        """
        total, used = self.split.token_count, self._used
        end = len(self._documents) - 1
        cut = total - end - used
        return {
            "samples": len(self),
            "tokens": total,
            "used": used,
            "end": end,
            "cut": cut,
            "split": self._split_tokens,
            "single": self._single(),
        }

    def _single(self) -> int:
        """Number of windows that no sentence begins in but at their start."""
        first = np.searchsorted(self._sentences, self._start, side="right")
        return int((first == np.searchsorted(self._sentences, self._stop, side="left")).sum())


def values_between(values: Ints, low: Ints, high: Ints) -> list[Ints]:
    """The sorted values strictly between each pair of bounds. Shape: (S,), (n,), (n,) -> n arrays."""
    first = np.searchsorted(values, low, side="right").tolist()
    last = np.searchsorted(values, high, side="left").tolist()
    return [values[a:b] for a, b in zip(first, last, strict=True)]


def _pack(sentences: Ints, documents: Ints, low: int, high: int, width: int) -> tuple[Ints, Ints, int]:
    """Pack the sentences of documents [low, high) greedily into windows.

    Returns:
        first and past-the-last token of each window, and the tokens split off overlong sentences.
    """
    ends = documents[low + 1 : high + 1] - 1
    begin = sentences[np.searchsorted(sentences, documents[low]) : np.searchsorted(sentences, documents[high])]
    document_end = ends[np.searchsorted(documents[low + 1 : high + 1], begin, side="right")]
    stop = np.minimum(np.append(begin[1:], documents[high]), document_end)
    kept = stop > begin
    begin, stop, document_end = begin[kept], stop[kept], document_end[kept]
    pieces = -((begin - stop) // width)
    overlong = int(np.maximum(stop - begin - width, 0).sum())
    if overlong:
        order = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        begin, stop, document_end = (np.repeat(part, pieces) for part in (begin, stop, document_end))
        begin = begin + order * width
        stop = np.minimum(stop, begin + width)
    fits = np.searchsorted(stop, begin + width, side="right")
    following = np.minimum(fits, np.searchsorted(begin, document_end, side="left")).tolist()
    chain, unit = [], 0
    while unit < len(following):
        chain.append(unit)
        unit = following[unit]
    chain.append(unit)
    edges = np.array(chain, dtype=np.int64)
    start, last = begin[edges[:-1]], stop[edges[1:] - 1]
    enough = last - start >= min(2, width)
    return start[enough], last[enough], overlong
