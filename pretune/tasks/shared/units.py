"""The units of a text that a tagger tags: words, or tokens where spans end inside words; each is some tokens.

    text     Angela Merkel's      words of the record, or runs of letters, and signs and Chinese characters alone
    tokens   angela mer ##kel ' s
    units    ------ --------- - - the first token of a unit answers for all of it

A token that covers several words makes one unit of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pretune.text.annotation import Interval, Span
from pretune.text.samples.rows import Flags, Ints
from pretune.text.schemes import Chunk

_SIGNS = (
    "!-/:-@\\[-`{-~\u00a1-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u2010-\u2027\u2030-\u205e\u20a0-\u20cf"
)
_MORE_SIGNS = "\u2190-\u2bff\u3000-\u3004\u3008-\u3030\ufe30-\ufe6f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(f"[{_SIGNS}{_MORE_SIGNS}{_HAN}]|[^\\s{_SIGNS}{_MORE_SIGNS}{_HAN}]+")


@dataclass(frozen=True)
class Units:
    """Where the units of a run of tokens are.

    Attributes:
        first: (k,) the first token of each.
        start, end: (k,) in characters of the text, the end exclusive.
    """

    first: Ints
    start: Ints
    end: Ints

    @classmethod
    def of(cls, offsets: Ints, begins: Flags) -> Units:
        """The units of tokens.

        Args:
            offsets: where each token lies in the text, in characters.
            begins: which tokens begin a unit; the first one always does.

        Shape:
            offsets: (n, 2); begins: (n,)
        """
        first = np.flatnonzero(begins)
        ends = np.maximum.reduceat(offsets[:, 1], first) if len(first) else np.zeros(0, np.int64)
        return cls(first, offsets[first, 0], ends)

    def chunks(self, spans: Sequence[Span]) -> tuple[list[Chunk], int]:
        """The units that spans cover, and how many spans begin or end inside a unit or cover none of their own.

        Args:
            spans: that do not overlap.
        """
        chunks: list[Chunk] = []
        inexact = 0
        ordered = sorted(spans, key=lambda span: span.start)
        starts = self.end.searchsorted([span.start for span in ordered], side="right").tolist()
        stops = self.start.searchsorted([span.end for span in ordered], side="left").tolist()
        before = 0
        for span, start, stop in zip(ordered, starts, stops, strict=True):
            first = max(start, before)
            if first >= stop:
                inexact += 1
                continue
            inexact += first > start or int(self.start[first]) != span.start or int(self.end[stop - 1]) != span.end
            chunks.append(Chunk(first, stop, span.label))
            before = stop
        return chunks, inexact


def split_words(text: str) -> Ints:
    """Where the words of a text lie: runs of letters and digits; signs and Chinese characters one by one.

    Shape:
        return: (k, 2)
    """
    return np.array([match.span() for match in _WORD.finditer(text)], np.int64).reshape(-1, 2)


def begins_unit(offsets: Ints, words: Ints | None) -> Flags:
    """Which tokens begin a unit.

    Args:
        offsets: where each token lies in the text, in characters.
        words: where the words lie; None where each token is a unit, but for those of parts of a character.

    Shape:
        offsets: (n, 2); words: (k, 2); return: (n,)
    """
    begins = np.ones(len(offsets), np.bool_)
    if words is None:
        begins[1:] = offsets[1:, 0] >= np.maximum.accumulate(offsets[:-1, 1])
        return begins
    number = np.searchsorted(words[:, 1], offsets[:, 0], side="right")
    begins[1:] = number[1:] != number[:-1]
    return begins


def edges_inside_words(text: str, spans: Iterable[Span]) -> int:
    """How many spans begin or end inside a word of a text."""
    words = split_words(text)
    starts, ends = set(words[:, 0].tolist()), set(words[:, 1].tolist())
    return sum(span.start not in starts or span.end not in ends for span in spans)


def unit_of_words(words: Sequence[Interval], starts: Ints, ends: Ints) -> Ints:
    """The unit that covers the beginning of each word; -1 where none does, as of a word without tokens.

    Shape:
        starts, ends: (k,) of units; return: (words,)
    """
    first = np.array([start for start, _ in words], np.int64)
    number = np.searchsorted(ends, first, side="right")
    last = np.array([end for _, end in words], np.int64)
    is_there = number < len(starts)
    is_there[is_there] = starts[number[is_there]] < last[is_there]
    return np.where(is_there, number, -1)
