"""Samples as they are handed on: rows of text without special tokens, one by one or, plain windows, as columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, Protocol, overload

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Encoding(NamedTuple):
    """An example as tokens, without special ones.

    Attributes:
        tokens: (n,) the text.
        second, third: further texts.
        label: the class, where it is known.
    """

    tokens: Ints
    second: Ints | None = None
    label: int | None = None
    third: Ints | None = None

    @property
    def texts(self) -> list[Ints]:
        """Those that are there, in order."""
        return [text for text in (self.tokens, self.second, self.third) if text is not None]

    @property
    def size(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.texts))


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

    def read_runs(self, start: Ints, stop: Ints) -> Ints:
        """Runs of tokens [start, stop) end to end. Shape: (n,), (n,) -> (sum of stop - start,)."""

    def index(self, name: str, parts: Callable[[], Iterator[Mapping[str, Ints]]]) -> Mapping[str, Ints]:
        """Arrays that are computed from all offsets, a part at a time, or were before."""


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
        label: the class; view "examples".
    """

    sample: tuple[int, int, int]
    tokens: Ints
    sentences: Ints | None = None
    other: Ints | None = None
    stops: Ints | None = None
    spare: int = 0
    second: Ints | None = None
    label: int | None = None
    third: Ints | None = None

    @property
    def size(self) -> int:
        """Tokens of the sample, further texts included."""
        return sum(len(text) for text in (self.tokens, self.second, self.third) if text is not None)


class Windows(Sequence[Row]):
    """Rows that are nothing but windows of splits. They are columns, and their tokens are read when asked for.

    Args:
        splits: where tokens are, by store.
        samples: (N, 3) the names of the rows.
        start, stop: (N,) first and past-the-last token of each in its split.
    """

    def __init__(self, splits: Mapping[int, Split], samples: Ints, start: Ints, stop: Ints) -> None:
        self.splits, self.samples, self._start, self._stop = splits, samples, start, stop

    @classmethod
    def of(cls, split: Split, store: int, epoch: int, index: Ints, start: Ints, stop: Ints) -> Windows:
        """The windows `index` of one split in one epoch."""
        samples = np.empty((len(index), 3), np.int64)
        samples[:, 0], samples[:, 1], samples[:, 2] = store, epoch, index
        return cls({store: split}, samples, start, stop)

    @classmethod
    def join(cls, parts: Sequence[Windows]) -> Windows:
        """Rows of several stores and epochs, one after the other."""
        splits = {store: split for part in parts for store, split in part.splits.items()}
        columns = [(part.samples, part._start, part._stop) for part in parts]
        samples, start, stop = (np.concatenate(column) for column in zip(*columns, strict=True))
        return cls(splits, samples, start, stop)

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
            return self.pick(index)
        store, epoch, number = self.samples[index].tolist()
        tokens = self.splits[store].read(int(self._start[index]), int(self._stop[index]))
        return Row((store, epoch, number), tokens)

    def pick(self, index: Ints | slice) -> Windows:
        """Some of the rows, in the order given."""
        return Windows(self.splits, self.samples[index], self._start[index], self._stop[index])

    def tokens(self) -> Ints:
        """The tokens of all rows, end to end. Shape: (sum of sizes,)"""
        if len(self.splits) == 1:
            (split,) = self.splits.values()
            return split.read_runs(self._start, self._stop)
        sizes = self.sizes
        out = np.empty(int(sizes.sum()), np.int64)
        owner = np.repeat(self.samples[:, 0], sizes)
        for store, split in self.splits.items():
            mine = self.samples[:, 0] == store
            out[owner == store] = split.read_runs(self._start[mine], self._stop[mine])
        return out


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


def pick(rows: Sequence[Row], index: Sequence[int] | Ints) -> Sequence[Row]:
    """Some rows, in the order given."""
    return rows.pick(np.asarray(index, np.int64)) if isinstance(rows, Windows) else [rows[i] for i in index]


def join(parts: Sequence[Sequence[Row]]) -> Sequence[Row]:
    """Rows one after the other; columns stay columns."""
    windows = [part for part in parts if isinstance(part, Windows)]
    return Windows.join(windows) if len(windows) == len(parts) else list(chain.from_iterable(parts))
