"""What a tagger says of the units of its rows, and the targets of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretune.tasks.shared.units import Units
from pretune.text.samples.rows import Ints, Row
from pretune.text.schemes import Chunk, Scheme, read_chunks, write_tags


@dataclass(frozen=True)
class UnitTags:
    """What one row says of the units that it answers for.

    Attributes:
        start, end: (k,) in characters.
        tags: the number of each one's tag.
        probability: of that tag.
    """

    start: Ints
    end: Ints
    tags: list[int]
    probability: list[float]


def targets_of(row: Row) -> NDArray[np.int64]:
    """The targets of a row. Shape: return: (n, 2)"""
    assert row.targets is not None  # every row says which tokens begin a unit
    return row.targets.astype(np.int64, copy=False)


def target_column(rows: Sequence[Row], column: int) -> Ints:
    """A column of the targets of rows, end to end. Shape: return: (T,)"""
    return np.concatenate([np.zeros(0, np.int64), *(targets_of(row)[:, column] for row in rows)])


def split_by_row(
    rows: Sequence[Row], units: Sequence[Units], best: Ints, probability: NDArray[np.floating]
) -> list[UnitTags]:
    """The tags of each row's units that it answers for, of the tags of all of them. Shape: best, probability: (K,)"""
    answers: list[UnitTags] = []
    done = 0
    for row, each in zip(rows, units, strict=True):
        first, stop, _ = row.answers_for.indices(len(row.tokens))
        some = slice(*each.first.searchsorted([first, stop]).tolist())
        of_row = slice(done + some.start, done + some.stop)
        answers.append(UnitTags(each.start[some], each.end[some], best[of_row].tolist(), probability[of_row].tolist()))
        done += len(each.first)
    return answers


def tags_of_words(numbers: Ints, tags: Sequence[str], scheme: Scheme, outside: str) -> list[str]:
    """The tags of words, of those of units; words that share a unit are in the same span.

    Args:
        numbers: the unit of each word; -1 of a word that has none.
        tags: of the units.
        outside: the tag of a word without a unit, where each word is a span of its own.

    Shape:
        numbers: (words,)
    """
    if scheme == "plain":
        return [outside if number < 0 else tags[number] for number in numbers.tolist()]
    chunks: list[Chunk] = []
    for first, stop, label in read_chunks(tags, scheme):
        words = np.flatnonzero((numbers >= first) & (numbers < stop))
        if len(words):
            chunks.append(Chunk(int(words[0]), int(words[-1]) + 1, label))
    return write_tags(chunks, len(numbers), scheme)
