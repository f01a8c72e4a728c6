"""Rows: samples of text without special tokens, one by one or, for plain windows, as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def all_tokens() -> slice:
    """The slice that takes all tokens of a text."""
    return slice(None)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row of a task: an example as tokens, or one window of it, without special tokens.

    Attributes:
        tokens: (n,) the text.
        second, third: further texts.
        targets: what the row's tokens must give, of any type and shape; None where it is not known.
        example: index of the example that it answers for; an example may have many rows.
        offsets: for each text that is there, (n, 2) where each token lies in it, in characters.
        cut: tokens of the example's texts that truncation left out of this row and that no other row has.
        repeated: tokens that an earlier row of the example has too.
        answers_for: which tokens of the text that was cut into windows (the second one of a pair, if it was) this row
            answers for; of the others, another row does.
        choices: texts among which one is to be chosen, each of which is read behind `tokens` in a sequence of its own.
        others: texts after the third, each a sequence of its own.
    """

    tokens: Ints
    second: Ints | None = None
    third: Ints | None = None
    targets: NDArray[np.generic] | None = None
    example: int = 0
    offsets: tuple[Ints, ...] = ()
    cut: int = 0
    repeated: int = 0
    answers_for: slice = field(default_factory=all_tokens)
    choices: tuple[Ints, ...] = ()
    others: tuple[Ints, ...] = ()

    @property
    def texts(self) -> list[Ints]:
        """Those that are there, in order."""
        texts = (self.tokens, self.second, self.third, *self.others, *self.choices)
        return [text for text in texts if text is not None]

    @property
    def size(self) -> int:
        """Tokens of all texts, as often as they are read."""
        return sum(map(len, self.texts)) + max(0, len(self.choices) - 1) * len(self.tokens)


def data_stats(rows: Sequence[Encoded]) -> dict[str, int]:
    """What became of the examples' tokens: `tokens = used + tokens_cut`, and some were used more than once.

    Returns:
        examples, rows, tokens, examples_cut, tokens_cut (left out by truncation), tokens_repeated (in several windows).
    """
    cut = sum(row.cut for row in rows)
    repeated = sum(row.repeated for row in rows)
    return {
        "examples": len({row.example for row in rows}),
        "rows": len(rows),
        "tokens": sum(row.size for row in rows) + cut - repeated,
        "examples_cut": len({row.example for row in rows if row.cut}),
        "tokens_cut": cut,
        "tokens_repeated": repeated,
    }


class Split(Protocol):
    """What a view needs of a split of a token store (`pretune.text.store.store.TokenSplit`)."""

    @property
    def token_count(self) -> int:
        """Tokens in the split, end tokens included."""

    @property
    def document_offsets(self) -> Ints:
        """(D + 1,): first token of each document, and the total."""

    @property
    def sentence_offsets(self) -> Ints:
        """(S,): first token of each sentence, sorted."""

    def read(self, start: int, stop: int) -> Ints:
        """Tokens [start, stop)."""

    @property
    def has_words(self) -> bool:
        """Whether the store says where words begin."""

    def read_runs(self, start: Ints, stop: Ints) -> Ints:
        """Runs of tokens [start, stop) end to end. Shape: (n,), (n,) -> (sum of stop - start,)."""

    def read_word_starts(self, start: Ints, stop: Ints) -> Flags:
        """Whether each token of some runs begins a word. Shape: (n,), (n,) -> (sum of stop - start,)."""

    def index(self, name: str, parts: Callable[[], Iterator[Mapping[str, Ints]]]) -> Mapping[str, Ints]:
        """Arrays that are computed from all offsets, a part at a time, or were before."""


@dataclass(frozen=True)
class Text:
    """A run of tokens, and what is known of their words.

    Attributes:
        tokens: (n,)
        word_flags: (n,) whether the token continues the word of the one before it; None where the store does not say.
    """

    tokens: Ints
    word_flags: Flags | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def slice(self, start: int, stop: int | None = None) -> Text:
        """The tokens from `start` to `stop`."""
        flags = None if self.word_flags is None else self.word_flags[start:stop]
        return Text(self.tokens[start:stop], flags)


@dataclass(frozen=True)
class Row:
    """One sample, before special tokens.

    Attributes:
        sample: (store, epoch, index), the key of its random decisions.
        tokens: (n,) the window; with a look-ahead, one or more tokens longer than what is predicted from.
        sentences: starts of the sentences inside `tokens`, first 0; views "sentences" and "pairs".
        other: up to a window of another document, from a sentence's start; view "pairs".
        stops: where whole sentences end inside `other`; view "pairs".
        spare: tokens that the window could still take; view "pairs".
        second, third: further texts; view "examples".
        targets: what the tokens must give, where it is known; view "examples".
        example: index of the example that the row answers for; view "examples".
        offsets: for each text that is there, (n, 2) where each token lies in it, in characters; view "examples".
        answers_for: which tokens of the text that was cut into windows the row answers for; view "examples".
        word_flags: (n,) whether each of `tokens` continues the word of the one before it, as the store's segmenter
            found; None where the store does not say, or nobody asked.
        other_word_flags: the same of `other`.
        choices: texts among which one is to be chosen, each of which is read behind `tokens`; view "examples".
        others: texts after the third, each a sequence of its own; view "examples".
    """

    sample: tuple[int, int, int]
    tokens: Ints
    sentences: Ints | None = None
    other: Ints | None = None
    stops: Ints | None = None
    spare: int = 0
    second: Ints | None = None
    third: Ints | None = None
    targets: NDArray[np.generic] | None = None
    example: int = 0
    offsets: tuple[Ints, ...] = ()
    answers_for: slice = field(default_factory=all_tokens)
    word_flags: Flags | None = None
    other_word_flags: Flags | None = None
    choices: tuple[Ints, ...] = ()
    others: tuple[Ints, ...] = ()

    @property
    def text(self) -> Text:
        """The window with what is known of its words."""
        return Text(self.tokens, self.word_flags)

    @property
    def size(self) -> int:
        """Tokens of the sample, further texts included, as often as they are read."""
        further = (self.second, self.third, *self.others, *self.choices)
        texts = [self.tokens, *(text for text in further if text is not None)]
        return sum(map(len, texts)) + max(0, len(self.choices) - 1) * len(self.tokens)


class Windows(Sequence[Row]):
    """Rows that are nothing but windows of splits. They are columns, and their tokens are read when asked for.

    Args:
        splits: where tokens are, by store.
        samples: (N, 3) the names of the rows.
        start, stop: (N,) first and past-the-last token of each in its split.
        words: whether rows carry word flags, of stores that have them.
    """

    def __init__(
        self, splits: Mapping[int, Split], samples: Ints, start: Ints, stop: Ints, words: bool = False
    ) -> None:
        self.splits, self.samples, self._start, self._stop, self._words = splits, samples, start, stop, words

    @classmethod
    def of(
        cls, split: Split, store: int, epoch: int, index: Ints, start: Ints, stop: Ints, words: bool = False
    ) -> Windows:
        """The windows `index` of one split in one epoch."""
        samples = np.empty((len(index), 3), np.int64)
        samples[:, 0], samples[:, 1], samples[:, 2] = store, epoch, index
        return cls({store: split}, samples, start, stop, words)

    @classmethod
    def join(cls, parts: Sequence[Windows]) -> Windows:
        """Rows of several stores and epochs, one after the other."""
        splits = {store: split for part in parts for store, split in part.splits.items()}
        columns = [(part.samples, part._start, part._stop) for part in parts]
        samples, start, stop = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(splits, samples, start, stop, any(part._words for part in parts))

    @property
    def sizes(self) -> Ints:
        """Tokens of each row. Shape: (N,)"""
        return self._stop - self._start

    def __len__(self) -> int:
        return len(self._start)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Windows: ...
    def __getitem__(self, index: int | slice) -> Row | Windows:
        if isinstance(index, slice):
            return self.select(index)
        store, epoch, number = self.samples[index].tolist()
        tokens = self.splits[store].read(int(self._start[index]), int(self._stop[index]))
        flags = self._read_flags(store, self._start[[index]], self._stop[[index]])
        return Row((store, epoch, number), tokens, word_flags=flags)

    def select(self, index: Ints | slice) -> Windows:
        """Some of the rows, in the order given."""
        return Windows(self.splits, self.samples[index], self._start[index], self._stop[index], self._words)

    def tokens(self) -> Ints:
        """The tokens of all rows, end to end. Shape: (sum of sizes,)"""
        if len(self.splits) == 1:
            (split,) = self.splits.values()
            return split.read_runs(self._start, self._stop)
        sizes = self.sizes
        out = np.empty(int(sizes.sum()), np.int64)
        owner = np.repeat(self.samples[:, 0], sizes)
        for store, split in self.splits.items():
            rows = self.samples[:, 0] == store
            out[owner == store] = split.read_runs(self._start[rows], self._stop[rows])
        return out

    def word_flags(self, tokens: Ints, continuation: Flags) -> Flags | None:
        """Whether each token continues the word of the one before it: as its store says, else as its id does.

        Args:
            tokens: as `tokens` gives them.
            continuation: for each id of the vocabulary.

        Shape:
            tokens: (T,); continuation: (size,); return: (T,), or None where no store says it
        """
        stores = [store for store, split in self.splits.items() if self._words and split.has_words]
        if not stores or not np.isin(self.samples[:, 0], stores).any():
            return None
        owner = np.repeat(self.samples[:, 0], self.sizes)
        out = continuation.take(tokens)
        for store in stores:
            rows = self.samples[:, 0] == store
            out[owner == store] = self._read_flags(store, self._start[rows], self._stop[rows])
        return out

    def _read_flags(self, store: int, start: Ints, stop: Ints) -> Flags | None:
        return read_word_flags(self.splits[store], start, stop) if self._words else None


def read_word_flags(split: Split, start: Ints, stop: Ints) -> Flags | None:
    """Whether each token of some runs continues the word of the one before it; None where the store does not say.

    Shape:
        start, stop: (n,); return: (sum of stop - start,)
    """
    return ~split.read_word_starts(start, stop) if split.has_words else None


def names_of(rows: Sequence[Row]) -> Ints:
    """The samples that rows are. Shape: (N, 3)"""
    if isinstance(rows, Windows):
        return rows.samples
    return np.array([row.sample for row in rows], np.int64).reshape(-1, 3)


def sizes_of(rows: Sequence[Row]) -> Ints:
    """Tokens of each row, second texts included. Shape: (N,)"""
    return rows.sizes if isinstance(rows, Windows) else np.array([row.size for row in rows], np.int64)


def run_of(rows: Sequence[Row]) -> tuple[Ints, Ints]:
    """The tokens of rows end to end, second texts left out, and how many each has. Shape: (T,), (N,)"""
    if isinstance(rows, Windows):
        return rows.tokens(), rows.sizes
    tokens = np.concatenate([np.zeros(0, np.int64), *(row.tokens for row in rows)])
    return tokens, np.array([len(row.tokens) for row in rows], np.int64)


def flags_of(rows: Sequence[Row], tokens: Ints, continuation: Flags) -> Flags | None:
    """The word flags of `run_of(rows)`; see `Windows.word_flags`. Shape: (T,), (size,) -> (T,) or None."""
    if isinstance(rows, Windows):
        return rows.word_flags(tokens, continuation)
    return join_flags([row.text for row in rows], continuation)


def join_flags(texts: Sequence[Text], continuation: Flags) -> Flags | None:
    """The word flags of texts end to end, for those without as the ids say; None where none has any.

    Shape:
        continuation: (size,); return: (sum of lengths,)
    """
    if all(text.word_flags is None for text in texts):
        return None
    return np.concatenate(
        [continuation.take(text.tokens) if text.word_flags is None else text.word_flags for text in texts]
    )


def select(rows: Sequence[Row], index: Sequence[int] | Ints) -> Sequence[Row]:
    """Some rows, in the order given."""
    return rows.select(np.asarray(index, np.int64)) if isinstance(rows, Windows) else [rows[i] for i in index]


def join(parts: Sequence[Sequence[Row]]) -> Sequence[Row]:
    """Rows one after the other; columns stay columns."""
    windows = [part for part in parts if isinstance(part, Windows)]
    return Windows.join(windows) if len(windows) == len(parts) else list(chain.from_iterable(parts))
