"""Cuts a text that is longer than a model reads into windows, each token of which one window answers for.

    text      |------------------------------------------------------|
    windows   |--------------------|
                           |--------------------|
                                         |stride|--------------------|    the last one may be shorter
    answers   |---------------|------------|---------|...

A window begins and ends where a word does, shares `stride` tokens with the next one, a few more or less, and answers
for the words that are farther from its edges than from those of any other window. The ends of the text are no edges: no
context is missing there. A text that fits is one window.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from pretune.text.samples.rows import Flags, Ints, all_tokens


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Some tokens of a text, which the model reads at once.

    Attributes:
        index: (n,) which tokens, ascending.
        answers_for: which of them the window answers for.
        repeated: how many of them an earlier window has too.
        cut: tokens of the text that no window has.
    """

    index: Ints
    answers_for: slice = field(default_factory=all_tokens)
    repeated: int = 0
    cut: int = 0

    @property
    def answers(self) -> Ints:
        """The tokens that it answers for, by their place in the text. Shape: (any,)"""
        return self.index[self.answers_for]


def plan_windows(begins_word: Flags, max_tokens: int, stride: int) -> list[Window]:
    """The windows of a text.

    Args:
        begins_word: whether each token of the text begins a word; see `word_starts`.
        max_tokens: tokens of a window at most.
        stride: tokens that a window shares with the next one; word edges make them a few more or less.

    Returns:
        In order. Exactly one window answers for each token, and the same one for all of a word, unless the word is
        longer than what windows share.

    Raises:
        ValueError: `stride` is negative, or not below `max_tokens`.

    Shape:
        begins_word: (n,)
    """
    if not 0 <= stride < max_tokens:
        raise ValueError(f"windows of {max_tokens} tokens cannot share {stride}")
    count = len(begins_word)
    if count <= max_tokens:
        return [Window(np.arange(count))]
    words = np.flatnonzero(begins_word)
    spans = _spans(words, count, max_tokens, stride)
    edges = [0]
    for (_, stop), (start, _) in pairwise(spans):
        edges.append(max(edges[-1], _nearest(words, (start + stop + 1) // 2, start, stop)))
    edges.append(count)
    stops = [0, *(stop for _, stop in spans)]
    return [
        Window(np.arange(start, stop), slice(first - start, last - start), max(0, before - start))
        for (start, stop), first, last, before in zip(spans, edges, edges[1:], stops, strict=False)
    ]


def _spans(words: Ints, count: int, max_tokens: int, stride: int) -> list[tuple[int, int]]:
    """First and past-the-last token of each window; both ascend."""
    spans: list[tuple[int, int]] = []
    start = stop = 0
    while stop < count:
        if spans:
            start = _last(words, stop - stride, max(start, stop - stride - stride // 2 - 1))
        floor = max(stop, start + max(stride, max_tokens // 2))
        stop = count if start + max_tokens >= count else _last(words, start + max_tokens, floor)
        spans.append((start, stop))
    return spans


def _last(words: Ints, place: int, floor: int) -> int:
    """The last word's start up to a place and above `floor`; the place itself where there is none."""
    n = int(np.searchsorted(words, place, side="right")) - 1
    return int(words[n]) if n >= 0 and words[n] > floor else place


def _nearest(words: Ints, place: int, first: int, last: int) -> int:
    """The word's start that is nearest to a place, from `first` to `last`; the place itself where there is none."""
    n = int(np.searchsorted(words, place))
    near = [int(word) for word in words[max(0, n - 1) : n + 1] if first <= word <= last]
    return min(near, key=lambda word: abs(word - place), default=place)


def word_starts(tokens: Ints, offsets: Ints, continuation: Flags) -> Flags:
    """Whether each token of a text begins a word.

    Args:
        tokens: of the text.
        offsets: where each lies in it, in characters.
        continuation: for each id of the vocabulary, whether it continues a word (`Vocabulary.continuation`).

    Shape:
        tokens: (n,); offsets: (n, 2); continuation: (size,); return: (n,)
    """
    starts = ~continuation[tokens]
    ends = np.maximum.accumulate(offsets[:-1, 1]) if len(offsets) else np.zeros(0, np.int64)
    starts[1:] |= offsets[1:, 0] > ends  # white space, whatever the vocabulary says
    starts[1:] &= offsets[1:, 0] >= ends  # of the bytes of a character, the first alone
    starts[:1] = True
    return starts


def in_window(window: Window, first: Ints, last: Ints) -> Flags:
    """Which spans of tokens lie in a window whole.

    Args:
        window: whose tokens follow each other.
        first, last: the first and the last token of each span, by their places in the text.

    Shape:
        first, last: (n,); return: (n,)
    """
    if not len(window.index):
        return np.zeros(len(first), np.bool_)
    return np.asarray((first >= window.index[0]) & (last <= window.index[-1]))
