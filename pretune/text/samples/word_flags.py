"""Word boundaries that travel with the tokens, from a store that has them to the batch.

Rows are cut, paired and exchanged by moving tokens, so what is known of a token's word moves with it, in two bits far
above any id; `unmark` takes them off as soon as a batch is laid out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pretune.text.samples.rows import Ints

if TYPE_CHECKING:
    from pretune.text.store.store import TokenSplit

_KNOWN = 1 << 40  # the store says where words begin
_JOINED = 1 << 41  # the token continues the word of the one before it


@dataclass(frozen=True)
class MarkedSplit:
    """A split of a store with words, whose tokens are read with marks.

    Attributes:
        split: the same without.
    """

    split: TokenSplit

    @property
    def token_count(self) -> int:
        """Tokens in the split."""
        return self.split.token_count

    @property
    def document_offsets(self) -> Ints:
        """First token of each document, and the total. Shape: (D + 1,)"""
        return self.split.document_offsets

    @property
    def sentence_offsets(self) -> Ints:
        """First token of each sentence. Shape: (S,)"""
        return self.split.sentence_offsets

    def read(self, start: int, stop: int) -> Ints:
        """Tokens from `start` to `stop`, marked. Shape: (stop - start,)"""
        return self.read_runs(np.array([start]), np.array([stop]))

    def read_runs(self, start: Ints, stop: Ints) -> Ints:
        """Runs of tokens, marked, end to end. Shape: (n,), (n,) -> (sum of stop - start,)"""
        joined = ~self.split.read_word_starts(start, stop)
        return self.split.read_runs(start, stop) | np.where(joined, _KNOWN | _JOINED, _KNOWN)

    def index(self, name: str, parts: Callable[[], Iterator[Mapping[str, Ints]]]) -> Mapping[str, Ints]:
        """As the split's own: marks move no boundary."""
        return self.split.index(name, parts)


def unmark(tokens: Ints, continuation: NDArray[np.bool_]) -> tuple[Ints, NDArray[np.bool_]] | None:
    """Tokens without marks, and which of them continue a word; None where none has marks.

    Args:
        continuation: what the vocabulary says of each id, for tokens of stores that say nothing.

    Shape:
        tokens: (T,); continuation: (size,); return: (T,), (T,)
    """
    if tokens.max(initial=0) < _KNOWN:
        return None
    plain = tokens & (_KNOWN - 1)
    return plain, np.where(tokens >= _KNOWN, tokens >= _KNOWN | _JOINED, continuation.take(plain))
