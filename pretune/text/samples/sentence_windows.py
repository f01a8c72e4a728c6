"""Windows of whole sentences of one document, pairs of such with text of another, and single sentences."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pretune.draw import Draw, bounded, combine
from pretune.errors import DataError
from pretune.text.samples import windows
from pretune.text.samples.rows import Ints, Row, Split, Windows

_TRIES = 4  # candidates for a second text: the first that is long enough is taken


class TooFewDocumentsError(DataError):
    """A split of fewer than two documents with text: no second text can come from another one."""


class SentencesView:
    """Windows of whole sentences of one document.

    Sentences are packed greedily up to `width` tokens. One that is longer than that is split into pieces, each a
    window of its own, so nothing is lost and no window has a piece's edge inside it.
    """

    def __init__(self, split: Split, width: int) -> None:
        windows.check_width(width)
        self.split, self.width = split, width
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
        inside = _slices(self._sentences, start, stop)
        tokens = self._read(start, stop)
        return [
            Row((store, epoch, i), tokens[n], sentences=np.append(0, inside[n] - start[n]))
            for n, i in enumerate(index.tolist())
        ]

    def _read(self, start: Ints, stop: Ints) -> list[Ints]:
        """Runs of tokens, read together. Shape: (n,), (n,) -> n arrays."""
        run, ends = self.split.read_runs(start, stop), (stop - start).cumsum().tolist()
        return [run[a:b] for a, b in pairwise([0, *ends])]

    def account(self) -> dict[str, int]:
        """`tokens = used + end + cut`; `split` of the used ones lie beyond the first window of an overlong sentence."""
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
        }


class SentenceView:
    """Single sentences, each a sample; what is over `width` tokens is cut."""

    def __init__(self, split: Split, width: int) -> None:
        windows.check_width(width)
        self.split, self.width = split, width
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
        return Windows.of(self.split, store, epoch, index, self._start[index], self._stop[index])

    def account(self) -> dict[str, int]:
        """`tokens = used + end + cut`."""
        total, used = self.split.token_count, int((self._stop - self._start).sum())
        end = len(self._documents) - 1
        return {"samples": len(self), "tokens": total, "used": used, "end": end, "cut": total - end - used}


class PairsView(SentencesView):
    """Windows of whole sentences of one document, each with a candidate second text from another document.

    Raises:
        TooFewDocumentsError: fewer than two documents with text.
    """

    def __init__(self, split: Split, width: int) -> None:
        super().__init__(split, width)
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
        inside = _slices(self._sentences, start, stop)
        begin, finish = self._others(draw.at("other").keys(samples), start, stop)
        ends = _slices(self._sentences, begin, finish + 1)
        document = np.searchsorted(self._documents, begin, side="right")
        complete = finish == self._documents[document] - 1
        tokens, other = self._read(start, stop), self._read(begin, finish)
        rows = []
        for n, i in enumerate(index.tolist()):
            a, c, d = int(start[n]), int(begin[n]), int(finish[n])
            rows.append(
                Row(
                    (store, epoch, i),
                    tokens[n],
                    sentences=np.append(0, inside[n] - a),
                    other=other[n],
                    stops=np.append(ends[n], d) - c if complete[n] else ends[n] - c,
                    spare=self.width - len(tokens[n]),
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
        pick = bounded(combine(keys[:, None], 2 * tries), len(self._usable) - 1)
        document = self._usable[pick + (pick >= own[:, None])]
        end = self._documents[document + 1] - 1
        first = np.searchsorted(self._sentences, self._documents[document], side="left")
        count = np.searchsorted(self._sentences, end, side="left") - first
        begin = self._sentences[first + bounded(combine(keys[:, None], 2 * tries + 1), count)]
        finish = np.minimum(begin + self.width, end)
        best = np.minimum(finish - begin, (stop - start)[:, None]).argmax(axis=1)[:, None]
        return np.take_along_axis(begin, best, axis=1)[:, 0], np.take_along_axis(finish, best, axis=1)[:, 0]


def _slices(values: Ints, low: Ints, high: Ints) -> list[Ints]:
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
