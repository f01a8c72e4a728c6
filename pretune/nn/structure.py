"""Which keys a query may see: a small description that each attention backend renders in its own way.

A structure says it once, as a mask, in `visible`; a backend that has a kernel for it recognises its class. A new one
(a window, blocks) is one class here: the reference and the SDPA loop render it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class HasMaxLength(Protocol):
    """Where keys lie, as far as a structure asks."""

    @property
    def max_length(self) -> int:
        """Keys of the longest sequence."""


@dataclass(frozen=True)
class _Longest:
    max_length: int


@dataclass(frozen=True)
class Structure:
    """Base of all structures.

    Attributes:
        any_queries: queries may be any rows of their sequence: what one sees does not depend on its position.
    """

    any_queries: ClassVar[bool] = False

    @property
    def is_causal(self) -> bool:
        """Whether a query sees no key that comes after it."""
        return False

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """Which keys the queries of one sequence see; None where all see all.

        Shape:
            return: (queries, keys) bool
        """
        raise NotImplementedError

    def added(self, queries: int, keys: int) -> Tensor | None:
        """What is added to the scores of one sequence; None for nothing.

        Shape:
            return: (H, queries, keys)
        """
        return None

    def within(self, keys: HasMaxLength) -> Structure:
        """A plainer structure that is the same for sequences as long as these, or this one."""
        return self

    def behind(self, length: int) -> Structure:
        """The structure behind some rows that every query sees, whatever its position: a prefix of keys.

        Args:
            length: how many rows stand before each sequence's own keys.
        """
        return Prefixed(self, length) if length else self

    def pairs(self, queries: int, keys: int) -> int:
        """Number of (query, key) pairs that are computed, for counts of operations."""
        mask = self.visible(queries, keys)
        return queries * keys if mask is None else int(mask.sum())


@dataclass(frozen=True)
class Bidirectional(Structure):
    """Every query sees every key of its sequence."""

    any_queries: ClassVar[bool] = True

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """None: there is nothing to hide."""
        return None

    def behind(self, length: int) -> Structure:
        """The same: every query sees all."""
        return self


@dataclass(frozen=True)
class Causal(Structure):
    """A query sees the keys up to its own position; the last query is aligned with the last key.

    With a cache or a prefix there are more keys than queries, which are then the last ones.
    """

    @property
    def is_causal(self) -> bool:
        """Always."""
        return True

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """A lower triangle, aligned at the bottom right; None for a single query, which sees all."""
        if queries == 1:
            return None
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)

    def behind(self, length: int) -> Structure:
        """The same: what comes first is seen by all."""
        return self

    def pairs(self, queries: int, keys: int) -> int:
        """Closed form of the base's count."""
        return queries * (keys - queries) + queries * (queries + 1) // 2


@dataclass(frozen=True)
class SlidingWindow(Structure):
    """A query sees the keys near its own position; the last query is aligned with the last key.

    Attributes:
        before, after: how many keys it sees on each side of its own.
    """

    before: int
    after: int

    @property
    def is_causal(self) -> bool:
        """Where the band ends at the query's own place."""
        return self.after == 0

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """A band along the diagonal, aligned at the bottom right; None where it covers all."""
        if keys - 1 <= min(self.before, self.after):
            return None
        position = torch.arange(keys, device=device)
        ahead = position - position[keys - queries :, None]
        return (ahead >= -self.before) & (ahead <= self.after)

    def within(self, keys: HasMaxLength) -> Structure:
        """Bidirectional where the band covers all, causal where it covers all that lies before."""
        farthest = keys.max_length - 1
        if farthest > self.before or 0 < self.after < farthest:
            return self
        return BIDIRECTIONAL if self.after else CAUSAL

    def pairs(self, queries: int, keys: int) -> int:
        """The base's count, a query at a time."""
        first = keys - queries
        return sum(min(at + self.after, keys - 1) - max(at - self.before, 0) + 1 for at in range(first, keys))


@dataclass(frozen=True)
class Prefixed(Structure):
    """The first keys of every sequence are seen by all its queries, the others as another structure has it.

    Attributes:
        base: of the other keys.
        length: how many come first.
    """

    base: Structure
    length: int

    @property
    def is_causal(self) -> bool:
        """As the base."""
        return self.base.is_causal

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """The base's mask behind columns that are all visible; None where the base hides nothing."""
        mask = self.base.visible(queries, keys - self.length, device)
        if mask is None:
            return None
        return torch.cat([torch.ones(queries, self.length, dtype=torch.bool, device=device), mask], dim=1)

    def within(self, keys: HasMaxLength) -> Structure:
        """As the base with the other keys."""
        plainer = self.base.within(_Longest(keys.max_length - self.length))
        return self if plainer is self.base else plainer.behind(self.length)

    def pairs(self, queries: int, keys: int) -> int:
        """The base's count, and all pairs with the first keys."""
        return queries * self.length + self.base.pairs(queries, keys - self.length)


@dataclass(frozen=True, eq=False)
class Biased(Structure):
    """Adds a learned number for each head and distance to the scores of another structure.

    Attributes:
        base: which keys a query sees.
        bias: gives what is added, from the numbers of queries and keys of a sequence.
    """

    base: Structure
    bias: Callable[[int, int], Tensor]

    @property
    def is_causal(self) -> bool:
        """As the base."""
        return self.base.is_causal

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """As the base."""
        return self.base.visible(queries, keys, device)

    def added(self, queries: int, keys: int) -> Tensor | None:
        """The learned numbers."""
        return self.bias(queries, keys)

    def behind(self, length: int) -> Structure:
        """The base behind the rows, whose distances count as those of earlier tokens."""
        return Biased(self.base.behind(length), self.bias)

    def pairs(self, queries: int, keys: int) -> int:
        """As the base."""
        return self.base.pairs(queries, keys)


BIDIRECTIONAL = Bidirectional()
CAUSAL = Causal()
