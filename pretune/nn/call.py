"""One attention call, and what a backend does with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from pretune.batch import Layout
from pretune.nn.spans import CacheSlots, KeyLayout
from pretune.nn.structure import Causal, Structure


@dataclass(frozen=True)
class AttentionCall:
    """Queries and keys of two ragged runs with the same sequences.

    A sequence may have more keys than queries: its past in a cache, or a prefix that a tuning method puts before it.
    Structures align the last query with the last key.

    Attributes:
        queries, keys: where the sequences lie; self-attention gives the same layout twice.
        structure: which keys a query sees.
        dropout: rate at which attention probabilities are dropped; above 0 the call leaves the fast kernels.
        scale: factor of the scores.
        site: number of the attention in its model, where the keys of the queries' rows decide what is dropped.

    Shape:
        query: (Tq, H, D); key, value: (Tk, Hk, D), Hk dividing H
    """

    query: Tensor
    key: Tensor
    value: Tensor
    queries: Layout
    keys: KeyLayout
    structure: Structure
    dropout: float
    scale: float
    site: int = 0

    @property
    def is_keyed(self) -> bool:
        """Whether what is dropped is a function of the queries' keys, which kernels of torch know nothing of."""
        return self.dropout > 0 and self.queries.keys is not None

    @property
    def is_causal(self) -> bool:
        """Whether a query sees the keys up to its own position."""
        return isinstance(self.structure, Causal)

    @property
    def through_cache(self) -> bool:
        """Whether the keys lie in slots of a cache."""
        return isinstance(self.keys, CacheSlots)

    @property
    def has_grouped_heads(self) -> bool:
        """Whether several heads of queries share a head of keys."""
        return self.query.shape[1] != self.key.shape[1]


class Backend(Protocol):
    """What a file of `nn/backends/`, or a user's own, offers."""

    PRIORITY: int

    def refuse(self, call: AttentionCall) -> str | None:
        """Says why it does not support the call, or None."""

    def attend(self, call: AttentionCall) -> Tensor:
        """Computes all sequences of the call. Shape: return: (Tq, H, D)."""
