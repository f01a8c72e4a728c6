"""Encodes texts of megabytes: in blocks, and of a text that will be truncated no more than what stays.

A tokenizer asks for some hundred bytes of memory for each character of a text, and most of a text of 10 MB is cut off
at once where a model reads 512 tokens. So a long text is read in blocks that overlap:

    |----------- block -----------|margin|
                           |context|----------- block -----------|margin|
                                   ^ edge: a place between two tokens

Tokens near the end of a block, which may depend on what follows, are taken from the next one, which begins before the
edge. Both blocks must agree on the tokens before the edge; where they do not, as in a run of thousands of equal
letters, blocks grow until they do, at the end to the whole text. So the ids are those of the whole text: words that a
pipeline cuts, merges of BPE and paths of Unigram hang on what is near. Tests compare them in many scripts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]
Spans = NDArray[np.int64]
Encode = Callable[[str], tuple[Tokens, Spans]]
"""Gives the tokens of a text and where each lies in it, in characters. Shape: return: (n,), (n, 2)"""

LONG = 1 << 16  # characters: shorter texts are encoded whole
_MARGIN = 256  # characters at the end of a block whose tokens are not taken; above the longest word of WordPiece
_CONTEXT = 512  # characters before the edge that a block reads again
_FIRST = 8  # characters of a token, at most as a rule
_SMALLEST = 4096  # characters of a block
_SHIFTS = (1, 37, 512)  # of the beginning of a text's end, under which its tokens must stay
_WORD = re.compile("[A-Za-z0-9\u00c0-\u024f\u0400-\u0481\u048a-\u04ff]*")  # no sign or script is a word of its own


@dataclass(frozen=True)
class Keep:
    """What will be kept of a text that is too long.

    Attributes:
        tokens: that may stay at most.
        head, tail: they may be of its beginning, of its end, of both.
    """

    tokens: int
    head: bool = True
    tail: bool = False

    @classmethod
    def of(cls, tokens: int, truncate: str) -> Keep:
        """What `truncate`, one of head, tail, head+tail and error, keeps of a text."""
        return cls(tokens, head=truncate != "tail", tail="tail" in truncate)


class EncodedText(tuple[Tokens, Spans]):
    """The tokens of a text, and where each lies in it, or those of its beginning and end that may be kept: a pair.

    Args:
        tokens: (n,) ids.
        offsets: (n, 2) in characters.
        dropped: tokens that were left out and not counted: an estimate, from their characters; 0 where none was.
        end: characters of the text that its beginning has.
    """

    dropped: int
    end: int

    def __new__(cls, tokens: Tokens, offsets: Spans, dropped: int = 0, end: int = 0) -> EncodedText:
        """A pair."""
        pair = super().__new__(cls, (tokens, offsets))
        pair.dropped, pair.end = dropped, end
        return pair

    def part_of(self, text: str) -> str:
        """The text, or the beginning or end of it that was encoded."""
        if not self.dropped:
            return text
        return text[: self.end] if self.end else text[int(self.offsets[0, 0]) :]

    @property
    def tokens(self) -> Tokens:
        """The ids. Shape: return: (n,)"""
        return self[0]

    @property
    def offsets(self) -> Spans:
        """Where each token lies in the text, in characters. Shape: return: (n, 2)"""
        return self[1]


@dataclass(frozen=True)
class LongText:
    """A text that is encoded in blocks.

    Attributes:
        text: longer than `LONG` characters.
        encode: of a part of it.
        unk, max_word: the token of a word with more characters than `max_word`, in WordPiece; None elsewhere.
    """

    text: str
    encode: Encode
    unk: int | None = None
    max_word: int | None = None

    def kept(self, keep: Keep) -> EncodedText:
        """At least the tokens that may be kept, and one more where there are more; whole where they are all."""
        size = len(self.text)
        head = self.beginning(keep.tokens + 1) if keep.head else None
        if head is not None and head.end == size:
            return head
        tail = self._end(keep.tokens + 1) if keep.tail else None
        parts = [part for part in (head, tail) if part is not None]
        if len(parts) < keep.head + keep.tail:
            return self.beginning()
        if head is not None and tail is not None and tail.offsets[0, 0] <= head.end:
            return self.beginning()
        tokens = np.concatenate([part.tokens for part in parts])
        offsets = np.concatenate([part.offsets for part in parts])
        begin, stop = 0 if head is None else head.end, size if tail is None else int(tail.offsets[0, 0])
        seen = size - (stop - begin)
        return EncodedText(tokens, offsets, max(1, round((stop - begin) * len(tokens) / seen)), begin)

    def beginning(self, count: int | None = None) -> EncodedText:
        """The first tokens, `count` at least where there are as many; all by default."""
        size = LONG if count is None else min(LONG, max(_SMALLEST, _FIRST * count))
        while True:
            encoded = self._blocks(size, count)
            if encoded is not None:
                return encoded
            size *= 8

    def _blocks(self, size: int, count: int | None) -> EncodedText | None:
        """The first tokens, by blocks of a size; None where two of them do not agree."""
        runs: list[tuple[Tokens, Spans]] = []
        edge = total = 0
        grown = size
        while edge < len(self.text) and (count is None or total < count):
            stop = min(len(self.text), edge + grown)
            tokens, spans = self._read(max(0, edge - _CONTEXT), stop)
            first = int(np.searchsorted(spans[:, 0], edge)) if runs else 0
            if runs and not _agree(*runs[-1], tokens[:first], spans[:first], edge):
                return None
            last = len(tokens) if stop == len(self.text) else _cut(spans, first, stop - _MARGIN)
            if last > first:
                runs.append((tokens[first:last], spans[first:last]))
                total += last - first
                edge, grown = len(self.text) if stop == len(self.text) else int(spans[:last, 1].max()), size
            elif stop == len(self.text) or not (spans[first:, 0] < stop - _MARGIN).any():
                edge, grown = max(edge, stop - (0 if stop == len(self.text) else _MARGIN)), size  # nothing but space
            elif (end := self._end_of_word(int(tokens[first]), int(spans[first, 0]), stop)) is not None:
                runs.append((tokens[first : first + 1], np.array([[spans[first, 0], end]])))
                total, edge, grown = total + 1, end, size
            else:
                grown *= 4
        if not runs:
            return EncodedText(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), 0, len(self.text))
        return EncodedText(np.concatenate([t for t, _ in runs]), np.concatenate([s for _, s in runs]), 0, edge)

    def _end_of_word(self, token: int, start: int, stop: int) -> int | None:
        """Where a word ends that is too long for WordPiece, so that its end need not be read; None if it is none."""
        if self.max_word is None or token != self.unk or stop - start <= self.max_word + _MARGIN:
            return None
        word = _WORD.match(self.text, start)
        return word.end() if word is not None and word.end() >= stop else None

    def _end(self, count: int) -> EncodedText | None:
        """The last tokens, `count` at least; None where that takes much of the text, or they hang on what is before."""
        size = max(_SMALLEST, _FIRST * count)
        while size <= 4 * max(LONG, _FIRST * count) and 2 * (size + _CONTEXT) < len(self.text):
            begin = len(self.text) - size
            tokens, spans = self._from(begin, begin + _MARGIN)
            others = (self._from(begin - shift, begin + _MARGIN) for shift in _SHIFTS)
            if len(tokens) >= count and all(
                np.array_equal(tokens, other) and np.array_equal(spans, places) for other, places in others
            ):
                return EncodedText(tokens, spans)
            size *= 4
        return None

    def _from(self, begin: int, edge: int) -> tuple[Tokens, Spans]:
        """What begins behind `edge`, where the text is read from `begin` on."""
        tokens, spans = self._read(begin, len(self.text))
        first = int(np.searchsorted(spans[:, 0], edge)) + 1  # the one before may reach across
        return tokens[first:], spans[first:]

    def _read(self, begin: int, stop: int) -> tuple[Tokens, Spans]:
        tokens, spans = self.encode(self.text[begin:stop])
        return tokens, spans + begin


def _cut(spans: Spans, first: int, limit: int) -> int:
    """How many tokens end before a place, with nothing that the next one shares, as bytes of a character do."""
    ends = np.maximum.accumulate(spans[:, 1])
    last = int(np.searchsorted(ends, limit, side="right"))
    while last > first and last < len(spans) and spans[last, 0] < ends[last - 1]:
        last -= 1
    return last


def _agree(tokens: Tokens, spans: Spans, others: Tokens, other_spans: Spans, edge: int) -> bool:
    """Whether two blocks have the same tokens before the edge, and none across it."""
    near, also = spans[:, 0] >= edge - _MARGIN, other_spans[:, 0] >= edge - _MARGIN
    return (
        np.array_equal(tokens[near], others[also])
        and np.array_equal(spans[near], other_spans[also])
        and (not len(other_spans) or int(other_spans[:, 1].max()) <= max(edge, 0))
    )
