"""Decides by their hashes which documents of a corpus are held out; of a small corpus, enough to judge a model by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol, TypeVar

from pretune.text.store.store import TokenStore
from pretune.wording import counted

FRACTION = 0.01  # of the documents
SMALL = 16 << 20  # bytes of text; a corpus of more has enough in one part of a hundred
MIN_DOCUMENTS, MIN_BYTES = 100, 64 << 10
MIN_TOKENS, ENOUGH_TOKENS = 10_000, 100_000  # the second: in however few documents
MAX_FRACTION = 0.1
"""Of a small corpus: what is held out does not train."""
RANKS = 1 << 64


class Ranked(Protocol):
    """Documents with their sizes in bytes and their ranks, which are below 2^64 and as random as a hash."""

    sizes: list[int]
    ranks: list[int]


B = TypeVar("B", bound=Ranked)


class HeldOut:
    """Which documents are held out: those of the lowest ranks, so that a larger part holds the smaller one.

    Args:
        fraction: of the documents; None for 0.01, and more of a small corpus.

    Attributes:
        limit: the rank below which a document is held out; known from the first batch of `look_ahead` on.
    """

    def __init__(self, fraction: float | None) -> None:
        self.limit = int((FRACTION if fraction is None else fraction) * RANKS)
        self._may_be_more = fraction is None

    def look_ahead(self, batches: Iterable[B]) -> Iterator[B]:
        """Hands on all batches; the first only after as much was read as tells whether the corpus is small."""
        if not self._may_be_more:
            yield from batches
            return
        rest, first, size = iter(batches), list[B](), 0
        for batch in rest:
            first.append(batch)
            size += sum(batch.sizes)
            if size > SMALL:
                break
        else:
            self.limit = max(self.limit, _limit_of(first))
        yield from chain(first, rest)


def _limit_of(batches: Sequence[Ranked]) -> int:
    """The rank below which there is enough of a small corpus to judge by, and no more than a tenth of it."""
    documents = sorted((rank, size) for batch in batches for rank, size in zip(batch.ranks, batch.sizes, strict=True))
    total, held = sum(size for _, size in documents), 0
    for number, (rank, size) in enumerate(documents):
        enough = number >= MIN_DOCUMENTS and held >= MIN_BYTES
        if enough or number + 1 > MAX_FRACTION * len(documents) or held + size > MAX_FRACTION * total:
            return rank
        held += size
    return 0


def few_held_out(store: TokenStore) -> list[str]:
    """What to say of a store of which too little is held out to judge a model by; nothing of others.

    Of few documents, or few tokens, the validation loss depends on which they are.
    """
    split = store.split("validation")
    documents, tokens = split.document_count, split.token_count
    if not documents or (documents >= MIN_DOCUMENTS and tokens >= MIN_TOKENS) or tokens >= ENOUGH_TOKENS:
        return []
    held = f"{counted(documents, 'document')} of {counted(tokens, 'token')}"
    if documents >= 0.2 * (documents + store.split("train").document_count):
        return [f"{store.path}: {held} held out, so few that the validation loss says little; add text"]
    return [
        f"{store.path}: {held} held out, so few that the validation loss says little; add text, or hold more out with "
        "prepare --validation 0.2"
    ]
