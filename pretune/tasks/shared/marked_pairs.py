"""Marks two spans of a text with punctuation, so that a model sees which pair is meant; cuts what is far from both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pretune.errors import DataError
from pretune.tasks.shared.windowed import token_spans
from pretune.text.annotation import Span
from pretune.text.samples.rows import Ints
from pretune.text.tokenizer.tokenizer import Tokenizer

Bounds = tuple[int, int]
"""The first token of a span and the one behind its last."""
_MARKS = (("@", "*"), ("#", "^"))  # around a span, and around the words of its label


class MarkedPair(NamedTuple):
    """A text with marks around two of its spans.

    Attributes:
        tokens: (n,) of the text and the marks.
        offsets: (n, 2) in characters; marks have none of their own, so that they begin and end where they stand.
        opening: the places of the first tokens of the two opening marks.
        closing: the places of the last tokens of the two closing marks.
        cut: tokens of the text that were left out.
    """

    tokens: Ints
    offsets: Ints
    opening: Bounds
    closing: Bounds
    cut: int


class PairMarks:
    """The marks of a tokenizer.

    Args:
        with_labels: the words of a span's label are part of its opening mark.
    """

    def __init__(self, tokenizer: Tokenizer, with_labels: bool) -> None:
        self._tokenizer, self._with_labels = tokenizer, with_labels
        self._cache: dict[str, Ints] = {}

    def mark(self, tokens: Ints, offsets: Ints, spans: tuple[Span, Span], max_tokens: int, where: str) -> MarkedPair:
        """Marks two spans of a text.

        Args:
            tokens, offsets: of the whole text.
            spans: the earlier one first.
            max_tokens: of what is returned; what is farthest from the spans is left out.
            where: the example, for messages.

        Raises:
            DataError: not even the marks fit.

        Shape:
            tokens: (n,); offsets: (n, 2)
        """
        bounds = [token_bounds(offsets, span.start, span.end) for span in spans]
        opening = [self._opening(n, span.label) for n, span in enumerate(spans)]
        closing = [self._tokens(outer) for outer, _ in _MARKS]
        remaining = max_tokens - sum(map(len, (*opening, *closing)))
        if remaining < 2:
            raise DataError(
                f"{where}: a length that leaves {remaining} tokens for text beside the marks of a pair is too short; "
                "raise the length"
            )
        kept = keep_around(len(tokens), bounds[0], bounds[1], remaining)
        inserts = [(bounds[n][0], 1, n, opening[n], spans[n].start) for n in (0, 1)]
        inserts += [
            (max(bounds[n]), 0 if bounds[n][1] > bounds[n][0] else 2, n, closing[n], spans[n].end) for n in (0, 1)
        ]
        runs, places = list[tuple[Ints, Ints]](), dict[tuple[bool, int], Bounds]()
        done = size = 0
        for position, rank, number, mark, character in sorted(inserts, key=lambda insert: insert[:3]):
            until = int(np.searchsorted(kept, position))
            run = kept[done:until]
            runs += [(tokens[run], offsets[run]), (mark, np.full((len(mark), 2), character, np.int64))]
            size, done = size + len(run) + len(mark), until
            places[rank == 1, number] = (size - len(mark), size - 1)
        runs.append((tokens[kept[done:]], offsets[kept[done:]]))
        return MarkedPair(
            np.concatenate([run for run, _ in runs]),
            np.concatenate([run for _, run in runs]),
            (places[True, 0][0], places[True, 1][0]),
            (places[False, 0][1], places[False, 1][1]),
            len(tokens) - len(kept),
        )

    def _opening(self, number: int, label: str) -> Ints:
        outer, inner = _MARKS[number]
        words = " ".join("".join(c if c.isalnum() else " " for c in label).lower().split())
        return self._tokens(f"{outer} {inner} {words} {inner}" if self._with_labels else outer)

    def _tokens(self, text: str) -> Ints:
        """The tokens of a mark, never none: a tokenizer without such a sign has one for what it does not know."""
        if text not in self._cache:
            tokens = np.asarray(self._tokenizer.encode(f" {text}"), np.int64)
            self._cache[text] = tokens if len(tokens) else np.array([self._tokenizer.vocabulary.end], np.int64)
        return self._cache[text]


def token_bounds(offsets: Ints, start: int, end: int) -> Bounds:
    """The tokens that share a character with a span; none, at its place, where no token does.

    Shape:
        offsets: (n, 2)
    """
    first, last = token_spans(offsets, np.array([start]), np.array([end]))
    return int(first[0]), int(max(first[0], last[0] + 1))


def keep_around(count: int, first: Bounds, second: Bounds, max_tokens: int) -> Ints:
    """Which tokens of a text stay, if only so many may: those around two spans, or else around each of the two.

    Args:
        count: tokens of the text.
        first, second: the earlier span and the later one.

    Shape:
        return: (at most max_tokens,) ascending
    """
    if count <= max_tokens:
        return np.arange(count)
    low, high = first[0], max(first[1], second[1])
    if high - low <= max_tokens:
        return np.arange(max_tokens) + _start(low, high, max_tokens, count)
    half = max_tokens // 2
    head = np.arange(half) + _start(*first, half, count)
    rest = max_tokens - half
    start = max(_start(*second, rest, count), int(head[-1]) + 1)
    return np.concatenate([head, np.arange(start, min(start + rest, count))])


def _start(low: int, high: int, size: int, count: int) -> int:
    """Where a window of a text begins that has a part of it in its middle, or at its beginning where that is longer."""
    return min(max(0, low - max(0, size - (high - low)) // 2), count - size)


def opposite(pair: Sequence[int]) -> Bounds:
    """A pair in the other direction."""
    return pair[1], pair[0]
