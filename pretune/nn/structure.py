"""Which keys a query may see: a small description that each attention back end renders in its own way.

A structure is told once, as a mask, by `visible`; a back end that has a kernel for it recognises its class. A new one
(prefix, window, permutation order) is one class here: the reference and the SDPA loop render it at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Structure:
    """Base of all structures.

    Attributes:
        any_queries: queries may be any rows of their sequence: what one sees does not depend on its place.
    """

    any_queries: ClassVar[bool] = False

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """Which keys the queries of one sequence see; None where all see all.

        Shape:
            return: (queries, keys) bool
        """
        raise NotImplementedError

    def pairs(self, queries: int, keys: int) -> int:
        """Number of (query, key) pairs that are computed, for the arithmetic of speed."""
        mask = self.visible(queries, keys)
        return queries * keys if mask is None else int(mask.sum())


@dataclass(frozen=True)
class Bidirectional(Structure):
    """Every query sees every key of its sequence."""

    any_queries: ClassVar[bool] = True

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """None: there is nothing to hide."""
        return None


@dataclass(frozen=True)
class Causal(Structure):
    """A query sees the keys up to its own place; the last query is aligned with the last key.

    With a cache the keys are longer than the queries, which are then the last ones.
    """

    def visible(self, queries: int, keys: int, device: torch.device | str = "cpu") -> Tensor | None:
        """A lower triangle, aligned at the bottom right; None for a single query, which sees all."""
        if queries == 1:
            return None
        return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)

    def pairs(self, queries: int, keys: int) -> int:
        """Closed form of the base's count."""
        return queries * (keys - queries) + queries * (queries + 1) // 2


BIDIRECTIONAL = Bidirectional()
CAUSAL = Causal()
